"""Variational autoencoding: the evidence lower bound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from pipeline.figures import save_grid
from pipeline.hu import HUWindow
from pipeline.losses import gaussian_reconstruction, kl_divergence
from pipeline.models import ConvVAE
from pipeline.models.precision import device_of
from pipeline.models.vae import reparameterise
from pipeline.objectives.base import Batch, Networks, Score, Turn

COLUMNS = 8


class ELBO:
    """Negative evidence lower bound in nats per image, the KL term weighted by a β that warms up.

    Kingma and Welling 2014, arXiv:1312.6114; warm-up after Sønderby et al. 2016, arXiv:1602.02282. Pixels are
    Gaussian with a stated SD: summed over pixels, averaged over the batch. Validation is the negative bound
    at β = 1, with one draw from a fixed seed for every validation image.

    Args:
        window: HU range that the network sees as [0, 1].
        noise_sd: SD of a pixel, in units of the window.
        beta: weight of the KL term after the warm-up.
        warmup_steps: steps from β = 0 to `beta`.
        validation: (N, 1, S, S) HU, slices of validation patients.
    """

    product = "vae"

    def __init__(
        self, window: HUWindow, *, noise_sd: float, beta: float, warmup_steps: int, validation: Tensor
    ) -> None:
        self._window = window
        self._noise_sd = noise_sd
        self._beta = beta
        self._warmup_steps = warmup_steps
        self._validation = validation

    def beta_at(self, step: int) -> float:
        """Weight of the KL term after `step` steps."""
        return self._beta * min(1.0, step / self._warmup_steps) if self._warmup_steps else self._beta

    def turns(
        self, networks: Networks, batch: Batch, *, step: int, generator: torch.Generator
    ) -> Iterator[Turn]:
        """One turn for a batch of `image` (N, 1, S, S) HU."""
        image = self._window.to_unit(batch["image"])
        reconstruction, mean, log_variance = networks[self.product](image, generator=generator)
        misfit = gaussian_reconstruction(reconstruction, image, noise_sd=self._noise_sd)
        kl = kl_divergence(mean.float(), log_variance.float())
        logs = {"reconstruction_nats": misfit.detach(), "kl_nats": kl.detach()}
        yield Turn(self.product, misfit + self.beta_at(step) * kl, logs)

    @torch.no_grad()
    def validate(self, networks: Networks, *, bf16: bool) -> Score:  # noqa: ARG002 (small images, exact in fp32)
        """Negative bound at β = 1; the details hold its two terms."""
        vae = cast(ConvVAE, networks[self.product])
        device = device_of(vae)
        image = self._window.to_unit(self._validation).to(device)
        mean, log_variance = vae.encode(image)
        code = reparameterise(mean, log_variance, torch.Generator(device).manual_seed(0))
        misfit = gaussian_reconstruction(vae.decode(code), image, noise_sd=self._noise_sd).item()
        kl = kl_divergence(mean, log_variance).item()
        return Score(
            "negative_elbo_nats",
            misfit + kl,
            f"nats per image, pixel SD {self._noise_sd} of the window, beta 1",
            higher_is_better=False,
            details={"reconstruction_nats": misfit, "kl_nats": kl},
        )

    @torch.no_grad()
    def draw(self, networks: Networks, path: Path, *, bf16: bool) -> None:  # noqa: ARG002
        """Rows of validation images, their reconstructions, and samples from the prior."""
        vae = cast(ConvVAE, networks[self.product])
        device = device_of(vae)
        chosen = self._validation[:: max(1, len(self._validation) // COLUMNS)][:COLUMNS].to(device)
        reconstruction = vae.decode(vae.encode(self._window.to_unit(chosen))[0])
        seed = torch.Generator(device).manual_seed(0)
        code = torch.randn((2 * len(chosen), vae.latent_dimensions), generator=seed, device=device)
        drawn = torch.cat([reconstruction, vae.decode(code)])
        rows = torch.cat([chosen, self._window.from_unit(drawn)])
        save_grid(
            path,
            rows[:, 0].cpu().numpy(),
            self._window,
            columns=len(chosen),
            title="validation images, reconstructions, samples from the prior",
        )
