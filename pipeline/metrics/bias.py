"""Mean HU error and noise in tissue regions.

Regions are cut from a noise-free image (or a smoothed one) and eroded: a region cut from the noisy target
itself selects its noise and fakes a bias of several HU.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.hu import HUWindow

BODY: Final = "body"
BODY_ABOVE_HU: Final = -300.0
"""Between air and fat: what encloses the body."""

TISSUE_BANDS: Final[dict[str, HUWindow]] = {
    "lung": HUWindow(-950, -600),
    "fat": HUWindow(-150, -50),
    "soft_tissue": HUWindow(0, 100),
    "bone": HUWindow(200, 2000),
}
"""HU ranges that define the regions besides the body."""

FEWEST_PIXELS: Final = 200
"""A smaller band (a rim of partial volume, a sinus) says nothing of its tissue: it counts as absent."""


def tissue_regions(
    noise_free_hu: npt.NDArray[Any], *, erosion_pixels: int = 2
) -> dict[str, npt.NDArray[np.bool_]]:
    """Boolean regions of one slice: `body` and the tissue bands inside it, each eroded from its edges.

    The body is the largest connected piece above -300 HU with its holes (lungs, bowel gas) filled, so that
    the table stays out. A region left with fewer than `FEWEST_PIXELS` is empty.

    Args:
        noise_free_hu: (H, W) noise-free or smoothed HU.
        erosion_pixels: pixels taken off every edge.
    """
    body = _largest_piece(ndimage.binary_opening(noise_free_hu > BODY_ABOVE_HU, iterations=2))
    body = ndimage.binary_fill_holes(body)
    regions = {BODY: body}
    for name, band in TISSUE_BANDS.items():
        regions[name] = body & (noise_free_hu >= band.low) & (noise_free_hu <= band.high)
    if erosion_pixels > 0:
        regions = {name: ndimage.binary_erosion(r, iterations=erosion_pixels) for name, r in regions.items()}
    return {name: region & (region.sum() >= FEWEST_PIXELS) for name, region in regions.items()}


def mean_difference_hu(
    image_hu: npt.NDArray[Any], reference_hu: npt.NDArray[Any], region: npt.NDArray[np.bool_]
) -> float | None:
    """Mean of image − reference in a region, in HU: the bias. None for an empty region.

    Args:
        image_hu: (H, W) HU.
        reference_hu: (H, W) HU.
        region: (H, W) boolean.
    """
    if not region.any():
        return None
    return float(np.mean(image_hu[region].astype(np.float64) - reference_hu[region]))


def noise_sd_hu(
    image_hu: npt.NDArray[Any], noise_free_hu: npt.NDArray[Any], region: npt.NDArray[np.bool_]
) -> float | None:
    """Standard deviation of image − noise-free image in a region, in HU. None for an empty region.

    For a denoised image this is noise left over and structure removed, together. Arguments as in
    `mean_difference_hu`.
    """
    if not region.any():
        return None
    return float(np.std(image_hu[region].astype(np.float64) - noise_free_hu[region]))


def _largest_piece(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    pieces, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest: npt.NDArray[np.bool_] = pieces == sizes.argmax()
    return largest
