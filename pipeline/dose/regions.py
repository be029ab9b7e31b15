"""Regions of uniform tissue in a patient's own images: where noise can be measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.hu import HUWindow
from pipeline.metrics.nps import detrended

UNIFORM_TISSUE: Final = HUWindow(low=-60.0, high=350.0)
"""From water, brain and muscle to contrast-filled blood; fat and lung have structure of their own."""

REGION_MM: Final = 16.0
FEWEST_PIXELS: Final = 16
MOST_PIXELS: Final = 32
FEWEST_REGIONS: Final = 4
"""Fewer say too little about noise."""

_SMOOTHING_MM: Final = 2.0
_MARGIN_MM: Final = 3.0
_FLOOR_QUANTILE: Final = 0.1
_ABOVE_FLOOR: Final = 2.0
"""Wide enough for all regions that hold nothing but noise: their structure spreads about twofold."""
_OUTLIER_SDS: Final = 6.0
"""A normal distribution does not get there in a thousand pixels."""
_ROUNDING_HU: Final = 1.0
"""No pixel stands out by less: CT numbers are whole."""
_FAR_ABOVE_FLOOR: Final = 5.0
_TAKEN_ANYWAY: Final = 8
"""Where uniform tissue is rare: the best regions, up to this many; the fit tells some anatomy from noise."""


@dataclass(frozen=True)
class Regions:
    """Square regions of a stack of slices that do not overlap.

    Attributes:
        side: pixels along an edge.
        corners: `(regions, 3)` slice, first row and first column of each.
    """

    side: int
    corners: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.corners)

    def cut(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The regions of `(slices, rows, columns)` images, `(regions, side, side)`."""
        views = np.lib.stride_tricks.sliding_window_view(images, (self.side, self.side), axis=(1, 2))
        cut: npt.NDArray[Any] = views[tuple(self.corners.T)]
        return cut


def uniform_regions(hu: npt.NDArray[np.float32], padding: npt.NDArray[np.bool_], pixel_mm: float) -> Regions:
    """Regions of soft tissue, brain, blood or water that hold little but noise.

    Structure is what detrending leaves of a low-pass image. Squares with up to twice the stack's 10 %
    quantile of it are taken as they come: to rank them would choose the quietest noise. Where they are fewer
    than eight, it is the best eight up to five times that quantile. No region comes near padding, bone, lung
    or air.

    Args:
        hu: `(slices, rows, columns)` HU.
        padding: pixels outside the field of view, in the same shape.
        pixel_mm: pixel side.
    """
    side = int(np.clip(2 * round(REGION_MM / pixel_mm / 2), FEWEST_PIXELS, MOST_PIXELS))
    found = list(_candidates(hu, padding, pixel_mm, side))
    if not found:
        return Regions(side, np.empty((0, 3), np.int64))
    structure, corners = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if not len(structure):
        return Regions(side, corners)
    floor = float(np.quantile(structure, _FLOOR_QUANTILE))
    taken = _without_overlap(corners[structure <= _ABOVE_FLOOR * floor], side, hu.shape)
    if len(taken) < _TAKEN_ANYWAY:
        ranked = corners[np.argsort(structure)][: int((structure <= _FAR_ABOVE_FLOOR * floor).sum())]
        taken = _without_overlap(ranked, side, hu.shape)[:_TAKEN_ANYWAY]
    return Regions(side, taken)


def _without_overlap(
    corners: npt.NDArray[np.int64], side: int, shape: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    """The squares, in their order, that lie clear of those taken before them."""
    is_free = np.ones(shape, np.bool_)
    taken = []
    for z, row, column in corners:
        square = is_free[z, row : row + side, column : column + side]
        if square.all():
            square[:] = False
            taken.append((z, row, column))
    return np.array(taken, np.int64).reshape(-1, 3)


def _candidates(
    hu: npt.NDArray[np.float32], padding: npt.NDArray[np.bool_], pixel_mm: float, side: int
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]:
    """Structure in HU and corners of the squares of each slice that lie in tissue, a quarter side apart."""
    step = side // 4
    for z, (image, outside) in enumerate(zip(hu, padding, strict=True)):
        smooth = ndimage.gaussian_filter(image, _SMOOTHING_MM / pixel_mm)
        tissue = (smooth > UNIFORM_TISSUE.low) & (smooth < UNIFORM_TISSUE.high) & ~outside
        deep = ndimage.distance_transform_edt(tissue) * pixel_mm > _MARGIN_MM
        rows, columns = (step * places for places in _squares_of(deep, side)[::step, ::step].nonzero())
        corners = np.stack([np.full_like(rows, z), rows, columns], axis=1)
        if len(corners):
            even = ~_holds_an_object(_windows(image, side)[rows, columns])
            low_pass = _windows(smooth, side)[rows[even], columns[even]].astype(np.float64)
            yield detrended(low_pass).std(axis=(1, 2)), corners[even]


def _holds_an_object(squares_hu: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Whether a pixel stands out that noise does not explain: of a vessel, a clip, a pin.

    It is measured by the square's own noise, so that it does not matter how strong that is.
    """
    deviation = np.abs(detrended(squares_hu.astype(np.float64))).reshape(len(squares_hu), -1)
    robust_sd = 1.4826 * np.median(deviation, axis=1)  # of a normal distribution
    stands_out: npt.NDArray[np.bool_] = deviation.max(axis=1) > np.maximum(
        _OUTLIER_SDS * robust_sd, _ROUNDING_HU
    )
    return stands_out


def _squares_of(mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.bool_]:
    """Whether the square that begins at each pixel lies wholly in the mask."""
    sums = np.pad(mask.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    full: npt.NDArray[np.bool_] = inside == side * side
    return full


def _windows(image: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    return np.lib.stride_tricks.sliding_window_view(image, (side, side))
