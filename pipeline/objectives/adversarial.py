"""Generative adversarial training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from pipeline.figures import save_grid
from pipeline.hu import HUWindow
from pipeline.losses import discriminator_loss, nonsaturating_generator_loss
from pipeline.metrics import detail, rbf_mmd
from pipeline.models import DCGANGenerator
from pipeline.models.precision import device_of
from pipeline.objectives.base import DISCRIMINATOR, Batch, Networks, Score, Turn

CONVENTION = "RBF-MMD² of image detail, 256 samples of a fixed seed against the validation slices"
SAMPLES = 256


class Adversarial:
    """Non-saturating GAN: a turn of the discriminator, then one of the generator.

    Goodfellow et al. 2014, arXiv:1406.2661. The networks hold a `generator`, which is the product, and a
    `discriminator` (spectral normalisation, its own learning rate). Validation compares the detail of
    samples from a fixed seed with that of the validation images, by the squared maximum mean discrepancy of
    an RBF kernel: lower is better. (On plain pixels the distance between patients hides everything else.)

    Args:
        window: HU range that the networks see as [-1, 1].
        latent_dimensions: length of the generator's code.
        validation: (N, 1, S, S) HU, slices of validation patients.
    """

    product = "generator"

    def __init__(self, window: HUWindow, *, latent_dimensions: int, validation: Tensor) -> None:
        self._window = window
        self._latent_dimensions = latent_dimensions
        self._validation = validation

    def turns(
        self,
        networks: Networks,
        batch: Batch,
        *,
        step: int,  # noqa: ARG002 (the contract of Objective)
        generator: torch.Generator,
    ) -> Iterator[Turn]:
        """The discriminator's turn, then the generator's, for a batch of `image` (N, 1, S, S) HU."""
        real = 2 * self._window.to_unit(batch["image"]) - 1
        shape = (len(real), self._latent_dimensions)
        code = torch.randn(shape, generator=generator, device=real.device)
        fake = networks[self.product](code)
        real_logits = networks[DISCRIMINATOR](real)
        fake_logits = networks[DISCRIMINATOR](fake.detach())
        right = torch.cat([real_logits > 0, fake_logits <= 0]).float().mean()
        gap = real_logits.detach().mean() - fake_logits.detach().mean()
        yield Turn(
            DISCRIMINATOR,
            discriminator_loss(real_logits, fake_logits),
            {"discriminator_accuracy": right, "logit_gap": gap},
        )
        yield Turn(self.product, nonsaturating_generator_loss(networks[DISCRIMINATOR](fake)))

    def validate(self, networks: Networks, *, bf16: bool) -> Score:  # noqa: ARG002 (small images, exact in fp32)
        """MMD² between the detail of samples and that of validation images, both in [0, 1]."""
        samples = self._samples(networks, SAMPLES)[:, 0]
        real = self._window.to_unit(self._validation)[:, 0]
        value = rbf_mmd(detail(samples.numpy()), detail(real.numpy()))
        return Score("mmd", value, CONVENTION, higher_is_better=False)

    def draw(self, networks: Networks, path: Path, *, bf16: bool) -> None:  # noqa: ARG002
        """Sixty-four samples."""
        samples = self._window.from_unit(self._samples(networks, 64))
        save_grid(path, samples[:, 0].numpy(), self._window, columns=8, title="samples of the generator")

    @torch.no_grad()
    def _samples(self, networks: Networks, count: int) -> Tensor:
        """(count, 1, S, S) in [0, 1] on the CPU, the same codes every time."""
        generator = cast(DCGANGenerator, networks[self.product])
        code = torch.randn((count, self._latent_dimensions), generator=torch.Generator().manual_seed(0))
        samples: Tensor = generator(code.to(device_of(generator)))
        return (samples.cpu() + 1) / 2
