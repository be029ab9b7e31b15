"""A manifest against the files it names: there, unchanged, paired, and no patient in two roles."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from pipeline.data.archives.partners import simulated_fraction
from pipeline.data.pairs import check_pair, grid_of
from pipeline.data.series import find_series
from pipeline.dicom import SeriesEntry
from pipeline.errors import DataError
from pipeline.manifest import ManifestCase, read_manifest, read_split


@dataclass(frozen=True)
class Remark:
    """Something wrong with a case or a split, in one line; a fault keeps the manifest from being used."""

    about: str
    message: str
    is_fault: bool = True


def check_manifest(
    manifest: Path, root: Path, *, on_case: Callable[[int, int], None] | None = None
) -> Iterator[Remark]:
    """Compare a manifest with its images, reading headers and digests but no pixels.

    Each case: its series are there, have their digests, are one CT series each and lie on one grid; mask
    and truth are there. Each split: whole, and patients disjoint. Over all: no series has two patients,
    no pair is listed twice, and either all cases have a low dose or none has.

    Args:
        manifest: the folder with `cases.csv`.
        root: what its paths are relative to.
        on_case: called with the number of cases checked and that of all.

    Yields:
        Remarks in the order in which they are found.

    Raises:
        DataError: `cases.csv` cannot be read, or `root` is missing.
    """
    cases = read_manifest(manifest)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name the folder that the manifest's paths are relative to")
    users: dict[tuple[str, str], list[ManifestCase]] = defaultdict(list)
    for done, case in enumerate(cases, start=1):
        series = yield from _check_case(case, root)
        for entry in series:
            users[entry.series_uid, entry.sop_instance_uids[0]].append(case)
        if on_case is not None:
            on_case(done, len(cases))
    yield from _find_half_pairs(cases)
    splits = yield from _read_splits(manifest, cases)
    yield from _find_repeats(users.values(), splits)


def _check_case(case: ManifestCase, root: Path) -> Generator[Remark, None, list[SeriesEntry]]:
    """Yields what is wrong with a case; returns its series that could be read."""
    for name in ("mask", "truth"):
        path = getattr(case, name)
        if path is not None and not (root / path).is_file():
            yield Remark(case.case_id, f"{name} {path}: no such file; restore it, or empty the cell")
    series = []
    for name in ("normal_dose", "low_dose"):
        path = getattr(case, name)
        if path is None:
            continue
        try:
            series.append(find_series(root / path, getattr(case, f"{name}_sha256")))
        except DataError as bad:
            yield Remark(case.case_id, f"{name}: {bad}")
    if len(series) == len(("normal_dose", "low_dose")):
        yield from _check_partners(case, *series)
    return series


def _check_partners(case: ManifestCase, normal_dose: SeriesEntry, low_dose: SeriesEntry) -> Iterator[Remark]:
    if normal_dose.sop_instance_uids == low_dose.sop_instance_uids:
        yield Remark(
            case.case_id, "normal_dose and low_dose are the same series; check the paths in cases.csv"
        )
    if simulated_fraction(normal_dose) is not None:
        yield Remark(
            case.case_id,
            "normal_dose is a simulated low dose; if the two are swapped in cases.csv, swap them back",
        )
    try:
        check_pair(grid_of(normal_dose), grid_of(low_dose))
    except DataError as different:
        yield Remark(case.case_id, str(different))


def _find_half_pairs(cases: Sequence[ManifestCase]) -> Iterator[Remark]:
    """A manifest of normal doses alone is for trainings that make the low dose; a single one is a slip."""
    if all(case.low_dose is None for case in cases):
        return
    for case in cases:
        if case.low_dose is None:
            yield Remark(
                case.case_id,
                "no low_dose series, unlike others; fill it in, or simulate it with ldct simulate dose",
            )


def _read_splits(
    manifest: Path, cases: Sequence[ManifestCase]
) -> Generator[Remark, None, dict[str, dict[str, str]]]:
    """Yields what is wrong with the splits; returns the sound ones by name."""
    names = sorted(path.stem for path in (manifest / "splits").glob("*.csv"))
    if not names:
        yield Remark("splits", f"{manifest / 'splits'} holds no split; ingest needs one")
    splits = {}
    for name in names:
        try:
            splits[name] = read_split(manifest, name, cases)
        except DataError as bad:
            yield Remark("splits", str(bad))
    return splits


def _find_repeats(
    users: Iterable[Sequence[ManifestCase]], splits: Mapping[str, Mapping[str, str]]
) -> Iterator[Remark]:
    """One series under two patients lets a split test on what it trains on; one pair twice counts double."""
    shared = Counter(two for cases in users for two in combinations(cases, 2))
    for (one, other), count in shared.items():
        if one.patient_id != other.patient_id:
            yield _leak(one, other, splits)
        elif count == len(("normal_dose", "low_dose")) or (one.low_dose is None and other.low_dose is None):
            what = "series" if one.low_dose is None else "pair"
            message = f"the same {what} as {other.case_id}; remove one of them"
            yield Remark(one.case_id, message, is_fault=False)


def _leak(one: ManifestCase, other: ManifestCase, splits: Mapping[str, Mapping[str, str]]) -> Remark:
    torn = [name for name, roles in splits.items() if roles[one.case_id] != roles[other.case_id]]
    where = f"; two roles in split {', '.join(torn)}" if torn else ""
    message = (
        f"holds a series of {other.case_id}, but the patients are {one.patient_id} and {other.patient_id}"
        f"{where}; give both one patient_id"
    )
    return Remark(one.case_id, message, is_fault=bool(torn))
