"""The noise of a patient's own images, without a repeated scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.hu import HUWindow

SOFT_TISSUE = HUWindow(low=-300.0, high=100.0)
REGION_PIXELS = 9
SLICES_LOOKED_AT = 8
_BIN_HU = 0.25
_FEWEST_REGIONS = 1000


def slices_looked_at(slices: int) -> npt.NDArray[np.int64]:
    """Indices of the slices of a series that its noise is measured in: at most 8, evenly spread.

    Training, evaluation and `ldct predict` look at the same, so that a network is told one level.
    """
    return np.unique(np.linspace(0, slices - 1, SLICES_LOOKED_AT).round().astype(np.int64))


def global_noise_sd_hu(source_hu: npt.NDArray[Any], hu: npt.NDArray[Any]) -> float | None:
    """Global noise level: the most frequent standard deviation of small regions in soft tissue.

    Christianson et al. 2015, doi:10.2214/AJR.14.13613. The regions are chosen on the source, so that the
    values before and after denoising speak of the same places; regions with an edge form the histogram's tail
    and do not move its mode.

    Args:
        source_hu: (S, R, C) HU, decides where soft tissue is.
        hu: (S, R, C) HU, the images whose noise is asked for.

    Returns:
        Standard deviation in HU; None when there is too little soft tissue.
    """
    deviations = [_soft_tissue_deviations(source_hu[index], hu[index]) for index in slices_looked_at(len(hu))]
    found = np.concatenate(deviations)
    if found.size < _FEWEST_REGIONS:
        return None
    counts, edges = np.histogram(found, bins=np.arange(0.0, found.max() + 2 * _BIN_HU, _BIN_HU))
    mode = int(counts.argmax())
    return float(edges[mode] + _BIN_HU / 2)


def _soft_tissue_deviations(source_hu: npt.NDArray[Any], hu: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    mean = ndimage.uniform_filter(source_hu.astype(np.float32), REGION_PIXELS)
    soft = (mean > SOFT_TISSUE.low) & (mean < SOFT_TISSUE.high)
    inside = ndimage.binary_erosion(soft, iterations=REGION_PIXELS // 2)
    image = hu.astype(np.float64)
    variance = (
        ndimage.uniform_filter(image**2, REGION_PIXELS) - ndimage.uniform_filter(image, REGION_PIXELS) ** 2
    )
    unbiased = variance * (REGION_PIXELS**2 / (REGION_PIXELS**2 - 1))
    deviations: npt.NDArray[np.float64] = np.sqrt(np.maximum(unbiased[inside], 0.0))
    return deviations
