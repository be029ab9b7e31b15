"""Contents of many files as checksums, and on the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

_AT_ONCE: Final = 4
"""Files under way at a time: reading, hashing and syncing wait for the disk and hold no interpreter lock."""


def sha256_of_files(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of each file, in hexadecimal digits.

    Raises:
        OSError: a file cannot be read.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_sha256, paths))


def sync_files(paths: Iterable[Path]) -> None:
    """Bring what is in the files, or which names are in the folders, to the disk.

    Raises:
        OSError: the disk is full or broken.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(_sync, paths))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
