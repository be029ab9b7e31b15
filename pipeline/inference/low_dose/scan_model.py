"""The scan behind a series, as far as noise is concerned: rays, photons, kernel, shared slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline import __version__
from pipeline.dicom import Code, Derivation, Geometry, SeriesEntry
from pipeline.dose.calibration import iterative_kernel_warning, measured_sd_hu, predicted_sd_hu
from pipeline.dose.field_of_view import FARTHEST_FAN_RAY_MM, canvas_size, covering, farthest_ray_mm
from pipeline.dose.flux import Flux
from pipeline.dose.insertion import Acquisition
from pipeline.dose.regions import FEWEST_REGIONS, Regions, uniform_regions
from pipeline.dose.texture import KernelFit, estimate_kernel, parse_kernel
from pipeline.inference.low_dose.method import Method
from pipeline.inference.low_dose.scan_flux import find_flux, rounded
from pipeline.inference.survey import Survey
from pipeline.inference.treatment import UnfitSeriesError
from pipeline.projector import Beam, FanBeam, Kernel, ParallelBeam

NOTHING_SHOWN: Final = "NOTHING_SHOWN"
"""Reason code of a series of padding alone."""
FIELD_TOO_WIDE: Final = "FIELD_TOO_WIDE"
"""Reason code of a series whose field of view the fan does not cover."""
IMPLAUSIBLE_TAGS: Final = "IMPLAUSIBLE_TAGS"
FEW_UNIFORM_REGIONS: Final = "FEW_UNIFORM_REGIONS"
MORE_ANATOMY_THAN_NOISE: Final = "MORE_ANATOMY_THAN_NOISE"
POOR_TEXTURE_FIT: Final = "POOR_TEXTURE_FIT"
ITERATIVE_KERNEL: Final = "ITERATIVE_KERNEL"
"""Reason codes of a series that has partners with a warning."""

_ASSUMED: Final = ": a Hann kernel is assumed, name another with --kernel"
_SD_DECIMALS: Final = 3
_START: Final = Flux(photons_per_ray=2e5)
"""Where the search for the photons begins."""
_MOST_MODULATION: Final = 20.0
_MOST_OVERLAP: Final = 10.0
"""Largest over smallest mAs, and thickness over increment, that a scanner is thought to write."""


@dataclass(frozen=True, kw_only=True)
class ScanModel:
    """What the noise of one series is computed from.

    Attributes:
        acquisition: rays, photons and kernel.
        exposure: (slices,) mAs of each slice relative to their mean; 1 where the headers do not tell, or
            nothing plausible.
        thickness_over_increment: above 1 neighbouring slices share noise.
        flux_from: `image`, `tags` or `given`.
        kernel_from: `image`, `given`, or `assumed` where the image does not tell.
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
        """Plain SD of the sample's slices in uniform tissue, at any dose; None where there is none."""
        if not len(self.regions):
            return None
        return round(measured_sd_hu(hu, self.regions), _SD_DECIMALS)

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
        UnfitSeriesError: its images show nothing or more than the rays reach, or there is nothing to take the
            photons from.
    """
    if not survey.shown.any():
        raise UnfitSeriesError(NOTHING_SHOWN, "all pixels are padding; export the series again")
    pixel_mm = _pixel_mm(entry)
    regions = uniform_regions(survey.hu, ~survey.visible, pixel_mm)
    beam = _beam(method, survey, pixel_mm)
    texture = estimate_kernel(survey.hu, regions, beam)
    kernel, kernel_from = _kernel(method, texture, beam)
    relative_mas, mas_doubt = _relative_mas(entry)
    overlap, overlap_doubt = _thickness_over_increment(entry, grid)
    exposure = relative_mas.to(device)
    found = find_flux(entry, method, survey, regions, texture, Acquisition(beam, _START, kernel), exposure)
    doubts = [doubt for doubt in (mas_doubt, overlap_doubt) if doubt is not None]
    return ScanModel(
        acquisition=Acquisition(beam, found.flux, kernel),
        exposure=exposure,
        thickness_over_increment=overlap,
        flux_from=found.source,
        kernel_from=kernel_from,
        kernel_distance=texture.distance if kernel_from == "image" else None,
        survey=survey,
        regions=regions,
        warnings={**dict(_warnings(entry, method, texture, found.source, doubts)), **found.warnings},
    )


def _pixel_mm(entry: SeriesEntry) -> float:
    if entry.pixel_spacing_mm is None:
        raise UnfitSeriesError(Code.NO_GEOMETRY, "no PixelSpacing; export the series again")
    return float(np.mean(entry.pixel_spacing_mm))


def _beam(method: Method, survey: Survey, pixel_mm: float) -> Beam:
    """Rays that reach every pixel that any slice shows."""
    size, shown = canvas_size(*survey.shown.shape), torch.from_numpy(survey.shown)[None]
    parallel = covering(ParallelBeam(size, pixel_mm), shown)
    if method.geometry == "parallel":
        return parallel
    farthest_mm = farthest_ray_mm(parallel)
    if farthest_mm > FARTHEST_FAN_RAY_MM:
        raise UnfitSeriesError(
            FIELD_TOO_WIDE,
            f"a field of view of {size * pixel_mm:.0f} mm needs rays {farthest_mm:.0f} mm off the isocentre, "
            f"a fan has them up to {FARTHEST_FAN_RAY_MM:g} mm; use --geometry parallel",
        )
    return covering(FanBeam(size, pixel_mm), shown)


def _kernel(method: Method, texture: KernelFit, beam: Beam) -> tuple[Kernel, str]:
    """The kernel of the noise to insert, and where it is from."""
    if method.kernel != "image":
        return parse_kernel(method.kernel, beam.pixel_mm), "given"
    kernel = Kernel(rounded(texture.kernel.cutoff_per_mm), rounded(texture.kernel.boost))
    return kernel, "assumed" if texture.distance is None else "image"


def _relative_mas(entry: SeriesEntry) -> tuple[torch.Tensor, str | None]:
    """1 where nobody knows; and why not to believe what the headers say."""
    known = [mas for mas in entry.exposure_mas if mas is not None]
    alike = torch.ones(len(entry.files))
    if len(known) < len(entry.files):
        return alike, None
    if max(known) > _MOST_MODULATION * min(known):
        return alike, f"{min(known):g} to {max(known):g} mAs in one series"
    mas = torch.tensor(known, dtype=torch.float64)
    return (mas / mas.mean()).float(), None


def _thickness_over_increment(entry: SeriesEntry, grid: Geometry | None) -> tuple[float, str | None]:
    """1 where slices share nothing, or nobody knows; and why not to believe what the headers say."""
    thickness_mm = entry.slice_thickness_mm
    if grid is None or thickness_mm is None:
        return 1.0, None
    increment_mm = grid.spacing_mm[0]
    if not 0 < thickness_mm <= _MOST_OVERLAP * increment_mm:
        return 1.0, f"slices {thickness_mm:g} mm thick and {increment_mm:g} mm apart"
    return max(1.0, thickness_mm / increment_mm), None


def _warnings(
    entry: SeriesEntry, method: Method, texture: KernelFit, flux_from: str, doubts: Sequence[str]
) -> Iterator[tuple[str, str]]:
    iterative = iterative_kernel_warning(
        entry.kernel, entry.series_description, photons_of_noise=flux_from == "image"
    )
    if iterative is not None:
        yield ITERATIVE_KERNEL, iterative
    if texture.warning is not None and "image" in (method.kernel, method.flux):
        assumed = method.kernel == "image" and texture.distance is None
        yield _texture_code(texture), f"{texture.warning}{_ASSUMED if assumed else ''}"
    if doubts:
        yield (
            IMPLAUSIBLE_TAGS,
            f"{' and '.join(doubts)}: not believed, all slices count alike and on their own",
        )


def _texture_code(texture: KernelFit) -> str:
    """What stands in the way of reading the noise."""
    if texture.distance is not None:
        return POOR_TEXTURE_FIT
    return FEW_UNIFORM_REGIONS if texture.regions < FEWEST_REGIONS else MORE_ANATOMY_THAN_NOISE
