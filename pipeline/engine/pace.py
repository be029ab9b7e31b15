"""How fast a training goes and how long it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """What one stretch of a training took.

    Attributes:
        samples_per_second: of the whole team.
        data_wait_percent: share of the time in which this process waited for its data.
    """

    samples_per_second: float
    data_wait_percent: float


class Pace:
    """Clock of the training steps; validation and saving do not count.

    Args:
        batch_size: samples of a step.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        """Start a new stretch."""
        self._began = time.perf_counter()
        self._waited_s = 0.0
        self._steps = 0

    def step_done(self) -> None:
        """One more step."""
        self._steps += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens inside is waiting for data."""
        began = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - began

    def speed(self) -> Speed:
        """Of the stretch so far."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        return Speed(self._steps * self._batch_size / elapsed, 100 * self._waited_s / elapsed)
