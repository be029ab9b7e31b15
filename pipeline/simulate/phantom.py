"""Phantom patients: a region of a body as CT numbers, labels and known factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.simulate.fields import Array
from pipeline.simulate.head import brain_lesion, sample_head
from pipeline.simulate.labels import Label
from pipeline.simulate.painting import Canvas, Factors, Grid, Patient
from pipeline.simulate.trunk import liver_lesion, lung_lesion, sample_trunk

REGIONS: Final = ("head", "chest", "abdomen")

_CENTRE_Z_MM = {"head": 38.0, "chest": 62.0, "abdomen": -72.0}
_WARP_MM = {"head": 2.0, "chest": 4.0, "abdomen": 4.0}
_LESION_DIAMETER_MM = {"head": (8.0, 22.0), "chest": (7.0, 22.0), "abdomen": (10.0, 30.0)}
_LESION_SHARE = 0.5
_ORGANS = (Label.LUNGS, Label.HEART, Label.LIVER, Label.SPLEEN, Label.KIDNEYS, Label.BRAIN, Label.LESION)


@dataclass(frozen=True)
class Phantom:
    """One patient's volume.

    Attributes:
        hu: `(slices, rows, columns)` float32 HU, slice 0 at the feet's end, row 0 at the front.
        labels: the same shape, uint8 values of `Label`.
        factors: what is known of the patient (region, body scale, lesion, …) and, in ml, how much of each
            organ and of the lesion the volume's slices show.
    """

    hu: Array
    labels: npt.NDArray[np.uint8]
    factors: Factors


def make_phantom(
    region: str,
    rng: np.random.Generator,
    *,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> Phantom:
    """Draw one patient and sample the region on a grid.

    Args:
        region: `head`, `chest` or `abdomen`.
        rng: draws the patient; the same state gives the same patient.
        shape: slices, rows, columns.
        spacing_mm: between slices, rows, columns.

    Raises:
        ValueError: an unknown region.
    """
    if region not in REGIONS:
        raise ValueError(f"unknown region {region!r}; choose from {', '.join(REGIONS)}")
    scale = float(rng.uniform(0.93, 1.04))
    z_mm = _CENTRE_Z_MM[region] + float(rng.normal(0, 4))
    body_spacing = (spacing_mm[0] / scale, spacing_mm[1] / scale, spacing_mm[2] / scale)
    canvas = Canvas(rng, Grid.around(z_mm, shape, body_spacing), warp_mm=_WARP_MM[region])
    patient = _sample_patient(region, rng, scale)
    painted = [canvas.paint(patient.parts, index) for index in range(shape[0])]
    labels = np.stack([slice_labels for _, slice_labels in painted])
    return Phantom(
        hu=np.stack([hu for hu, _ in painted]),
        labels=labels,
        factors=patient.factors | _volumes_ml(labels, spacing_mm),
    )


def _sample_patient(region: str, rng: np.random.Generator, scale: float) -> Patient:
    diseased = bool(rng.random() < _LESION_SHARE)
    diameter_mm = float(rng.uniform(*_LESION_DIAMETER_MM[region]))
    draw = {"head": brain_lesion, "chest": lung_lesion, "abdomen": liver_lesion}[region]
    lesion = draw(rng, diameter_mm / scale) if diseased else None
    factors: Factors = {
        "region": region,
        "body_scale": round(scale, 3),
        "lesion_present": diseased,
        "lesion_diameter_mm": round(diameter_mm, 1) if diseased else 0.0,
    }
    sample = sample_head if region == "head" else sample_trunk
    return sample(rng, lesion, factors)


def _volumes_ml(labels: npt.NDArray[np.uint8], spacing_mm: tuple[float, float, float]) -> Factors:
    voxels = np.bincount(labels.ravel(), minlength=len(Label))
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    return {f"{organ.name.lower()}_ml": round(float(voxels[organ]) * voxel_ml, 2) for organ in _ORGANS}
