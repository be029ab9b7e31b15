"""A low-contrast disc, as a scan's own reconstruction would show it."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.projector import Kernel

Array = npt.NDArray[np.float32]

_OVERSAMPLING: Final = 8


def disc_hu(
    *, contrast_hu: float, diameter_mm: float, side: int, pixel_mm: float, kernel: Kernel | None
) -> Array:
    """A disc to be added to an image: a rod along the slice normal, or a lesion thicker than the slice.

    Each pixel is the mean over its area; then the kernel's window blurs it as it blurs the patient (the ramp
    only undoes the back-projection). The noise can stay as it is: a lesion of 50 HU and 10 mm changes the
    photons of a ray by 1 %.

    Args:
        contrast_hu: of the disc against its surround, negative for a darker one.
        diameter_mm: before the blur.
        side: pixels along an edge of the image; the disc is centred on pixel `side // 2` of both axes.
        pixel_mm: pixel side.
        kernel: of the scan; None for a disc as sharp as pixels allow.

    Returns:
        `(side, side)` float32 HU; the sum is that of the disc, whatever the kernel.

    Raises:
        ValueError: no contrast, or a disc smaller than a pixel or wider than half of the image.
    """
    if not (contrast_hu and math.isfinite(contrast_hu)):
        raise ValueError(f"contrast_hu must be a number other than 0, got {contrast_hu}")
    if not 1 <= diameter_mm / pixel_mm <= side / 2:
        raise ValueError(
            f"a disc of {diameter_mm:g} mm must be at least one pixel ({pixel_mm:g} mm) and at most half of "
            f"{side} pixels wide"
        )
    share = _share_of_pixels(side, diameter_mm / 2 / pixel_mm)
    if kernel is not None:
        share = _blurred(share, kernel, pixel_mm)
    disc: Array = (contrast_hu * share).astype(np.float32)
    return disc


def _share_of_pixels(side: int, radius: float) -> npt.NDArray[np.float64]:
    """How much of each pixel the disc covers; the radius in pixels."""
    fine = (np.arange(side * _OVERSAMPLING) + 0.5) / _OVERSAMPLING - 0.5 - side // 2
    inside = np.hypot(fine[:, None], fine[None, :]) < radius
    share: npt.NDArray[np.float64] = inside.reshape(side, _OVERSAMPLING, side, _OVERSAMPLING).mean(
        axis=(1, 3)
    )
    return share


def _blurred(image: npt.NDArray[np.float64], kernel: Kernel, pixel_mm: float) -> npt.NDArray[np.float64]:
    steps = torch.fft.fftfreq(len(image), pixel_mm, dtype=torch.float64)
    gain = kernel.gain(torch.hypot(steps[:, None], steps[None, :])).double().numpy()
    blurred: npt.NDArray[np.float64] = np.fft.ifft2(np.fft.fft2(image) * gain).real
    return blurred
