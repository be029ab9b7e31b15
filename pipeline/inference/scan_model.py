"""The scan behind a series, as far as noise is concerned: rays, photons, kernel, shared slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline import __version__
from pipeline.dicom import Code, Derivation, Geometry, SeriesEntry
from pipeline.dose.calibration import (
    calibrate_flux,
    iterative_kernel_warning,
    measured_sd_hu,
    predicted_sd_hu,
)
from pipeline.dose.field_of_view import canvas_size, covering
from pipeline.dose.flux import BODY, HEAD, Bowtie, Flux, flux_from_tags
from pipeline.dose.insertion import Acquisition
from pipeline.dose.regions import FEWEST_REGIONS, Regions, uniform_regions
from pipeline.dose.texture import KernelFit, estimate_kernel, parse_kernel
from pipeline.errors import DataError
from pipeline.inference.method import Method
from pipeline.inference.survey import Survey
from pipeline.inference.treatment import UnfitSeriesError
from pipeline.projector import Beam, FanBeam, Kernel, ParallelBeam

MISSING_DOSE_TAGS: Final = "MISSING_DOSE_TAGS"
"""Reason code of a series that has no kVp or exposure to take its photons from."""
NOTHING_SHOWN: Final = "NOTHING_SHOWN"
"""Reason code of a series of padding alone."""
FLUX_FROM_TAGS: Final = "FLUX_FROM_TAGS"
FEW_UNIFORM_REGIONS: Final = "FEW_UNIFORM_REGIONS"
POOR_TEXTURE_FIT: Final = "POOR_TEXTURE_FIT"
ITERATIVE_KERNEL: Final = "ITERATIVE_KERNEL"
"""Reason codes of a series that has partners with a warning."""

_HEADS: Final = ("head", "brain", "skull", "neuro", "face", "sinus", "orbit", "temporal")
_DIGITS: Final = 6
"""Significant digits of what is estimated: sums differ in the last bits with the number of threads."""
_SD_DECIMALS: Final = 3
_START: Final = Flux(photons_per_ray=2e5)
"""Where the search for the photons begins."""
_MOST_OVERLAP: Final = 64.0


@dataclass(frozen=True, kw_only=True)
class ScanModel:
    """What the noise of one series is computed from.

    Attributes:
        acquisition: rays, photons and kernel.
        exposure: (slices,) mAs of each slice relative to their mean; 1 where the headers do not tell.
        thickness_over_increment: above 1 neighbouring slices share noise.
        flux_from: `image`, `tags` or `given`.
        kernel_from: `image` or `given`.
        kernel_distance: misfit of the kernel's noise spectrum; None for one that was not fitted.
        survey: the first pass over the series.
        regions: uniform tissue in its sample.
        warnings: what a reader of the result has to know, by reason code.
    """

    acquisition: Acquisition
    exposure: torch.Tensor
    thickness_over_increment: float
    flux_from: str
    kernel_from: str
    kernel_distance: float | None
    survey: Survey
    regions: Regions
    warnings: Mapping[str, str]

    def measured_sd_hu(self, hu: npt.NDArray[np.float32]) -> float | None:
        """Noise of the sample's slices in uniform tissue, at any dose; None where there is none."""
        if not len(self.regions):
            return None
        return round(measured_sd_hu(hu, self.regions, self.acquisition), _SD_DECIMALS)

    def predicted_sd_hu(self, dose_fraction: float) -> float | None:
        """What `measured_sd_hu` should find at a dose."""
        if not len(self.regions):
            return None
        sd_hu = predicted_sd_hu(
            self.survey.hu,
            self.survey.visible,
            self.regions,
            self.acquisition,
            self.exposure[list(self.survey.indices)],
            dose_fraction=dose_fraction,
        )
        return round(sd_hu, _SD_DECIMALS)

    def derivation(self, method: Method) -> Derivation:
        """How the written images say what made them."""
        flux, kernel = self.acquisition.flux, self.acquisition.kernel
        return Derivation(
            model_name="noise insertion",
            model_version="",
            model_hash="",
            settings={
                "geometry": method.geometry,
                "photons per ray": flux.photons_per_ray,
                "bowtie strength": 0.0 if flux.bowtie is None else flux.bowtie.strength,
                "bowtie radius mm": 0.0 if flux.bowtie is None else flux.bowtie.radius_mm,
                "kernel cutoff per mm": str(kernel.cutoff_per_mm),
                "kernel boost": kernel.boost,
                "engine": f"torch-{self.exposure.device.type}",
                "seed": str(method.seed),
            },
            product_version=__version__,
        )


def model_scan(
    entry: SeriesEntry, grid: Geometry | None, survey: Survey, method: Method, device: torch.device
) -> ScanModel:
    """Find the scan behind a series.

    Args:
        entry: the series.
        grid: its regular grid, if it has one.
        survey: the first pass over it.
        method: what is chosen, and what is to be read from the image.
        device: where the noise will be computed.

    Raises:
        UnfitSeriesError: its images show nothing, or there is nothing to take the photons from.
    """
    if not survey.shown.any():
        raise UnfitSeriesError(NOTHING_SHOWN, "all pixels are padding; export the series again")
    pixel_mm = _pixel_mm(entry)
    regions = uniform_regions(survey.hu, ~survey.visible, pixel_mm)
    beam = _beam(method, survey, pixel_mm)
    kernel, fit = _kernel(method, survey, regions, beam)
    exposure = _relative_exposure(entry, device)
    flux, flux_from = _flux(entry, method, survey, regions, Acquisition(beam, _START, kernel), exposure)
    return ScanModel(
        acquisition=Acquisition(beam, flux, kernel),
        exposure=exposure,
        thickness_over_increment=_thickness_over_increment(entry, grid),
        flux_from=flux_from,
        kernel_from="given" if fit is None else "image",
        kernel_distance=None if fit is None else fit.distance,
        survey=survey,
        regions=regions,
        warnings=dict(_warnings(entry, fit, regions, flux_from)),
    )


def _pixel_mm(entry: SeriesEntry) -> float:
    if entry.pixel_spacing_mm is None:
        raise UnfitSeriesError(Code.NO_GEOMETRY, "no PixelSpacing; export the series again")
    return float(np.mean(entry.pixel_spacing_mm))


def _beam(method: Method, survey: Survey, pixel_mm: float) -> Beam:
    """Rays that reach every pixel that any slice shows."""
    size = canvas_size(*survey.shown.shape)
    beam = FanBeam(size, pixel_mm) if method.geometry == "fan" else ParallelBeam(size, pixel_mm)
    return covering(beam, torch.from_numpy(survey.shown)[None])


def _kernel(method: Method, survey: Survey, regions: Regions, beam: Beam) -> tuple[Kernel, KernelFit | None]:
    if method.kernel != "image":
        return parse_kernel(method.kernel, beam.pixel_mm), None
    fit = estimate_kernel(survey.hu, regions, beam)
    return Kernel(_rounded(fit.kernel.cutoff_per_mm), _rounded(fit.kernel.boost)), fit


def _relative_exposure(entry: SeriesEntry, device: torch.device) -> torch.Tensor:
    known = [mas for mas in entry.exposure_mas if mas is not None]
    if len(known) < len(entry.files):
        return torch.ones(len(entry.files), device=device)
    mas = torch.tensor(known, dtype=torch.float64)
    return (mas / mas.mean()).float().to(device)


def _thickness_over_increment(entry: SeriesEntry, grid: Geometry | None) -> float:
    """1 where slices share nothing, or nobody knows."""
    if grid is None or not entry.slice_thickness_mm or entry.slice_thickness_mm <= 0:
        return 1.0
    return min(max(1.0, entry.slice_thickness_mm / grid.spacing_mm[0]), _MOST_OVERLAP)


def _flux(
    entry: SeriesEntry,
    method: Method,
    survey: Survey,
    regions: Regions,
    scan: Acquisition,
    exposure: torch.Tensor,
) -> tuple[Flux, str]:
    """The photons, and where they were read; the tags stand in for an image whose noise cannot be seen."""
    bowtie = _bowtie(method, entry.body_part)
    if isinstance(method.flux, float):
        return Flux(method.flux, bowtie), "given"
    if method.flux == "image":
        scan = replace(scan, flux=replace(scan.flux, bowtie=bowtie))
        of_sample = exposure[list(survey.indices)]
        with suppress(DataError):
            photons = calibrate_flux(survey.hu, survey.visible, regions, scan, of_sample)
            return Flux(_rounded(photons), bowtie), "image"
    return Flux(_rounded(_photons_of_tags(entry, method, scan.beam)), bowtie), "tags"


def _photons_of_tags(entry: SeriesEntry, method: Method, beam: Beam) -> float:
    exposures = [mas for mas in entry.exposure_mas if mas is not None]
    values = {"KVP": entry.kvp, "Exposure": exposures, "SliceThickness": entry.slice_thickness_mm}
    missing = [name for name, value in values.items() if not value]
    if missing or entry.kvp is None or entry.slice_thickness_mm is None:
        why = "" if method.flux == "tags" else "the image's own noise cannot be measured, and "
        raise UnfitSeriesError(
            MISSING_DOSE_TAGS,
            f"{why}no {', '.join(missing)} in the headers; name the photons per ray, e.g. --flux 2e5",
        )
    return flux_from_tags(
        kvp=entry.kvp,
        exposure_mas=float(np.mean(exposures)),
        slice_thickness_mm=entry.slice_thickness_mm,
        beam=beam,
    )


def _bowtie(method: Method, body_part: str | None) -> Bowtie | None:
    if method.bowtie == "auto":
        is_head = any(word in (body_part or "").lower() for word in _HEADS)
        return HEAD if is_head else BODY
    return {"body": BODY, "head": HEAD, "none": None}[method.bowtie]


def _warnings(
    entry: SeriesEntry, fit: KernelFit | None, regions: Regions, flux_from: str
) -> Iterator[tuple[str, str]]:
    iterative = iterative_kernel_warning(entry.kernel, entry.series_description)
    if iterative is not None:
        yield ITERATIVE_KERNEL, iterative
    if len(regions) < FEWEST_REGIONS:
        yield FEW_UNIFORM_REGIONS, "too little uniform tissue to measure the noise"
    if fit is not None and fit.warning is not None:
        yield (POOR_TEXTURE_FIT if len(regions) >= FEWEST_REGIONS else FEW_UNIFORM_REGIONS), fit.warning
    if flux_from == "tags":
        yield FLUX_FROM_TAGS, "photons from the tags are right within a factor of two at best"


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
