"""Photons per ray from the noise of the normal-dose images themselves, and the noise before and after."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from pipeline.dicom.reconstruction import reduced_noise
from pipeline.dose.insertion import Acquisition, added_sd_hu
from pipeline.dose.regions import FEWEST_REGIONS, Regions
from pipeline.dose.texture import KernelFit, noise_variance_hu2
from pipeline.errors import DataError
from pipeline.metrics.nps import detrended

_OF_ENDLESS_DOSE: Final = 0.01
_TRIMMED: Final = 0.25
"""Share of the regions left out at either end, where a vessel or a streak may hide."""
_STEPS: Final = 20
"""Enough where read-out noise sets the level and each step overshoots."""
_CLOSE_ENOUGH: Final = 0.005
_SLICES_AT_ONCE: Final = 4


class NoNoiseError(DataError):
    """Images whose noise, if any, is lost in the rounding of their pixels."""


def calibrate_flux(
    hu: npt.NDArray[np.float32],
    visible: npt.NDArray[np.bool_],
    regions: Regions,
    acquisition: Acquisition,
    exposure: torch.Tensor,
    *,
    texture: KernelFit,
    step_hu: float,
) -> float:
    """Photons per ray with which simulated noise is as strong as the images' own.

    The images' own noise is told from anatomy by its own texture, whatever kernel the simulated noise has:
    their whole variances are compared. The regions' ratios decide, by the mean of their middle half.

    Args:
        hu: `(slices, rows, columns)` HU at normal dose.
        visible: pixels that show something, in the same shape; see `field_of_view`.
        regions: uniform tissue in the slices.
        acquisition: the scan, with the kernel of the simulated noise; the search begins at its photons.
        exposure: `(slices,)` mAs of each slice relative to that of the photons asked for, on the
            device to use.
        texture: of the images' own noise, `estimate_kernel` of these regions.
        step_hu: HU between neighbouring stored values.

    Raises:
        NoNoiseError: the noise is less than rounding to stored values makes.
        DataError: too few regions or noise too faint to see in them, or no number of photons explains it.
    """
    if len(regions) < FEWEST_REGIONS:
        raise DataError(
            f"{len(regions)} regions of uniform tissue are too few to measure the noise (at least "
            f"{FEWEST_REGIONS}); give the photons per ray, e.g. --flux 2e5"
        )
    is_seen = texture.distance is not None
    plain = _plain_variance_hu2(hu, regions)
    measured = noise_variance_hu2(hu, regions, acquisition.beam, texture.kernel) if is_seen else plain
    if _typical(measured) < step_hu**2 / 12:
        raise NoNoiseError(
            f"uniform tissue shows less noise than rounding to {step_hu:g} HU makes, as no scan does; "
            "give the photons per ray, e.g. --flux 2e5"
        )
    if not is_seen:
        raise DataError(f"{texture.warning}; give the photons per ray, e.g. --flux 2e5")
    photons = acquisition.flux.photons_per_ray
    for _ in range(_STEPS):
        scan = replace(acquisition, flux=replace(acquisition.flux, photons_per_ray=photons))
        expected = _normal_dose_variance_hu2(hu, visible, regions, scan, exposure)
        excess = _typical(measured / expected)
        if not excess > 0:
            raise DataError(
                "the noise of uniform tissue cannot be told from its anatomy; give the photons per ray, "
                "e.g. --flux 2e5"
            )
        photons /= excess
        if abs(excess - 1) < _CLOSE_ENOUGH:
            return photons
    raise DataError(
        f"no number of photons explains the noise (the last one tried is {photons:.2g} per ray); "
        "give it, e.g. --flux 2e5"
    )


def measured_sd_hu(hu: npt.NDArray[np.float32], regions: Regions) -> float:
    """Standard deviation in uniform tissue, around the second-order trend of each region.

    Plain: whatever structure is there counts, at every dose alike.

    Args:
        hu: `(slices, rows, columns)` HU, at any dose.
        regions: uniform tissue in them.

    Raises:
        ValueError: there are no regions.
    """
    if not len(regions):
        raise ValueError("noise is measured in at least one region")
    return float(np.sqrt(_plain_variance_hu2(hu, regions).mean()))


def predicted_sd_hu(
    hu: npt.NDArray[np.float32],
    visible: npt.NDArray[np.bool_],
    regions: Regions,
    acquisition: Acquisition,
    exposure: torch.Tensor,
    *,
    dose_fraction: float,
) -> float:
    """What `measured_sd_hu` will find at a lower dose: noise that is there and noise that is added.

    Args:
        hu: `(slices, rows, columns)` HU at normal dose.
        visible: see `calibrate_flux`.
        regions: uniform tissue in the slices.
        acquisition: the scan, with its photons.
        exposure: see `calibrate_flux`.
        dose_fraction: share of the normal dose.
    """
    added = _added_variance_hu2(hu, visible, regions, acquisition, exposure, dose_fraction)
    return float(np.sqrt(measured_sd_hu(hu, regions) ** 2 + added.mean()))


def iterative_kernel_warning(
    kernel: str | None, description: str | None = None, *, photons_of_noise: bool
) -> str | None:
    """A warning when a kernel name or description tells of an iterative or learned reconstruction.

    The noise of such images follows dose in level and texture by a law of its own. They are smoother than
    their photons, so photons read off their noise are too many.

    Args:
        kernel: ConvolutionKernel; None where absent.
        description: SeriesDescription; None where absent.
        photons_of_noise: whether the photons are read off the noise.
    """
    family = reduced_noise(() if kernel is None else (kernel,), description)
    if family is None:
        return None
    warning = f"{family} reconstruction: its noise changes with dose in level and texture, not as simulated"
    if not photons_of_noise:
        return warning
    return (
        f"{warning}, and overstates the photons, so the simulated dose is too high; give the photons per ray "
        "with --flux where they are known"
    )


def _plain_variance_hu2(hu: npt.NDArray[np.float32], regions: Regions) -> npt.NDArray[np.float64]:
    """`(regions,)` variance around their second-order trend."""
    variance: npt.NDArray[np.float64] = detrended(regions.cut(hu).astype(np.float64)).var(axis=(1, 2))
    return variance


def _typical(values: npt.NDArray[np.float64]) -> float:
    """Mean of the middle half."""
    return float(stats.trim_mean(values, _TRIMMED))


def _normal_dose_variance_hu2(
    hu: npt.NDArray[np.float32],
    visible: npt.NDArray[np.bool_],
    regions: Regions,
    acquisition: Acquisition,
    exposure: torch.Tensor,
) -> npt.NDArray[np.float64]:
    """`(regions,)` noise variance of the scan itself: what a scan of a hundred times its dose would miss."""
    endless = replace(acquisition.flux, photons_per_ray=acquisition.flux.photons_per_ray / _OF_ENDLESS_DOSE)
    scan = replace(acquisition, flux=endless)
    missing = _added_variance_hu2(hu, visible, regions, scan, exposure, _OF_ENDLESS_DOSE)
    return missing / (1 - _OF_ENDLESS_DOSE)


def _added_variance_hu2(
    hu: npt.NDArray[np.float32],
    visible: npt.NDArray[np.bool_],
    regions: Regions,
    acquisition: Acquisition,
    exposure: torch.Tensor,
    dose_fraction: float,
) -> npt.NDArray[np.float64]:
    """`(regions,)` mean variance of what `insert_noise` adds."""
    sd_hu = [
        added_sd_hu(
            torch.from_numpy(hu[part]).to(exposure.device),
            acquisition,
            dose_fraction=dose_fraction,
            exposure=exposure[part],
            visible=torch.from_numpy(visible[part]).to(exposure.device),
        )
        for part in (slice(first, first + _SLICES_AT_ONCE) for first in range(0, len(hu), _SLICES_AT_ONCE))
    ]
    cut = regions.cut(torch.cat(sd_hu).cpu().numpy()).astype(np.float64)
    means: npt.NDArray[np.float64] = (cut**2).mean(axis=(1, 2))
    return means
