"""A volume written slice by slice as NIfTI, for the tools that read no DICOM."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import nibabel as nib
import numpy as np
import numpy.typing as npt

from pipeline.dicom import Geometry
from pipeline.inference.treatment import UnfitSeriesError

NIFTI_TOO_LONG: Final = "NIFTI_TOO_LONG"
"""Reason code of a series with more slices, rows or columns than a NIfTI file can count."""

_LONGEST_AXIS: Final = 32767  # dim[] of a NIfTI-1 header is int16
_HEADER_BYTES: Final = 352  # 348 of the header, 4 that say "no extensions"
_SCANNER: Final = 1  # code of both forms: scanner coordinates, as in DICOM but RAS
_INT16: Final = np.iinfo(np.int16)


class NiftiWriter:
    """An uncompressed `.nii` of one volume, on disk slice by slice and never in memory as a whole.

    The file gets its name when it is closed with every slice in it; until then it is hidden, and an error
    within the `with` block removes it. A plain file and no memory map: on a full disk that is an `OSError`,
    where a memory map would end the process.

    Args:
        path: target, ending in `.nii`; its folder must exist.
        geometry: grid of the volume.
        dtype: `float32` or `int16` for HU (see `hu_dtype`), `uint8` for labels.

    Raises:
        UnfitSeriesError: an axis is longer than the 32767 of NIfTI-1.
        OSError: the file cannot be created.
    """

    def __init__(self, path: Path, geometry: Geometry, *, dtype: npt.DTypeLike) -> None:
        _check_lengths(geometry)
        self._path = path
        self._shape = geometry.shape
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._written = np.zeros(geometry.shape[0], np.bool_)
        self._hidden = path.with_name(f".{path.name}.partial")
        self._file = self._hidden.open("wb")
        try:
            _header(geometry, self._dtype).write_to(self._file)
        except BaseException:
            self.discard()
            raise

    def write(self, index: int, hu: npt.NDArray[Any]) -> None:
        """Store one slice; the order of slices does not matter.

        Args:
            index: its number along the normal.
            hu: (rows, columns) HU or labels.

        Raises:
            ValueError: no such slice, another shape, or values that the type of the file does not hold.
            OSError: the disk is full or gone.
        """
        slices, *matrix = self._shape
        if not 0 <= index < slices or hu.shape != tuple(matrix):
            raise ValueError(f"slice {index} of shape {hu.shape} does not belong into a volume {self._shape}")
        with np.errstate(invalid="ignore"):  # the next line catches what does not fit
            stored = np.ascontiguousarray(hu, dtype=self._dtype)
        if not np.array_equal(stored, hu):
            raise ValueError(f"{self._path.name}: slice {index} has values that {self._dtype} does not hold")
        self._file.seek(_HEADER_BYTES + index * stored.nbytes)
        self._file.write(stored.data)
        self._written[index] = True

    def close(self) -> None:
        """Give the file its name; where that fails, nothing is left of it.

        Raises:
            ValueError: a slice was never written.
            OSError: the disk is full or gone.
        """
        try:
            missing = np.flatnonzero(~self._written)
            if missing.size:
                raise ValueError(
                    f"{self._path.name}: {missing.size} slices missing, the first is {missing[0]}"
                )
            self._file.close()
            self._hidden.replace(self._path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what was written so far."""
        with suppress(OSError):  # closing writes what is left in the buffer, and that may be what failed
            self._file.close()
        self._hidden.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def hu_dtype(scales: Iterable[tuple[float, float]], *, highest_stored: int) -> np.dtype[Any]:
    """The smallest type that holds every HU a series can have: `int16` or `float32`.

    Args:
        scales: (slope, intercept) of each slice.
        highest_stored: the highest value that its pixels can store, e.g. 4095 for 12 unsigned bits. The
            lowest does not matter, for all below -1024 HU is padding and reads as air.
    """
    fits = all(
        float(slope).is_integer()
        and float(intercept).is_integer()
        and highest_stored * slope + intercept <= _INT16.max
        for slope, intercept in scales
    )
    return np.dtype(np.int16 if fits else np.float32)


def _check_lengths(geometry: Geometry) -> None:
    longest = max(geometry.shape)
    if longest > _LONGEST_AXIS:
        raise UnfitSeriesError(
            NIFTI_TOO_LONG,
            f"{longest} slices, rows or columns; a NIfTI file counts to {_LONGEST_AXIS}: run without --nifti",
        )


def _header(geometry: Geometry, dtype: np.dtype[Any]) -> Any:
    """The header: axes (column, row, slice), so that the slices lie in the file one after the other."""
    header: Any = nib.Nifti1Header(endianness="<")  # type: ignore[no-untyped-call]
    header.set_data_dtype(dtype)
    header.set_data_shape(geometry.shape[::-1])
    header.set_data_offset(_HEADER_BYTES)
    header.set_slope_inter(1, 0)
    header.set_xyzt_units(xyz="mm")
    header.set_qform(geometry.affine_ras, code=_SCANNER)
    header.set_sform(geometry.affine_ras, code=_SCANNER)
    return header
