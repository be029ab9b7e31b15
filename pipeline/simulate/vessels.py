"""Branching trees: pulmonary vessels and bronchi, vessels of the liver and the mesentery."""

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
    root, heading = np.array([start], np.float32), _unit(np.array([direction], np.float32))
    radius: Array = np.array([radius_mm], np.float32)
    length: Array = np.array([length_mm], np.float32)
    while len(root):
        bend = _unit(heading + np.float32(_WIGGLE) * _normal(rng, len(root)))
        middle = root + heading * length[:, None] / 2
        end = middle + bend * length[:, None] / 2
        tapered = radius[:, None] * np.array([1, 0.95, 0.88], np.float32)
        tubes += [
            Tube(*branch) for branch in zip(np.stack([root, middle, end], axis=1), tapered, strict=True)
        ]
        aside = _unit(np.cross(bend, _normal(rng, len(root))))
        fork = np.concatenate([aside, -aside]) * np.float32(spread)
        heading = _unit(np.tile(bend, (2, 1)) + fork * _uniform(rng, (0.6, 1.4), len(fork))[:, None])
        root = np.tile(end, (2, 1))
        radius = np.tile(radius, 2) * _uniform(rng, _NARROWING, len(fork))
        length = np.tile(length, 2) * _uniform(rng, _SHORTENING, len(fork))
        drawn = radius >= thinnest_mm
        root, heading, radius, length = root[drawn], heading[drawn], radius[drawn], length[drawn]
    return tubes


def _normal(rng: np.random.Generator, count: int) -> Array:
    return rng.standard_normal((count, 3), dtype=np.float32)


def _uniform(rng: np.random.Generator, bounds: tuple[float, float], count: int) -> Array:
    return rng.uniform(*bounds, count).astype(np.float32)


def _unit(vectors: Array) -> Array:
    unit: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
