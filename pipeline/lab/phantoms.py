"""Noise-free patients, their scans, a disc for the TTF, and batches of patches from memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config.lab import DetailClaim, Phantoms
from pipeline.data.batches import Batch, Part
from pipeline.dose.scanner import Scanner
from pipeline.simulate import REGIONS, make_phantom

Array = npt.NDArray[np.float32]
Role = Literal["train", "validation", "test"]
ROLES: Final[tuple[Role, ...]] = ("train", "validation", "test")
_OVERSAMPLING: Final = 8
_MARGIN_PIXELS: Final = 16
"""Around what is measured of a disc: deep networks see zeros beyond the border."""


@dataclass(frozen=True)
class Slices:
    """Slices of the patients of one role, cut to the middle of the field of view.

    Attributes:
        truth: `(S, side, side)` whole HU without noise.
        normal_dose: the same slices scanned at normal dose; equal to the truth where nothing is scanned.
        low_dose: an independent scan at a lower dose, likewise.
    """

    truth: Array
    normal_dose: Array
    low_dose: Array


@cache
def patients_hu(phantoms: Phantoms, role: Role, seed: int) -> Array:
    """`(S, matrix, matrix)` noise-free HU of the patients of a role: others for every seed and role."""
    shape = (phantoms.slices, phantoms.matrix, phantoms.matrix)
    spacing_mm = (phantoms.slice_increment_mm, phantoms.pixel_mm, phantoms.pixel_mm)
    volumes = [
        make_phantom(
            region,
            np.random.default_rng([seed, ROLES.index(role), REGIONS.index(region), patient]),
            shape=shape,
            spacing_mm=spacing_mm,
        ).hu
        for region in phantoms.regions
        for patient in range(getattr(phantoms, f"{role}_patients"))
    ]
    whole_hu: Array = np.rint(np.concatenate(volumes))
    return whole_hu


def unscanned(phantoms: Phantoms, role: Role, seed: int) -> Slices:
    """Slices as they are drawn, in whole HU: noise comes from a degradation."""
    truth = middle(patients_hu(phantoms, role, seed), phantoms.side)
    return Slices(truth, truth, truth)


def scanned(phantoms: Phantoms, scanner: Scanner, role: Role, seed: int, *, dose_fraction: float) -> Slices:
    """Slices through a scanner: noise-free, at normal dose, and, independent of it, at a fraction."""
    integrals = scanner.measure(patients_hu(phantoms, role, seed))
    rng = np.random.default_rng([seed, ROLES.index(role), len(REGIONS)])  # no patient has this seed
    scans = [integrals, scanner.expose(integrals, 1.0, rng), scanner.expose(integrals, dose_fraction, rng)]
    truth, normal_dose, low_dose = (
        np.rint(middle(image, phantoms.side)) for image in scanner.reconstruct(scans)
    )
    return Slices(truth, normal_dose, low_dose)


def middle(images: Array, side: int) -> Array:
    """The central square of images `(..., H, W)`."""
    top, left = ((length - side) // 2 for length in images.shape[-2:])
    square: Array = images[..., top : top + side, left : left + side]
    return square


def disc(claim: DetailClaim, pixel_mm: float) -> Array:
    """`(S, S)` HU: a disc in a uniform surround, each pixel the mean over its area."""
    reach = claim.radius_mm + claim.reach_mm
    side = 2 * (int(np.ceil(reach / pixel_mm)) + _MARGIN_PIXELS) + 1
    fine = (np.arange(side * _OVERSAMPLING) + 0.5) / _OVERSAMPLING - side / 2
    inside = np.hypot(fine[:, None], fine[None, :]) * pixel_mm < claim.radius_mm
    share = inside.reshape(side, _OVERSAMPLING, side, _OVERSAMPLING).mean(axis=(1, 3))
    hu: Array = (claim.background_hu + claim.contrast_hu * share).astype(np.float32)
    return hu


class MemoryBatches:
    """Random patches, turned and flipped, from images that all have one shape.

    Args:
        images: by key of the batch, `(S, H, W)` HU each, cut at the same places.
        pixel_mm: side of a pixel.
        patch_size: pixels.
        batch_size: patches of a batch.
        seed: of the places.
    """

    def __init__(
        self, images: Mapping[str, Array], *, pixel_mm: float, patch_size: int, batch_size: int, seed: int
    ) -> None:
        self.batch_size = batch_size
        self._images = {name: torch.from_numpy(np.ascontiguousarray(image)) for name, image in images.items()}
        self._pixel_mm = pixel_mm
        self._patch = patch_size
        self._seed = seed

    def __getitem__(self, part: Part) -> Batch:
        """`(n, 1, P, P)` float32 HU under each key, and `pixel_mm` (n,)."""
        rng = np.random.default_rng([self._seed, part.step])
        count, height, width = next(iter(self._images.values())).shape
        ends = (count, height - self._patch + 1, width - self._patch + 1, 4, 2)
        drawn = np.stack([rng.integers(end, size=self.batch_size) for end in ends], axis=1)
        places = [tuple(map(int, drawn[position])) for position in part.share(self.batch_size)]
        batch = {name: torch.stack([self._cut(i, p) for p in places]) for name, i in self._images.items()}
        return batch | {"pixel_mm": torch.full((len(places),), self._pixel_mm)}

    def on_device(self, batch: Batch, part: Part, *, generator: torch.Generator) -> Batch:  # noqa: ARG002 (protocol)
        """The batch as it is."""
        return batch

    def _cut(self, images: Tensor, place: tuple[int, ...]) -> Tensor:
        index, row, column, quarters, flipped = place
        patch = images[index, row : row + self._patch, column : column + self._patch]
        turned = torch.rot90(patch, quarters)
        return (turned.flip(1) if flipped else turned)[None]
