"""Photons per ray from the noise of the normal-dose images themselves, and the noise before and after."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from pipeline.dose.insertion import Acquisition, added_sd_hu
from pipeline.dose.regions import FEWEST_REGIONS, Regions
from pipeline.dose.texture import noise_variance_hu2
from pipeline.errors import DataError

_OF_ENDLESS_DOSE: Final = 0.01
_TRIMMED: Final = 0.25
"""Share of the regions left out at either end, where a vessel or a streak may hide."""
_STEPS: Final = 6
_CLOSE_ENOUGH: Final = 0.005
_SLICES_AT_ONCE: Final = 4

_ITERATIVE: Final = {
    "SAFIRE, ADMIRE or QIR": r"\b[IJ]\d{2}[a-z]?\b|\b[BHQTU][a-z]\d{2}[a-z]?[\\/ ,_]+[1-5]\b"
    r"|SAFIRE|ADMIRE|\bIRIS\b|\bQIR\b",
    "ASiR or Veo": r"\bASIR|\bAR\d{2,3}\b|\bVEO\b",
    "TrueFidelity": r"TRUE ?FIDELITY|\bDLIR|\bDL-?[LMH]\b",
    "AIDR or FIRST": r"\bE?AIDR|\bFIRST (BODY|BONE|BRAIN|CARDIAC|LUNG)\b",
    "AiCE or PIQE": r"\bAICE|\bPIQE",
    "iDose or IMR": r"\bI-?DOSE|\bIMR\d?\b",
    "Precise Image": r"\bPRECISE ?IMAGE",
    "iterative or learned": r"ITERATIVE|DEEP ?(LEARNING|RECON)|\bMBIR\b|CLEARVIEW|\bKARL\b|INTELLI ?IP",
}
"""Reconstructions that are not filtered back-projection, and how kernel names and descriptions show them."""


def calibrate_flux(
    hu: npt.NDArray[np.float32],
    visible: npt.NDArray[np.bool_],
    regions: Regions,
    acquisition: Acquisition,
    exposure: torch.Tensor,
) -> float:
    """Photons per ray with which simulated noise is as strong as the images' own.

    The regions' ratios of variance decide, by the mean of their middle half.

    Args:
        hu: `(slices, rows, columns)` HU at normal dose.
        visible: pixels that show something, in the same shape; see `field_of_view`.
        regions: uniform tissue in the slices.
        acquisition: the scan, its kernel that of the images; the search begins at its photons.
        exposure: `(slices,)` mAs of each slice relative to that of the photons asked for, on the
            device to use.

    Raises:
        DataError: too few regions, or no noise in them.
    """
    if len(regions) < FEWEST_REGIONS:
        raise DataError(
            f"{len(regions)} regions of uniform tissue are too few to measure the noise (at least "
            f"{FEWEST_REGIONS}); give the photons per ray, e.g. --flux 2e5"
        )
    measured = noise_variance_hu2(hu, regions, acquisition.beam, acquisition.kernel)
    photons = acquisition.flux.photons_per_ray
    for _ in range(_STEPS):
        scan = replace(acquisition, flux=replace(acquisition.flux, photons_per_ray=photons))
        expected = _normal_dose_variance_hu2(hu, visible, regions, scan, exposure)
        excess = _typical(measured / expected)
        if not excess > 0:
            raise DataError(
                "uniform tissue shows no noise beside its anatomy; give the photons per ray, e.g. --flux 2e5"
            )
        photons /= excess
        if abs(excess - 1) < _CLOSE_ENOUGH:
            break
    return photons


def measured_sd_hu(hu: npt.NDArray[np.float32], regions: Regions, acquisition: Acquisition) -> float:
    """Standard deviation of the noise in uniform tissue, from the variance in its middle half of regions.

    Args:
        hu: `(slices, rows, columns)` HU, at any dose.
        regions: uniform tissue in them.
        acquisition: tells what the noise looks like.

    Raises:
        ValueError: there are no regions.
    """
    if not len(regions):
        raise ValueError("noise is measured in at least one region")
    variance = _typical(noise_variance_hu2(hu, regions, acquisition.beam, acquisition.kernel))
    return float(np.sqrt(max(variance, 0.0)))


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
    return float(np.sqrt(measured_sd_hu(hu, regions, acquisition) ** 2 + _typical(added)))


def iterative_kernel_warning(*texts: str | None) -> str | None:
    """A warning when a kernel name or description tells of an iterative or learned reconstruction.

    Such images are smoother than their photons, so photons read off their noise are too many.

    Args:
        *texts: ConvolutionKernel, SeriesDescription, reconstruction names and the like; None where absent.
    """
    for family, pattern in _ITERATIVE.items():
        if any(text and re.search(pattern, text, re.IGNORECASE) for text in texts):
            return (
                f"{family} reconstruction: the image's own noise overstates its photons, so the simulated "
                "dose is too high; give the photons per ray with --flux where they are known"
            )
    return None


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
