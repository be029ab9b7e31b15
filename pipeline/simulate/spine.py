"""The vertebral column from T1 to L4: bodies, discs, canal, arches and processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.simulate import tissues
from pipeline.simulate.fields import Array
from pipeline.simulate.labels import Label
from pipeline.simulate.painting import Part, Tissue
from pipeline.simulate.shapes import Box, Column, Points, Tube

_LEVEL_MM = 25.0
_FIRST_Z = -188.0
_LEVELS = 15
_LEVELS_Z = (-240.0, -100.0, 0.0, 120.0, 200.0)


@dataclass(frozen=True)
class Discs:
    """The discs that cut a column of bone into vertebral bodies.

    Attributes:
        column: bodies and discs together.
        height_mm: height of a disc.
    """

    column: Column
    height_mm: float

    def footprint(self, z_low: float, z_high: float) -> Box | None:
        """The column's own box."""
        return self.column.footprint(z_low, z_high)

    def depth_mm(self, points: Points) -> Array:
        """Depth below the column's side, or below an end plate: flattened, for its partial volume."""
        from_middle = np.abs(
            (points.z - np.float32(_FIRST_Z)) % np.float32(_LEVEL_MM) - np.float32(_LEVEL_MM / 2)
        )
        in_disc = from_middle - np.float32((_LEVEL_MM - self.height_mm) / 2)
        depth: Array = np.minimum(self.column.depth_mm(points), np.float32(0.3) * in_disc)
        return depth


def spine_parts(rng: np.random.Generator) -> list[Part]:
    """Draw a spine; the canal is painted last."""
    column = Column(_LEVELS_Z, (24, 21, 17, 15, 13), (17, 16, 15, 13, 12), (46, 46, 47, 47, 46))
    spongy = tissues.even(float(rng.uniform(130, 230)), 28)
    bone = tissues.layered(spongy, tissues.even(float(rng.uniform(500, 700)), 20), 1.4)
    parts = [
        Part(column, bone, Label.SPINE, 1.3),
        Part(Discs(column, height_mm=6.5), tissues.even(85, 6), Label.SPINE, 1.3),
    ]
    for level in range(_LEVELS):
        parts += _arch(_FIRST_Z + _LEVEL_MM * (level + 0.5), bone)
    canal = Column(_LEVELS_Z, (11, 10.5, 9, 9, 9), (8, 8, 8, 8, 8), (71, 70, 69.5, 68, 66))
    cord = Tube.through((0, 70, -240, 3), (0, 70, -80, 4.5), (0, 69, 0, 5), (0, 67, 200, 5))
    return [
        *parts,
        Part(canal, tissues.layered(tissues.even(12), tissues.even(-20), 1.5), Label.SOFT_TISSUE, 1.2),
        Part(cord, tissues.even(38), Label.SOFT_TISSUE, 1.4),
    ]


def _arch(z: float, bone: Tissue) -> list[Part]:
    """Pedicles, laminae, transverse processes and the spinous process of one vertebra."""
    tubes = [Tube.through((0, 82, z - 2, 4), (0, 92, z - 9, 3.5), (0, 99, z - 14, 4))]
    for side in (-1, 1):
        tubes += [
            Tube.through((side * 13, 54, z + 5, 4.5), (side * 14, 72, z + 3, 5), (0, 83, z - 4, 4.5)),
            Tube.through((side * 13, 70, z + 3, 4.5), (side * 34, 76, z + 4, 4)),
        ]
    return [Part(tube, bone, Label.SPINE, 1.2) for tube in tubes]
