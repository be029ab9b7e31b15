"""The linear operators H: nothing, a blur, and fewer pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from pipeline.degradations.base import Degraded

Interpolation = Literal["linear", "cubic"]
_MODES: Final[dict[Interpolation, str]] = {"linear": "bilinear", "cubic": "bicubic"}


@dataclass(frozen=True)
class Identity:
    """H = I: with noise behind it, restoration is denoising."""

    def __call__(self, image: Degraded, *, pixel_mm: Tensor, generator: torch.Generator) -> Degraded:  # noqa: ARG002
        """The image itself."""
        return image


@dataclass(frozen=True)
class GaussianBlur:
    """Convolution with a Gaussian, sampled at the pixels and renormalised inside the image at its edges.

    Constants stay constants up to the edge. A blurred patch differs from a patch of the blurred slice within
    about 3 sigma of its edges.

    Args:
        sigma_mm: SD of the Gaussian along rows and columns; its full width at half maximum is 2.355 sigma.

    Raises:
        ValueError: sigma is not positive.
    """

    sigma_mm: float

    def __post_init__(self) -> None:
        if not self.sigma_mm > 0:
            raise ValueError(f"sigma_mm must be positive, got {self.sigma_mm}")

    def __call__(self, image: Degraded, *, pixel_mm: Tensor, generator: torch.Generator) -> Degraded:  # noqa: ARG002
        """The blurred image."""
        sigma_pixels = self.sigma_mm / pixel_mm
        along_rows, along_columns = (_gaussian(size, sigma_pixels) for size in image.hu.shape[-2:])
        return replace(image, hu=along_rows @ image.hu @ along_columns.mT)


@dataclass(frozen=True)
class Downsample:
    """Means of `factor` × `factor` pixels, interpolated back to the same grid (super-resolution's input).

    Blocks start at the first row and column; a last one that is cut repeats the edge. The cubic kernel is
    Keys' with a = −½ (1981, doi:10.1109/TASSP.1981.1163711); it overshoots at edges, linear does not.

    Args:
        factor: pixels per side of a block.
        interpolation: the way back.

    Raises:
        ValueError: the factor is below 2.
    """

    factor: int
    interpolation: Interpolation = "cubic"

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"factor must be at least 2, got {self.factor}")

    def __call__(self, image: Degraded, *, pixel_mm: Tensor, generator: torch.Generator) -> Degraded:  # noqa: ARG002
        """The image with the detail of fewer pixels, on its own grid."""
        height, width = image.hu.shape[-2:]
        whole_blocks = pad(image.hu, (0, -width % self.factor, 0, -height % self.factor), mode="replicate")
        coarse = avg_pool2d(whole_blocks, self.factor)
        back = interpolate(
            coarse, scale_factor=self.factor, mode=_MODES[self.interpolation], antialias=True
        )  # antialias smooths nothing on the way up, but is what gives torch's bicubic Keys' a (else −¾)
        return replace(image, hu=back[..., :height, :width])


def _gaussian(size: int, sigma_pixels: Tensor) -> Tensor:
    """(N, 1, size, size): row i holds the weights of all pixels in the blurred pixel i.

    A dense matrix, so that each image of a batch can have its own width without a word to the host.
    """
    pixels = torch.arange(size, dtype=sigma_pixels.dtype, device=sigma_pixels.device)
    offsets = (pixels[:, None] - pixels) / sigma_pixels[:, None, None, None]
    weights = torch.exp(-0.5 * offsets**2)
    return weights / weights.sum(dim=-1, keepdim=True)
