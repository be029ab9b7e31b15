"""Distance between two sets of images: squared maximum mean discrepancy with a Gaussian kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import cdist, pdist

DETAIL_PIXELS = 5
"""Side of the square whose mean is taken off to leave the detail of an image."""


def rbf_mmd(
    samples: npt.NDArray[Any], reference: npt.NDArray[Any], *, bandwidth: float | None = None
) -> float:
    """Unbiased estimate of MMD² with k(a, b) = exp(−‖a − b‖² / (2 bandwidth²)).

    Gretton et al. 2012, "A Kernel Two-Sample Test", JMLR 13, lemma 6. Unbiased means that two samples of one
    distribution give 0 on average, so that single values below 0 occur. Report the same distance between two
    sets of real images beside it.

    Args:
        samples: (N, ...) images or features, N ≥ 2.
        reference: (M, ...) real ones of the same kind, M ≥ 2.
        bandwidth: kernel width in the units of the images; `median_bandwidth` of the reference when None.

    Raises:
        ValueError: fewer than two items in a set, or the bandwidth is not positive.
    """
    if min(len(samples), len(reference)) < 2:
        raise ValueError(
            f"rbf_mmd needs at least two items in each set, got {len(samples)} and {len(reference)}"
        )
    width = median_bandwidth(reference) if bandwidth is None else bandwidth
    if not width > 0:
        raise ValueError(f"bandwidth must be positive, got {width}")
    x, y = _rows(samples), _rows(reference)
    within_x = np.mean(_kernel(pdist(x, "sqeuclidean"), width))
    within_y = np.mean(_kernel(pdist(y, "sqeuclidean"), width))
    between = np.mean(_kernel(cdist(x, y, "sqeuclidean"), width))
    return float(within_x + within_y - 2 * between)


def detail(images: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Images (N, H, W) less their local mean: edges and texture, which pixelwise distances hardly see.

    The top level of a Laplacian pyramid, as in the sliced Wasserstein distance of Karras et al. 2018,
    arXiv:1710.10196, with a box of `DETAIL_PIXELS` instead of a Gaussian.
    """
    exact = np.asarray(images, np.float64)
    local: npt.NDArray[np.float64] = uniform_filter(exact, (0, DETAIL_PIXELS, DETAIL_PIXELS), mode="nearest")
    return exact - local


def median_bandwidth(x: npt.NDArray[Any]) -> float:
    """The median heuristic: median Euclidean distance between the items of x (N, ...), N ≥ 2."""
    return float(np.median(pdist(_rows(x))))


def _rows(items: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(items, np.float64).reshape(len(items), -1)


def _kernel(squared: npt.NDArray[np.float64], bandwidth: float) -> npt.NDArray[np.float64]:
    weights: npt.NDArray[np.float64] = np.exp(-squared / (2 * bandwidth**2))
    return weights
