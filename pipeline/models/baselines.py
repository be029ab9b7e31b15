"""Classical denoisers that every score of a network stands beside; HU in, HU out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

Slice = npt.NDArray[np.float32]


def gaussian(image_hu: npt.NDArray[Any], sigma_pixels: float) -> Slice:
    """Gaussian smoothing of one slice (H, W) HU."""
    smoothed: Slice = gaussian_filter(image_hu.astype(np.float32), sigma_pixels)
    return smoothed


def non_local_means(image_hu: npt.NDArray[Any], strength_hu: float) -> Slice:
    """Non-local means of one slice (H, W) HU: 5×5 patches in a 13×13 neighbourhood.

    Buades et al. 2005, doi:10.5201/ipol.2011.bcm_nlm; `strength_hu` is the filter's h.
    """
    denoised: Slice = denoise_nl_means(
        image_hu.astype(np.float32), patch_size=5, patch_distance=6, h=strength_hu, fast_mode=True
    )
    return denoised


def total_variation(image_hu: npt.NDArray[Any], weight_hu: float) -> Slice:
    """Total-variation denoising of one slice (H, W) HU.

    Chambolle 2004, doi:10.1023/B:JMIV.0000011325.36760.1e; a larger `weight_hu` removes more.
    """
    image = image_hu.astype(np.float32)
    denoised: Slice = denoise_tv_chambolle(image, weight=weight_hu)  # type: ignore[no-untyped-call]
    return denoised


BASELINES: Final[dict[str, Callable[[npt.NDArray[Any], float], Slice]]] = {
    "gaussian": gaussian,
    "nlm": non_local_means,
    "tv": total_variation,
}
"""Each takes a slice and one number, which `evaluate` tunes on validation patients."""
