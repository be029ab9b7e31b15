"""Read the pixels of a series as HU, each slice with its own rescale; files are opened in a sandbox only."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

from pipeline.dicom.decoding import CTSlice, corrupt, decode_slice
from pipeline.dicom.discovery import SeriesEntry
from pipeline.dicom.pixels import Stored, rescale_of
from pipeline.dicom.sandbox import SandboxError, sandbox

__all__ = ["CTSeries", "CTSlice", "corrupt", "read_series", "read_slice", "read_slices"]


@dataclass(frozen=True)
class CTSeries:
    """A series in memory: the fields of its slices, gathered.

    Args:
        entry: where it came from.
        hu: (slices, rows, columns) float32 HU; padding voxels hold `AIR_HU`.
        padding: (slices, rows, columns) bool: voxels outside the field of view, or below `LOWEST_HU`.
        headers: one dataset per slice, without pixels.
        padding_stored: per slice, the stored values at its padding voxels, for writers to put back.
        pixel_digests: per slice, see `CTSlice.pixel_digest`.
        content_digests: per slice, see `CTSlice.content_digest`.
    """

    entry: SeriesEntry
    hu: npt.NDArray[np.float32]
    padding: npt.NDArray[np.bool_]
    headers: tuple[pydicom.Dataset, ...]
    padding_stored: tuple[Stored, ...]
    pixel_digests: tuple[str, ...]
    content_digests: tuple[str, ...]

    def slice_at(self, index: int) -> CTSlice:
        """One slice; its arrays are views."""
        return CTSlice(
            header=self.headers[index],
            hu=self.hu[index],
            padding=self.padding[index],
            padding_stored=self.padding_stored[index],
            pixel_digest=self.pixel_digests[index],
            content_digest=self.content_digests[index],
        )


def read_slices(entry: SeriesEntry, indices: Iterable[int] | None = None) -> Generator[CTSlice]:
    """Decode slices of `entry`, in the order asked for; none is kept once the caller lets go of it.

    Sandboxed processes decode a few slices ahead while the caller works on one.

    Args:
        entry: the series.
        indices: which slices, numbered along the normal; all of them by default.

    Raises:
        SeriesError: a file is gone, damaged, too large or in an encoding that nothing decodes, it crashes its
            decoder or takes more time or memory than any image needs, or its rescale is no longer that of
            `entry`.
    """
    wanted = range(len(entry.files)) if indices is None else list(indices)
    images = ((entry.files[index], entry.rows, entry.columns, entry.frames[index]) for index in wanted)
    numbers = iter(wanted)
    with closing(sandbox().ordered(decode_slice, images)) as decoded:
        for _, future in decoded:  # zip would keep the last future, and the slice in it
            index = next(numbers)
            one = _slice_of(future, entry.files[index])
            del future
            if rescale_of(one.header) != entry.rescales[index]:
                raise corrupt(entry.files[index], "its rescale changed since it was found")
            yield one
            del one


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
    pixel_digests: list[str] = []
    content_digests: list[str] = []
    with closing(read_slices(entry)) as slices:
        for index, one in enumerate(slices):
            hu[index] = one.hu
            padding[index] = one.padding
            headers.append(one.header)
            padding_stored.append(one.padding_stored)
            pixel_digests.append(one.pixel_digest)
            content_digests.append(one.content_digest)
    return CTSeries(
        entry,
        hu,
        padding,
        tuple(headers),
        tuple(padding_stored),
        tuple(pixel_digests),
        tuple(content_digests),
    )


def read_slice(path: Path, *, rows: int, columns: int, frame: int | None = None) -> CTSlice:
    """Decode one image, which must have `rows` × `columns` pixels.

    Args:
        path: the file.
        rows: of the matrix.
        columns: of the matrix.
        frame: which one of a multi-frame file, from 0; None for a single-frame file.

    Raises:
        SeriesError: as `read_slices`.
    """
    return _slice_of(sandbox().submit(decode_slice, path, rows, columns, frame), path)


def _slice_of(future: Future[CTSlice], path: Path) -> CTSlice:
    try:
        return future.result()
    except SandboxError as death:
        raise corrupt(path, f"its decoder {death}") from None
