"""What headers say of whom: placeholders for patients."""

from __future__ import annotations

import re
from typing import Final

_NOBODY: Final = re.compile(
    r"|0+|x+|na|no(ne|name|id)|unknown|anon(ym[a-z]*)?|(de|un)?identified|removed|withheld|hidden|patient|subject|test"
)
"""PatientIDs, lower case and without punctuation, that a de-identification gives to everyone."""


def names_a_patient(patient_id: str) -> bool:
    """Whether a PatientID tells patients apart: not empty and no placeholder such as `Anonymous` or `0`."""
    return not _NOBODY.fullmatch(re.sub(r"[\W_]", "", patient_id.lower()))
