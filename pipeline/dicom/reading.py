"""Read the pixels of a series as HU, each slice with its own rescale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.utils import pixel_array

from pipeline.dicom.discovery import MAX_SLICE_PIXELS, SeriesEntry
from pipeline.dicom.headers import can_decode, transfer_syntax
from pipeline.dicom.quiet import quiet_pydicom
from pipeline.dicom.uids import sha256_hex
from pipeline.dicom.verdicts import Code, SeriesError, file_finding
from pipeline.hu import AIR_HU, LOWEST_HU

Stored = npt.NDArray[np.integer]

_HIGHEST_TISSUE_HU: Final = 3071


@dataclass(frozen=True)
class CTSeries:
    """A series in memory.

    Args:
        entry: where it came from.
        hu: (slices, rows, columns) float32 HU; padding voxels hold `AIR_HU`.
        padding: (slices, rows, columns) bool: voxels outside the field of view, or below `LOWEST_HU`.
        headers: one dataset per slice, without pixels.
        padding_stored: per slice, the stored values at its padding voxels, for writers to put back.
        pixel_digests: per slice, SHA-256 of its stored pixels.
    """

    entry: SeriesEntry
    hu: npt.NDArray[np.float32]
    padding: npt.NDArray[np.bool_]
    headers: tuple[pydicom.Dataset, ...]
    padding_stored: tuple[Stored, ...]
    pixel_digests: tuple[str, ...]


@dataclass(frozen=True)
class Rescale:
    """Stored values to HU and back: `hu = stored * slope + intercept` (PS3.3 C.11.1.1.2)."""

    slope: float
    intercept: float

    def to_hu(self, stored: Stored) -> npt.NDArray[np.float32]:
        """Stored values to float32 HU."""
        return stored.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)

    def to_stored(self, hu: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """HU to the nearest whole stored values, not yet clipped to the pixel type."""
        return np.rint((hu.astype(np.float64) - self.intercept) / self.slope)


def read_series(entry: SeriesEntry) -> CTSeries:
    """Decode every slice of `entry`, in its order along the normal.

    Raises:
        SeriesError: a file is gone, damaged, too large or in an encoding that nothing decodes.
    """
    shape = (len(entry.files), entry.rows, entry.columns)
    hu = np.empty(shape, np.float32)
    padding = np.empty(shape, np.bool_)
    headers: list[pydicom.Dataset] = []
    padding_stored: list[Stored] = []
    digests: list[str] = []
    for index, path in enumerate(entry.files):
        with quiet_pydicom():
            header, stored = _read_slice(path, entry)
            hu[index] = rescale_of(header).to_hu(stored)
            padding[index] = padding_mask(header, stored, hu[index])
        hu[index][padding[index]] = AIR_HU
        headers.append(header)
        padding_stored.append(stored[padding[index]])
        digests.append(sha256_hex(str(stored.dtype).encode(), np.ascontiguousarray(stored).tobytes()))
    return CTSeries(entry, hu, padding, tuple(headers), tuple(padding_stored), tuple(digests))


def rescale_of(header: pydicom.Dataset) -> Rescale:
    """The rescale of one slice; discovery has checked that it is there."""
    return Rescale(float(header.RescaleSlope), float(header.RescaleIntercept))


def padding_range(header: pydicom.Dataset) -> tuple[int, int] | None:
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


def padding_mask(
    header: pydicom.Dataset, stored: Stored, hu: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Where a slice holds padding: its declared values, and whatever lies below `LOWEST_HU`."""
    mask = hu < LOWEST_HU
    declared = padding_range(header)
    if declared is not None:
        mask |= (stored >= declared[0]) & (stored <= declared[1])
    return mask


def _as_stored(value: int, header: pydicom.Dataset) -> int:
    """A padding value written as unsigned bits of a signed image, e.g. 63536 for -2000."""
    bits = int(header.BitsAllocated)
    is_signed = int(header.PixelRepresentation) == 1
    return value - 2**bits if is_signed and value >= 2 ** (bits - 1) else value


def _read_slice(path: Path, entry: SeriesEntry) -> tuple[pydicom.Dataset, Stored]:
    """The header (without pixels) and the stored values of one file."""
    try:
        dataset = pydicom.dcmread(path, force=True)
        syntax = transfer_syntax(dataset)
        size = int(dataset.Rows), int(dataset.Columns)
        bits_stored = int(dataset.BitsStored)
        is_single_frame = int(dataset.get("NumberOfFrames") or 1) == 1
    except Exception as broken:  # noqa: BLE001  hostile files raise anything
        raise _corrupt(path, f"the file cannot be read ({type(broken).__name__})") from None
    if size != (entry.rows, entry.columns) or not is_single_frame or size[0] * size[1] > MAX_SLICE_PIXELS:
        raise _corrupt(path, f"{size[0]} x {size[1]} pixels now, {entry.rows} x {entry.columns} when found")
    if not can_decode(syntax, bits_stored):
        message = f"{path.name}: no decoder for its transfer syntax; store it uncompressed first"
        raise SeriesError(file_finding(Code.UNSUPPORTED_TRANSFER_SYNTAX, message, path))
    if "PixelData" not in dataset:
        raise _corrupt(path, "it holds no pixel data")
    try:
        dataset.file_meta.TransferSyntaxUID = syntax
        stored: Stored = pixel_array(dataset, raw=True)
    except Exception as broken:  # noqa: BLE001  decoders raise anything
        raise _corrupt(path, f"its pixel data cannot be decoded ({type(broken).__name__})") from None
    if stored.shape != size:
        raise _corrupt(path, f"its pixel data decode to {stored.shape}, its header says {size}")
    del dataset.PixelData
    return dataset, stored


def _corrupt(path: Path, reason: str) -> SeriesError:
    message = f"{path.name}: {reason}; copy the file again"
    return SeriesError(file_finding(Code.CORRUPT_PIXEL_DATA, message, path))
