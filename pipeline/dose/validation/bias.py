"""Does the mean stay right where rays are starved? Against the exact mean of the direct simulation.

Filtered back-projection is linear, so the mean image is the image of the mean rays. The mean of the noise
that a ray receives depends on its expected photons alone and is integrated, not drawn; chance is left in the
noisy normal-dose scans that the photons are read from, and given as a standard error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch

from pipeline.dose.insertion import expected_counts
from pipeline.dose.statistics import missing_noise
from pipeline.dose.validation.bench import Bench
from pipeline.dose.validation.check import Check, Measure, Plot
from pipeline.dose.validation.direct import log_moments
from pipeline.dose.validation.objects import Ellipse

DOSES: Final = (0.05, 0.1, 0.25)
LIMIT_HU: Final = 0.5
WHOLE_BODY: Final = Ellipse(95, 61)
REGIONS: Final = {
    "whole body": WHOLE_BODY,
    "between the implants": Ellipse(32, 11),
    "in front of them": Ellipse(50, 14, y_mm=-38),
    "an implant": Ellipse(10, 10, x_mm=52),
}
_STEPS_PER_E_FOLD: Final = 48
_QUANTILES: Final = 4000
_GROUPS: Final = 8
"""Of realisations, each with an image of mean rays; they give the standard error."""


def mean_of_starved_scans(benches: Mapping[str, Bench]) -> Check:
    """Mean of what is inserted into noisy normal-dose scans, against direct scans at the low dose.

    Images with inserted noise are averaged over the whole body too, where few realisations are enough.

    Args:
        benches: by the name of their geometry; fine pixels, as metal in an image of coarse ones is not dark.
    """
    measures, plots = [], []
    for name, bench in benches.items():
        normal_hu = bench.direct_noise_hu(1.0)
        expected_hu, found_hu = _expected_hu(bench), _mean_of_rays_hu(bench, normal_hu)
        drawn_hu = bench.added_noise_hu(normal_hu, DOSES)
        for region_name, shape in REGIONS.items():
            measures += _measures(f"{name}, {region_name}", found_hu, expected_hu, bench.region(shape))
        where = f"{name}, whole body, drawn images"
        measures += _measures(where, drawn_hu, expected_hu, bench.region(WHOLE_BODY))
        profiles = {"direct": expected_hu[0, 0], "inserted": found_hu[0].mean(dim=0)}
        curves = {label: _profile(image_hu, bench) for label, image_hu in profiles.items()}
        plots.append(Plot(f"{name}: added bias at {DOSES[0]:.0%} dose [HU]", "x [mm]", curves))
    least = min(float(bench.counts().min()) for bench in benches.values()) * DOSES[0]
    return Check(
        key="mean",
        title="Mean equals the direct simulation's",
        proves="The logarithm of few counts is biased, and the insertion adds that bias too: mean of the "
        "low-dose image minus the exact mean of the direct simulation, in a body with two implants whose "
        f"darkest rays are left with {least:.2g} photons.",
        quantity="difference [HU]",
        measures=measures,
        plots=plots,
    )


def _expected_hu(bench: Bench) -> torch.Tensor:
    """Mean of the direct simulation at each dose less that at normal dose, `(doses, 1, size, size)` HU."""
    counts = bench.counts()
    bias = log_moments(bench.flux.electronic_variance)
    normal = bias.mean(counts)
    return torch.stack([bench.reconstruct_noise_hu(bias.mean(counts * dose) - normal) for dose in DOSES])


def _mean_of_rays_hu(bench: Bench, normal_dose_noise_hu: torch.Tensor) -> torch.Tensor:
    """The same of the inserted noise, from the mean of every ray over noisy normal-dose scans.

    Returns:
        `(doses, groups, size, size)` HU, an image per group of scans.
    """
    hu = bench.object_hu() + normal_dose_noise_hu
    images = []
    for dose, counts in zip(DOSES, expected_counts(hu, bench.acquisition, dose_fractions=DOSES), strict=True):
        log_counts = counts.log()
        first = float(log_counts.min())
        steps = math.ceil((float(log_counts.max()) - first) * _STEPS_PER_E_FOLD) + 1
        grid = (first + torch.arange(steps + 1) / _STEPS_PER_E_FOLD).exp()
        place = (log_counts - first) * _STEPS_PER_E_FOLD
        lower = place.long().clamp(max=steps - 1)
        table = _mean_noise(grid, dose, bench.flux.electronic_variance)
        means = torch.lerp(table[lower], table[lower + 1], place - lower)
        groups = torch.stack([group.mean(dim=0) for group in means.chunk(_GROUPS)])
        images.append(bench.reconstruct_noise_hu(groups))
    return torch.stack(images)


def _mean_noise(counts: torch.Tensor, dose_fraction: float, electronic_variance: float) -> torch.Tensor:
    """Mean of the noise inserted into rays of these counts, over evenly spaced quantiles."""
    normal = torch.special.ndtri((torch.arange(_QUANTILES) + 0.5) / _QUANTILES).expand(len(counts), -1)
    rays = counts[:, None].expand_as(normal)
    return missing_noise(rays, dose_fraction, normal, electronic_variance=electronic_variance).mean(dim=1)


def _measures(
    where: str, found_hu: torch.Tensor, expected_hu: torch.Tensor, region: torch.Tensor
) -> list[Measure]:
    """Found minus expected in a region, from `(doses, images, size, size)` and `(doses, 1, size, size)`."""
    differences = (found_hu - expected_hu)[..., region].mean(dim=2)
    errors = differences.std(dim=1) / differences.shape[1] ** 0.5
    return [
        Measure(f"{where}, {dose:.0%} dose", value, low=-LIMIT_HU, high=LIMIT_HU, standard_error=error)
        for dose, value, error in zip(DOSES, differences.mean(dim=1).tolist(), errors.tolist(), strict=True)
    ]


def _profile(image_hu: torch.Tensor, bench: Bench) -> tuple[list[float], list[float]]:
    """Mean of the ten millimetres around the row through both implants."""
    half = max(1, round(5 / bench.beam.pixel_mm))
    middle = bench.beam.size // 2
    x_mm = (torch.arange(bench.beam.size) - (bench.beam.size - 1) / 2) * bench.beam.pixel_mm
    return x_mm.tolist(), image_hu[middle - half : middle + half].mean(dim=0).tolist()
