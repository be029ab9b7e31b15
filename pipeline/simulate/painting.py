"""A patient is a list of parts, painted over one another: each a solid, a tissue and a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.hu import AIR_HU
from pipeline.simulate.fields import Array, SmoothField
from pipeline.simulate.labels import Label
from pipeline.simulate.shapes import Box, Points, Shape

Tissue = Callable[[Points, Array], Array]
"""CT numbers in HU from the points and their depth in mm."""

Factors = dict[str, float | str | bool]
"""Known factors of a patient, by name."""

_WARP_STEP_MM = 70.0
_WARP_REACH = 3.5


@dataclass(frozen=True)
class Part:
    """One solid of one tissue.

    Attributes:
        shape: where.
        tissue: its CT numbers.
        label: its label.
        edge_mm: width of the soft edge (partial volume).
        only_in: paint over this label alone.
        rigid: not bent with the patient.
    """

    shape: Shape
    tissue: Tissue
    label: Label
    edge_mm: float = 1.0
    only_in: Label | None = None
    rigid: bool = False


@dataclass(frozen=True)
class Patient:
    """What there is to paint.

    Attributes:
        parts: in painting order.
        factors: what is known.
    """

    parts: tuple[Part, ...]
    factors: Factors


@dataclass(frozen=True)
class Grid:
    """Where the voxels lie, in body coordinates (mm)."""

    z: Array
    y: Array
    x: Array

    @classmethod
    def around(
        cls, centre_z_mm: float, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
    ) -> Grid:
        """A grid centred on the body's axis at a height."""
        z, y, x = (
            ((np.arange(count) - (count - 1) / 2) * step).astype(np.float32)
            for count, step in zip(shape, spacing_mm, strict=True)
        )
        return cls(z=z + np.float32(centre_z_mm), y=y, x=x)


class Canvas:
    """The uneven space of one patient, and what is painted into it.

    Args:
        rng: draws the patient's warp and textures.
        grid: the voxels.
        warp_mm: SD of the patient's own deviation from the drawn anatomy, along each axis.
    """

    def __init__(self, rng: np.random.Generator, grid: Grid, *, warp_mm: float) -> None:
        def draw(step_mm: float) -> SmoothField:
            return SmoothField.sample(rng, grid.z, grid.y, grid.x, step_mm=step_mm)

        self._grid = grid
        self._warp_mm = warp_mm
        self._warp = [draw(_WARP_STEP_MM) for _ in range(3)]
        self._rough, self._coarse, self._fine = draw(22.0), draw(9.0), draw(2.6)

    def paint(self, parts: Sequence[Part], index: int) -> tuple[Array, npt.NDArray[np.uint8]]:
        """CT numbers in HU and labels of one slice, parts laid over one another in order."""
        z_mm = float(self._grid.z[index])
        points = self._points(z_mm, self._warp_mm)
        margin = _WARP_REACH * self._warp_mm
        straight = self._points(z_mm, 0.0)
        hu = np.full(points.x.shape, AIR_HU, dtype=np.float32)
        labels = np.zeros(points.x.shape, dtype=np.uint8)
        for part in parts:
            box = part.shape.footprint(z_mm - margin, z_mm + margin)
            window = None if box is None else self._window(box, margin)
            if window is None:
                continue
            seen = (straight if part.rigid else points).crop(window)
            if part.shape.footprint(float(seen.z.min()) - 1, float(seen.z.max()) + 1) is not None:
                _paint_part(part, seen, hu[window], labels[window], self._pixel_mm)
        return hu, labels

    @property
    def _pixel_mm(self) -> float:
        return float(self._grid.x[1] - self._grid.x[0])

    def _points(self, z_mm: float, warp_mm: float) -> Points:
        shift = [field.plane(z_mm) * np.float32(warp_mm) for field in self._warp]
        return Points(
            x=self._grid.x[None, :] + shift[0],
            y=self._grid.y[:, None] + shift[1],
            z=np.float32(z_mm) + shift[2],
            rough=self._rough.plane(z_mm),
            coarse=self._coarse.plane(z_mm),
            fine=self._fine.plane(z_mm),
        )

    def _window(self, box: Box, margin: float) -> tuple[slice, slice] | None:
        rows = _span(self._grid.y, box.y_low - margin, box.y_high + margin)
        columns = _span(self._grid.x, box.x_low - margin, box.x_high + margin)
        return None if rows is None or columns is None else (rows, columns)


def _span(axis_mm: Array, low_mm: float, high_mm: float) -> slice | None:
    first = int(np.searchsorted(axis_mm, low_mm))
    last = int(np.searchsorted(axis_mm, high_mm))
    return slice(first, last) if first < last else None


def _paint_part(
    part: Part, points: Points, hu: Array, labels: npt.NDArray[np.uint8], pixel_mm: float
) -> None:
    """Mix one part into a window of the slice, in place."""
    depth = part.shape.depth_mm(points)
    share = np.clip(depth * np.float32(1 / max(part.edge_mm, pixel_mm)) + np.float32(0.5), 0, 1)
    if part.only_in is not None:
        share *= labels == part.only_in
    if not share.any():
        return
    hu += share * (part.tissue(points, depth) - hu)
    labels[share > 0.5] = part.label
