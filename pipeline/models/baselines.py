"""Classical denoisers that every score of a network stands beside; HU in, HU out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from pipeline.errors import ConfigError

Slice = npt.NDArray[np.float32]
Filter = Callable[[npt.NDArray[Any], float], Slice]
"""From a slice (H, W) HU and one number, in a unit of the filter's own, to a slice."""
Baseline = Callable[[npt.NDArray[Any], float, float | None], Slice]
"""From a slice (H, W) HU, one number and the noise level of its series in HU to a slice."""


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


def block_matching(image_hu: npt.NDArray[Any], noise_sd_hu: float) -> Slice:
    """BM3D of one slice (H, W) HU, told that its noise is white with this standard deviation.

    Mäkinen et al. 2020, doi:10.1109/TIP.2020.3014721; the authors' package, for non-commercial use only.

    Raises:
        ConfigError: the package is not installed.
    """
    denoised = _bm3d().bm3d(image_hu.astype(np.float64), noise_sd_hu)
    return np.asarray(denoised, np.float32)


def baseline(name: str) -> Baseline:
    """The baseline of this name; the number of those in `IN_NOISE_SDS` is a multiple of the noise level.

    So one number suits scans of weak and of strong noise, and a baseline is told as much as a network with a
    noise map. The baseline raises a ValueError where it is not told the level that it needs.

    Raises:
        ConfigError: there is none, or its package is not installed.
    """
    denoise = _filter(name)

    def restore(image_hu: npt.NDArray[Any], value: float, noise_sd_hu: float | None) -> Slice:
        if name not in IN_NOISE_SDS:
            return denoise(image_hu, value)
        if noise_sd_hu is None:
            raise ValueError(f"baseline {name} has to be told the noise level, got None")
        return denoise(image_hu, value * noise_sd_hu)

    return restore


def need_noise_level(names: Iterable[str]) -> bool:
    """Whether one of these baselines has to be told the noise level."""
    return not IN_NOISE_SDS.isdisjoint(names)


def _filter(name: str) -> Filter:
    if name in BASELINES:
        return BASELINES[name]
    if name not in BENCHMARK_BASELINES:
        known = ", ".join((*BASELINES, *BENCHMARK_BASELINES))
        raise ConfigError(f"unknown baseline {name!r}; known: {known}")
    _bm3d()
    return BENCHMARK_BASELINES[name]


def _bm3d() -> Any:
    try:
        return importlib.import_module("bm3d")
    except ImportError:
        raise ConfigError(
            "baseline bm3d: its package is not installed; pip install bm3d if your use is non-commercial, as "
            "its licence asks, or remove bm3d from the baselines"
        ) from None


BASELINES: Final[dict[str, Filter]] = {
    "gaussian": gaussian,
    "nlm": non_local_means,
    "tv": total_variation,
}
"""Each takes a slice and one number: sigma in pixels, h or weight in HU."""

BENCHMARK_BASELINES: Final[dict[str, Filter]] = {"bm3d": block_matching}
"""Baselines whose packages no installation brings: they are installed by name."""

IN_NOISE_SDS: Final = frozenset({"nlm", "tv", "bm3d"})
"""Baselines whose number is in HU, so that `evaluate` tunes it as a multiple of the noise level."""
