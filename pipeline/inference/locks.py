"""Locks of an output folder: one per series, and one for what all of its runs write together.

They are `flock`s: the system frees them when their process ends, killed or not. The empty files stay: while
one run removed such a file, two others could both hold a lock of that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

LOCK: Final = ".lock"
SERIES_LOCKS: Final = ".locks"


@contextmanager
def target_lock(target: Path) -> Iterator[None]:
    """Wait for, and hold, what only one run at a time may write: the marker, the views, the staging folder.

    Raises:
        OSError: `target` is gone or cannot be written.
    """
    with FileLock(target / LOCK):
        yield


@contextmanager
def series_lock(target: Path, series: str) -> Iterator[bool]:
    """Hold a series of `target`, and tell whether that worked; where it did not, another run holds it.

    Raises:
        OSError: `target` is gone or cannot be written.
    """
    lock = FileLock(target / SERIES_LOCKS / f"{series}.lock")
    try:
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
