"""The CT series of an archive that a manifest can name: fit for ingest, and alone in a folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from pipeline.dicom import Finding, SeriesEntry, Task, Verdict, discover

_PROJECTION_DATA: Final = re.compile(r"(full|low) dose projections|DICOM-CT-PD", re.IGNORECASE)
"""Folders of the public collections whose CT objects are projections, not images (Chen et al. 2015)."""


@dataclass(frozen=True)
class ArchivedSeries:
    """A CT series, and the folder (relative to the root of the archive) that holds it and nothing else."""

    entry: SeriesEntry
    folder: PurePosixPath


@dataclass(frozen=True)
class Refusal:
    """Why a series or file cannot be part of a pair, or which of several series belong together.

    Attributes:
        reason: one line.
        places: the folders or the file concerned, relative to the root; candidates come last.
    """

    reason: str
    places: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What lies in an archive; `skipped` counts the series and files that are no CT images."""

    series: tuple[ArchivedSeries, ...]
    refused: tuple[Refusal, ...]
    skipped: int


def find_series(root: Path, *, on_file: Callable[[int], None] | None = None) -> Found:
    """Read all headers below `root` and keep the series that a manifest can name.

    Args:
        root: the archive.
        on_file: called with the number of files read so far.

    Raises:
        DataError: the folder is missing.
    """
    discovery = discover(root, on_file=on_file)
    damaged = [finding for finding in discovery.findings if finding.verdict is not Verdict.SKIPPED]
    entries = [entry for entry in discovery.series if _is_scan(entry, root)]
    crowds = Counter(folder for entry in entries for folder in _folders(entry, root))
    broken = {folder: finding for finding in damaged for folder in finding.files[0].parents}
    series, refused = [], [Refusal(one.message, (_below(root, one.files[0]),)) for one in damaged]
    for entry in entries:
        folder = Path(os.path.commonpath([path.parent for path in entry.files]))
        reason = _unfit(entry, folder, root, crowds[folder], broken.get(folder))
        if reason is None:
            series.append(ArchivedSeries(entry, PurePosixPath(_below(root, folder))))
        else:
            refused.append(Refusal(reason, (_below(root, folder),)))
    skipped = len(discovery.findings) - len(damaged) + len(discovery.series) - len(entries)
    return Found(tuple(series), tuple(dict.fromkeys(refused)), skipped)


def _is_scan(entry: SeriesEntry, root: Path) -> bool:
    finding = entry.finding(Task.INGEST)
    skipped = finding is not None and finding.verdict is Verdict.SKIPPED
    return not (skipped or _PROJECTION_DATA.search(_below(root, entry.files[0].parent)))


def _folders(entry: SeriesEntry, root: Path) -> set[Path]:
    """Every folder below `root` that holds a file of the series, directly or deeper."""
    return {folder for parent in {path.parent for path in entry.files} for folder in _ancestors(parent, root)}


def _ancestors(folder: Path, root: Path) -> Iterator[Path]:
    while folder != root:
        yield folder
        folder = folder.parent
    yield root


def _unfit(
    entry: SeriesEntry, folder: Path, root: Path, series_here: int, damaged: Finding | None
) -> str | None:
    """Why a series cannot be named by a manifest; None when it can."""
    twice = len(set(entry.sop_instance_uids)) < len(entry.sop_instance_uids)
    places = sorted({_below(root, path.parent) for path in entry.files})
    if twice and len(places) > 1:
        return f"copies of one series in {', '.join(places)}; keep one"
    if series_here > 1:
        return f"{series_here} CT series in one folder; sort them into one folder per series"
    if folder == root:
        return "the series lies in the scanned folder itself; move it into a folder of its own"
    name = _below(root, folder)
    if "\\" in name or not name.isprintable() or name != name.strip():
        return "a folder name with a backslash, control character or outer blank; rename it"
    finding = entry.finding(Task.INGEST)
    if finding is not None:
        return f"{finding.code}: {finding.message}"
    if damaged is not None:
        return f"shares its folder with a damaged file: {damaged.message}"
    return None


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
