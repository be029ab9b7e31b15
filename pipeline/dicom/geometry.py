"""The regular grid of a CT series in the patient coordinate system (LPS, mm)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Vector = tuple[float, float, float]

_UNIT_TOLERANCE: Final = 1e-3


@dataclass(frozen=True)
class Geometry:
    """A regular grid: slice 0 first, slices stepping along the normal.

    Args:
        origin_mm: ImagePositionPatient of slice 0 (LPS).
        row_cosines: direction of increasing column index (first triple of ImageOrientationPatient).
        column_cosines: direction of increasing row index (second triple of ImageOrientationPatient).
        spacing_mm: step between slices, between rows, between columns.
        shape: slices, rows, columns.

    Raises:
        ValueError: the cosines are not orthonormal, or a spacing or count is not positive.
    """

    origin_mm: Vector
    row_cosines: Vector
    column_cosines: Vector
    spacing_mm: Vector
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if not are_orthonormal(self.row_cosines, self.column_cosines):
            raise ValueError(f"cosines must be orthonormal, got {self.row_cosines} and {self.column_cosines}")
        if min(self.spacing_mm) <= 0:
            raise ValueError(f"spacing must be positive, got {self.spacing_mm} mm")
        if min(self.shape) < 1:
            raise ValueError(f"a grid needs at least one voxel, got shape {self.shape}")

    @property
    def normal(self) -> Vector:
        """The direction of increasing slice index: row cosines × column cosines."""
        return slice_normal(self.row_cosines, self.column_cosines)

    def position_mm(self, slice_index: int) -> Vector:
        """ImagePositionPatient of a slice (LPS)."""
        position = np.asarray(self.origin_mm) + slice_index * self.spacing_mm[0] * np.asarray(self.normal)
        return as_vector(position)

    @property
    def affine_ras(self) -> npt.NDArray[np.float64]:
        """(4, 4): voxel index (column, row, slice) to RAS mm, as NIfTI and nibabel want it."""
        slice_mm, row_mm, column_mm = self.spacing_mm
        affine = np.eye(4)
        affine[:3, 0] = np.asarray(self.row_cosines) * column_mm
        affine[:3, 1] = np.asarray(self.column_cosines) * row_mm
        affine[:3, 2] = np.asarray(self.normal) * slice_mm
        affine[:3, 3] = self.origin_mm
        lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
        return lps_to_ras @ affine


def are_orthonormal(row_cosines: Vector, column_cosines: Vector) -> bool:
    """Whether two direction triples span an image plane (PS3.3 C.7.6.2.1.1), to 0.001."""
    row, column = np.asarray(row_cosines), np.asarray(column_cosines)
    dots = np.array([row @ row, column @ column, row @ column])
    return bool(np.all(np.isfinite(dots)) and np.allclose(dots, [1, 1, 0], atol=_UNIT_TOLERANCE))


def slice_normal(row_cosines: Vector, column_cosines: Vector) -> Vector:
    """The unit normal of an image plane: row cosines × column cosines."""
    normal = np.cross(row_cosines, column_cosines)
    return as_vector(normal / np.linalg.norm(normal))


def as_vector(values: npt.NDArray[np.float64]) -> Vector:
    """Three floats as a plain tuple; -0.0 becomes 0.0."""
    x, y, z = (float(value) + 0.0 for value in values)
    return x, y, z
