"""Partners by headers alone: which two series of an archive are one scan at two doses.

Two series fit when study (or patient), frame of reference, kernel, slice thickness, tube voltage and voxel
grid are the same. Of two that fit, the low dose is the one of lower mean exposure, or that says SIMULATED.
A denoised copy or a projection is no dose and fits nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from pipeline.data.archives.identity import names_a_patient
from pipeline.data.archives.series import ArchivedSeries, Refusal
from pipeline.data.pairs import check_pair, grid_of
from pipeline.dicom import Code, SeriesEntry
from pipeline.errors import DataError

LARGEST_DOSE_RATIO: Final = 0.75
"""Above it two acquisitions are two phases with their own tube-current modulation, not two doses."""

_SIMULATED: Final = re.compile(r"\bSIMULATED (\d+(?:\.\d+)?)[ %]*dose$", re.IGNORECASE)
"""How `ldct simulate dose` ends the SeriesDescription, which comes here without its percent sign."""


@dataclass(frozen=True)
class Partners:
    """A normal-dose and a low-dose series of one scan; `noise` as in the manifest."""

    normal_dose: ArchivedSeries
    low_dose: ArchivedSeries
    dose_fraction: float
    noise: str


def find_partners(archive: Sequence[ArchivedSeries]) -> Iterator[Partners | Refusal]:
    """Give each low-dose series the one normal-dose series that fits; refuse it where two fit.

    Args:
        archive: series fit for ingest.

    Yields:
        Pairs, and low-dose series whose partner cannot be told. A series in neither has no partner.
    """
    alike: dict[object, list[ArchivedSeries]] = defaultdict(list)
    for series in archive:
        if series.entry.frame_of_reference_uid and not _is_processed_copy(series.entry):
            alike[_protocol(series.entry)].append(series)
    for group in alike.values():
        for series in group:
            outcome = _partner(series, [other for other in group if other is not series])
            if outcome is not None:
                yield outcome


def check_grids(normal_dose: SeriesEntry, low_dose: SeriesEntry) -> str | None:
    """Why two series are not on one grid; None when they are."""
    try:
        check_pair(grid_of(normal_dose), grid_of(low_dose))
    except DataError as different:
        return str(different)
    return None


def dose_ratio(low_dose: SeriesEntry, normal_dose: SeriesEntry) -> float | None:
    """Mean exposure of one series over that of the other, to the two digits that mAs tags are good for."""
    low_mas, normal_mas = _exposure_mas(low_dose), _exposure_mas(normal_dose)
    return None if low_mas is None or normal_mas is None else float(f"{low_mas / normal_mas:.2g}")


def _protocol(entry: SeriesEntry) -> object:
    return entry.frame_of_reference_uid, entry.kernel, entry.slice_thickness_mm, entry.kvp


def _partner(series: ArchivedSeries, others: Sequence[ArchivedSeries]) -> Partners | Refusal | None:
    """The partner of a low-dose series; None when it has none, or is the normal dose itself."""
    fitting = [
        other
        for other in others
        if _same_patient(series.entry, other.entry)
        and simulated_fraction(other.entry) is None
        and check_grids(other.entry, series.entry) is None
    ]
    simulated = simulated_fraction(series.entry)
    if simulated is not None:
        return _only(series, [(other, simulated) for other in fitting], "shared")
    ratios = [(other, dose_ratio(series.entry, other.entry)) for other in fitting]
    if any(ratio is None for _, ratio in ratios):
        return _refuse("no exposure tags tell which is the low dose", series, fitting)
    lower = [(other, ratio) for other, ratio in ratios if ratio is not None and ratio <= LARGEST_DOSE_RATIO]
    return _only(series, lower, "independent")


def _only(
    series: ArchivedSeries, candidates: Sequence[tuple[ArchivedSeries, float]], noise: str
) -> Partners | Refusal | None:
    if len(candidates) > 1:
        reason = f"{len(candidates)} normal-dose series fit the first; move all but one of them away"
        return _refuse(reason, series, [other for other, _ in candidates])
    for other, fraction in candidates:
        return Partners(other, series, fraction, noise)
    return None


def _refuse(reason: str, series: ArchivedSeries, candidates: Sequence[ArchivedSeries]) -> Refusal:
    return Refusal(reason, tuple(str(one.folder) for one in (series, *candidates)))


def _same_patient(one: SeriesEntry, other: SeriesEntry) -> bool:
    same_study = bool(one.study_uid) and one.study_uid == other.study_uid
    return same_study or (names_a_patient(one.patient_key) and one.patient_key == other.patient_key)


def simulated_fraction(entry: SeriesEntry) -> float | None:
    """The dose that `ldct simulate dose` made a series for, by its description; None for any other."""
    found = _SIMULATED.search(entry.series_description or "")
    return float(found[1]) / 100 if found else None


def _is_processed_copy(entry: SeriesEntry) -> bool:
    """Its exposure tags are its source's, but not its noise."""
    processed = any(observation.code is Code.PROCESSED for observation in entry.observations)
    return processed and simulated_fraction(entry) is None


def _exposure_mas(entry: SeriesEntry) -> float | None:
    known = [mas for mas in entry.exposure_mas if mas is not None and mas > 0]
    return fmean(known) if known and len(known) == len(entry.exposure_mas) else None
