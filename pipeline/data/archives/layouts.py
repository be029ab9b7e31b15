"""What the folder names of known collections say: patient, reconstruction and dose.

- Mayo/AAPM 2016 challenge (McCollough et al. 2017, doi:10.1002/mp.12345): `3mm B30/full_3mm/L067/full_3mm`,
  `1mm D45/quarter_1mm_sharp/L067/quarter_1mm_sharp`, `Training Cases/L067/full_3mm`, `full_3mm/L067`, and
  other orders of the same names. Its PatientID can be "Anonymous" for everyone.
- TCIA LDCT-and-Projection-data (Moen et al. 2021, doi:10.1002/mp.14594):
  `C002/12-23-2021-NA-NA-62464/1.000000-Full Dose Images-22038`; the two doses of a patient can have different
  studies. Only Siemens scans have low-dose images.
- `ldct simulate`: `phantom-chest-001/{normal_dose,low_dose}` with `labels.nii` and `truth.nii`.
- `ldct simulate dose`: `study-<12 hex>/series-<12 hex>/{normal_dose,dose_0.25}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.data.archives.series import ArchivedSeries


class Layout(StrEnum):
    """How an archive is organised."""

    MAYO_2016 = "Mayo/AAPM 2016"
    TCIA = "TCIA LDCT-and-Projection-data"
    PHANTOM = "ldct simulate"
    SIMULATED_DOSE = "ldct simulate dose"
    GENERIC = "generic archive"


@dataclass(frozen=True)
class Place:
    """What a known layout says of a series.

    Attributes:
        layout: which one.
        case: the same for the two doses of one reconstruction, and unique in the archive; the case_id where
            a case has one low dose.
        patient: the collection's own pseudonym; None where it names none.
        anatomy: None where the layout does not tell.
        dose_fraction: 1 for the normal dose; None for a low dose that only the exposure tags know.
        noise: as in the manifest.
    """

    layout: Layout
    case: str
    patient: str | None
    anatomy: str | None
    dose_fraction: float | None
    noise: str


_CHALLENGE_DOSE: Final = re.compile(r"(full|quarter)_([13]mm)(_sharp)?(?:_sorted)?", re.IGNORECASE)
_CHALLENGE_PATIENT: Final = re.compile(r"L\d{3}")
_TCIA_PATIENT: Final = re.compile(r"[CLN]\d{3}")
_TCIA_DOSE: Final = re.compile(r"\b(full|low) dose images\b", re.IGNORECASE)
_TCIA_EXAMS: Final = {"C": ("chest", 0.10), "L": ("abdomen", 0.25), "N": ("head", 0.25)}
"""Anatomy and dose fraction by the first letter of a patient: chest, liver, neuro."""
_PHANTOM: Final = re.compile(r"phantom-([a-z]+)-\d{3,}")
_STUDY: Final = re.compile(r"study-[0-9a-f]{12}")
_SERIES: Final = re.compile(r"series-[0-9a-f]{12}")
_DOSE: Final = re.compile(r"dose_(0?\.\d+)")


def recognise(series: ArchivedSeries) -> Place | None:
    """What the layout says of a series; None for a generic archive."""
    parts = series.folder.parts
    description = series.entry.series_description or ""
    return _challenge(parts) or _tcia(parts, description) or _phantom(parts) or _simulated_dose(parts)


def _challenge(parts: Sequence[str]) -> Place | None:
    """Kernel B30, or D45 where a folder says `sharp` or `D45`."""
    patient = _first(_CHALLENGE_PATIENT, parts)
    dose = _first(_CHALLENGE_DOSE, parts)
    if patient is None or dose is None:
        return None
    kernel = "D45" if dose[3] or any("D45" in part.upper() for part in parts) else "B30"
    fraction = {"full": 1.0, "quarter": 0.25}[dose[1].lower()]
    case = f"{patient[0]}-{dose[2].lower()}-{kernel}"
    return Place(Layout.MAYO_2016, case, patient[0], "abdomen", fraction, "shared")


def _tcia(parts: Sequence[str], description: str) -> Place | None:
    patient = _first(_TCIA_PATIENT, parts)
    dose = _TCIA_DOSE.search(f"{parts[-1]} {description}")
    if patient is None or dose is None:
        return None
    anatomy, low = _TCIA_EXAMS[patient[0][0]]
    fraction = 1.0 if dose[1].lower() == "full" else low
    return Place(Layout.TCIA, patient[0], patient[0], anatomy, fraction, "shared")


def _phantom(parts: Sequence[str]) -> Place | None:
    parent, name = ("", *parts)[-2:]
    patient = _PHANTOM.fullmatch(parent)
    if patient is None or name not in ("normal_dose", "low_dose"):
        return None
    fraction = 1.0 if name == "normal_dose" else None
    return Place(Layout.PHANTOM, patient[0], patient[0], patient[1], fraction, "independent")


def _simulated_dose(parts: Sequence[str]) -> Place | None:
    """Only below the pseudonyms that `ldct simulate dose` gives: other folder names could be identities."""
    study, series, name = ("", "", *parts)[-3:]
    dose = _DOSE.fullmatch(name)
    if not (_STUDY.fullmatch(study) and _SERIES.fullmatch(series)) or (
        dose is None and name != "normal_dose"
    ):
        return None
    fraction = 1.0 if dose is None else float(dose[1])
    return Place(Layout.SIMULATED_DOSE, series, None, None, fraction, "shared")


def _first(pattern: re.Pattern[str], parts: Sequence[str]) -> re.Match[str] | None:
    return next(filter(None, map(pattern.fullmatch, parts)), None)
