"""The parts of each batch that one process trains on, brought to its device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.data.batches import Batches, Part
from pipeline.engine.pace import Pace
from pipeline.engine.plan import Plan
from pipeline.engine.team import Team
from pipeline.errors import ConfigError

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class LoadedPart:
    """A part of a batch on the device, and the source of all random numbers of its step."""

    batch: Batch
    generator: torch.Generator


class Feed:
    """This process's parts, step after step.

    A step's batch is cut into `team.size * plan.accumulate` equal parts; each process takes a contiguous run
    of them. The feed itself does not wait for a GPU, which works on one step while the next one is prepared;
    `batches.on_device` may (low dose drawn on the fly waits at a slice's first draw).

    Args:
        batches: of the run.
        plan: the training.
        team: who shares the batches.
        device: where the parts go.
        first_step: where to begin.
        pace: learns how long the data took.

    Raises:
        ConfigError: the batch cannot be cut into equal parts, or these batches not into so many.
    """

    def __init__(
        self,
        batches: Batches,
        plan: Plan,
        *,
        team: Team,
        device: torch.device,
        first_step: int,
        pace: Pace,
    ) -> None:
        count = team.size * plan.accumulate
        if plan.batch_size % count:
            raise ConfigError(
                f"{plan.name}: batch_size {plan.batch_size} cannot be cut into {count} equal parts "
                f"({team.size} processes, accumulate {plan.accumulate})"
            )
        if batches.batch_size != plan.batch_size:
            raise ValueError(f"batches of {batches.batch_size} for a plan of {plan.batch_size}")
        self._batches = batches
        self._plan = plan
        self._device = device
        self._pace = pace
        own = range(team.rank * plan.accumulate, (team.rank + 1) * plan.accumulate)
        self._parts = _Parts(range(first_step, plan.steps), own, count)
        if count > 1:
            _check_cut(batches, plan, team)

    def __iter__(self) -> Iterator[list[LoadedPart]]:
        """The parts of one step after the other."""
        cuda = self._device.type == "cuda"
        loader: DataLoader[Batch] = DataLoader(
            cast(Dataset[Batch], self._batches),
            batch_size=None,
            sampler=self._parts,
            num_workers=self._plan.workers,
            # a fork would copy locks that this process's threads hold, and wait for them forever
            multiprocessing_context="spawn" if self._plan.workers else None,
            pin_memory=cuda,
            generator=torch.Generator(),  # or it would draw from the caller's
        )
        source = iter(loader)
        for step in self._parts.steps:
            with self._pace.waiting():
                parts = [self._load(next(source), part) for part in self._parts.of(step)]
            yield parts

    def _load(self, batch: Batch, part: Part) -> LoadedPart:
        generator = torch.Generator(self._device)
        generator.manual_seed(part_seed(self._plan.seed, part))
        moved = {name: value.to(self._device, non_blocking=True) for name, value in batch.items()}
        return LoadedPart(self._batches.on_device(moved, part, generator=generator), generator)


class _Parts(Sampler[Part]):
    """The parts of one process in order."""

    def __init__(self, steps: range, own: range, count: int) -> None:
        self.steps, self.own, self.count = steps, own, count

    def __iter__(self) -> Iterator[Part]:
        return (part for step in self.steps for part in self.of(step))

    def of(self, step: int) -> list[Part]:
        """The process's parts of one step."""
        return [Part(step, index, self.count) for index in self.own]


def part_seed(seed: int, part: Part) -> int:
    """Seed of one part's random numbers; neighbouring steps and parts share nothing."""
    sequence = np.random.SeedSequence([seed, part.step, part.index])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _check_cut(batches: Batches, plan: Plan, team: Team) -> None:
    """Try one part, because batches may hold samples together, e.g. the patches of one slice."""
    try:
        batches[Part(0, 0, team.size * plan.accumulate)]
    except ValueError as refused:
        batches[Part(0)]  # whatever is wrong with the data themselves speaks for itself
        raise ConfigError(
            f"{plan.name}: batch_size {plan.batch_size} cannot be shared by {team.size} processes with "
            f"accumulate {plan.accumulate}: {refused}"
        ) from None
