"""The contract between objectives and the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
Networks = Mapping[str, nn.Module]
DISCRIMINATOR = "discriminator"
"""Name of the network that an adversarial training drops when it is done."""


@dataclass(frozen=True)
class Turn:
    """One loss for one optimizer; the engine steps before it asks for the next turn.

    Attributes:
        network: whose parameters take the step.
        loss: scalar.
        logs: scalars for the curves, without gradient.
    """

    network: str
    loss: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """How good the weights are on the validation cases.

    Attributes:
        metric: name with unit, e.g. `psnr_db`.
        value: the score.
        convention: how it was measured.
        higher_is_better: which way is up.
        details: further numbers for the curves and the bundle, e.g. the input's own score.
    """

    metric: str
    value: float
    convention: str
    higher_is_better: bool
    details: Mapping[str, float] = field(default_factory=dict)

    def beats(self, other: Score | None) -> bool:
        """Whether this score is better than `other` (or the first one)."""
        if other is None:
            return True
        return self.value > other.value if self.higher_is_better else self.value < other.value


class Objective(Protocol):
    """One family of models.

    Attributes:
        product: name of the network that is validated, kept and put into the bundle.
    """

    product: str

    def turns(
        self, networks: Networks, batch: Batch, *, step: int, generator: torch.Generator
    ) -> Iterator[Turn]:
        """The optimizer steps of one batch, in order.

        Args:
            networks: in training mode, by name.
            batch: samples on the networks' device.
            step: steps done before this one.
            generator: source of all randomness of this step.
        """

    def validate(self, networks: Networks, *, bf16: bool) -> Score:
        """Score the networks, in evaluation mode, on the validation data."""

    def draw(self, networks: Networks, path: Path, *, bf16: bool) -> None:
        """Write a picture of what the networks do on validation data (PNG)."""
