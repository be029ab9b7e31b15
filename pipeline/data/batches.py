"""Batches of a training: what a step sees, cut into parts for several processes and micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """Part `index` of `count` equal parts of the batch of `step`.

    Attributes:
        step: from 0 on.
        index: from 0 to `count - 1`.
        count: parts of one batch: processes times micro-batches.

    Raises:
        ValueError: no such part.
    """

    step: int
    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.step < 0 or not 0 <= self.index < self.count:
            raise ValueError(f"no part {self.index} of {self.count} of the batch of step {self.step}")

    def share(self, batch_size: int) -> range:
        """Positions in the batch that belong to this part, one contiguous run of them.

        Raises:
            ValueError: the batch cannot be cut into equal parts.
        """
        if batch_size % self.count:
            raise ValueError(f"a batch of {batch_size} cannot be cut into {self.count} equal parts")
        size = batch_size // self.count
        return range(self.index * size, (self.index + 1) * size)


class Batches(Protocol):
    """All batches of a run; they depend on the seed and the step alone, in whatever process they are made.

    Attributes:
        batch_size: samples of a whole batch, all parts together.
    """

    batch_size: int

    def __getitem__(self, part: Part) -> Batch:
        """One part of a batch, on the CPU, as it travels to the device.

        Raises:
            ValueError: the batch cannot be cut so.
        """

    def on_device(self, batch: Batch, part: Part, *, generator: torch.Generator) -> Batch:
        """What the objective gets of a part that has reached the training device.

        Args:
            batch: what `__getitem__` gave for the part, on the device.
            part: which one.
            generator: of this part of this step, on the device.
        """


class SampleBatches(Dataset[Batch]):
    """Batches of a data set that makes one sample at a time: sample `i` of the run at index `i`.

    Args:
        samples: gives a dictionary of tensors per index.
        batch_size: samples of a whole batch.
    """

    def __init__(self, samples: Dataset[dict[str, Tensor]], batch_size: int) -> None:
        self.batch_size = batch_size
        self._samples = samples

    def __getitem__(self, part: Part) -> Batch:
        """The samples of the part, stacked."""
        first = part.step * self.batch_size
        samples: list[Mapping[str, Tensor]] = [
            self._samples[first + position] for position in part.share(self.batch_size)
        ]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def on_device(self, batch: Batch, part: Part, *, generator: torch.Generator) -> Batch:  # noqa: ARG002 (protocol)
        """The batch as it is."""
        return batch
