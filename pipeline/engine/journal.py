"""What a training tells while it runs: points of the curves, pictures, and why it stops."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import torch

from pipeline.engine.curves import Row
from pipeline.engine.pace import Speed
from pipeline.engine.turns import Logs
from pipeline.errors import PipelineError
from pipeline.objectives import Networks, Objective

PICTURES: Final = "validation"
"""Folder of the validation pictures among a run's files."""


class DivergenceError(PipelineError):
    """A loss, gradient or score became infinite or not a number.

    Args:
        message: one line.
        names: what is not finite, as in the curves.
    """

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class MetricLog(Protocol):
    """Where curves and pictures go while the training runs."""

    @property
    def is_live(self) -> bool:
        """Whether anything that is logged reaches a store."""

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record values at a step."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file to a folder of the run's files."""


class Journal:
    """Curves that depend on the training alone, and what else its log gets.

    Args:
        rows: the curves so far; grows.
        log: receives them, with the speed, which the curves leave out.
    """

    def __init__(self, rows: list[Row], log: MetricLog) -> None:
        self._rows = rows
        self._log = log

    def record(self, values: Mapping[str, float], *, step: int, speed: Speed | None = None) -> None:
        """Add values to the curves at a step.

        Raises:
            DivergenceError: one of them is not finite.
        """
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise DivergenceError(f"{wrong[0]} is {values[wrong[0]]} at step {step}", wrong)
        if self._rows and self._rows[-1]["step"] == step:
            self._rows[-1] = {**self._rows[-1], **values}
        else:
            self._rows.append({"step": step, **values})
        extra = {} if speed is None else vars(speed)
        self._log.log_metrics({**values, **extra}, step=step)

    def picture(self, objective: Objective, networks: Networks, *, step: int, bf16: bool) -> None:
        """Log what the networks do on validation data, if anybody can see it."""
        if not self._log.is_live:
            return
        with tempfile.TemporaryDirectory(prefix="ldct-") as folder:
            path = Path(folder) / f"step_{step:06d}.png"
            objective.draw(networks, path, bf16=bf16)
            self._log.log_artifact(path, PICTURES)


class Means:
    """Averages over the steps since the last point of the curves, each over the steps that logged it."""

    def __init__(self) -> None:
        self._logs: list[Logs] = []

    def add(self, logs: Logs) -> None:
        """What one step logged, on the device."""
        self._logs.append(logs)

    def take(self) -> Logs:
        """The averages, still on the device; begins anew."""
        names = dict.fromkeys(name for logs in self._logs for name in logs)
        means = {
            name: torch.stack([logs[name].detach().float() for logs in self._logs if name in logs]).mean()
            for name in names
        }
        self._logs.clear()
        return means
