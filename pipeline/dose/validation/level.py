"""Is it the right amount of noise? Against the analytic variance, ray by ray and pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch

from pipeline.dose.photons import HU_PER_ATTENUATION
from pipeline.dose.statistics import missing_noise
from pipeline.dose.validation.bench import Bench
from pipeline.dose.validation.check import Check, Measure, Plot
from pipeline.dose.validation.direct import log_moments
from pipeline.dose.validation.objects import Ellipse
from pipeline.projector import filtered_back_projection, propagate_variance

DOSES: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.99)
VARIANCE_LIMIT: Final = 0.03
CENTRE: Final = Ellipse(45, 35)
"""Of the body: its noisiest part."""
_RIM: Final = (Ellipse(100, 70), Ellipse(70, 50))
"""The ring between these two."""
_PROBES_MM: Final = ((12.0, 20.0), (60.0, 0.0), (0.0, 50.0), (-85.0, 15.0))
_RAY_COUNTS: Final = (1e2, 3e2, 1e3, 3e3, 1e4, 1e5, 1e6)
_MANY: Final = 100.0
"""Counts at the lower dose from which the first-order formula is within 2 % of the exact variance."""
_FEW: Final = 5.0
"""Counts at the lower dose from which the variance drawn has to be the exact one."""
_QUANTILES: Final = 100_000
_BAND: Final = {"3 % less": 1 - VARIANCE_LIMIT, "3 % more": 1 + VARIANCE_LIMIT}


def added_ray_variance(electronic_variance: float) -> Check:
    """Variance of the noise that rays receive, against the formula and the sum over all photon numbers."""
    counts = torch.tensor(_RAY_COUNTS)
    shares = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    normal = torch.special.ndtri(shares).float().expand(len(counts), -1)
    rays = counts[:, None].expand_as(normal)
    exact = log_moments(electronic_variance)
    measures, curves = [], {}
    for dose in DOSES:
        noise = missing_noise(rays, dose, normal, electronic_variance=electronic_variance)
        inserted = noise.var(dim=1)
        formula = missing_variance_of(counts, dose, electronic_variance)
        summed = exact.variance(counts * dose) - exact.variance(counts)
        for what, expected, fewest in (("formula", formula, _MANY), ("exact sum", summed, _FEW)):
            kept = counts * dose >= fewest
            ratios = (inserted / expected)[kept].tolist()
            left = counts[kept].tolist()
            measures += [
                _near_one(f"{what}, {dose:.0%} dose of {count:g} photons", ratio)
                for count, ratio in zip(left, ratios, strict=True)
            ]
            if what == "exact sum":
                curves[f"{dose:.0%}"] = ([math.log10(dose * count) for count in left], ratios)
    return Check(
        key="ray-variance",
        title="Added variance in the sinogram",
        proves="Rays receive the variance that is missing at the lower dose α: "
        "(1/α − 1)/I · (1 + (1 + α)/α · σe²/I) where over 100 photons are left, and down to 5 photons the "
        "variance of the logarithm of counts summed over all photon numbers. Inserted over expected, at "
        "evenly spaced quantiles, for rays that are not starved at normal dose (100 photons or more).",
        quantity="variance ratio",
        measures=measures,
        plots=[Plot("Inserted over exact variance of a ray", "log10 of the photons left", curves, _BAND)],
    )


def added_image_variance(benches: Mapping[str, Bench]) -> Check:
    """Variance of the added image noise, against the analytic one carried through the rows of FBP."""
    measures, curves = [], {}
    for name, bench in benches.items():
        measures += _propagation_against_rows(name, bench)
        variances = bench.added_noise_hu(None, DOSES).var(dim=1)
        regions = {
            "centre": bench.region(CENTRE),
            "rim": bench.region(_RIM[0]) & ~bench.region(_RIM[1]),
        }
        by_region: dict[str, list[float]] = {where: [] for where in regions}
        for dose, measured in zip(DOSES, variances, strict=True):
            rays = missing_variance_of(bench.counts(), dose, bench.flux.electronic_variance)
            analytic = propagate_variance(rays, bench.beam, kernel=bench.kernel)[0] * HU_PER_ATTENUATION**2
            for where, region in regions.items():
                by_region[where].append(float((measured[region] / analytic[region]).mean()))
        for where, ratios in by_region.items():
            curves[f"{name}, {where}"] = ([100 * dose for dose in DOSES], ratios)
            measures += [
                _near_one(f"{name}, {where}, {dose:.0%} dose", ratio)
                for dose, ratio in zip(DOSES, ratios, strict=True)
            ]
    return Check(
        key="image-variance",
        title="Added variance in the image",
        proves="The noise in the image is what the rays' missing variance becomes in reconstruction. Counts "
        "come from exact line integrals; the variance is carried through the operator itself, whose rows "
        "autograd reads off at single pixels. Measured over analytic.",
        quantity="variance ratio",
        measures=measures,
        plots=[Plot("Measured over analytic variance", "dose [%]", curves, _BAND)],
    )


def missing_variance_of(
    counts: torch.Tensor, dose_fraction: float, electronic_variance: float
) -> torch.Tensor:
    """The analytic variance, written down a second time on purpose: a slip in one of the two shows."""
    at_dose = counts * dose_fraction
    return 1 / at_dose + electronic_variance / at_dose**2 - 1 / counts - electronic_variance / counts**2


def _propagation_against_rows(name: str, bench: Bench) -> list[Measure]:
    """`propagate_variance` at single pixels against Σ w² v, w the row of filtered back-projection."""
    variance = 1 / bench.counts()
    spread = propagate_variance(variance, bench.beam, kernel=bench.kernel)[0]
    blank = torch.zeros_like(variance).requires_grad_()
    image = filtered_back_projection(blank, bench.beam, kernel=bench.kernel)[0]
    measures = []
    for x_mm, y_mm in _PROBES_MM:
        row, column = (round((bench.beam.size - 1) / 2 + mm / bench.beam.pixel_mm) for mm in (y_mm, x_mm))
        (weights,) = torch.autograd.grad(image[row, column], blank, retain_graph=True)
        expected = float((weights.double() ** 2 * variance.double()).sum())
        ratio = float(spread[row, column]) / expected
        measures.append(_near_one(f"{name}, row of FBP at ({x_mm:g}, {y_mm:g}) mm", ratio))
    return measures


def _near_one(what: str, ratio: float) -> Measure:
    return Measure(what, ratio, low=1 - VARIANCE_LIMIT, high=1 + VARIANCE_LIMIT)
