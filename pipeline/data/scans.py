"""The scan behind an ingested case: rays, photons and kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.cases import Case
from pipeline.data.low_dose_levels import low_doses_looked_at
from pipeline.data.low_dose_slices import normal_dose_hu, visible_pixels
from pipeline.data.patches import spread_slices
from pipeline.dose.flux import BODY, HEAD
from pipeline.dose.insertion import Acquisition
from pipeline.dose.own_noise import read_acquisition
from pipeline.errors import DataError
from pipeline.hu import body_region
from pipeline.metrics.noise import global_noise_sd_hu, slices_looked_at

_SAMPLE_SLICES: Final = 8
_SLICES_AT_ONCE: Final = 16
_START_PHOTONS: Final = 5e5
_STEPS: Final = 2
"""The first gets within the bins of the level, the second within the read-out noise."""
_ROUNDING_SD_HU: Final = 1 / 12**0.5


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
    shown = torch.stack(
        [
            visible_pixels(normal_dose_hu(case, slice(first, first + _SLICES_AT_ONCE), device)).any(dim=0)
            for first in range(0, case.shape[0], _SLICES_AT_ONCE)
        ]
    ).any(dim=0)
    sample = normal_dose_hu(case, spread_slices(case.shape[0], _SAMPLE_SLICES), device)
    try:
        return read_acquisition(
            sample.cpu().numpy(),
            visible_pixels(sample).cpu().numpy(),
            shown.cpu().numpy(),
            pixel_mm=case.pixel_mm,
            bowtie=HEAD if body_region(case.anatomy) == "head" else BODY,
            photons_per_ray=photons_per_ray,
            kernel_cutoff_per_mm=kernel_cutoff_per_mm,
            device=device,
        )
    except DataError as hidden:
        reason = str(hidden).split("; give ")[0]
        raise DataError(
            f"case {case.case_id}: its own noise cannot be read ({reason}); set "
            "low_dose.assumed_cutoff_per_mm, or, for a training, low_dose.photons_per_ray and "
            "low_dose.kernel_cutoff_per_mm for all, or leave the case out"
        ) from None


def read_or_assumed(
    case: Case,
    *,
    photons_per_ray: float | None,
    kernel_cutoff_per_mm: float | None,
    assumed_cutoff_per_mm: float | None,
    device: torch.device,
) -> tuple[Acquisition, bool]:
    """The scan behind a case's normal dose, and whether any of it is assumed.

    Where anatomy hides the noise's texture, the kernel is assumed, and the photons are those whose noise is
    as strong as all that small regions of soft tissue show (`metrics.noise.global_noise_sd_hu`). Anatomy
    counts there as noise, so the photons are rather too few, and a low dose made with them has at most the
    share of the dose that it is named by.

    Args:
        case: see `case_acquisition`.
        photons_per_ray: see there.
        kernel_cutoff_per_mm: see there.
        assumed_cutoff_per_mm: of the kernel, where it is neither read nor given; None: assume nothing.
        device: where to compute.

    Raises:
        DataError: what is to be read cannot be, and nothing is to be assumed; or there is no noise at all.
    """
    given = {"photons_per_ray": photons_per_ray, "kernel_cutoff_per_mm": kernel_cutoff_per_mm}
    try:
        return case_acquisition(case, **given, device=device), False
    except DataError:
        cutoff_per_mm = kernel_cutoff_per_mm or assumed_cutoff_per_mm
        if cutoff_per_mm is None:
            raise
    scan = case_acquisition(
        case,
        photons_per_ray=photons_per_ray or _START_PHOTONS,
        kernel_cutoff_per_mm=cutoff_per_mm,
        device=device,
    )
    return scan if photons_per_ray is not None else _with_noise_as_measured(case, scan, device), True


def _with_noise_as_measured(case: Case, scan: Acquisition, device: torch.device) -> Acquisition:
    """The scan with the photons that give it the noise level of the case's normal dose.

    What half of the dose adds is as strong as what the whole dose has.
    """
    images = case.normal_dose()[slices_looked_at(case.shape[0])].astype(np.float32)
    level_hu = _level_hu(case, images, images)
    if level_hu < _ROUNDING_SD_HU:
        raise _no_lower_dose(case, "shows no noise in soft tissue")
    for _ in range(_STEPS):
        (half,) = low_doses_looked_at(case, scan, [0.5], device)
        photons = scan.flux.photons_per_ray * (_level_hu(case, images, half - images) / level_hu) ** 2
        scan = replace(scan, flux=replace(scan.flux, photons_per_ray=float(f"{photons:.6g}")))
    return scan


def _level_hu(case: Case, images: npt.NDArray[np.float32], hu: npt.NDArray[np.float32]) -> float:
    """Noise level of `hu` where the case's images show soft tissue."""
    found = global_noise_sd_hu(images, hu)
    if found is None:
        raise _no_lower_dose(case, "shows too little soft tissue")
    return found


def _no_lower_dose(case: Case, lack: str) -> DataError:
    return DataError(
        f"case {case.case_id}: {lack}, so no lower dose can be made of it; leave it out, or, for a "
        "training, set low_dose.photons_per_ray"
    )
