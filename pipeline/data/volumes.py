"""Volumes on disk: uncompressed NIfTI, memory-mapped on reading, readable by any viewer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError

from pipeline.errors import DataError


def write_volume(
    path: Path, volume: npt.NDArray[Any], affine_ras: npt.NDArray[Any], dtype: npt.DTypeLike
) -> None:
    """Write one volume atomically as uncompressed NIfTI.

    Args:
        path: target, ending in `.nii`; its folder must exist.
        volume: (slices, rows, columns), whole numbers that fit `dtype`.
        affine_ras: (4, 4), from indices (column, row, slice) to RAS millimetres.
        dtype: `int16` for HU, `uint8` for labels.

    Raises:
        ValueError: the volume is not three-dimensional, or a value does not fit `dtype`.
    """
    if volume.ndim != 3:
        raise ValueError(f"a volume is (slices, rows, columns), got shape {volume.shape}")
    with np.errstate(invalid="ignore"):  # the next line catches what does not fit
        stored = volume.astype(dtype)
    if not np.array_equal(stored, volume):
        raise ValueError(
            f"{path.name}: values are not whole numbers within {np.dtype(dtype)}; round and check first"
        )
    image: Any = nib.Nifti1Image(stored.T, affine_ras)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units(xyz="mm")
    image.set_qform(affine_ras, code="scanner")
    image.set_sform(affine_ras, code="scanner")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.nii")
    image.to_filename(temporary)
    temporary.replace(path)


def read_volume(path: Path) -> npt.NDArray[Any]:
    """Open one volume; an uncompressed file is memory-mapped, read-only, and costs no memory until used.

    Returns:
        (slices, rows, columns) in the stored type; a file with its own scaling comes back scaled, as float64.

    Raises:
        DataError: the file is missing, damaged, not NIfTI or not three-dimensional.
    """
    image = _open(path)
    try:
        stored: npt.NDArray[Any] = np.asanyarray(image.dataobj)
    except (OSError, ValueError, EOFError):
        raise DataError(f"{path}: the file is damaged or cut short; make it again") from None
    if stored.ndim != 3:
        raise DataError(f"{path}: expected a volume with 3 axes, got shape {stored.shape}")
    return stored.T


def read_affine(path: Path) -> npt.NDArray[np.float64]:
    """The (4, 4) affine of a NIfTI file, from indices (column, row, slice) to RAS millimetres.

    Raises:
        DataError: the file is missing or not NIfTI.
    """
    return np.asarray(_open(path).affine, dtype=np.float64)


def _open(path: Path) -> Any:
    try:
        return nib.load(path, mmap="r")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (ImageFileError, OSError, ValueError, EOFError):
        raise DataError(f"{path}: not a NIfTI file that can be read") from None
