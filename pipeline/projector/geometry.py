"""The parallel-beam scan: where its rays run, and the symmetry that makes it quick."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ParallelBeam:
    """Parallel rays around a square image; detector cells are as wide as pixels.

    With x to the right and y downwards from the image centre in mm, the ray of view angle θ and detector
    position t is the line `x cos θ + y sin θ = t`. View k has θ = (k + ½) π / views; cell j lies at
    t = (j − (size − 1)/2) · pixel_mm. Only the inscribed circle is seen by every view.

    Attributes:
        size: rows, columns and detector cells.
        pixel_mm: pixel side and detector pitch.
        views: angles over 180°, a multiple of four.

    Raises:
        ValueError: a value that gives no such scan.
    """

    size: int
    pixel_mm: float
    views: int = 720

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"size must be at least 2 pixels, got {self.size}")
        if not self.pixel_mm > 0:
            raise ValueError(f"pixel_mm must be positive, got {self.pixel_mm}")
        if self.views < 4 or self.views % 4:
            raise ValueError(f"views must be a positive multiple of 4, got {self.views}")

    def angles(self) -> torch.Tensor:
        """View angles θ in radians, `(views,)` float64."""
        return (torch.arange(self.views, dtype=torch.float64) + 0.5) * (math.pi / self.views)

    def base_angles(self) -> torch.Tensor:
        """The angles between 0 and 45°, `(views / 4,)` float64: all others are mirror images of them."""
        return self.angles()[: self.views // 4]

    def centred(self) -> torch.Tensor:
        """Positions of columns, rows or detector cells from the centre, in pixels, `(size,)` float64."""
        return torch.arange(self.size, dtype=torch.float64) - (self.size - 1) / 2

    def inside(self) -> torch.Tensor:
        """`(size, size)` bool: pixels whose centre lies in the circle that every view sees."""
        squared = self.centred() ** 2
        return squared[:, None] + squared[None, :] <= (self.size / 2) ** 2


def fold_images(images: torch.Tensor) -> torch.Tensor:
    """The image in the four orientations in which a base angle θ shows θ, 90° − θ, 90° + θ and 180° − θ.

    Args:
        images: `(N, size, size)`.

    Returns:
        `(4, N, size, size)`.
    """
    transposed = images.transpose(1, 2)
    return torch.stack([images, transposed, transposed.flip(1), images.flip(2)])


def unfold_images(folded: torch.Tensor) -> torch.Tensor:
    """Turn the four orientations of `fold_images` back and add them up: `(4, N, H, W)` to `(N, H, W)`."""
    same, transposed, turned, mirrored = folded.unbind()
    return same + transposed.transpose(1, 2) + turned.flip(1).transpose(1, 2) + mirrored.flip(2)


def fold_views(sinograms: torch.Tensor) -> torch.Tensor:
    """Views sorted by orientation, `(N, views, cells)` to `(4, N, views / 4, cells)`; see `fold_images`."""
    below, near, beyond, above = sinograms.chunk(4, dim=1)
    return torch.stack([below, near.flip(1), beyond, above.flip(1)])


def unfold_views(folded: torch.Tensor) -> torch.Tensor:
    """The inverse of `fold_views`."""
    below, near, beyond, above = folded.unbind()
    return torch.cat([below, near.flip(1), beyond, above.flip(1)], dim=1)
