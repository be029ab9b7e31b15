"""An archive in, its pairs out: known layouts by their folder names, the rest by headers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pipeline.data.archives.identity import names_a_patient
from pipeline.data.archives.layouts import Layout, Place, recognise
from pipeline.data.archives.partners import Partners, check_grids, dose_ratio, find_partners
from pipeline.data.archives.series import ArchivedSeries, Refusal, find_series
from pipeline.dicom import SeriesEntry
from pipeline.hu import body_region
from pipeline.manifest import ManifestCase, folder_sha256

_NEEDS_NAMES: Final = (Layout.GENERIC, Layout.SIMULATED_DOSE)
"""Layouts without pseudonyms of patients."""

_Members = list[tuple[Place, ArchivedSeries]]


class Pseudonym(Protocol):
    """Gives `kind-…`, a name that leads back to `parts` only with a secret."""

    def __call__(self, kind: str, *parts: str) -> str:
        """Name `parts`."""


@dataclass(frozen=True)
class Pair:
    """Two series that make a case; see `ManifestCase` for the fields."""

    layout: Layout
    case_id: str
    patient_id: str
    anatomy: str
    dose_fraction: float
    noise: str
    normal_dose: ArchivedSeries
    low_dose: ArchivedSeries


@dataclass(frozen=True)
class Scan:
    """What an archive holds.

    Attributes:
        pairs: in the order of their case ids.
        refused: series and files that cannot be used, or whose partner cannot be told.
        unpaired: sound CT series without a partner.
        skipped: how many other series and files there are.
        nameless: whether a patient is known by the study alone, because PatientID names nobody.
    """

    pairs: tuple[Pair, ...]
    refused: tuple[Refusal, ...]
    unpaired: tuple[ArchivedSeries, ...]
    skipped: int
    nameless: bool


def scan_archive(root: Path, *, pseudonym: Pseudonym, on_file: Callable[[int], None] | None = None) -> Scan:
    """Find the pairs below `root` from headers and folder names; no pixel is read.

    Args:
        root: the archive.
        pseudonym: names patients and cases where the layout has no pseudonyms of its own.
        on_file: called with the number of files read so far.

    Raises:
        DataError: the folder is missing.
    """
    found = find_series(root, on_file=on_file)
    placed = [(recognise(series), series) for series in found.series]
    outcomes: list[Pair | Refusal] = list(found.refused)
    for members in _by_case(placed):
        outcomes += _known_pairs(members, pseudonym)
    for partners in find_partners([series for place, series in placed if place is None]):
        outcomes.append(partners if isinstance(partners, Refusal) else _generic_pair(partners, pseudonym))
    pairs = [outcome for outcome in outcomes if isinstance(outcome, Pair)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    settled = {str(series.folder) for pair in pairs for series in (pair.normal_dose, pair.low_dose)}
    settled |= {place for refusal in refused for place in refusal.places}
    return Scan(
        pairs=tuple(sorted(pairs, key=lambda pair: pair.case_id)),
        refused=tuple(refused),
        unpaired=tuple(series for series in found.series if str(series.folder) not in settled),
        skipped=found.skipped,
        nameless=any(
            pair.layout in _NEEDS_NAMES and not names_a_patient(pair.normal_dose.entry.patient_key)
            for pair in pairs
        ),
    )


def manifest_case(pair: Pair, root: Path) -> ManifestCase:
    """The row of a pair, with the digests of its folders and, beside a phantom, its mask and truth.

    Raises:
        DataError: a folder has gone.
    """
    normal_dose, low_dose = pair.normal_dose.folder, pair.low_dose.folder
    companions = {
        "mask": normal_dose.parent / "labels.nii",
        "truth": normal_dose.parent / "truth.nii",
    }
    return ManifestCase(
        case_id=pair.case_id,
        patient_id=pair.patient_id,
        anatomy=pair.anatomy,
        dose_fraction=pair.dose_fraction,
        noise=pair.noise,
        normal_dose=str(normal_dose),
        low_dose=str(low_dose),
        normal_dose_sha256=folder_sha256(root / normal_dose),
        low_dose_sha256=folder_sha256(root / low_dose),
        **{
            name: str(path)
            for name, path in companions.items()
            if pair.layout is Layout.PHANTOM and (root / path).is_file()
        },
    )


def _by_case(placed: Iterable[tuple[Place | None, ArchivedSeries]]) -> Iterable[_Members]:
    cases: dict[tuple[Layout, str], _Members] = defaultdict(list)
    for place, series in placed:
        if place is not None:
            cases[place.layout, place.case].append((place, series))
    return cases.values()


def _known_pairs(members: _Members, pseudonym: Pseudonym) -> list[Pair | Refusal]:
    """The pairs of one case of a known layout: its normal dose with each of its low doses."""
    normal_doses = [series for place, series in members if place.dose_fraction == 1]
    low_doses = [(place, series) for place, series in members if place.dose_fraction != 1]
    if len(normal_doses) > 1 or len({place.dose_fraction for place, _ in low_doses}) < len(low_doses):
        reason = f"{len(members)} series for one pair; keep one per dose and move the others away"
        return [Refusal(reason, tuple(str(series.folder) for _, series in members))]
    return [
        _known_pair(place, normal_dose, low_dose, pseudonym)
        for normal_dose in normal_doses
        for place, low_dose in low_doses
    ]


def _known_pair(
    place: Place, normal_dose: ArchivedSeries, low_dose: ArchivedSeries, pseudonym: Pseudonym
) -> Pair | Refusal:
    folders = str(normal_dose.folder), str(low_dose.folder)
    different = check_grids(normal_dose.entry, low_dose.entry)
    if different is not None:
        return Refusal(different, folders)
    fraction = place.dose_fraction or dose_ratio(low_dose.entry, normal_dose.entry)
    if fraction is None or fraction >= 1:
        return Refusal("no exposure tags tell the dose of the second", folders)
    case_id = place.case
    if place.layout is Layout.SIMULATED_DOSE:
        case_id = f"{place.case}-d{100 * fraction:g}"
    return Pair(
        layout=place.layout,
        case_id=case_id,
        patient_id=place.patient or _patient(normal_dose.entry, pseudonym),
        anatomy=place.anatomy or body_region(normal_dose.entry.body_part),
        dose_fraction=fraction,
        noise=place.noise,
        normal_dose=normal_dose,
        low_dose=low_dose,
    )


def _generic_pair(partners: Partners, pseudonym: Pseudonym) -> Pair:
    normal_dose, low_dose = partners.normal_dose, partners.low_dose
    return Pair(
        layout=Layout.GENERIC,
        case_id=pseudonym("case", normal_dose.entry.series_uid, low_dose.entry.series_uid),
        patient_id=_patient(normal_dose.entry, pseudonym),
        anatomy=body_region(normal_dose.entry.body_part),
        dose_fraction=partners.dose_fraction,
        noise=partners.noise,
        normal_dose=normal_dose,
        low_dose=low_dose,
    )


def _patient(entry: SeriesEntry, pseudonym: Pseudonym) -> str:
    """The same as `ldct simulate dose` gives: by the study where PatientID names nobody."""
    if names_a_patient(entry.patient_key):
        return pseudonym("patient", "id", entry.patient_key)
    return pseudonym("patient", "study", entry.study_uid or entry.series_uid)
