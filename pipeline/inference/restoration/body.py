"""What part of a body some slices show, told from their pixels alone."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.hu import AIR_HU, HUWindow

Images = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_STEP_MM: Final = 2.5
"""Fine enough for a skull, which is 5 mm thick; in means over so much, noise no longer looks like bone."""
_BODY_ABOVE_HU: Final = -300.0
_BONE_ABOVE_HU: Final = 200.0
_BRAIN: Final = HUWindow(low=-50.0, high=120.0)
"""Also water and what phantoms are filled with; lungs and fat within a ring of bone are no brain."""
_SKULL_HOLDS: Final = 0.3
"""Of a head's cross-section the brain is about two thirds; of a trunk's, no ring of bone holds a tenth."""
_GAP_STEPS: Final = 3
"""Gaps of twice as many are closed, such as the air cells behind the ear, 10 mm wide. Ribs stay apart."""
_RIM_STEPS: Final = 1.5


def skull_share(hu: Images, visible: Mask, pixel_spacing_mm: tuple[float, float]) -> float:
    """Share of the slices with a closed ring of bone around soft tissue that fills much of the body.

    Args:
        hu: (n, rows, columns) HU.
        visible: (n, rows, columns) bool, true where a slice shows something.
        pixel_spacing_mm: between rows and between columns.

    Returns:
        0 to 1, of the slices that show a body; 0 where none does.
    """
    images, _ = _coarse(hu, visible, pixel_spacing_mm)
    bodies = [_body(image) for image in images]
    rings = [_has_skull(image, body) for image, body in zip(images, bodies, strict=True) if body.any()]
    return float(np.mean(rings)) if rings else 0.0


def cross_section_cm2(hu: Images, visible: Mask, pixel_spacing_mm: tuple[float, float]) -> float | None:
    """The largest cross-section of the body, cavities included; None where a slice does not show all of it.

    Args:
        hu: (n, rows, columns) HU.
        visible: (n, rows, columns) bool, true where a slice shows something.
        pixel_spacing_mm: between rows and between columns.
    """
    images, (row_mm, column_mm) = _coarse(hu, visible, pixel_spacing_mm)
    shown, _ = _coarse(visible.astype(np.float32), np.ones_like(visible), pixel_spacing_mm)
    areas = []
    for image, share in zip(images, shown, strict=True):
        body = _body(image)
        if (body & _rim(share)).any():
            return None
        areas.append(float(body.sum()) * row_mm * column_mm / 100)
    return max(areas, default=0.0) or None


def _coarse(
    hu: Images, visible: Mask, pixel_spacing_mm: tuple[float, float]
) -> tuple[Images, tuple[float, float]]:
    """Means over blocks of about `_STEP_MM`, air where nothing is shown, and their spacing in mm."""
    count, *sides = hu.shape
    row_step, column_step = (
        min(max(1, round(_STEP_MM / step_mm)), side)
        for step_mm, side in zip(pixel_spacing_mm, sides, strict=True)
    )
    rows, columns = sides[0] // row_step, sides[1] // column_step
    shown = np.where(visible, hu, np.float32(AIR_HU))[:, : rows * row_step, : columns * column_step]
    blocks = shown.reshape(count, rows, row_step, columns, column_step)
    spacing_mm = (pixel_spacing_mm[0] * row_step, pixel_spacing_mm[1] * column_step)
    return blocks.mean(axis=(2, 4), dtype=np.float32), spacing_mm


def _body(image: Images) -> Mask:
    """The largest piece of tissue without its couch, its cavities filled."""
    tissue = ndimage.binary_opening(image > _BODY_ABOVE_HU, iterations=2)
    pieces, count = ndimage.label(tissue)
    if not count:
        return np.zeros(image.shape, np.bool_)
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    body: Mask = ndimage.binary_fill_holes(pieces == largest)
    return body


def _has_skull(image: Images, body: Mask) -> bool:
    bone = np.pad((image > _BONE_ABOVE_HU) & body, _GAP_STEPS)
    bone = ndimage.binary_closing(bone, iterations=_GAP_STEPS)[_GAP_STEPS:-_GAP_STEPS, _GAP_STEPS:-_GAP_STEPS]
    within = ndimage.binary_fill_holes(bone) & ~bone
    brain = within & (image > _BRAIN.low) & (image < _BRAIN.high)
    return bool(brain.sum() > _SKULL_HOLDS * body.sum())


def _rim(shown: Images) -> Mask:
    """Where a body would go on outside: next to what is not shown, or to the circle that a scan fills."""
    rows, columns = shown.shape
    y, x = (np.arange(side) - (side - 1) / 2 for side in shown.shape)
    outside = np.hypot(y[:, None], x[None, :]) > min(rows, columns) / 2 - _RIM_STEPS
    hidden = ndimage.binary_dilation(shown < 1)
    rim: Mask = outside | hidden
    return rim
