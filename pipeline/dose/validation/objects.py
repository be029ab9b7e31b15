"""Objects made of ellipses: their line integrals are known exactly, so no projector has to be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

from pipeline.dose.photons import WATER_PER_MM

OVERSAMPLING: Final = 8
"""Points along a pixel's side; the edge of a painted ellipse is their mean."""


@dataclass(frozen=True)
class Ellipse:
    """An ellipse with its axes along x and y, in mm from the isocentre (x to the right, y downwards).

    Attributes:
        half_width_mm: half axis along x.
        half_height_mm: half axis along y.
        contrast_hu: what it adds to the CT number where it lies; 1000 is water on air.
        x_mm: centre.
        y_mm: centre.
    """

    half_width_mm: float
    half_height_mm: float
    contrast_hu: float = 1000.0
    x_mm: float = 0.0
    y_mm: float = 0.0

    @property
    def per_mm(self) -> float:
        """Linear attenuation that it adds, in 1/mm."""
        return self.contrast_hu / 1000 * WATER_PER_MM


BODY: Final = (Ellipse(105, 75),)
"""An abdomen of water, 210 × 150 mm."""

SHOULDERS: Final = (
    Ellipse(125, 62),
    Ellipse(17, 15, 1100, x_mm=-88),
    Ellipse(17, 15, 1100, x_mm=88),
)
"""Two humeral heads at the sides of a flat body."""

HIPS: Final = (
    Ellipse(120, 80),
    Ellipse(23, 23, 700, x_mm=-70, y_mm=6),
    Ellipse(23, 23, 700, x_mm=70, y_mm=6),
)
"""Two femoral heads in a pelvis."""

METAL_HIPS: Final = (
    Ellipse(98, 64),
    Ellipse(13, 13, 4400, x_mm=-52),
    Ellipse(13, 13, 4400, x_mm=52),
)
"""Two implants that starve the rays through both, 196 × 128 mm."""


def paint_hu(ellipses: Sequence[Ellipse], size: int, pixel_mm: float) -> torch.Tensor:
    """The object as an image, each pixel the mean of 8 × 8 points.

    Returns:
        `(1, size, size)` HU, air around the object.
    """
    image = torch.full((1, size, size), -1000.0)
    for ellipse in ellipses:
        image += ellipse.contrast_hu * coverage(ellipse, size, pixel_mm)
    return image


def coverage(ellipse: Ellipse, size: int, pixel_mm: float) -> torch.Tensor:
    """Share of each pixel that the ellipse covers, `(size, size)` from 0 to 1."""
    axis_mm = ((torch.arange(size * OVERSAMPLING) + 0.5) / OVERSAMPLING - size / 2) * pixel_mm
    across = ((axis_mm - ellipse.x_mm) / ellipse.half_width_mm) ** 2
    down = ((axis_mm - ellipse.y_mm) / ellipse.half_height_mm) ** 2
    inside = (down[:, None] + across[None, :] <= 1).float()
    return functional.avg_pool2d(inside[None], OVERSAMPLING)[0]


def line_integrals_of(
    ellipses: Sequence[Ellipse], angles: torch.Tensor, offsets_mm: torch.Tensor
) -> torch.Tensor:
    """Exact line integrals (Kak and Slaney 1988, eq. 3.7).

    Args:
        ellipses: the object.
        angles: θ of each ray's normal, in radians; it runs along `x cos θ + y sin θ = t`.
        offsets_mm: t of each ray; broadcast against the angles.

    Returns:
        Dimensionless float32 line integrals in the shape that the two share, with a leading axis of one.
    """
    cos, sin = angles.double().cos(), angles.double().sin()
    total = torch.zeros(1, dtype=torch.float64)
    for ellipse in ellipses:
        a, b = ellipse.half_width_mm, ellipse.half_height_mm
        reach = (a * cos) ** 2 + (b * sin) ** 2
        offset = offsets_mm.double() - ellipse.x_mm * cos - ellipse.y_mm * sin
        total = total + ellipse.per_mm * 2 * a * b * (reach - offset**2).clamp(min=0).sqrt() / reach
    return total.float()[None]
