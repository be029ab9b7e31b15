"""Branching trees: pulmonary vessels and bronchi, vessels of the liver."""

from __future__ import annotations

import numpy as np

from pipeline.simulate.fields import Array
from pipeline.simulate.shapes import Tube, Vector

_NARROWING = (0.70, 0.88)
_SHORTENING = (0.74, 0.95)
_WIGGLE = 0.22


def grow_tree(
    rng: np.random.Generator,
    start: Vector,
    direction: Vector,
    *,
    radius_mm: float,
    length_mm: float,
    thinnest_mm: float,
    spread: float = 0.55,
) -> list[Tube]:
    """A tree of forking tubes.

    Args:
        rng: draws every bend and fork.
        start: root in mm.
        direction: where the trunk heads; its length does not matter.
        radius_mm: radius of the trunk.
        length_mm: length of the trunk; branches get shorter.
        thinnest_mm: a branch thinner than this is not drawn.
        spread: tangent of a fork's typical half angle.

    Returns:
        One tube a branch, trunk first.
    """
    tubes: list[Tube] = []
    growing = [
        (np.asarray(start, np.float32), _unit(np.asarray(direction, np.float32)), radius_mm, length_mm)
    ]
    while growing:
        root, heading, radius, length = growing.pop(0)
        bend = _unit(heading + _WIGGLE * _normal(rng))
        middle = root + heading * np.float32(length / 2)
        end = middle + bend * np.float32(length / 2)
        tubes.append(
            Tube(
                path=np.stack([root, middle, end]), radii=np.float32(radius) * np.array([1, 0.95, 0.88], "f4")
            )
        )
        aside = _unit(np.cross(bend, _normal(rng)))
        for side in (1.0, -1.0):
            narrower = radius * rng.uniform(*_NARROWING)
            if narrower >= thinnest_mm:
                turned = _unit(bend + np.float32(side * spread * rng.uniform(0.6, 1.4)) * aside)
                growing.append((end, turned, narrower, length * rng.uniform(*_SHORTENING)))
    return tubes


def _normal(rng: np.random.Generator) -> Array:
    return rng.standard_normal(3, dtype=np.float32)


def _unit(vector: Array) -> Array:
    unit: Array = vector / np.float32(np.linalg.norm(vector))
    return unit
