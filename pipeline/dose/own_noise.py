"""The scan behind images, read from their own noise, without any header."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.dose.calibration import calibrate_flux
from pipeline.dose.field_of_view import FARTHEST_FAN_RAY_MM, canvas_size, covering, farthest_ray_mm
from pipeline.dose.flux import Bowtie, Flux
from pipeline.dose.insertion import Acquisition
from pipeline.dose.regions import uniform_regions
from pipeline.dose.texture import estimate_kernel
from pipeline.errors import DataError
from pipeline.projector import Beam, FanBeam, Kernel, ParallelBeam

_STEP_HU: Final = 1.0
"""HU are stored as whole numbers."""
_START_PHOTONS: Final = 2e5
_DIGITS: Final = 6
"""Significant digits of what is estimated: sums differ in the last bits with the number of threads."""


def read_acquisition(
    hu: npt.NDArray[np.float32],
    visible: npt.NDArray[np.bool_],
    shown: npt.NDArray[np.bool_],
    *,
    pixel_mm: float,
    bowtie: Bowtie | None,
    photons_per_ray: float | None = None,
    kernel_cutoff_per_mm: float | None = None,
    device: torch.device,
) -> Acquisition:
    """Rays, photons and kernel of a scan, as `ldct simulate dose` finds them.

    Args:
        hu: `(sample, rows, columns)` HU of some slices, evenly spread.
        visible: pixels that these slices show, in the same shape; see `field_of_view`.
        shown: `(rows, columns)` pixels that any slice shows.
        pixel_mm: pixel side.
        bowtie: the filter before the patient.
        photons_per_ray: at normal dose, on the central ray without a patient; None to read them.
        kernel_cutoff_per_mm: where the kernel ends; None to read it.
        device: where to compute.

    Raises:
        DataError: nothing is shown, or what is to be read cannot be.
    """
    if not shown.any():
        raise DataError("all pixels are padding")
    beam = _beam(shown, pixel_mm)
    if photons_per_ray is not None and kernel_cutoff_per_mm is not None:
        return Acquisition(beam, Flux(photons_per_ray, bowtie), Kernel(kernel_cutoff_per_mm))
    regions = uniform_regions(hu, ~visible, pixel_mm)
    texture = estimate_kernel(hu, regions, beam)
    if texture.distance is None:
        raise DataError(texture.warning or "the noise cannot be seen")
    kernel = Kernel(_rounded(texture.kernel.cutoff_per_mm), _rounded(texture.kernel.boost))
    if kernel_cutoff_per_mm is not None:
        kernel = Kernel(kernel_cutoff_per_mm)
    scan = Acquisition(beam, Flux(photons_per_ray or _START_PHOTONS, bowtie), kernel)
    if photons_per_ray is not None:
        return scan
    alike = torch.ones(len(hu), device=device)
    photons = calibrate_flux(hu, visible, regions, scan, alike, texture=texture, step_hu=_STEP_HU)
    return replace(scan, flux=replace(scan.flux, photons_per_ray=_rounded(photons)))


def _beam(shown: npt.NDArray[np.bool_], pixel_mm: float) -> Beam:
    """A fan that reaches every pixel shown, or parallel rays where the field of view is too wide for one."""
    size, pixels = canvas_size(*shown.shape), torch.from_numpy(shown)[None]
    parallel = covering(ParallelBeam(size, pixel_mm), pixels)
    if farthest_ray_mm(parallel) > FARTHEST_FAN_RAY_MM:
        return parallel
    return covering(FanBeam(size, pixel_mm), pixels)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
