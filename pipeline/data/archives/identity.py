"""What headers say of whom and what: placeholders for patients, regions of the body."""

from __future__ import annotations

import re
from typing import Final

UNKNOWN_ANATOMY: Final = "unknown"

_NOBODY: Final = re.compile(
    r"|0+|x+|na|no(ne|name|id)|unknown|anon(ym[a-z]*)?|(de|un)?identified|removed|withheld|hidden|patient|subject|test"
)
"""PatientIDs, lower case and without punctuation, that a de-identification gives to everyone."""

_REGIONS: Final = {
    "chest": ("chest", "thorax", "lung"),
    "abdomen": ("abd", "liver", "kidney", "pelvis"),
    "head": ("head", "brain", "skull", "neuro"),
}
"""Words of BodyPartExamined by region; the first region that has one of them counts."""


def names_a_patient(patient_id: str) -> bool:
    """Whether a PatientID tells patients apart: not empty and no placeholder such as `Anonymous` or `0`."""
    return not _NOBODY.fullmatch(re.sub(r"[\W_]", "", patient_id.lower()))


def anatomy_of(body_part: str | None) -> str:
    """A BodyPartExamined as `chest`, `abdomen` or `head`, else as a word of lower-case letters and digits."""
    text = (body_part or "").lower()
    for region, words in _REGIONS.items():
        if any(word in text for word in words):
            return region
    return "-".join(re.findall(r"[a-z0-9]+", text)) or UNKNOWN_ANATOMY
