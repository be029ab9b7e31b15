"""The convolutional variational autoencoder."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.models.pyramid import SMALLEST_SIDE, pyramid_widths


class ConvVAE(nn.Module):
    """Variational autoencoder with a Gaussian posterior, diagonal in the latent dimensions.

    Kingma and Welling 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114. The encoder has a mean and a
    log-variance head (σ = exp(½ log σ²) can neither be negative nor overflow early); group
    normalisation keeps training and evaluation alike.

    Args:
        image_size: side of the square images: 8, 16, 32, …
        latent_dimensions: length of the code.
        features: channels after the first halving.
    """

    def __init__(self, image_size: int = 64, latent_dimensions: int = 64, features: int = 32) -> None:
        super().__init__()
        self.latent_dimensions = latent_dimensions
        widths = pyramid_widths(image_size, features)
        coarse = (widths[-1], SMALLEST_SIDE, SMALLEST_SIDE)
        flat = widths[-1] * SMALLEST_SIDE**2
        down = [_down(before, after) for before, after in pairwise([1, *widths])]
        up = [_up(before, after) for before, after in pairwise([*reversed(widths), features])]
        self.encoder = nn.Sequential(*down, nn.Flatten())
        self.mean = nn.Linear(flat, latent_dimensions)
        self.log_variance = nn.Linear(flat, latent_dimensions)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dimensions, flat),
            nn.Unflatten(1, coarse),
            *up,
            nn.Conv2d(features, 1, 3, padding=1),
        )

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of `image` (N, 1, S, S): mean and log variance, both (N, latent_dimensions) float32."""
        hidden = self.encoder(image)
        return self.mean(hidden).float(), self.log_variance(hidden).float()

    def decode(self, code: Tensor) -> Tensor:
        """Mean of p(x | z), (N, 1, S, S) near [0, 1] but unclipped, for `code` (N, latent_dimensions)."""
        image: Tensor = self.decoder(code)
        return image.float()

    def forward(
        self, image: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct `image` (N, 1, S, S) in [0, 1]: reconstruction, posterior mean and log variance.

        In training the code is drawn by reparameterisation, z = μ + σ ε, with ε from `generator` (torch's own
        when None); in evaluation the code is the posterior mean.
        """
        mean, log_variance = self.encode(image)
        code = reparameterise(mean, log_variance, generator) if self.training else mean
        return self.decode(code), mean, log_variance


def reparameterise(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A draw z = μ + exp(½ log σ²) ε that passes gradients to both arguments."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + torch.exp(0.5 * log_variance) * noise


def _down(channels: int, features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, features, 4, stride=2, padding=1), nn.GroupNorm(1, features), nn.SiLU()
    )


def _up(channels: int, features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels, features, 4, stride=2, padding=1), nn.GroupNorm(1, features), nn.SiLU()
    )
