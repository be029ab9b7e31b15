"""Lower doses of an ingested case's normal-dose slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pipeline.data.cases import Case
from pipeline.data.patches import spread_slices
from pipeline.dose.field_of_view import field_of_view
from pipeline.dose.flux import BODY, HEAD
from pipeline.dose.insertion import Acquisition, insert_noise
from pipeline.dose.own_noise import read_acquisition
from pipeline.dose.realisations import NoiseRealisations
from pipeline.errors import DataError
from pipeline.hu import LOWEST_HU, body_region
from pipeline.metrics.noise import REGION_PIXELS, SOFT_TISSUE
from pipeline.projector.patches import FilteredViews

_SAMPLE_SLICES: Final = 8
_SLICES_AT_ONCE: Final = 16
_SEEDS: Final = 2**31
_SD_PIXELS: Final = 1024
"""Enough for the SD of a slice's noise within 2 %."""


def case_acquisition(
    case: Case,
    *,
    photons_per_ray: float | None,
    kernel_cutoff_per_mm: float | None,
    device: torch.device,
) -> Acquisition:
    """The scan behind a case's normal dose.

    Args:
        case: pixels should be square; else their mean side counts.
        photons_per_ray: at normal dose, on the central ray without a patient; None to read them from the
            images' own noise.
        kernel_cutoff_per_mm: where the kernel ends; None to read it.
        device: where to compute.

    Raises:
        DataError: what is to be read cannot be.
    """
    volume = case.normal_dose()
    shown = torch.stack(
        [
            visible_pixels(_hu(volume[first : first + _SLICES_AT_ONCE], device)).any(dim=0)
            for first in range(0, len(volume), _SLICES_AT_ONCE)
        ]
    ).any(dim=0)
    sample = _hu(volume[spread_slices(len(volume), _SAMPLE_SLICES)], device)
    try:
        return read_acquisition(
            sample.cpu().numpy(),
            visible_pixels(sample).cpu().numpy(),
            shown.cpu().numpy(),
            pixel_mm=pixel_side_mm(case),
            bowtie=HEAD if body_region(case.anatomy) == "head" else BODY,
            photons_per_ray=photons_per_ray,
            kernel_cutoff_per_mm=kernel_cutoff_per_mm,
            device=device,
        )
    except DataError as unreadable:
        reason = str(unreadable).split("; give ")[0]
        raise DataError(
            f"case {case.case_id}: its own noise cannot be read ({reason}); set low_dose.photons_per_ray and "
            "low_dose.kernel_cutoff_per_mm, or leave the case out"
        ) from None


def low_dose_slice(
    case: Case,
    index: int,
    acquisition: Acquisition,
    *,
    dose_fraction: float,
    generator: torch.Generator,
) -> npt.NDArray[np.float32]:
    """One slice at a lower dose, exactly as `ldct simulate dose` makes it: for validation.

    Args:
        case: with a normal dose.
        index: of the slice.
        acquisition: of the case.
        dose_fraction: share of the normal dose.
        generator: the same state gives the same noise; its device is where it is computed.

    Returns:
        `(rows, columns)` HU.

    Raises:
        ValueError: the dose fraction is not between 0 and 1.
    """
    hu = _hu(case.normal_dose()[index : index + 1], generator.device)
    seed = int(torch.randint(_SEEDS, (1,), generator=generator, device=generator.device))
    (low_dose,) = insert_noise(
        hu,
        acquisition,
        dose_fractions=[dose_fraction],
        slice_index=index,
        seed=seed,
        visible=visible_pixels(hu),
    )
    image: npt.NDArray[np.float32] = low_dose[0].cpu().numpy()
    return image


@dataclass(frozen=True)
class SliceNoise:
    """Noise drawn for one slice, to be looked at anywhere in it.

    Attributes:
        realisations: that it was drawn by.
        views: the noise in filtered views.
        visible: (rows, columns) bool, pixels that show something.
        soft: (K, 2) rows and columns of soft tissue.
    """

    realisations: NoiseRealisations
    views: FilteredViews
    visible: Tensor
    soft: Tensor

    def windows_hu(self, corners: Tensor, side: int) -> Tensor:
        """(K, side, side) HU from these first rows and columns, (K, 2), on; zero where nothing is shown."""
        noise_hu = self.realisations.patches_hu(self.views, corners, side, self._shape)
        steps = torch.arange(side, device=corners.device)
        rows, columns = (first[:, None] + steps for first in corners.unbind(1))
        return noise_hu * self.visible[rows[:, :, None], columns[:, None, :]]

    def soft_tissue_sd_hu(self) -> Tensor:
        """Standard deviation in the slice's soft tissue, a scalar, within 2 %."""
        return self.realisations.patches_hu(self.views, self.soft, 1, self._shape).square().mean().sqrt()

    @property
    def _shape(self) -> tuple[int, int]:
        rows, columns = self.visible.shape
        return rows, columns


class CaseNoise:
    """Draws noise for a case's slices; what it is drawn from is computed once and stays.

    Args:
        case: with a normal dose.
        acquisition: of the case.
        side: pixels along an edge of the largest window.
        device: where the noise is drawn.
    """

    def __init__(self, case: Case, acquisition: Acquisition, *, side: int, device: torch.device) -> None:
        self._case = case
        self._noise = NoiseRealisations(acquisition, side=side)
        self._device = device
        self._kept: dict[int, _Kept] = {}

    def draw(self, index: int, dose_fraction: float, *, generator: torch.Generator) -> SliceNoise:
        """The noise that a dose lacks in one slice, new at every call.

        Args:
            index: of the slice.
            dose_fraction: share of the normal dose.
            generator: on the device.
        """
        if index not in self._kept:
            self._kept[index] = self._keep(index)
        kept = self._kept[index]
        (rays,) = self._noise.draw(kept.rays[None], [dose_fraction], generator=generator)
        return SliceNoise(self._noise, self._noise.filtered(rays), kept.visible, kept.soft)

    def _keep(self, index: int) -> _Kept:
        """Of one slice, projected alone, so that its last bits do not depend on others."""
        hu = _hu(self._case.normal_dose()[index : index + 1], self._device)
        visible = visible_pixels(hu)
        same = (kept.visible for kept in self._kept.values() if torch.equal(kept.visible, visible[0]))
        return _Kept(
            rays=self._noise.line_integrals(hu, visible)[0],
            visible=next(same, visible[0]),
            soft=_soft_tissue(hu, visible[0]),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without what is kept: a loading process draws no noise."""
        return vars(self) | {"_kept": {}}


@dataclass(frozen=True)
class _Kept:
    """Of a slice, on the device.

    Attributes:
        rays: line integrals, float16; see `NoiseRealisations.line_integrals`.
        visible: (rows, columns) bool, shared by slices that show the same pixels.
        soft: (K, 2) rows and columns of soft tissue, of any pixels where there is none.
    """

    rays: Tensor
    visible: Tensor
    soft: Tensor


def visible_pixels(hu: Tensor) -> Tensor:
    """`(N, rows, columns)` bool, pixels of these slices that show something."""
    return field_of_view(hu, hu < LOWEST_HU)


def pixel_side_mm(case: Case) -> float:
    """Mean of the row and column spacing."""
    return float(np.mean(case.spacing_mm[1:]))


def _hu(slices: npt.NDArray[np.int16], device: torch.device) -> Tensor:
    return torch.from_numpy(slices.astype(np.float32)).to(device)


def _soft_tissue(hu: Tensor, visible: Tensor) -> Tensor:
    """(K, 2) places in soft tissue, evenly taken; where there is none, among the visible pixels, or all."""
    mean = avg_pool2d(hu, REGION_PIXELS, stride=1, padding=REGION_PIXELS // 2)[0]
    soft = (mean > SOFT_TISSUE.low) & (mean < SOFT_TISSUE.high) & visible
    places = next(mask.nonzero() for mask in (soft, visible, torch.ones_like(visible)) if bool(mask.any()))
    return places[:: max(1, len(places) // _SD_PIXELS)]
