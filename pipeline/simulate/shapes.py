"""Solid shapes in millimetres: how deep a point lies inside (negative: outside), and where to look for it.

Coordinates are x to the patient's left, y to the back, z to the head. Depths are exact for tubes and
accurate to first order near the surface elsewhere, which is all that a soft edge and a thin cortex need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from pipeline.simulate.fields import Array

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """An in-plane rectangle in mm."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float


EVERYWHERE = Box(-math.inf, math.inf, -math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class Points:
    """The points of one slice, or of a window of it.

    Attributes:
        x, y, z: `(rows, columns)` body coordinates in mm; the patient's own smooth warp is in them.
        rough: a smooth field of SD 1 that makes surfaces uneven.
        coarse, fine: smooth fields of SD 1 that make tissues uneven.
        window: where these points lie in `whole`.
        whole: the points of the full slice (None: these are).
        memory: depths of shapes already worked out for the full slice.
    """

    x: Array
    y: Array
    z: Array
    rough: Array
    coarse: Array
    fine: Array
    window: tuple[slice, slice] = (slice(None), slice(None))
    whole: Points | None = None
    memory: dict[int, Array] = field(default_factory=dict)

    def crop(self, window: tuple[slice, slice]) -> Points:
        """The points of a window of this full slice."""
        return Points(
            x=self.x[window],
            y=self.y[window],
            z=self.z[window],
            rough=self.rough[window],
            coarse=self.coarse[window],
            fine=self.fine[window],
            window=window,
            whole=self,
            memory=self.memory,
        )


class Shape(Protocol):
    """A solid."""

    def footprint(self, z_low: float, z_high: float) -> Box | None:
        """Where the solid may lie between two heights; None where it does not reach."""

    def depth_mm(self, points: Points) -> Array:
        """Depth below the surface, negative outside."""


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, turned in the plane, leaning along z, with an uneven surface.

    Attributes:
        centre: (x, y, z).
        radii: along its own axes.
        turn_deg: rotation in the plane.
        lean: shift in (x, y) per mm of z.
        roughness_mm: SD of the surface's unevenness.
    """

    centre: Vector
    radii: Vector
    turn_deg: float = 0.0
    lean: tuple[float, float] = (0.0, 0.0)
    roughness_mm: float = 0.0

    def footprint(self, z_low: float, z_high: float) -> Box | None:
        """The box around it."""
        reach = self.radii[2] + 3 * self.roughness_mm
        if z_high < self.centre[2] - reach or z_low > self.centre[2] + reach:
            return None
        radius = max(self.radii[0], self.radii[1]) + 3 * self.roughness_mm
        across, along = (radius + abs(lean) * reach for lean in self.lean)
        x, y, _ = self.centre
        return Box(x - across, x + across, y - along, y + along)

    def depth_mm(self, points: Points) -> Array:
        """First-order depth: (1 − ρ) ρ / |∇| of the normalised radius ρ."""
        z = points.z - np.float32(self.centre[2])
        x = points.x - np.float32(self.centre[0]) - np.float32(self.lean[0]) * z
        y = points.y - np.float32(self.centre[1]) - np.float32(self.lean[1]) * z
        if self.turn_deg:
            cosine, sine = (np.float32(f(math.radians(self.turn_deg))) for f in (math.cos, math.sin))
            x, y = cosine * x + sine * y, cosine * y - sine * x
        scaled = [axis / np.float32(radius) for axis, radius in zip((x, y, z), self.radii, strict=True)]
        squares = [axis * axis for axis in scaled]
        rho = np.sqrt(squares[0] + squares[1] + squares[2])
        slope = np.sqrt(sum(s / np.float32(r * r) for s, r in zip(squares, self.radii, strict=True))) + 1e-6
        depth: Array = (1 - rho) * rho / slope
        return depth + np.float32(self.roughness_mm) * points.rough if self.roughness_mm else depth


@dataclass(frozen=True)
class Column:
    """A column along z with rounded-rectangle sections `|x/a|^2.5 + |y/b|^2.5 < 1` that change with z.

    Attributes:
        z: heights at which the section is given, rising; it is interpolated between and constant beyond.
        half_width, half_depth, centre_y: the sections.
        roughness_mm: SD of the surface's unevenness.
    """

    z: Sequence[float]
    half_width: Sequence[float]
    half_depth: Sequence[float]
    centre_y: Sequence[float]
    roughness_mm: float = 0.0

    def at(self, z: float) -> tuple[float, float, float]:
        """Half width, half depth and centre y at one height."""
        width, depth, centre = (
            float(np.interp(z, self.z, values))
            for values in (self.half_width, self.half_depth, self.centre_y)
        )
        return width, depth, centre

    def footprint(self, z_low: float, z_high: float) -> Box | None:
        """The box around the section."""
        width, depth, centre = np.max([self.at(z_low), self.at(z_high)], axis=0)
        reach = depth + np.ptp(self.centre_y) + 3 * self.roughness_mm
        width += 3 * self.roughness_mm
        return Box(-width, width, centre - reach, centre + reach)

    def depth_mm(self, points: Points) -> Array:
        """First-order depth; the section is taken at the mean height of the points."""
        width, depth, centre = (np.float32(value) for value in self.at(float(points.z.mean())))
        u, v = np.abs(points.x) / width, np.abs(points.y - centre) / depth
        u_slope, v_slope = u * np.sqrt(u), v * np.sqrt(v)
        power = u * u_slope + v * v_slope + np.float32(1e-6)
        rho = np.exp(np.log(power) * np.float32(0.4))
        slope = rho / power * np.sqrt((u_slope / width) ** 2 + (v_slope / depth) ** 2) + np.float32(1e-6)
        distance: Array = (1 - rho) / slope
        return distance + np.float32(self.roughness_mm) * points.rough if self.roughness_mm else distance


@dataclass(frozen=True, eq=False)
class Tube:
    """A chain of rounded cones.

    Attributes:
        path: `(n, 3)` points.
        radii: `(n,)` radii in mm, interpolated in between.
    """

    path: Array
    radii: Array

    @cached_property
    def _reach_z(self) -> tuple[float, float]:
        widest = float(self.radii.max())
        return float(self.path[:, 2].min()) - widest, float(self.path[:, 2].max()) + widest

    @classmethod
    def through(cls, *knots: tuple[float, float, float, float]) -> Tube:
        """A tube through knots (x, y, z, radius)."""
        table = np.array(knots, dtype=np.float32)
        return cls(path=table[:, :3], radii=table[:, 3])

    def widened(self, by_mm: float) -> Tube:
        """The same path, thicker or (negative) thinner."""
        return Tube(self.path, self.radii + np.float32(by_mm))

    def footprint(self, z_low: float, z_high: float) -> Box | None:
        """The box around the segments between two heights."""
        if self._reach_z[0] > z_high or self._reach_z[1] < z_low:
            return None
        segments = self._between(z_low, z_high)
        if not segments.any():
            return None
        reach = self.radii.max()
        ends = np.concatenate([self.path[:-1][segments], self.path[1:][segments]])
        low, high = ends.min(axis=0) - reach, ends.max(axis=0) + reach
        return Box(float(low[0]), float(high[0]), float(low[1]), float(high[1]))

    def depth_mm(self, points: Points) -> Array:
        """Depth below the nearest segment's surface."""
        deepest = np.full_like(points.x, -1e3)
        near = np.nonzero(self._between(float(points.z.min()) - 2, float(points.z.max()) + 2))[0]
        for index in near:
            start, direction = self.path[index], self.path[index + 1] - self.path[index]
            offset = [axis - s for axis, s in zip((points.x, points.y, points.z), start, strict=True)]
            along = sum(o * d for o, d in zip(offset, direction, strict=True))
            along = np.clip(along / max(float(direction @ direction), 1e-6), 0, 1)
            squared = sum((o - along * d) ** 2 for o, d in zip(offset, direction, strict=True))
            radius = self.radii[index] + along * (self.radii[index + 1] - self.radii[index])
            np.maximum(deepest, radius - np.sqrt(squared), out=deepest)
        return deepest

    def _between(self, z_low: float, z_high: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        reach = np.maximum(self.radii[:-1], self.radii[1:])
        lowest = np.minimum(self.path[:-1, 2], self.path[1:, 2]) - reach
        highest = np.maximum(self.path[:-1, 2], self.path[1:, 2]) + reach
        inside: np.ndarray[tuple[int], np.dtype[np.bool_]] = (lowest <= z_high) & (highest >= z_low)
        return inside


@dataclass(frozen=True)
class Inset:
    """A solid without its outer `by_mm` (negative: with a margin)."""

    shape: Shape
    by_mm: float

    def footprint(self, z_low: float, z_high: float) -> Box | None:
        """The box around it."""
        margin = max(0.0, -self.by_mm)
        box = self.shape.footprint(z_low - margin, z_high + margin)
        if box is None:
            return None
        return Box(box.x_low - margin, box.x_high + margin, box.y_low - margin, box.y_high + margin)

    def depth_mm(self, points: Points) -> Array:
        """Depth below the moved surface."""
        return self.shape.depth_mm(points) - np.float32(self.by_mm)


@dataclass(frozen=True)
class Outside:
    """Everything that is not in a solid."""

    shape: Shape

    def footprint(self, z_low: float, z_high: float) -> Box | None:  # noqa: ARG002
        """Everywhere."""
        return EVERYWHERE

    def depth_mm(self, points: Points) -> Array:
        """Distance from the solid."""
        return -self.shape.depth_mm(points)


@dataclass(frozen=True)
class Common:
    """What several solids share."""

    shapes: tuple[Shape, ...]

    def footprint(self, z_low: float, z_high: float) -> Box | None:
        """The boxes' overlap."""
        boxes = [shape.footprint(z_low, z_high) for shape in self.shapes]
        found = [box for box in boxes if box is not None]
        if len(found) < len(boxes):
            return None
        common = Box(
            max(b.x_low for b in found),
            min(b.x_high for b in found),
            max(b.y_low for b in found),
            min(b.y_high for b in found),
        )
        return common if common.x_low < common.x_high and common.y_low < common.y_high else None

    def depth_mm(self, points: Points) -> Array:
        """The smallest depth."""
        depth = self.shapes[0].depth_mm(points)
        for shape in self.shapes[1:]:
            depth = np.minimum(depth, shape.depth_mm(points))
        return depth


@dataclass(frozen=True)
class Union:
    """Several solids grown together, their seams rounded over `blend_mm`."""

    shapes: tuple[Shape, ...]
    blend_mm: float = 1e-3

    def footprint(self, z_low: float, z_high: float) -> Box | None:
        """The box around all boxes."""
        found = [box for shape in self.shapes if (box := shape.footprint(z_low, z_high)) is not None]
        if not found:
            return None
        return Box(
            min(b.x_low for b in found),
            max(b.x_high for b in found),
            min(b.y_low for b in found),
            max(b.y_high for b in found),
        )

    def depth_mm(self, points: Points) -> Array:
        """The largest depth, smoothly."""
        depth = self.shapes[0].depth_mm(points)
        for shape in self.shapes[1:]:
            other = shape.depth_mm(points)
            mix = np.clip(0.5 + (depth - other) * np.float32(0.5 / self.blend_mm), 0, 1)
            depth = other + mix * (depth - other) + np.float32(self.blend_mm) * mix * (1 - mix)
        return depth


@dataclass(frozen=True)
class Remembered:
    """A solid that others are cut from: worked out once a slice, for the whole slice."""

    shape: Shape

    def footprint(self, z_low: float, z_high: float) -> Box | None:
        """The solid's own box."""
        return self.shape.footprint(z_low, z_high)

    def depth_mm(self, points: Points) -> Array:
        """The solid's own depth."""
        if id(self) not in points.memory:
            points.memory[id(self)] = self.shape.depth_mm(points.whole or points)
        return points.memory[id(self)][points.window]
