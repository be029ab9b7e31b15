"""A series of any length on its way: read in chunks ahead of the work, written in a thread behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Final, ParamSpec, Self

import numpy as np
import numpy.typing as npt

from pipeline.dicom import CTSlice, SeriesEntry, read_slices
from pipeline.dicom.reading import corrupt
from pipeline.inference.treatment import Stopwatch

_CHUNKS_WAITING: Final = 2
"""One is being written, one is ready: a longer queue would cost memory and save no time."""

Arguments = ParamSpec("Arguments")


@dataclass(frozen=True)
class Chunk:
    """Consecutive slices of a series, with what lies around them.

    Attributes:
        first: number of the first one along the normal, from 0.
        slices: as they were read.
        around_hu: (m, rows, columns) HU of the slices and of their neighbours, as far as the series has any.
        around_padding: (m, rows, columns) bool.
        own: which of these are `slices`.
    """

    first: int
    slices: tuple[CTSlice, ...]
    around_hu: npt.NDArray[np.float32]
    around_padding: npt.NDArray[np.bool_]
    own: slice

    @property
    def hu(self) -> npt.NDArray[np.float32]:
        """(n, rows, columns) HU of its slices."""
        return self.around_hu[self.own]

    @property
    def padding(self) -> npt.NDArray[np.bool_]:
        """(n, rows, columns) bool, padding of its slices."""
        return self.around_padding[self.own]

    @property
    def indices(self) -> range:
        """Numbers of its slices along the normal."""
        return range(self.first, self.first + len(self.slices))


def read_chunks(
    entry: SeriesEntry,
    content_digests: Sequence[str],
    chunk_slices: int,
    watch: Stopwatch,
    *,
    neighbours: int = 0,
) -> Generator[Chunk]:
    """Read a series a second time, `chunk_slices` at once; the time spent waiting for slices is `read`.

    Every slice is read once; the neighbours of a chunk are kept from the one before, or read ahead.

    Args:
        entry: the series.
        content_digests: of its slices, from the first pass.
        chunk_slices: the last chunk may have fewer.
        watch: is told the time.
        neighbours: slices on either side that go with each chunk; fewer at the ends of the series.

    Raises:
        SeriesError: a slice cannot be read, or its pixels are no longer those of `content_digests`.
    """
    count, read = len(entry.files), 0
    held: tuple[CTSlice, ...] = ()
    with closing(read_slices(entry)) as source:
        for first in range(0, count, chunk_slices):
            last = min(first + chunk_slices, count)
            start, stop = max(0, first - neighbours), min(last + neighbours, count)
            with watch.step("read"):
                new = tuple(islice(source, stop - read))
            _check_unchanged(entry, content_digests, new, first=read)
            held = (*held[len(held) - (read - start) :], *new)
            own, read = slice(first - start, last - start), stop
            hu, padding = np.stack([one.hu for one in held]), np.stack([one.padding for one in held])
            yield Chunk(first, held[own], hu, padding, own)


def _check_unchanged(
    entry: SeriesEntry, content_digests: Sequence[str], slices: Sequence[CTSlice], *, first: int
) -> None:
    for index, one in enumerate(slices, start=first):
        if one.content_digest != content_digests[index]:
            raise corrupt(entry.files[index], "its content changed while the series was processed")


class Behind:
    """Calls in a thread of their own, one after the other, at most two behind the caller.

    A call's error is raised by the next `submit`, or else at the end of the `with` block. However the block
    ends, the thread has ended with it, and after an error no further call is begun.

    Args:
        watch: is told how long the caller `wait`s for the thread.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="ldct-writer")
        self._pending: deque[Future[None]] = deque()
        self._has_failed = False

    def submit(
        self, call: Callable[Arguments, None], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> None:
        """Have `call` done; while two others are not, wait.

        Raises:
            Exception: whatever an earlier call raised.
        """
        self._settle(leave=_CHUNKS_WAITING - 1)
        self._pending.append(self._executor.submit(self._carry_out, partial(call, *args, **kwargs)))

    def _carry_out(self, call: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            call()
        except BaseException:
            self._has_failed = True
            raise

    def _settle(self, *, leave: int) -> None:
        """Learn how the finished calls ended, and wait until no more than `leave` are unfinished."""
        with self._watch.step("wait"):
            while self._pending and (len(self._pending) > leave or self._pending[0].done()):
                self._pending.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._settle(leave=0)
        finally:
            self._executor.shutdown(cancel_futures=True)
