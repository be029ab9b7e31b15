"""Restoration against a discriminator, which tells what is restored from normal doses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from pipeline.losses import (
    discriminator_loss,
    gradient_penalty,
    nonsaturating_generator_loss,
    r1_penalty,
    wasserstein_critic_loss,
    wasserstein_generator_loss,
)
from pipeline.objectives.base import DISCRIMINATOR, Batch, Networks, Score, Turn
from pipeline.objectives.restoration import Restoration

Judge = Callable[[Tensor], Tensor]
"""Candidates (N, 1, P, P) in error units → logits (N, 1, h, w)."""


class Game(Protocol):
    """Who wins what when a discriminator tells restored from normal-dose patches."""

    @property
    def critic_steps(self) -> int:
        """Turns of the discriminator for each turn of the denoiser."""

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What the discriminator minimises, but for its penalty."""

    def penalty(
        self, judge: Judge, normal_dose: Tensor, restored: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The price of the discriminator's slope with regard to its candidate, weighted."""

    def denoiser_loss(self, fake_logits: Tensor) -> Tensor:
        """What the denoiser minimises."""


@dataclass(frozen=True)
class NonSaturating:
    """Goodfellow et al. 2014, arXiv:1406.2661, with R1 (Mescheder et al. 2018, arXiv:1801.04406).

    Attributes:
        r1_gamma: γ; the penalty is γ/2 times `losses.r1_penalty` at normal doses. It goes with the square of
            the error unit: 1e-3 suits 1000 HU, 0.02 the noise SD.

    Raises:
        ValueError: `r1_gamma` is not positive.
    """

    r1_gamma: float
    critic_steps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.r1_gamma > 0:
            raise ValueError(f"r1_gamma must be positive, got {self.r1_gamma}")

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Cross-entropy of real and restored."""
        return discriminator_loss(real_logits, fake_logits)

    def penalty(
        self,
        judge: Judge,
        normal_dose: Tensor,
        restored: Tensor,  # noqa: ARG002 (the contract of Game)
        generator: torch.Generator,  # noqa: ARG002
    ) -> Tensor:
        """γ/2 of the squared slope at normal doses."""
        candidate = normal_dose.detach().clone().requires_grad_()
        return self.r1_gamma / 2 * r1_penalty(judge(candidate), candidate)

    def denoiser_loss(self, fake_logits: Tensor) -> Tensor:
        """−log D."""
        return nonsaturating_generator_loss(fake_logits)


@dataclass(frozen=True)
class Wasserstein:
    """WGAN-GP: Gulrajani et al. 2017, arXiv:1704.00028.

    Attributes:
        penalty_weight: λ of the gradient penalty.
        critic_steps: turns of the critic for each turn of the denoiser, on the same patches.

    Raises:
        ValueError: one of them is not positive.
    """

    penalty_weight: float
    critic_steps: int

    def __post_init__(self) -> None:
        if not (self.penalty_weight > 0 and self.critic_steps > 0):
            raise ValueError(
                "penalty_weight and critic_steps must be positive, got "
                f"{self.penalty_weight} and {self.critic_steps}"
            )

    def discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Minus the estimated distance."""
        return wasserstein_critic_loss(real_logits, fake_logits)

    def penalty(
        self, judge: Judge, normal_dose: Tensor, restored: Tensor, generator: torch.Generator
    ) -> Tensor:
        """λ times the squared distance from 1 of the mean logit's slope, between real and restored."""
        return self.penalty_weight * gradient_penalty(judge, normal_dose, restored, generator)

    def denoiser_loss(self, fake_logits: Tensor) -> Tensor:
        """−D."""
        return wasserstein_generator_loss(fake_logits)


class AdversarialRestoration:
    """A supervised restoration whose result must also pass for a normal dose.

    The discriminator sees a candidate, the normal dose or what was restored, less its own local mean and in
    the restoration's error units. It does not see the low dose, as in WGAN-VGG (Yang et al. 2018,
    arXiv:1708.00961): the noise of a normal dose is partly independent of what the low dose shows, and a
    deterministic denoiser cannot draw it. Beside the low dose what is restored could always be told; alone, a
    share of the input's noise passes, which has the normal dose's spectrum.

    Up to `start_step` there is only the supervised turn. From then on the discriminator takes its turn or
    turns, then the denoiser, whose loss is the supervised one plus `weight` times the game's; the weight
    rises linearly from 0 over `ramp_steps`.

    Expect a lower PSNR than without: the mean of all plausible normal doses has the best PSNR and the noise
    of none of them. So the restoration's own validation, if it chooses the weights, prefers those that the
    game has changed least: where the game is what the training is for, keep the last ones.

    Args:
        restoration: losses, input and validation.
        game: which adversarial losses.
        weight: of the game's loss in the denoiser's, after the ramp.
        start_step: supervised steps before.
        ramp_steps: steps from weight 0 to `weight`.
        keep: the weights with the best validation score, or the last ones, which the score then only watches.

    Raises:
        ValueError: `weight` is not positive, or a number of steps is negative.
    """

    product = Restoration.product

    def __init__(
        self,
        restoration: Restoration,
        *,
        game: Game,
        weight: float,
        start_step: int,
        ramp_steps: int,
        keep: Literal["best", "last"] = "best",
    ) -> None:
        if not weight > 0 or start_step < 0 or ramp_steps < 0:
            raise ValueError(
                "weight must be positive, start_step and ramp_steps 0 or more, got "
                f"{weight}, {start_step} and {ramp_steps}"
            )
        self._restoration = restoration
        self._game = game
        self._weight = weight
        self._start_step = start_step
        self._ramp_steps = ramp_steps
        self._keep = keep

    def weight_at(self, step: int) -> float:
        """Weight of the game's loss after `step` steps."""
        if step < self._start_step:
            return 0.0
        ramp = (step - self._start_step) / self._ramp_steps if self._ramp_steps else 1.0
        return self._weight * min(1.0, ramp)

    def turns(
        self, networks: Networks, batch: Batch, *, step: int, generator: torch.Generator
    ) -> Iterator[Turn]:
        """The discriminator's turns, then the denoiser's; how many depends on `step` alone.

        Batches are those of the `Restoration`. The denoiser runs once more for its own turn instead of
        keeping its activations through the discriminator's: accumulating over parts of a batch, whose turns
        come in lockstep, would otherwise save no memory.
        """
        network, discriminator = networks[self.product], networks[DISCRIMINATOR]
        image, target = self._restoration.prepare(network, batch, generator)
        playing = step >= self._start_step
        unit = partial(self._restoration.in_error_units, batch=batch)
        if playing:
            with torch.no_grad():
                fake = unit(network(image))
            for _ in range(self._game.critic_steps):
                yield self._discriminator_turn(discriminator, unit(target), fake, generator)
        restored = network(image)
        loss, logs = self._restoration.misfit(restored, target, batch)
        if playing:
            with _frozen(discriminator):
                fooled = self._game.denoiser_loss(discriminator(_high_pass(unit(restored))))
            loss = loss + self.weight_at(step) * fooled
            logs["loss_adversarial"] = fooled.detach()
        yield Turn(self.product, loss, logs)

    def validate(self, networks: Networks, *, bf16: bool) -> Score:
        """The restoration's score; to keep the last weights, one that beats those before."""
        score = self._restoration.validate(networks, bf16=bf16)
        return score if self._keep == "best" else _LatestScore(**vars(score))

    def draw(self, networks: Networks, path: Path, *, bf16: bool) -> None:
        """The restoration's picture."""
        self._restoration.draw(networks, path, bf16=bf16)

    def _discriminator_turn(
        self,
        discriminator: nn.Module,
        normal_dose: Tensor,
        restored: Tensor,
        generator: torch.Generator,
    ) -> Turn:
        candidates = torch.cat([normal_dose, restored])
        real_logits, fake_logits = discriminator(_high_pass(candidates)).float().chunk(2)
        exact = _unwrapped(discriminator)
        with torch.autocast(normal_dose.device.type, enabled=False):
            penalty = self._game.penalty(
                lambda candidate: exact(_high_pass(candidate)), normal_dose, restored, generator
            )
        loss = self._game.discriminator_loss(real_logits, fake_logits) + penalty
        return Turn(DISCRIMINATOR, loss, _watched(real_logits, fake_logits) | {"penalty": penalty.detach()})


class _LatestScore(Score):
    """Of weights that are kept because they are the latest."""

    def beats(self, other: Score | None) -> bool:  # noqa: ARG002 (the contract of Score)
        """Always."""
        return True


def _high_pass(candidate: Tensor) -> Tensor:
    """(N, 1, P, P) less its own mean over 9x9 pixels.

    What is left is noise and edges: beside -1000 HU, bfloat16 would round noise to steps of 4 HU.
    """
    return candidate - avg_pool2d(candidate, 9, stride=1, padding=4, count_include_pad=False)


def _watched(real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
    """How often, and by how much, a normal dose has a higher logit than what was restored of its low dose.

    (A comparison and not a threshold: a Wasserstein critic has no zero.)
    """
    gap = real_logits.detach() - fake_logits.detach()
    return {"discriminator_accuracy": (gap > 0).float().mean(), "logit_gap": gap.mean()}


def _unwrapped(network: nn.Module) -> nn.Module:
    """The network itself where a wrapper, such as the engine's, sets the precision of its `forward`."""
    inner = getattr(network, "module", None)
    return inner if isinstance(inner, nn.Module) else network


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Leave the weights out of the graphs made in this block: the backward pass gives them no gradient."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad = True
