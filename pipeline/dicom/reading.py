"""Read the pixels of a series as HU, each slice with its own rescale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.utils import pixel_array

from pipeline.dicom.defects import MAX_SLICE_PIXELS
from pipeline.dicom.discovery import SeriesEntry
from pipeline.dicom.encoding import can_decode, transfer_syntax
from pipeline.dicom.pixels import Rescale, Stored, padding_mask, rescale_of
from pipeline.dicom.quiet import quiet_pydicom
from pipeline.dicom.uids import sha256_hex
from pipeline.dicom.verdicts import Code, SeriesError, file_finding
from pipeline.hu import AIR_HU


@dataclass(frozen=True)
class CTSlice:
    """One slice in memory.

    Args:
        header: its dataset, without pixels.
        hu: (rows, columns) float32 HU; padding pixels hold `AIR_HU`.
        padding: (rows, columns) bool: pixels outside the field of view, or below `LOWEST_HU`.
        padding_stored: the stored values at its padding pixels, for writers to put back.
        pixel_digest: SHA-256 of its stored pixels.
    """

    header: pydicom.Dataset
    hu: npt.NDArray[np.float32]
    padding: npt.NDArray[np.bool_]
    padding_stored: Stored
    pixel_digest: str


@dataclass(frozen=True)
class CTSeries:
    """A series in memory: the fields of its slices, gathered.

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

    def slice_at(self, index: int) -> CTSlice:
        """One slice; its arrays are views."""
        return CTSlice(
            header=self.headers[index],
            hu=self.hu[index],
            padding=self.padding[index],
            padding_stored=self.padding_stored[index],
            pixel_digest=self.pixel_digests[index],
        )


def read_slices(entry: SeriesEntry, indices: Iterable[int] | None = None) -> Iterator[CTSlice]:
    """Decode slices of `entry` one after the other; none is kept once the caller lets go of it.

    Args:
        entry: the series.
        indices: which slices, numbered along the normal; all of them by default.

    Raises:
        SeriesError: a file is gone, damaged, too large or in an encoding that nothing decodes, or its rescale
            is no longer that of `entry`.
    """
    for index in range(len(entry.files)) if indices is None else indices:
        one = read_slice(entry.files[index], rows=entry.rows, columns=entry.columns)
        if rescale_of(one.header) != entry.rescales[index]:
            raise corrupt(entry.files[index], "its rescale changed since it was found")
        yield one


def read_series(entry: SeriesEntry) -> CTSeries:
    """Decode every slice of `entry`, in its order along the normal.

    Raises:
        SeriesError: as `read_slices`.
    """
    shape = (len(entry.files), entry.rows, entry.columns)
    hu = np.empty(shape, np.float32)
    padding = np.empty(shape, np.bool_)
    headers: list[pydicom.Dataset] = []
    padding_stored: list[Stored] = []
    digests: list[str] = []
    for index, one in enumerate(read_slices(entry)):
        hu[index] = one.hu
        padding[index] = one.padding
        headers.append(one.header)
        padding_stored.append(one.padding_stored)
        digests.append(one.pixel_digest)
    return CTSeries(entry, hu, padding, tuple(headers), tuple(padding_stored), tuple(digests))


def read_slice(path: Path, *, rows: int, columns: int) -> CTSlice:
    """Decode one file, which must hold a single frame of `rows` × `columns` pixels.

    Raises:
        SeriesError: it is gone, damaged, too large or in an encoding that nothing decodes.
    """
    with quiet_pydicom():
        header, rescale, stored = _decode(path, rows, columns)
        hu = rescale.to_hu(stored)
        padding = padding_mask(header, stored, hu)
    hu[padding] = AIR_HU
    digest = sha256_hex(str(stored.dtype).encode(), np.ascontiguousarray(stored).tobytes())
    return CTSlice(header, hu, padding, stored[padding], digest)


def corrupt(path: Path, reason: str) -> SeriesError:
    """A file whose pixels cannot be used; `reason` holds no DICOM text."""
    message = f"{path.name}: {reason}; copy the file again"
    return SeriesError(file_finding(Code.CORRUPT_PIXEL_DATA, message, path))


def _decode(path: Path, rows: int, columns: int) -> tuple[pydicom.Dataset, Rescale, Stored]:
    """The header (without pixels), the rescale and the stored values of one file."""
    try:
        dataset = pydicom.dcmread(path, force=True)
        syntax = transfer_syntax(dataset)
        size = int(dataset.Rows), int(dataset.Columns)
        bits_stored = int(dataset.BitsStored)
        rescale = rescale_of(dataset)
        is_single_frame = int(dataset.get("NumberOfFrames") or 1) == 1
    except Exception as broken:  # noqa: BLE001  hostile files raise anything
        raise corrupt(path, f"the file cannot be read ({type(broken).__name__})") from None
    if size != (rows, columns) or not is_single_frame or size[0] * size[1] > MAX_SLICE_PIXELS:
        raise corrupt(path, f"{size[0]} x {size[1]} pixels now, {rows} x {columns} when found")
    if not can_decode(syntax, bits_stored):
        message = f"{path.name}: no decoder for its transfer syntax; store it uncompressed first"
        raise SeriesError(file_finding(Code.UNSUPPORTED_TRANSFER_SYNTAX, message, path))
    if "PixelData" not in dataset:
        raise corrupt(path, "it holds no pixel data")
    try:
        dataset.file_meta.TransferSyntaxUID = syntax
        stored: Stored = pixel_array(dataset, raw=True)
    except Exception as broken:  # noqa: BLE001  decoders raise anything
        raise corrupt(path, f"its pixel data cannot be decoded ({type(broken).__name__})") from None
    if stored.shape != size:
        raise corrupt(path, f"its pixel data decode to {stored.shape}, its header says {size}")
    del dataset.PixelData
    return dataset, rescale, stored
