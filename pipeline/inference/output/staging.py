"""From a staging folder into place: on the disk first, by one rename, and without remains."""

from __future__ import annotations

import errno
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipeline.inference.output.checksums import sha256_of_files, sync_files
from pipeline.inference.output.journal import MARKER, STAGING, Output, read_record
from pipeline.inference.output.locks import series_lock, target_lock

_REPLACED: Final = ".replaced"
_WITHDRAWN: Final = ".withdrawn"


def check_there(target: Path) -> None:
    """Refuse to write into a folder that is no longer ours: the next run could not use one without a marker.

    Raises:
        FileNotFoundError: its marker is gone.
    """
    if not (target / MARKER).exists():
        raise FileNotFoundError(errno.ENOENT, "removed since the run began", str(target))


def probe(folder: Path) -> None:
    """Write a nameless file into `folder`; nothing stays.

    Raises:
        OSError: it cannot be written.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass


def staging_folder(target: Path, series: str) -> Path:
    """An empty folder for the results of one series, whose lock is held."""
    staged = target / STAGING / series
    with target_lock(target):  # `clear_staging` may remove the parent
        staged.parent.mkdir(exist_ok=True)
        for left in (staged, _replaced(staged)):
            _clear(left, target)
        staged.mkdir()
    return staged


def has_result(target: Path, study: str, series: str) -> bool:
    """Whether an earlier run left a result of this series, in its place or about to be put back there."""
    return (target / study / series).exists() or _replaced(target / STAGING / series).exists()


def settle_outputs(staged: Path) -> tuple[Output, ...]:
    """Bring the files of a series to the disk, and list them."""
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    sync_files(files)
    return tuple(
        Output(path.relative_to(staged).as_posix(), path.stat().st_size, sha256)
        for path, sha256 in zip(files, sha256_of_files(files), strict=True)
    )


def publish(staged: Path, folder: Path) -> None:
    """Rename a staged series, whose files are on the disk, into place: no watcher sees half of it."""
    sync_files([staged, *(path for path in staged.rglob("*") if path.is_dir())])
    with target_lock(folder.parent.parent):  # `withdraw` may remove the parent
        folder.parent.mkdir(exist_ok=True)
        earlier = folder.exists()
        if earlier:
            folder.replace(_replaced(staged))
        try:
            staged.replace(folder)
        except OSError:
            if earlier:
                _replaced(staged).replace(folder)
            raise
    sync_files([folder.parent, folder.parent.parent])
    shutil.rmtree(_replaced(staged), ignore_errors=True)


def withdraw(target: Path, study: str, series: str) -> None:
    """Take the result of a series, whose lock is held, out of its place by one rename, then delete it.

    Raises:
        OSError: it cannot be moved; it stays as it was.
    """
    staged, folder = target / STAGING / series, target / study / series
    withdrawn = staged.with_name(f"{series}{_WITHDRAWN}")
    with target_lock(target):
        staged.parent.mkdir(exist_ok=True)
        for left in (staged, _replaced(staged), withdrawn):
            _clear(left, target)
        if folder.exists():
            folder.replace(withdrawn)
            sync_files([folder.parent])
        with suppress(OSError):  # the study has other series
            folder.parent.rmdir()
        sync_files([target])
    shutil.rmtree(withdrawn, ignore_errors=True)


def clear_staging(target: Path) -> None:
    """Remove what killed runs left; what a live run is staging stays. `locks.target_lock` is held."""
    staging = target / STAGING
    if not staging.is_dir():
        return
    for left in staging.iterdir():
        with series_lock(target, left.stem) as is_ours:
            if is_ours:
                _clear(left, target)
    if not any(staging.iterdir()):
        staging.rmdir()


def _clear(left: Path, target: Path) -> None:
    """Remove what a killed run left; a result that was to be replaced and was not goes back to its place."""
    record = read_record(left) if left.name.endswith(_REPLACED) else None
    if record is not None:
        folder = target / record.study / record.series
        if not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            left.replace(folder)
            return
    shutil.rmtree(left, ignore_errors=True)


def _replaced(staged: Path) -> Path:
    """Where the folder goes whose place `staged` takes."""
    return staged.with_name(f"{staged.name}{_REPLACED}")
