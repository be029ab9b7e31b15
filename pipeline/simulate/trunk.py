"""Chest and abdomen of one patient: one body, of which a scan shows a range.

z = 0 lies a little below the domes of the diaphragm; the carina is near z = 115, the lower poles
of the kidneys near z = -140. Sizes are those of a slim adult and are scaled by the caller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.simulate import tissues
from pipeline.simulate.fields import Array
from pipeline.simulate.labels import Label
from pipeline.simulate.painting import Factors, Part, Patient, Tissue
from pipeline.simulate.shapes import (
    EVERYWHERE,
    Box,
    Column,
    Common,
    Ellipsoid,
    Inset,
    Outside,
    Points,
    Remembered,
    Shape,
    Tube,
    Union,
    Vector,
)
from pipeline.simulate.spine import spine_parts
from pipeline.simulate.vessels import grow_tree

FAT_HU = -102.0
VISCERAL_FAT_HU = -96.0

_LEVELS = (-220.0, -150.0, -80.0, 0.0, 60.0, 110.0, 150.0)
_CAVITY_WIDTH = (116.0, 120.0, 125.0, 130.0, 124.0, 108.0, 84.0)
_CAVITY_DEPTH = (70.0, 74.0, 80.0, 85.0, 84.0, 76.0, 62.0)
_WALL_WIDTH = (18.0, 17.0, 17.0, 18.0, 28.0, 46.0, 66.0)
_WALL_DEPTH = (25.0, 25.0, 24.0, 23.0, 26.0, 31.0, 40.0)
_FLANK_FAT = (1.25, 1.15, 1.0, 0.75, 0.7, 0.65, 0.6)
_CAVITY_Y = -16.0


@dataclass(frozen=True)
class Contrast:
    """CT numbers that depend on the contrast phase, in HU."""

    phase: str
    aorta: float
    veins: float
    heart: float
    myocardium: float
    liver: float
    liver_vessels: float
    spleen: float
    cortex: float
    medulla: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Contrast:
        """Native, arterial or portal venous, with some spread between patients."""
        phase = str(rng.choice(["native", "arterial", "portal venous"], p=[0.25, 0.25, 0.5]))
        base = {
            "native": (44, 42, 44, 48, 58, 42, 50, 34, 33),
            "arterial": (290, 90, 240, 95, 72, 85, 118, 185, 95),
            "portal venous": (155, 150, 150, 105, 106, 150, 122, 182, 165),
        }[phase]
        factor = 1.0 if phase == "native" else rng.uniform(0.85, 1.12)
        values = [float(value * factor * rng.uniform(0.96, 1.04)) for value in base]
        return cls(phase, *values)


@dataclass(frozen=True)
class Dome:
    """Everything below a paraboloid: one dome of the diaphragm.

    Attributes:
        top: its highest point.
        curvature_per_mm: how fast it falls.
    """

    top: Vector
    curvature_per_mm: float

    def footprint(self, z_low: float, z_high: float) -> Box | None:  # noqa: ARG002
        """The whole section, up to a little above the top."""
        return EVERYWHERE if z_low < self.top[2] + 12 else None

    def depth_mm(self, points: Points) -> Array:
        """Depth below the dome, its slope taken into account."""
        across = (points.x - np.float32(self.top[0])) ** 2 + (points.y - np.float32(self.top[1])) ** 2
        height = np.float32(self.top[2]) - np.float32(self.curvature_per_mm) * across
        steepness = np.sqrt(1 + np.float32(4 * self.curvature_per_mm**2) * across)
        depth: Array = (height - points.z) / steepness
        return depth + np.float32(1.5) * points.rough


def sample_trunk(rng: np.random.Generator, lesion: Part | None, factors: Factors) -> Patient:
    """Draw one patient; a lesion, where there is one, is painted last."""
    contrast = Contrast.sample(rng)
    fat_mm = float(rng.uniform(7, 20))
    cavity, muscle, skin = _envelopes(fat_mm)
    diaphragm = _diaphragm(rng)
    abdomen = Remembered(Common((cavity, diaphragm)))
    liver, liver_radii = _liver(rng, abdomen)
    parts = [
        *_table(_CAVITY_Y + 12.0 + 108.0 + 0.75 * fat_mm),
        *_breasts(rng),
        Part(skin, tissues.layered(tissues.even(FAT_HU, 6), tissues.even(-5, 8), 1.6), Label.FAT),
        Part(muscle, tissues.marbled(52, FAT_HU, float(rng.uniform(0.2, 1.0))), Label.MUSCLE),
        *_back_fat(),
        Part(cavity, tissues.even(VISCERAL_FAT_HU, 7), Label.FAT),
        *_lungs(rng, cavity, diaphragm),
        Part(abdomen, tissues.layered(tissues.even(VISCERAL_FAT_HU, 7), tissues.even(50), 2.0), Label.FAT),
        *_heart(rng, contrast),
        *_bowel(rng, abdomen),
        *_spleen(rng, contrast, abdomen),
        *_liver_parts(rng, contrast, liver),
        *_kidneys(rng, contrast),
        *_psoas(),
        *spine_parts(rng),
        *_great_vessels(rng, contrast),
        *_airways(),
        *_ribs(rng, cavity),
        *_shoulder(),
        *([lesion] if lesion is not None else []),
    ]
    known: Factors = {
        "contrast_phase": contrast.phase,
        "subcutaneous_fat_mm": round(fat_mm, 1),
        "liver_width_mm": round(2 * liver_radii[0], 1),
    }
    return Patient(tuple(parts), factors | known)


def liver_lesion(rng: np.random.Generator, diameter_mm: float) -> Part:
    """A round hypodense focus in the right lobe."""
    centre = (-72 + rng.uniform(-14, 14), -24 + rng.uniform(-18, 18), -56 + rng.uniform(-12, 12))
    shape = Ellipsoid(centre, (diameter_mm / 2,) * 3, roughness_mm=diameter_mm * 0.03)
    return Part(shape, tissues.even(float(rng.uniform(5, 28)), 4), Label.LESION, 1.8, only_in=Label.LIVER)


def lung_lesion(rng: np.random.Generator, diameter_mm: float) -> Part:
    """A solid nodule in the middle of a lung."""
    side = float(rng.choice([-1.0, 1.0]))
    centre = (side * 86 + rng.uniform(-8, 8), 6 + rng.uniform(-28, 28), 74 + rng.uniform(-14, 14))
    shape = Ellipsoid(centre, (diameter_mm / 2,) * 3, roughness_mm=diameter_mm * 0.07)
    return Part(shape, tissues.even(float(rng.uniform(20, 60)), 5), Label.LESION, 1.3, only_in=Label.LUNGS)


def _envelopes(fat_mm: float) -> tuple[Remembered, Remembered, Remembered]:
    """Body cavity, muscular wall and skin."""
    flank = [fat_mm * share for share in _FLANK_FAT]
    muscle_width = np.add(_CAVITY_WIDTH, _WALL_WIDTH)
    muscle_depth = np.add(_CAVITY_DEPTH, _WALL_DEPTH)
    centre_y = [_CAVITY_Y + 12.0] * len(_LEVELS)
    cavity = Column(_LEVELS, _CAVITY_WIDTH, _CAVITY_DEPTH, [_CAVITY_Y] * len(_LEVELS))
    muscle = Column(_LEVELS, muscle_width.tolist(), muscle_depth.tolist(), centre_y, roughness_mm=1.6)
    skin = Column(
        _LEVELS,
        np.add(muscle_width, flank).tolist(),
        (muscle_depth + 0.85 * fat_mm).tolist(),
        [centre - 0.10 * fat_mm for centre in centre_y],
        roughness_mm=0.8,
    )
    return Remembered(cavity), Remembered(muscle), Remembered(skin)


def _diaphragm(rng: np.random.Generator) -> Remembered:
    """Two domes, the right one higher, and the tendon between them."""
    fall = float(rng.uniform(0.0105, 0.0135))
    right = Dome((-64 + rng.normal(0, 3), -26 + rng.normal(0, 4), float(rng.normal(26, 6))), fall)
    left = Dome((68 + rng.normal(0, 3), -26 + rng.normal(0, 4), float(rng.normal(14, 6))), fall)
    tendon = Dome((2.0, -46.0, -2.0), fall)
    return Remembered(Union((right, left, tendon), blend_mm=10))


def _table(back_y: float) -> list[Part]:
    shell = Column((0.0,), (140.0,), (10.0,), (back_y + 9.0,))
    laminate = tissues.layered(tissues.even(-880, 4), tissues.even(-180, 4), 1.6)
    return [Part(shell, laminate, Label.TABLE, rigid=True)]


def _breasts(rng: np.random.Generator) -> list[Part]:
    """Glandular tissue in fat, in half of the patients."""
    size = float(rng.uniform(0.7, 1.1))
    if rng.random() < 0.5:
        return []
    gland = tissues.layered(tissues.marbled(30, FAT_HU, 1.0), tissues.even(FAT_HU, 6), 11.0, blend_mm=8)
    tissue = tissues.layered(gland, tissues.even(0, 8), 1.6)
    shapes = [
        Ellipsoid((side * 82, -92, 46), (54 * size, 36 * size, 52 * size), turn_deg=side * 22, roughness_mm=1)
        for side in (-1, 1)
    ]
    return [Part(shape, tissue, Label.FAT) for shape in shapes]


def _back_fat() -> list[Part]:
    """Fat in the groove over the spinous processes."""
    groove = Tube.through((0, 108, -240, 8), (0, 108, 0, 9), (0, 114, 200, 9))
    return [Part(groove, tissues.even(FAT_HU, 5), Label.FAT, only_in=Label.MUSCLE, edge_mm=2.0)]


def _lungs(rng: np.random.Generator, cavity: Shape, diaphragm: Shape) -> list[Part]:
    heart = Ellipsoid((24, -40, 32), (61, 45, 58), turn_deg=32)
    upper = Ellipsoid((2, -8, 120), (33, 60, 78), roughness_mm=2.5)
    middle = Column((-100.0, 30.0, 150.0), (22.0, 15.0, 10.0), (120.0, 120.0, 120.0), (-10.0,) * 3)
    mediastinum = Remembered(Union((heart, upper, middle), blend_mm=12))
    shape = Remembered(Common((Inset(cavity, 2.0), Outside(diaphragm), Outside(mediastinum))))
    air = tissues.lung(float(rng.uniform(-880, -835)), float(rng.uniform(0.2, 0.65)))
    parts = [Part(shape, air, Label.LUNGS)]
    for side in (-1.0, 1.0):
        hilum = (side * 42, 2.0, 92.0)
        for angle in np.linspace(-0.55 * math.pi, 0.5 * math.pi, 9):
            heading = (
                side * (0.75 * math.cos(angle) + 0.35),
                float(rng.uniform(-1.2, 1.2)),
                1.25 * math.sin(angle) - 0.35,
            )
            root = (hilum[0], hilum[1] + float(rng.normal(0, 7)), hilum[2] + float(12 * math.sin(angle)))
            tree = grow_tree(rng, root, heading, radius_mm=4.2, length_mm=25, thinnest_mm=0.6, spread=0.62)
            parts += [Part(tube, tissues.even(35, 4), Label.LUNGS, 1.2, Label.LUNGS) for tube in tree]
            parts += _bronchus(rng, root, heading)
    return parts


def _bronchus(rng: np.random.Generator, root: Vector, heading: Vector) -> list[Part]:
    """Airways that run beside a vessel: an open lumen in a thin wall."""
    beside = (root[0], root[1] + 5.0, root[2] + 3.0)
    tree = grow_tree(rng, beside, heading, radius_mm=3.2, length_mm=22, thinnest_mm=2.0, spread=0.45)
    tissue = tissues.layered(tissues.even(-960, 3), tissues.even(-350, 4), 0.9, blend_mm=1.0)
    return [Part(tube.widened(0.8), tissue, Label.LUNGS, 1.0, Label.LUNGS) for tube in tree]


def _heart(rng: np.random.Generator, contrast: Contrast) -> list[Part]:
    size = float(rng.uniform(0.92, 1.06))

    def chamber(x: float, y: float, z: float, *radii: float, turn: float = 32) -> Ellipsoid:
        a, b, c = (radius * size for radius in radii)
        return Ellipsoid((x, y, z), (a, b, c), turn_deg=turn, roughness_mm=1.5)

    wall = tissues.even(contrast.myocardium, 4)
    blood = tissues.even(contrast.heart, 4)
    right_blood = tissues.even(0.5 * (contrast.heart + contrast.veins), 6)
    whole = Union((chamber(30, -40, 28, 56, 38, 46), chamber(2, -26, 56, 44, 36, 34)), blend_mm=10)
    groove = Tube.through((-20, -60, 40, 4), (10, -48, 38, 5), (40, -16, 34, 4), (60, -12, 30, 3))
    return [
        Part(whole, wall, Label.HEART, 1.6),
        Part(chamber(48, -30, 24, 30, 17, 26), blood, Label.HEART, 2.0),
        Part(chamber(16, -58, 26, 32, 13, 30), right_blood, Label.HEART, 2.0),
        Part(chamber(-24, -34, 48, 18, 24, 28, turn=0), right_blood, Label.HEART, 2.0),
        Part(chamber(12, -6, 58, 28, 15, 20, turn=8), blood, Label.HEART, 2.0),
        Part(groove, tissues.even(-75, 8), Label.FAT, 2.5, Label.HEART),
    ]


def _liver(rng: np.random.Generator, abdomen: Shape) -> tuple[Shape, Vector]:
    size = rng.uniform(0.92, 1.08)
    radii = (76 * size, 74 * size, 92 * size)
    right = Ellipsoid((-66, -6, -50), radii, roughness_mm=2.5, lean=(0.12, 0.0))
    left = Ellipsoid((8, -48, -20), (78 * size, 34 * size, 46 * size), turn_deg=8, roughness_mm=2.5)
    return Remembered(Common((Union((right, left), blend_mm=14), Inset(abdomen, 1.0)))), radii


def _liver_parts(rng: np.random.Generator, contrast: Contrast, liver: Shape) -> list[Part]:
    parts = [Part(liver, tissues.even(contrast.liver, 4), Label.LIVER, 1.4)]
    vessel = tissues.even(contrast.liver_vessels, 3)
    portal = [
        ((-30, -10, -62), (-1, 0.1, 0.3)),
        ((-24, -30, -48), (0.8, -0.9, 0.5)),
        ((-34, 4, -66), (-1, 0.8, -0.8)),
    ]
    hepatic = [
        ((-24, 4, -2), (-1, 0.3, -0.6)),
        ((-22, -2, -2), (-0.6, -0.9, -0.6)),
        ((-18, -6, -2), (0.8, -1, -0.5)),
    ]
    for start, heading in (*portal, *hepatic):
        tree = grow_tree(rng, start, heading, radius_mm=4.6, length_mm=26, thinnest_mm=1.3, spread=0.5)
        parts += [Part(tube, vessel, Label.LIVER, 2.0, Label.LIVER) for tube in tree]
    gallbladder = Ellipsoid((-44, -52, -92), (13, 20, 26), turn_deg=20, roughness_mm=1)
    fissure = Tube.through((-22, -86, -70, 3.5), (-26, -62, -56, 3.5), (-22, -34, -58, 5), (-20, -18, -62, 6))
    parts.append(Part(fissure, tissues.even(VISCERAL_FAT_HU + 15, 6), Label.FAT, 2.0, Label.LIVER))
    wall = tissues.layered(tissues.even(8, 3), tissues.even(45), 1.6)
    parts.append(Part(gallbladder, wall, Label.SOFT_TISSUE))
    return parts


def _spleen(rng: np.random.Generator, contrast: Contrast, abdomen: Shape) -> list[Part]:
    size = rng.uniform(0.88, 1.12)
    centre = (96 + rng.normal(0, 2), 22 + rng.normal(0, 3), -46 + rng.normal(0, 6))
    body = Ellipsoid(centre, (31 * size, 50 * size, 58 * size), turn_deg=24, roughness_mm=1.5)
    hollow = Ellipsoid((centre[0] - 38, centre[1] - 16, centre[2] + 4), (28, 40, 60), turn_deg=24)
    shape = Common((body, Outside(hollow), Inset(abdomen, 1.0)))
    mottle = 14.0 if contrast.phase == "arterial" else 3.5
    return [Part(shape, tissues.even(contrast.spleen, mottle), Label.SPLEEN, 1.4)]


def _kidneys(rng: np.random.Generator, contrast: Contrast) -> list[Part]:
    parts = []
    for side, height in ((1.0, -78.0), (-1.0, -98.0)):
        size = float(rng.uniform(0.92, 1.1))
        x, y, z = side * 60 + rng.normal(0, 2), 30 + rng.normal(0, 2), height + rng.normal(0, 6)
        lean = (-side * 0.18, -0.12)
        bean = Ellipsoid((x, y, z), (25 * size, 29 * size, 54 * size), side * 32, lean, 1.2)
        sinus = Ellipsoid((x - side * 13, y - 7, z), (13, 10, 26), side * 32, lean, 2.6)
        pelvis = Tube.through(
            (x - side * 6, y - 4, z, 5), (x - side * 22, y - 12, z - 4, 4), (x - side * 28, y, z - 40, 2)
        )
        vein = Tube.through(
            (x - side * 10, y - 8, z + 6, 4), (x - side * 34, y - 16, z + 10, 5), (side * 4, 4, z + 12, 5)
        )
        gap = Inset(bean, -2.5)
        parts += [
            Part(gap, tissues.even(VISCERAL_FAT_HU, 6), Label.FAT, 2.0),
            Part(bean, tissues.kidney(contrast.cortex, contrast.medulla), Label.KIDNEYS, 1.2),
            Part(sinus, tissues.even(-70, 14), Label.FAT, 3.0),
            Part(vein, tissues.even(contrast.veins), Label.SOFT_TISSUE),
            Part(pelvis, tissues.even(8), Label.SOFT_TISSUE, 1.5),
        ]
    return parts


def _bowel(rng: np.random.Generator, abdomen: Shape) -> list[Part]:
    wall = tissues.even(42, 4)
    fluid = tissues.even(float(rng.uniform(12, 32)), 6)
    stomach = Union(
        (
            Ellipsoid((58, -18, -12), (36, 38, 34), roughness_mm=2.5),
            Ellipsoid((48, -50, -52), (42, 24, 30), turn_deg=-15, roughness_mm=2.5),
            Ellipsoid((14, -50, -78), (30, 16, 15), roughness_mm=2),
        ),
        blend_mm=14,
    )
    gas_level = float(rng.uniform(-58, -34))
    content = tissues.layered(tissues.with_gas(fluid, gas_level), wall, 4.0)
    pancreas = Tube.through(
        (-30, -26, -92, 13), (-14, -22, -80, 11), (10, -22, -72, 9), (38, -10, -64, 9), (66, 6, -56, 8)
    )
    parts = [
        Part(pancreas, tissues.marbled(62, VISCERAL_FAT_HU, 0.6), Label.SOFT_TISSUE, 1.6),
        Part(Common((stomach, Inset(abdomen, 3.0))), content, Label.SOFT_TISSUE, 1.3),
    ]
    root = (6.0, -4.0, -84.0)
    for _ in range(5):
        heading = (float(rng.normal(0, 0.8)), -0.7, float(rng.normal(-0.9, 0.3)))
        tree = grow_tree(rng, root, heading, radius_mm=3.2, length_mm=26, thinnest_mm=1.1)
        parts += [Part(tube, wall, Label.SOFT_TISSUE, 1.6, Label.FAT) for tube in tree]
    return parts + _small_bowel(rng, wall, fluid) + _colon(rng, wall)


def _small_bowel(rng: np.random.Generator, wall: Tissue, fluid: Tissue) -> list[Part]:
    """Loops: a random walk that stays in the middle of the abdomen."""
    low, high = np.array([-72.0, -62.0, -200.0]), np.array([76.0, 4.0, -88.0])
    path, heading = [np.array([20.0, -20.0, -92.0])], np.array([1.0, -0.3, -0.3])
    for _ in range(90):
        heading = heading + 0.9 * rng.standard_normal(3)
        heading /= np.linalg.norm(heading)
        step = path[-1] + 22 * heading
        heading = np.where((step < low) | (step > high), -heading, heading)
        path.append(np.clip(step, low, high))
    points = np.array(path, dtype=np.float32)
    parts = []
    for first in range(0, len(points) - 6, 6):
        radius = float(rng.uniform(9, 13))
        loop = Tube(points[first : first + 7], np.full(7, radius, np.float32))
        inside = (
            fluid
            if rng.random() < 0.75
            else tissues.with_gas(fluid, float(points[first : first + 7, 1].mean()))
        )
        parts.append(Part(loop, tissues.layered(inside, wall, 2.6), Label.SOFT_TISSUE, 1.6))
    return parts


def _colon(rng: np.random.Generator, wall: Tissue) -> list[Part]:
    ascending = [(-92, 14, -210, 21), (-94, 10, -160, 22), (-88, -8, -128, 20), (-70, -40, -116, 18)]
    transverse = [(-46, -62, -122, 18), (-10, -66, -132, 17), (30, -64, -124, 17), (66, -50, -100, 17)]
    descending = [(92, -18, -62, 17), (104, 14, -90, 16), (102, 20, -150, 14), (98, 14, -210, 14)]
    parts = []
    for path in (ascending, transverse, descending):
        knots = [
            (
                x + rng.normal(0, 4),
                y + rng.normal(0, 3),
                z + rng.normal(0, 4),
                radius * rng.uniform(0.85, 1.1),
            )
            for x, y, z, radius in path
        ]
        level = float(np.mean([knot[1] for knot in knots])) + float(rng.uniform(-4, 10))
        inside = tissues.with_gas(tissues.faeces(20), level)
        parts.append(Part(Tube.through(*knots), tissues.layered(inside, wall, 2.4), Label.SOFT_TISSUE, 1.5))
    return parts


def _psoas() -> list[Part]:
    muscle = tissues.even(56, 4)
    tubes = [
        Tube.through((side * 26, 40, -60, 6), (side * 34, 44, -110, 16), (side * 42, 38, -220, 22))
        for side in (-1, 1)
    ]
    crura = [
        Tube.through((side * 6, 8, 0, 4), (side * 13, 14, -40, 6), (side * 11, 26, -100, 4))
        for side in (-1, 1)
    ]
    return [Part(tube, muscle, Label.MUSCLE, 1.4) for tube in (*tubes, *crura)]


def _great_vessels(rng: np.random.Generator, contrast: Contrast) -> list[Part]:
    width = float(rng.uniform(0.9, 1.15))
    aorta = Tube.through(
        (0, -30, 62, 15 * width),
        (-14, -34, 88, 16 * width),
        (-14, -28, 112, 15 * width),
        (-4, -10, 128, 14 * width),
        (12, 12, 128, 13 * width),
        (22, 26, 112, 12.5 * width),
        (24, 28, 60, 12 * width),
        (18, 26, 0, 11.5 * width),
        (8, 19, -60, 10.5 * width),
        (5, 17, -140, 9 * width),
        (5, 17, -240, 8 * width),
    )
    blood, veins = tissues.even(contrast.aorta, 3), tissues.even(contrast.veins, 4)
    pulmonary = tissues.even(0.5 * (contrast.aorta + contrast.veins), 4)
    cava = Tube.through((-22, 16, -240, 10), (-22, 12, -100, 11), (-26, 2, -20, 12), (-25, -12, 32, 13))
    upper_cava = Tube.through((-26, -26, 60, 9), (-28, -24, 100, 9), (-26, -26, 160, 8))
    trunk = Tube.through((14, -52, 66, 13), (22, -44, 90, 13), (26, -20, 102, 11))
    right_artery = Tube.through((22, -30, 96, 11), (-8, -14, 92, 10), (-44, 0, 90, 8))
    left_artery = Tube.through((26, -20, 102, 11), (46, 4, 98, 8))
    lower_veins = [Tube.through((side * 14, -6, 62, 8), (side * 40, 8, 66, 6)) for side in (-1, 1)]
    portal = Tube.through((22, -12, -72, 6), (-8, -14, -72, 7), (-32, -8, -60, 6.5))
    return [
        *(
            Part(tube, pulmonary, Label.SOFT_TISSUE, 1.4)
            for tube in (trunk, right_artery, left_artery, *lower_veins)
        ),
        *(Part(tube, veins, Label.SOFT_TISSUE, 1.4) for tube in (cava, upper_cava, portal)),
        Part(aorta, blood, Label.AORTA, 1.3),
    ]


def _airways() -> list[Part]:
    trachea = Tube.through((2, 4, 180, 10), (2, 6, 118, 10))
    bronchi = [
        Tube.through((2, 6, 118, 9.5), (-26, 6, 100, 8.5), (-46, 6, 92, 6)),
        Tube.through((2, 6, 118, 9.5), (26, 8, 98, 8), (48, 10, 92, 6)),
    ]
    tissue = tissues.layered(tissues.even(-980, 2), tissues.even(20, 4), 1.8)
    oesophagus = Tube.through(
        (4, 24, 180, 8), (6, 22, 100, 8), (10, 20, 40, 8), (20, 6, 2, 9), (36, -2, -6, 9)
    )
    return [
        Part(oesophagus, tissues.layered(tissues.even(5, 6), tissues.even(42), 4), Label.SOFT_TISSUE, 1.5),
        *(Part(tube, tissue, Label.SOFT_TISSUE, 1.2) for tube in (trachea, *bronchi)),
    ]


def _ribs(rng: np.random.Generator, cavity: Remembered) -> list[Part]:
    """Ribs run along the cavity's outside, falling towards the front, and end in cartilage."""
    column = cavity.shape
    assert isinstance(column, Column)  # noqa: S101
    cancellous = tissues.even(float(rng.uniform(200, 300)), 30)
    bone = tissues.layered(cancellous, tissues.even(float(rng.uniform(650, 850)), 20), 1.3)
    cartilage = tissues.even(95, 8)
    parts = []
    for level in range(-3, 9):
        head = 12 + 25 * level
        reach = {-3: 0.45, -2: 0.6}.get(level, 1.0)
        drop = 92 if level < 5 else 70
        for side in (-1.0, 1.0):
            knots = [
                _rib_knot(column, side, share, head, drop) for share in np.linspace(0.05, 0.92 * reach, 20)
            ]
            knots = [(side * 16, 58, head + 2, 5.0), *knots]
            bony = 15 if reach == 1.0 else len(knots)
            parts.append(Part(Tube.through(*knots[:bony]), bone, Label.RIBS, 1.1))
            if bony < len(knots) and level >= 0:
                parts.append(Part(Tube.through(*knots[bony - 1 :]), cartilage, Label.RIBS, 1.3))
    sternum = Column((10.0, 40.0, 130.0), (8.0, 17.0, 20.0), (5.0, 7.0, 8.0), (-92.0, -94.0, -88.0))
    breastbone = Common((sternum, Ellipsoid((0, -90, 95), (60, 60, 88))))
    return [
        *parts,
        Part(breastbone, tissues.layered(cancellous, tissues.even(500, 20), 1.3), Label.RIBS, 1.2),
    ]


def _rib_knot(
    column: Column, side: float, share: float, head: float, drop: float
) -> tuple[float, float, float, float]:
    """A point of a rib; `share` runs from the spine (0) to the sternum (1)."""
    z = head - drop * share**1.15
    width, depth, centre = column.at(z)
    angle = math.pi * share
    round_off = 0.8
    x = side * (width + 5.5) * abs(math.sin(angle)) ** round_off
    y = centre + (depth + 5.5) * math.copysign(abs(math.cos(angle)) ** round_off, math.cos(angle))
    return x, y, z, 5.6


def _shoulder() -> list[Part]:
    """Shoulder blades and the fat in front of them."""
    bone = tissues.layered(tissues.even(300, 20), tissues.even(600, 20), 1.4)
    parts = []
    for side in (-1, 1):
        blade = Ellipsoid((side * 112, 70, 104), (36, 4.5, 62), turn_deg=-side * 32, roughness_mm=0.6)
        axilla = Ellipsoid((side * 138, -4, 140), (18, 44, 62), roughness_mm=5)
        parts += [
            Part(axilla, tissues.even(FAT_HU, 6), Label.FAT, 3.0, Label.MUSCLE),
            Part(blade, bone, Label.RIBS, 1.3, Label.MUSCLE),
        ]
    return parts
