"""Smooth random functions of space: what makes a contour irregular and a tissue uneven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]

_SD_OF_SPLINE = (151 / 315) ** 1.5
"""SD of a cubic B-spline sum over white lattice values in 3-D: an axis' squared weights add up to 151/315."""


@dataclass(frozen=True)
class SmoothField:
    """A random function of (z, y, x) with mean 0 and SD 1, twice continuously differentiable.

    Cubic B-splines on a lattice of independent normal values, so a plane is two small matrix products.
    """

    lattice: Array
    step_mm: float
    first_z_mm: float
    row_basis: Array
    column_basis: Array

    @classmethod
    def sample(
        cls, rng: np.random.Generator, z_mm: Array, y_mm: Array, x_mm: Array, *, step_mm: float
    ) -> SmoothField:
        """Draw a field over the given rows, columns and range of z; `step_mm` is its correlation length."""
        sizes = [_lattice_size(axis, step_mm) for axis in (z_mm, y_mm, x_mm)]
        return cls(
            lattice=rng.standard_normal(sizes, dtype=np.float32) / np.float32(_SD_OF_SPLINE),
            step_mm=step_mm,
            first_z_mm=float(z_mm.min()),
            row_basis=_spline_basis((y_mm - y_mm.min()) / step_mm, sizes[1]),
            column_basis=_spline_basis((x_mm - x_mm.min()) / step_mm, sizes[2]),
        )

    def plane(self, z_mm: float) -> Array:
        """The field at one z, `(rows, columns)`."""
        position = np.array([(z_mm - self.first_z_mm) / self.step_mm])
        across = _spline_basis(position, len(self.lattice))[0]
        in_plane: Array = np.tensordot(across, self.lattice, axes=1)
        plane: Array = self.row_basis @ in_plane @ self.column_basis.T
        return plane


def _lattice_size(axis_mm: Array, step_mm: float) -> int:
    return int(np.ceil(float(np.ptp(axis_mm)) / step_mm)) + 4


def _spline_basis(position: Array, size: int) -> Array:
    """`(len(position), size)` weights of the cubic B-splines at positions in lattice steps from the start."""
    distance = np.abs(position[:, None] + 1 - np.arange(size))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    basis: Array = np.where(distance < 1, near, far).astype(np.float32)
    return basis
