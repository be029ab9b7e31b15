"""What is done to every series of a folder: the interface between the folder and the work on one series."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from pipeline.dicom import Geometry, SeriesEntry, Task
from pipeline.errors import DataError
from pipeline.inference.output.journal import SeriesRecord

OnSlices = Callable[[int], None]
"""Told the number of slices that are through."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What treating a series told about it (see `journal.SeriesRecord`)."""

    noise_sd_hu: Mapping[str, float | None]
    timings_s: Mapping[str, float] = field(default_factory=dict)
    reason_codes: tuple[str, ...] = ()
    unfamiliar: tuple[str, ...] = ()
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    simulated: Mapping[str, Any] | None = None


class UnfitSeriesError(DataError):
    """A series that this treatment refuses; `code` is the stable reason code, `details` are further ones."""

    def __init__(self, code: str, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.details = details


class Treatment(Protocol):
    """Work on one series after the other; `run_folder` does the rest. Must be picklable to run in workers."""

    @property
    def command(self) -> str:
        """The command that does this work, e.g. `predict`: a folder belongs to one command."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What a series must be fit for, the main task first."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Everything that decides the written files, as JSON; series finished with the same one are kept."""

    def passes(self, slices: int, *, segmentable: bool) -> int:
        """How many slices `treat` will tell `on_slices` of, for a series of `slices`."""

    def treat(
        self,
        entry: SeriesEntry,
        folder: Path,
        *,
        grid: Geometry | None,
        clock: datetime,
        on_slices: OnSlices,
    ) -> Measured:
        """Write the results of one series into `folder`, which is empty and belongs to this call.

        Args:
            entry: the source series.
            folder: where to write.
            grid: the regular grid of the series, if it has one.
            clock: date and time that the written files carry.
            on_slices: told the number of slices that are through.

        Raises:
            SeriesError: the source cannot be read.
            UnfitSeriesError: the source is no use to this treatment.
            DataError: what was written reads back differently.
        """

    def remark(self, record: SeriesRecord) -> str:
        """The result of a finished series in a few words, for the terminal, its warnings with their codes."""

    def write_views(self, target: Path, finished: Sequence[SeriesRecord]) -> None:
        """Write what is made from all finished series of `target`; called at the end of every run."""


class Stopwatch:
    """Seconds spent per step, also by several threads: what they do at once counts for each of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to step `name`."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        with self._lock:
            self._seconds[name] += seconds

    def timings_s(self) -> dict[str, float]:
        """Seconds of each step, rounded to milliseconds."""
        with self._lock:
            return {name: round(seconds, 3) for name, seconds in self._seconds.items()}
