"""Locks of an output folder: one per series, and one for what all of its runs write together.

They are `flock`s: the system frees them when their process ends, killed or not. The empty files stay: while
one run removed such a file, two others could both hold a lock of that name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import BaseFileLock, FileLock, Timeout

from pipeline.errors import DataError

LOCK: Final = ".lock"
SERIES_LOCKS: Final = ".locks"

_NO_FLOCK: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})


@contextmanager
def target_lock(target: Path) -> Iterator[None]:
    """Wait for, and hold, what only one run at a time may write: the marker, the views, the staging folder.

    Raises:
        DataError: its file system has no locks.
        OSError: `target` is gone or cannot be written.
    """
    lock = _lock(target / LOCK)
    with _reported(target):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def series_lock(target: Path, series: str) -> Iterator[bool]:
    """Hold a series of `target`, and tell whether that worked; where it did not, another run holds it.

    Raises:
        DataError: the file system of `target` has no locks.
        OSError: `target` is gone or cannot be written.
    """
    lock = _lock(target / SERIES_LOCKS / f"{series}.lock")
    try:
        with _reported(target):
            lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_held(target: Path, series: str) -> bool:
    """Whether another run works on this series right now."""
    with series_lock(target, series) as is_ours:
        return not is_ours


def _lock(path: Path) -> BaseFileLock:
    """Never the soft one: that is held for as long as its file is there, by a killed run for ever."""
    return FileLock(path, fallback_to_soft=False)


@contextmanager
def _reported(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        raise DataError(
            f"{target}: its file system has no locks ({os.strerror(error.errno)}) to keep two runs apart; "
            "name a folder on another disk"
        ) from None
