"""What every scan geometry shares: positions around a centre, and checks of its numbers."""

from __future__ import annotations

import torch


def centred(count: int, device: torch.device | None = None) -> torch.Tensor:
    """Positions of `count` pixels or cells from their common centre, in steps of one, float64."""
    return torch.arange(count, dtype=torch.float64, device=device) - (count - 1) / 2


def within_radius(size: int, radius: float) -> torch.Tensor:
    """`(size, size)` bool: pixels whose centre lies at most `radius` pixels from the image centre."""
    squared = centred(size) ** 2
    return squared[:, None] + squared[None, :] <= radius**2


def require_scan(*, size: int, pixel_mm: float, views: int, cells: int, multiple: int) -> None:
    """Refuse values that give no scan.

    Raises:
        ValueError: fewer than two pixels or cells, no positive pixel side, or views that are no positive
            multiple of `multiple`.
    """
    if size < 2:
        raise ValueError(f"size must be at least 2 pixels, got {size}")
    if cells < 2:
        raise ValueError(f"cells must be at least 2, got {cells}")
    if not pixel_mm > 0:
        raise ValueError(f"pixel_mm must be positive, got {pixel_mm}")
    if views < multiple or views % multiple:
        raise ValueError(f"views must be a positive multiple of {multiple}, got {views}")


def coarsened(views: int, factor: int, multiple: int) -> int:
    """About `views / factor` views, rounded up to a multiple of `multiple`."""
    return -(-views // (factor * multiple)) * multiple
