"""The DCGAN pair: a generator that is kept and a discriminator that training throws away."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from pipeline.models.pyramid import SMALLEST_SIDE, pyramid_widths


class DCGANGenerator(nn.Module):
    """Convolutional generator from a normal code to an image.

    Radford et al. 2016, arXiv:1511.06434, with two later repairs: nearest-neighbour up-sampling before each
    convolution instead of transposed convolutions (no checkerboard; Odena et al. 2016,
    doi:10.23915/distill.00003) and pixelwise feature normalisation instead of batch normalisation (Karras et
    al. 2018, arXiv:1710.10196), so that a sample does not depend on its batch and averaging weights needs no
    statistics.

    Args:
        image_size: side of the square images: 8, 16, 32, …
        latent_dimensions: length of the code.
        features: channels at half the image size.
    """

    def __init__(self, image_size: int = 64, latent_dimensions: int = 64, features: int = 32) -> None:
        super().__init__()
        self.latent_dimensions = latent_dimensions
        widths = pyramid_widths(image_size, features)
        coarse = (widths[-1], SMALLEST_SIDE, SMALLEST_SIDE)
        up = [_up(before, after) for before, after in pairwise([*reversed(widths), features])]
        self.layers = nn.Sequential(
            nn.Linear(latent_dimensions, widths[-1] * SMALLEST_SIDE**2),
            nn.Unflatten(1, coarse),
            _PixelNorm(),
            *up,
            nn.Conv2d(features, 1, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, code: Tensor) -> Tensor:
        """Images (N, 1, S, S) float32 in [-1, 1] for standard normal `code` (N, latent_dimensions)."""
        image: Tensor = self.layers(code)
        return image.float()


class DCGANDiscriminator(nn.Module):
    """Convolutional discriminator with spectral normalisation on every layer.

    Radford et al. 2016, arXiv:1511.06434; Miyato et al. 2018, "Spectral Normalization for Generative
    Adversarial Networks", arXiv:1802.05957. No batch normalisation: each logit depends on its own image only.

    Args:
        image_size: side of the square images: 8, 16, 32, …
        features: channels after the first halving.
    """

    def __init__(self, image_size: int = 64, features: int = 32) -> None:
        super().__init__()
        widths = pyramid_widths(image_size, features)
        down = [_down(before, after) for before, after in pairwise([1, *widths])]
        head = spectral_norm(nn.Linear(widths[-1] * SMALLEST_SIDE**2, 1))
        self.layers = nn.Sequential(*down, nn.Flatten(), head)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N,) float32 for images (N, 1, S, S) in [-1, 1]: positive means real."""
        logits: Tensor = self.layers(image)
        return logits.squeeze(1).float()


class _PixelNorm(nn.Module):
    """Scale each pixel's feature vector to unit mean square (Karras et al. 2018)."""

    def forward(self, features: Tensor) -> Tensor:
        return features * torch.rsqrt(features.square().mean(dim=1, keepdim=True) + 1e-8)


def _up(channels: int, features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(channels, features, 3, padding=1),
        nn.LeakyReLU(0.2),
        _PixelNorm(),
    )


def _down(channels: int, features: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(channels, features, 4, stride=2, padding=1)), nn.LeakyReLU(0.1)
    )
