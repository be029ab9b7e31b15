"""White Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from pipeline.degradations.base import Degraded

STEPS_PER_HU: Final = 1024.0
"""Noise is a multiple of 1/1024 HU: added to whole HU below 8192, float32 then rounds nothing, y − x = n."""


@dataclass(frozen=True)
class WhiteNoise:
    """n: independent of x and from pixel to pixel, which noise of a CT image is not (see `LowDose`).

    Args:
        sd_hu: its standard deviation.

    Raises:
        ValueError: the SD is not positive.
    """

    sd_hu: float

    def __post_init__(self) -> None:
        if not self.sd_hu > 0:
            raise ValueError(f"sd_hu must be positive, got {self.sd_hu}")

    def __call__(self, image: Degraded, *, pixel_mm: Tensor, generator: torch.Generator) -> Degraded:  # noqa: ARG002
        """The image with noise, in holes too."""
        normal = torch.randn(image.hu.shape, generator=generator, device=image.hu.device)
        noise_hu = torch.round(normal * (self.sd_hu * STEPS_PER_HU)) / STEPS_PER_HU
        return replace(image, hu=image.hu + noise_hu)
