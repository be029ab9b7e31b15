"""Progress of a training: a bar on a terminal, at most ten plain lines elsewhere."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pipeline.engine.pace import Speed
from pipeline.objectives import Score

LINES: Final = 10
WORTH_SAYING: Final = 3.0
"""Percent of the time spent waiting for data from which on it is shown."""


class Progress:
    """Shows steps, samples per second, remaining time, learning rate, loss, best score, and waits for data.

    Args:
        name: of the training.
        console: where to write.
    """

    def __init__(self, name: str, console: Console) -> None:
        self._name = name
        self._console = console
        self._bar = Bar(
            TextColumn(name),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._status = ""
        self._score = ""
        self._fresh = self._due = False

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, *, step: int, steps: int) -> None:
        """Start the clock at `step` of `steps`."""
        self._first, self._steps = step, steps
        self._began = time.monotonic()
        self._task = self._bar.add_task(self._name, total=steps, completed=step, status="")
        if step:
            self._console.print(f"{self._name}: continues at step {step} of {steps}", highlight=False)

    def measured(self, loss: float | None, *, learning_rate: float, speed: Speed) -> None:
        """There are new means; `loss` is the product's, if it had a turn."""
        self._fresh = True
        self._status = f"{speed.samples_per_second:.0f} samples/s, lr {learning_rate:.3g}"
        if loss is not None:
            self._status += f", loss {loss:.5g}"
        if speed.data_wait_percent > WORTH_SAYING:
            self._status += f", {speed.data_wait_percent:.0f} % waiting for data"

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        status = ", ".join(part for part in (self._status, self._score) if part)
        self._bar.update(self._task, completed=step, status=status)
        self._due |= step * LINES // self._steps > (step - 1) * LINES // self._steps
        if not self._console.is_terminal and self._is_worth_a_line(step):
            parts = [f"{self._name}: step {step} of {self._steps}", status, self._time(step)]
            self._console.print(", ".join(filter(None, parts)), highlight=False, soft_wrap=True)
            self._due = False
        self._fresh = False

    def _is_worth_a_line(self, step: int) -> bool:
        """A tenth is done and just measured; the first step alone, with its warm-up, says nothing."""
        return step == self._steps or (self._due and self._fresh and step > self._first + 1)

    def _time(self, step: int) -> str:
        elapsed = time.monotonic() - self._began
        if step == self._steps:
            return f"done after {elapsed:.0f} s"
        return f"{math.ceil((self._steps - step) * elapsed / (step - self._first))} s left"

    def stopped(self, last_words: str) -> None:
        """It is stopped from outside."""
        self._console.print(last_words, highlight=False, soft_wrap=True, markup=False)

    def best(self, score: Score) -> None:
        """There is a new best score."""
        self._score = f"best {score.metric} {score.value:.5g}"
