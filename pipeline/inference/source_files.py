"""The source files of a series: whether they stayed as they were, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.dicom import SeriesEntry
from pipeline.inference.output.checksums import sha256_of_files
from pipeline.inference.output.pseudonyms import Pseudonyms

State = tuple[int, int] | None
"""Size in bytes and modification time in ns; None: gone, or in a folder that cannot be read."""


@dataclass(frozen=True)
class SourceFiles:
    """The files of a series as they were at one moment.

    Attributes:
        slices: SOPInstanceUID and file of each slice; a file may hold several slices.
        states: of each file.
    """

    slices: tuple[tuple[str, Path], ...]
    states: dict[Path, State]

    @classmethod
    def of(cls, entry: SeriesEntry) -> Self:
        """The files of `entry` as they are now."""
        slices = tuple(zip(entry.sop_instance_uids, entry.files, strict=True))
        return cls(slices, {path: _state(path) for path in entry.files})

    def __len__(self) -> int:
        return len(self.states)

    def key(self, pseudonyms: Pseudonyms) -> str:
        """The input key: changes when a slice or file is added, removed, replaced or touched."""
        return pseudonyms.digest(*sorted(f"{uid} {self.states[path]}" for uid, path in self.slices))

    def vanished(self) -> Path | None:
        """A file that is no longer there."""
        return next((path for path in self.states if _is_gone(path)), None)

    def changed(self) -> Path | None:
        """A file that is no longer as it was."""
        return next((path for path, state in self.states.items() if _state(path) != state), None)

    def sha256(self, pseudonyms: Pseudonyms) -> str:
        """What the files hold, whatever they are called; keyed, as images of patients can be looked up.

        Raises:
            OSError: a file cannot be read.
        """
        return pseudonyms.digest(*sorted(sha256_of_files(self.states)))


def _state(path: Path) -> State:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _is_gone(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
