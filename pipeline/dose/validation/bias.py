"""Does the mean stay right where rays are starved? Against the exact mean of the direct simulation.

Filtered back-projection is linear, so the mean image is the image of the mean rays, which take few
realisations to know: the mean of the noise drawn for a ray depends on its expected photons alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch

from pipeline.dose.insertion import expected_counts
from pipeline.dose.statistics import draw_missing_noise
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
_STEPS_PER_E_FOLD: Final = 12
_STARVED: Final = 100.0
"""Photons left below which the mean is large and varies most, so that it takes more draws."""
_DRAWS: Final = 50_000


def mean_of_starved_scans(benches: Mapping[str, Bench], draws: int) -> Check:
    """Mean of what is inserted into noisy normal-dose scans, against direct scans at the low dose.

    Images with inserted noise are averaged over the whole body, where few realisations are enough; smaller
    regions are reconstructed from mean rays.

    Args:
        benches: by the name of their geometry; fine pixels, as metal in an image of coarse ones is not dark.
        draws: for the mean of a starved ray; 600,000 leave 0.1 HU of chance between the implants.
    """
    measures, plots = [], []
    for name, bench in benches.items():
        normal_hu = bench.direct_noise_hu(1.0)
        expected_hu, found_hu = _expected_hu(bench), _mean_of_rays_hu(bench, normal_hu, draws)
        for region_name, shape in REGIONS.items():
            measures += _measures(f"{name}, {region_name}", (found_hu - expected_hu)[:, bench.region(shape)])
        drawn_hu = bench.added_noise_hu(normal_hu, DOSES).mean(dim=1)
        in_body = (drawn_hu - expected_hu)[:, bench.region(WHOLE_BODY)]
        measures += _measures(f"{name}, whole body, drawn images", in_body)
        profiles = {"direct": _profile(expected_hu[0], bench), "inserted": _profile(found_hu[0], bench)}
        plots.append(Plot(f"{name}: added bias at {DOSES[0]:.0%} dose [HU]", "x [mm]", profiles))
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
    """Mean of the direct simulation at each dose less its mean at normal dose, `(doses, size, size)` HU."""
    counts = bench.counts()
    bias = log_moments(bench.flux.electronic_variance)
    normal = bias.mean(counts)
    return torch.cat([bench.reconstruct_noise_hu(bias.mean(counts * dose) - normal) for dose in DOSES])


def _mean_of_rays_hu(bench: Bench, normal_dose_noise_hu: torch.Tensor, draws: int) -> torch.Tensor:
    """The same of the inserted noise, from the mean of every ray over noisy normal-dose scans."""
    hu = bench.object_hu() + normal_dose_noise_hu
    images = []
    for dose, counts in zip(DOSES, expected_counts(hu, bench.acquisition, dose_fractions=DOSES), strict=True):
        log_counts = counts.log()
        first = float(log_counts.min())
        steps = math.ceil((float(log_counts.max()) - first) * _STEPS_PER_E_FOLD) + 1
        grid = (first + torch.arange(steps + 1) / _STEPS_PER_E_FOLD).exp()
        place = (log_counts - first) * _STEPS_PER_E_FOLD
        lower = place.long().clamp(max=steps - 1)
        table = _mean_noise(grid, dose, bench, draws)
        mean = torch.lerp(table[lower], table[lower + 1], place - lower).mean(dim=0, keepdim=True)
        images.append(bench.reconstruct_noise_hu(mean))
    return torch.cat(images)


def _mean_noise(counts: torch.Tensor, dose_fraction: float, bench: Bench, draws: int) -> torch.Tensor:
    """Mean of the noise drawn for rays of these counts."""
    generator = torch.Generator().manual_seed(bench.seed)
    means = []
    for count in counts:
        rays = count.expand(draws if count * dose_fraction < _STARVED else _DRAWS)
        noise = draw_missing_noise(
            rays, dose_fraction, generator, electronic_variance=bench.flux.electronic_variance
        )
        means.append(noise.mean())
    return torch.stack(means)


def _measures(where: str, difference_hu: torch.Tensor) -> list[Measure]:
    """The mean over the pixels of a region, `(doses, pixels)`."""
    return [
        Measure(f"{where}, {dose:.0%} dose", float(difference.mean()), low=-LIMIT_HU, high=LIMIT_HU)
        for dose, difference in zip(DOSES, difference_hu, strict=True)
    ]


def _profile(image_hu: torch.Tensor, bench: Bench) -> tuple[list[float], list[float]]:
    """Mean of the ten millimetres around the row through both implants."""
    half = max(1, round(5 / bench.beam.pixel_mm))
    middle = bench.beam.size // 2
    x_mm = (torch.arange(bench.beam.size) - (bench.beam.size - 1) / 2) * bench.beam.pixel_mm
    return x_mm.tolist(), image_hu[middle - half : middle + half].mean(dim=0).tolist()
