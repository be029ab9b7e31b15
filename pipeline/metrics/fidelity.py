"""PSNR, SSIM and RMSE of one CT slice under a named convention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import convolve1d
from skimage.metrics import structural_similarity

from pipeline.metrics.conventions import Convention, SSIMKernel

Slice = npt.NDArray[Any]
Image = npt.NDArray[np.float64]
GAUSSIAN_SIGMA = 1.5
GAUSSIAN_TAPS = 11


def psnr(
    prediction_hu: Slice, target_hu: Slice, convention: Convention, *, anatomy: str | None = None
) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the width of the convention's window.

    Args:
        prediction_hu: (H, W) HU.
        target_hu: (H, W) HU.
        convention: window and data range.
        anatomy: region, for conventions whose window depends on it.

    Returns:
        dB; infinity for equal images.

    Raises:
        ValueError: shapes differ, or the convention has no window for the anatomy.
    """
    rmse = rmse_hu(prediction_hu, target_hu, convention, anatomy=anatomy)
    return math.inf if rmse == 0 else 20 * math.log10(convention.window(anatomy).width / rmse)


def rmse_hu(
    prediction_hu: Slice, target_hu: Slice, convention: Convention, *, anatomy: str | None = None
) -> float:
    """Root mean square error in HU of images clipped to the convention's window; arguments as in `psnr`."""
    prediction, target = _clipped(prediction_hu, target_hu, convention, anatomy)
    return float(np.sqrt(np.mean((prediction - target) ** 2)))


def ssim(
    prediction_hu: Slice, target_hu: Slice, convention: Convention, *, anatomy: str | None = None
) -> float:
    """Mean structural similarity with the convention's kernel; arguments as in `psnr`.

    Images are clipped to the window and, SSIM not being blind to a shift, moved to start at 0
    (`redcnn-legacy` leaves them in HU, as the public code does).
    """
    prediction, target = _clipped(prediction_hu, target_hu, convention, anatomy)
    window = convention.window(anatomy)
    if convention.ssim_kernel is SSIMKernel.GAUSSIAN_11_ZERO_PADDED:
        return _zero_padded_ssim(prediction, target, window.width)
    return _structural_similarity(prediction - window.low, target - window.low, window.width, convention)


def _clipped(
    prediction_hu: Slice, target_hu: Slice, convention: Convention, anatomy: str | None
) -> tuple[Image, Image]:
    if prediction_hu.shape != target_hu.shape:
        raise ValueError(f"images to compare differ in shape: {prediction_hu.shape} and {target_hu.shape}")
    window = convention.window(anatomy)
    prediction = np.asarray(prediction_hu, np.float64).clip(window.low, window.high)
    return prediction, np.asarray(target_hu, np.float64).clip(window.low, window.high)


def _structural_similarity(x: Image, y: Image, data_range: float, convention: Convention) -> float:
    options: dict[str, Any] = {}
    if convention.ssim_kernel is SSIMKernel.GAUSSIAN_11:
        options = {"gaussian_weights": True, "sigma": GAUSSIAN_SIGMA, "use_sample_covariance": False}
    similarity: Any = structural_similarity(x, y, data_range=data_range, **options)  # type: ignore[no-untyped-call]
    return float(similarity)


def _zero_padded_ssim(x: Image, y: Image, data_range: float) -> float:
    """SSIM of the public RED-CNN code: zero padding, and the mean runs over the border as well."""
    taps = np.exp(-((np.arange(GAUSSIAN_TAPS) - GAUSSIAN_TAPS // 2) ** 2) / (2 * GAUSSIAN_SIGMA**2))
    taps /= taps.sum()

    def local_mean(image: Image) -> Image:
        rows: Image = convolve1d(image, taps, axis=0, mode="constant")
        both: Image = convolve1d(rows, taps, axis=1, mode="constant")
        return both

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x**2
    variance_y = local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float(np.mean(luminance * structure))
