"""Slices on another pixel grid: smoothed against aliasing for HU, nearest for labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from pipeline.hu import AIR_HU

BODY_HU = -400.0
"""Above it a pixel counts as body (or table) when a slice is centred."""


def grid_size(shape: tuple[int, int], spacing_mm: tuple[float, float], target_mm: float) -> tuple[int, int]:
    """Rows and columns of the same field of view at `target_mm` per pixel."""
    rows, columns = (
        max(1, round(pixels * mm / target_mm)) for pixels, mm in zip(shape, spacing_mm, strict=True)
    )
    return rows, columns


def resample_image(image_hu: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, H, W) float32 HU on a grid of `size` over the same field of view, smoothed where it shrinks."""
    if tuple(image_hu.shape[-2:]) == size:
        return image_hu
    return interpolate(image_hu[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def resample_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, H, W) labels on a grid of `size` over the same field of view: the label at each pixel's centre."""
    if tuple(labels.shape[-2:]) == size:
        return labels
    return interpolate(labels[None].float(), size=size, mode="nearest-exact")[0].to(labels.dtype)


def centred_view(
    image_hu: Tensor, spacing_mm: tuple[float, float], *, field_of_view_mm: float, image_size: int
) -> Tensor:
    """A square view around the body's centre of mass, air where it leaves the slice.

    Args:
        image_hu: (1, H, W) float32 HU.
        spacing_mm: (row, column) spacing.
        field_of_view_mm: side of the view.
        image_size: pixels per side of the result.

    Returns:
        (1, image_size, image_size) float32 HU.
    """
    rows, columns = (max(1, round(field_of_view_mm / mm)) for mm in spacing_mm)
    inside = (image_hu[0] > BODY_HU).float()
    if not inside.any():
        inside = torch.ones_like(inside)
    centre_row, centre_column = (
        (inside.sum(dim=1 - axis) @ torch.arange(inside.shape[axis], dtype=inside.dtype)) / inside.sum()
        for axis in (0, 1)
    )
    top = round(centre_row.item() - (rows - 1) / 2)
    left = round(centre_column.item() - (columns - 1) / 2)
    height, width = inside.shape
    margins = (-left, left + columns - width, -top, top + rows - height)  # negative margins crop
    view = pad(image_hu, margins, value=AIR_HU)
    return resample_image(view, (image_size, image_size))
