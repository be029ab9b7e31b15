"""How long, how fast and how often: everything about a training that is not the model or the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerPlan:
    """Adam (AdamW where `weight_decay` is not 0) with a linear warm-up and a cosine down to a fraction.

    Attributes:
        learning_rate: peak step size.
        betas: decay of the two moments.
        weight_decay: decoupled decay (Loshchilov and Hutter 2019, arXiv:1711.05101).
        warmup_steps: steps of the linear warm-up.
        final_fraction: last learning rate as a fraction of the peak; 1 keeps it constant.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    final_fraction: float = 1.0

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (the first is 0) out of `steps`."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, steps - 1 - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * cosine)


@dataclass(frozen=True)
class Plan:
    """A training.

    Attributes:
        name: of the training, for messages.
        steps: batches in all.
        batch_size: samples per batch, over all processes and micro-batches.
        optimizers: one for each network, by the network's name.
        seed: of the samples and of each step's random numbers.
        validate_every: steps between validations; the last step always validates.
        checkpoint_every: steps between resume states.
        log_every: steps that one point of the loss curve averages.
        clip_norm: largest gradient norm.
        ema_decay: decay of the averaged copy of the product, which is then what is validated and kept.
        workers: processes that prepare samples; 0 prepares them between steps.
        accumulate: micro-batches per process, whose gradients are added up before each step.
    """

    name: str
    steps: int
    batch_size: int
    optimizers: Mapping[str, OptimizerPlan]
    seed: int
    validate_every: int
    checkpoint_every: int
    log_every: int
    clip_norm: float | None = None
    ema_decay: float | None = None
    workers: int = 0
    accumulate: int = 1
