"""The series that a path of a manifest means: the one of a folder, or a single slice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.dicom import Code, Geometry, SeriesEntry, Task, Verdict, discover
from pipeline.dicom.headers import SliceHeader, read_header
from pipeline.dicom.sandbox import SandboxError, sandbox
from pipeline.errors import DataError
from pipeline.manifest import series_sha256


def find_series(path: Path, sha256: str | None) -> SeriesEntry:
    """The series that a manifest names, known by its headers.

    Args:
        path: a folder with one CT series, or the file of a series of one slice: a volume one slice thick,
            whose step is its SliceThickness.
        sha256: `series_sha256` where it is known.

    Raises:
        DataError: there is nothing, or it has changed; the folder holds a damaged file, no or several CT
            series, or one that is no regular grid; the file is damaged, no CT slice, one of several slices of
            its series, or lacks its place or thickness.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder or file; restore it, or correct cases.csv")
    if sha256 is not None and (found := series_sha256(path)) != sha256:
        raise DataError(
            f"{path}: its files differ from the manifest (sha256 {found[:12]}, expected {sha256[:12]}); "
            "restore them, or correct cases.csv"
        )
    return _single_slice(path) if path.is_file() else _only_series(path)


def _only_series(folder: Path) -> SeriesEntry:
    discovery = discover(folder)
    for finding in discovery.findings:
        if finding.verdict is Verdict.FAILED:
            raise DataError(f"{folder}: {finding.message}")
    series = [(entry, entry.finding(Task.INGEST)) for entry in discovery.series]
    candidates = [entry for entry, why in series if why is None or why.verdict is not Verdict.SKIPPED]
    if len(candidates) != 1:
        raise DataError(f"{folder}: {len(candidates)} CT series; a manifest path needs exactly one")
    return _fit_for_ingest(folder, candidates[0])


def _single_slice(path: Path) -> SeriesEntry:
    """Its whole folder is looked through: one of several slices of a series is no case by itself."""
    discovery = discover(path.parent)
    for finding in discovery.findings:
        if path in finding.files:
            raise DataError(f"{path}: {finding.message}")
    entry = next((entry for entry in discovery.series if path in entry.files), None)
    if entry is None:
        raise DataError(f"{path}: no image; a manifest path is a folder or the file of a CT slice")
    if len(entry.files) > 1:
        raise DataError(f"{path}: one of {len(entry.files)} slices of its series; name a folder of its own")
    alone = tuple(seen for seen in entry.observations if seen.code is not Code.TOO_FEW_SLICES)
    entry = _fit_for_ingest(path, replace(entry, observations=alone))
    return replace(entry, geometry=_one_slice_thick(path, _header(path)))


def _fit_for_ingest(path: Path, entry: SeriesEntry) -> SeriesEntry:
    finding = entry.finding(Task.INGEST)
    if finding is not None:
        raise DataError(f"{path}: {finding.message}")
    return entry


def _header(path: Path) -> SliceHeader:
    """Discovery tells the place of a slice only where it is part of a grid."""
    try:
        read = sandbox().submit(read_header, path).result()
    except SandboxError as death:
        raise DataError(f"{path}: the parser of its header {death}; copy the file again") from None
    if not isinstance(read, tuple):
        raise DataError(f"{path}: changed while it was read; ingest it again")
    return read[0]


def _one_slice_thick(path: Path, header: SliceHeader) -> Geometry:
    thickness_mm = header.slice_thickness_mm
    if (
        header.position_mm is None
        or header.row_cosines is None
        or header.column_cosines is None
        or header.pixel_spacing_mm is None
        or thickness_mm is None
        or thickness_mm <= 0
    ):
        raise DataError(
            f"{path}: no valid position, orientation, pixel spacing or SliceThickness (the step of a single "
            "slice); leave the case out"
        )
    return Geometry(
        origin_mm=header.position_mm,
        row_cosines=header.row_cosines,
        column_cosines=header.column_cosines,
        spacing_mm=(thickness_mm, *header.pixel_spacing_mm),
        shape=(1, header.rows, header.columns),
    )
