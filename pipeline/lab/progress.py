"""One bar over all trainings of the lab: a bar on a terminal, a line per training elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pipeline.engine import Progress


class LabProgress:
    """Moves by the cost of each step; trainings that are there already are taken off the total.

    Args:
        total: cost of all trainings.
        console: where to write.
    """

    def __init__(self, total: float, console: Console) -> None:
        self._left = total
        self._done = 0.0
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("lab", total=total)

    def __enter__(self) -> LabProgress:
        self._began = time.monotonic()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def skip(self, name: str, cost: float) -> None:
        """A training of that cost is there already."""
        self._left -= cost
        self._bar.update(self._task, description=name, total=self._done + self._left)

    def advance(self, name: str, cost: float, *, finished: bool) -> None:
        """So much of a training is done."""
        self._done += cost
        self._left -= cost
        self._bar.update(self._task, description=name, completed=self._done)
        if finished and not self._console.is_terminal:
            remaining = (time.monotonic() - self._began) / self._done * max(0.0, self._left)
            self._console.print(f"lab: {name}, about {remaining:.0f} s left", highlight=False, soft_wrap=True)

    def log(self, name: str, cost: float, *, steps: int) -> StepLog:
        """Where the engine writes the curves of a training; `cost` is that of one step."""
        return StepLog(self, name, cost, steps)


class StepLog:
    """The engine's log of one training: only moves the bar."""

    def __init__(self, progress: LabProgress, name: str, cost: float, steps: int) -> None:
        self._progress = progress
        self._name = name
        self._cost = cost
        self._steps = steps
        self._at = 0

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:  # noqa: ARG002
        """So many steps are done."""
        if step is not None and step > self._at:
            cost = (step - self._at) * self._cost
            self._progress.advance(self._name, cost, finished=step == self._steps)
            self._at = step

    @property
    def is_live(self) -> bool:
        """Nobody looks at the pictures of a training of the lab."""
        return False

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Nothing is kept."""


def quiet(name: str) -> Progress:
    """The engine's own bar, silent under the lab's."""
    return Progress(name, Console(quiet=True, force_terminal=False))
