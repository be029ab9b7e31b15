"""The head of one patient above the skull base: scalp, skull, brain, ventricles.

z = 0 lies at the level of the orbital roofs; the vertex is near z = 100.
"""

from __future__ import annotations

import numpy as np

from pipeline.simulate import tissues
from pipeline.simulate.labels import Label
from pipeline.simulate.painting import Factors, Part, Patient, Tissue
from pipeline.simulate.shapes import Common, Ellipsoid, Inset, Outside, Remembered, Tube, Union


def sample_head(rng: np.random.Generator, lesion: Part | None, factors: Factors) -> Patient:
    """Draw one patient; a lesion, where there is one, is painted last."""
    width, length = float(rng.uniform(70, 76)), float(rng.uniform(86, 94))
    skull_mm = float(rng.uniform(5.5, 8.5))
    fluid = float(rng.uniform(4, 9))
    cranium = Remembered(
        Union(
            (
                Ellipsoid((0, 6, 12), (width, length - 4, 84), roughness_mm=0.7),
                Ellipsoid((0, -18, 16), (width * 0.86, length - 22, 76)),
            ),
            blend_mm=20,
        )
    )
    enlarged = float(rng.uniform(0.8, 1.5))
    parts = [
        *_headrest(),
        *_scalp(cranium, skull_mm),
        Part(Inset(cranium, -skull_mm), _skull(rng, skull_mm), Label.SKULL),
        *_sinuses(rng, length),
        Part(cranium, tissues.even(fluid, 1.0), Label.SOFT_TISSUE),
        *_brain(rng, cranium, fluid),
        *_deep_grey(enlarged),
        *_ventricles(enlarged, fluid),
        *_sylvian(fluid),
        *_falx(length),
        *_base(),
        *([lesion] if lesion is not None else []),
    ]
    known: Factors = {
        "contrast_phase": "native",
        "skull_thickness_mm": round(skull_mm, 1),
        "ventricle_scale": round(enlarged, 2),
    }
    return Patient(tuple(parts), factors | known)


def brain_lesion(rng: np.random.Generator, diameter_mm: float) -> Part:
    """A fresh haemorrhage or an old infarct in one hemisphere."""
    side = float(rng.choice([-1.0, 1.0]))
    centre = (side * rng.uniform(32, 44), rng.uniform(-34, 38), rng.uniform(30, 48))
    shape = Ellipsoid(centre, (diameter_mm / 2,) * 3, roughness_mm=diameter_mm * 0.05)
    hu = float(rng.choice([rng.uniform(58, 72), rng.uniform(14, 20)]))
    return Part(shape, tissues.even(hu, 1.5), Label.LESION, 2.0, only_in=Label.BRAIN)


def _headrest() -> list[Part]:
    shell = Common(
        (Ellipsoid((0, 0, 40), (122, 121, 1e4)), Outside(Ellipsoid((0, -4, 40), (112, 113, 1e4))), _below(40))
    )
    laminate = tissues.layered(tissues.even(-900, 4), tissues.even(-300, 4), 1.5)
    return [Part(shell, laminate, Label.TABLE, rigid=True)]


def _below(y: float) -> Ellipsoid:
    """A half space behind `y`, as a very large ball."""
    return Ellipsoid((0, y + 1e4, 0), (1e4, 1e4, 1e4))


def _scalp(cranium: Remembered, skull_mm: float) -> list[Part]:
    """Skin over fat, and the temporal muscles."""
    muscles = [Ellipsoid((side * 67, -26, 2), (13, 34, 36), turn_deg=side * 14) for side in (-1, 1)]
    under_skin = tuple(Inset(muscle, -2.5) for muscle in muscles)
    scalp = Union((Inset(cranium, -skull_mm - 5.5), *under_skin), blend_mm=8)
    return [
        Part(scalp, tissues.layered(tissues.even(-55, 18), tissues.even(30, 6), 2.4), Label.FAT),
        *(Part(shape, tissues.even(55, 4), Label.MUSCLE, 1.5) for shape in muscles),
    ]


def _skull(rng: np.random.Generator, skull_mm: float) -> Tissue:
    """Outer table, diploe, inner table."""
    outer, diploe, inner = (
        tissues.even(float(rng.uniform(*hu)), 30) for hu in ((1050, 1300), (450, 700), (1050, 1250))
    )
    inside = tissues.layered(inner, diploe, 0.72 * skull_mm)
    return tissues.layered(inside, outer, 0.3 * skull_mm)


def _sinuses(rng: np.random.Generator, length: float) -> list[Part]:
    """Frontal sinuses and mastoid cells in the lowest slices."""
    height = float(rng.uniform(2, 14))
    air = tissues.even(-970, 5)
    frontal = [Ellipsoid((side * 11, -length - 3, height), (12, 5, 14), roughness_mm=2) for side in (-1, 1)]
    return [Part(shape, air, Label.SOFT_TISSUE, 1.0, Label.SKULL) for shape in frontal]


def _brain(rng: np.random.Generator, cranium: Remembered, fluid: float) -> list[Part]:
    white = float(rng.uniform(25, 28))
    matter = tissues.brain(white + float(rng.uniform(8, 10)), white, fluid)
    return [Part(Inset(cranium, float(rng.uniform(1.8, 3.8))), matter, Label.BRAIN, 1.4)]


def _deep_grey(enlarged: float) -> list[Part]:
    grey = tissues.even(34.5, 0.8)
    parts = []
    for side in (-1, 1):
        apart = 3 * (enlarged - 1)
        parts += [
            Ellipsoid((side * (11 + apart), 12, 26), (9, 15, 13), turn_deg=side * 20),
            Ellipsoid((side * (27 + apart), -10, 28), (7, 19, 16), turn_deg=side * 14),
            Ellipsoid((side * (13 + apart), -24, 34), (6, 10, 18), turn_deg=side * 12),
        ]
    return [Part(shape, grey, Label.BRAIN, 5.0, Label.BRAIN) for shape in parts]


def _ventricles(enlarged: float, fluid: float) -> list[Part]:
    tubes = [Tube.through((0, -4, 14, 1.8 * enlarged), (0, 14, 24, 2.2 * enlarged))]
    for side in (-1, 1):
        wide = side * enlarged
        tubes += [
            Tube.through(
                (wide * 11, -38, 34, 2.5 * enlarged),
                (wide * 8, -26, 37, 5 * enlarged),
                (wide * 9, -4, 46, 5 * enlarged),
                (wide * 15, 22, 46, 6 * enlarged),
                (wide * 24, 38, 32, 7 * enlarged),
                (wide * 23, 56, 30, 3 * enlarged),
            ),
            Tube.through((wide * 24, 38, 32, 6 * enlarged), (wide * 34, 18, 12, 3 * enlarged)),
        ]
    water = tissues.even(fluid, 0.7)
    ventricles = [Part(tube, water, Label.BRAIN, 1.6, Label.BRAIN) for tube in tubes]
    plexus = [Ellipsoid((side * 23 * enlarged, 38, 33), (3, 5, 4), roughness_mm=0.5) for side in (-1, 1)]
    calcium = tissues.even(130, 25)
    pineal = Ellipsoid((0, 24, 26), (3, 3, 3))
    return [*ventricles, *(Part(shape, calcium, Label.BRAIN, 1.5) for shape in (*plexus, pineal))]


def _sylvian(fluid: float) -> list[Part]:
    """The lateral fissures over the insula."""
    tubes = [
        Tube.through(
            (side * 38, -22, 14, 1.5),
            (side * 42, -8, 20, 2.0),
            (side * 44, 8, 26, 1.5),
            (side * 72, -6, 18, 2.5),
        )
        for side in (-1, 1)
    ]
    return [Part(tube, tissues.even(fluid, 1), Label.BRAIN, 2.0, Label.BRAIN) for tube in tubes]


def _falx(length: float) -> list[Part]:
    """The fissure between the hemispheres, the membrane in it and the sinus along its rim."""
    below_rim = Ellipsoid((0, 0, 12), (300, length - 4, 78))
    above_callosum = Outside(Ellipsoid((0, 4, 6), (300, 53, 54)))
    fissure = Common((Ellipsoid((0, 0, 0), (2.6, 1e3, 1e3), roughness_mm=0.5), below_rim, above_callosum))
    membrane = Common(
        (Ellipsoid((0, 0, 0), (1.1, 1e3, 1e3)), below_rim, Outside(Ellipsoid((0, 4, 6), (300, 54, 55))))
    )
    sinus = Tube.through((0, 88, 0, 4), (0, 84, 40, 4), (0, 60, 80, 4))
    return [
        Part(fissure, tissues.even(9, 1), Label.SOFT_TISSUE, 1.6, Label.BRAIN),
        Part(membrane, tissues.even(48, 2), Label.SOFT_TISSUE, 1.4, Label.SOFT_TISSUE),
        Part(sinus, tissues.even(56, 2), Label.SOFT_TISSUE, 1.5),
    ]


def _base() -> list[Part]:
    """Petrous ridges and the sphenoid wings, seen in the lowest slices."""
    bone = tissues.layered(tissues.even(700, 120), tissues.even(1150, 40), 2.0)
    cells = tissues.even(-600, 250)
    parts = []
    for side in (-1, 1):
        ridge = Tube.through((side * 18, 8, -14, 6), (side * 46, 26, -8, 8), (side * 66, 34, -3, 9))
        wing = Tube.through((side * 14, -42, -10, 5), (side * 44, -46, -4, 5), (side * 64, -40, 4, 4))
        mastoid = Ellipsoid((side * 64, 36, -4), (6, 8, 7), roughness_mm=2)
        parts += [Part(ridge, bone, Label.SKULL, 1.3), Part(wing, bone, Label.SKULL, 1.3)]
        parts.append(Part(mastoid, cells, Label.SOFT_TISSUE, 1.5, Label.SKULL))
    return parts
