"""Stored pixel values to HU and back, padding included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pydicom

from pipeline.hu import AIR_HU, LOWEST_HU

Stored = npt.NDArray[np.integer]

_HIGHEST_TISSUE_HU: Final = 3071
_SMALLEST_FLOAT32: Final = float(np.finfo(np.float32).tiny)
_LARGEST_FLOAT32: Final = float(np.finfo(np.float32).max)
_HALF_UNIT_FLOAT32: Final = float(np.finfo(np.float32).eps) / 2
_MOST_BITS: Final = 64


@dataclass(frozen=True)
class Rescale:
    """Stored values to HU and back: `hu = stored * slope + intercept` (PS3.3 C.11.1.1.2)."""

    slope: float
    intercept: float

    def to_hu(self, stored: Stored) -> npt.NDArray[np.float32]:
        """Stored values to float32 HU."""
        return stored.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)

    def is_reversible(self, bits_stored: int) -> bool:
        """Whether `to_stored` gives every stored value of `bits_stored` bits back from its float32 HU.

        float32 rounds the stored value, the slope, their product, the intercept and the sum, each by half a
        unit in its last place at most. Together that must stay below half a step between stored values.
        """
        reach = 2.0 ** min(bits_stored, _MOST_BITS)
        if not _SMALLEST_FLOAT32 <= self.slope < (_LARGEST_FLOAT32 - abs(self.intercept)) / reach:
            return False
        rounding_stored = (4 * reach + 2 * abs(self.intercept) / self.slope) * _HALF_UNIT_FLOAT32
        return rounding_stored < 0.5

    def to_stored(self, hu: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """HU to the nearest whole stored values, not yet clipped to the pixel type."""
        return np.rint((hu.astype(np.float64) - self.intercept) / self.slope)


def rescale_of(header: pydicom.Dataset) -> Rescale:
    """The rescale of one slice; discovery has checked that it is there."""
    return Rescale(float(header.RescaleSlope), float(header.RescaleIntercept))


def padding_mask(
    header: pydicom.Dataset, stored: Stored, hu: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Where a slice holds padding: its declared values, and whatever lies below `LOWEST_HU`."""
    mask = hu < LOWEST_HU
    declared = _padding_range(header)
    if declared is not None:
        mask |= (stored >= declared[0]) & (stored <= declared[1])
    return mask


def stored_pixels(
    header: pydicom.Dataset,
    hu: npt.NDArray[np.floating],
    *,
    padding: npt.NDArray[np.bool_],
    padding_stored: Stored,
) -> Stored:
    """HU to the stored values of one slice, (rows, columns), padding put back as it was."""
    is_signed = int(header.PixelRepresentation) == 1
    dtype = np.dtype(f"{'i' if is_signed else 'u'}{int(header.BitsAllocated) // 8}")
    bits = int(header.BitsStored)
    type_low, type_high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    low = max(_lowest_image_value(header), type_low)
    wanted = np.clip(rescale_of(header).to_stored(hu), low, type_high)
    declared = _padding_range(header)
    if declared is not None:
        beside = declared[1] + 1 if declared[1] < type_high else declared[0] - 1
        wanted[(wanted >= declared[0]) & (wanted <= declared[1])] = beside
    stored = wanted.astype(dtype)
    stored[padding] = padding_stored
    return stored


def _lowest_image_value(header: pydicom.Dataset) -> int:
    """The smallest stored value that reads back as an image value: below `LOWEST_HU` all is padding."""
    rescale = rescale_of(header)
    nearest = int(np.rint((LOWEST_HU - rescale.intercept) / rescale.slope))
    candidates = np.arange(nearest - 1, nearest + 2)
    return int(candidates[rescale.to_hu(candidates) >= LOWEST_HU][0])


def _padding_range(header: pydicom.Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored padding value (PS3.3 C.7.5.1.1.2), signed as the pixels are.

    A padding value within the range of tissue is not believed: it would punch holes into the image.
    """
    if header.get("PixelPaddingValue") is None:
        return None
    first = _as_stored(int(header.PixelPaddingValue), header)
    limit = header.get("PixelPaddingRangeLimit")
    second = first if limit is None else _as_stored(int(limit), header)
    low, high = min(first, second), max(first, second)
    low_hu, high_hu = rescale_of(header).to_hu(np.array([low, high]))
    return None if high_hu > AIR_HU and low_hu <= _HIGHEST_TISSUE_HU else (low, high)


def _as_stored(value: int, header: pydicom.Dataset) -> int:
    """A padding value written as unsigned bits of a signed image, e.g. 63536 for -2000."""
    bits = int(header.BitsAllocated)
    is_signed = int(header.PixelRepresentation) == 1
    return value - 2**bits if is_signed and value >= 2 ** (bits - 1) else value
