"""Does noise follow dose and tube current? Power laws, and where electronics and the logarithm break them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch

from pipeline.dose.validation.bench import Bench
from pipeline.dose.validation.check import Check, Measure, Plot
from pipeline.dose.validation.level import CENTRE, DOSES

SD_SLOPE_LIMIT: Final = 0.02
MAS_SLOPE_LIMIT: Final = 0.03
LEAST_COUNTS: Final = 100.0
EXPOSURES: Final = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
LOW_FLUX: Final = 0.005
"""Of the high flux: where rays are left with a few photons."""


def dose_law(benches: Mapping[str, Bench]) -> Check:
    """SD of the low-dose image against dose, where no ray is starved.

    Raises:
        ValueError: the lowest dose leaves some ray fewer than `LEAST_COUNTS` photons.
    """
    measures: list[Measure] = []
    curves = {}
    for name, bench in benches.items():
        least = float(bench.counts().min()) * DOSES[0]
        if least < LEAST_COUNTS:
            raise ValueError(f"the law needs {LEAST_COUNTS:g} photons in every ray, got {least:.0f}")
        normal_hu = bench.direct_noise_hu(1.0)
        low_hu = bench.added_noise_hu(normal_hu, DOSES) + normal_hu
        region = bench.region(CENTRE)
        sds = [_region_variance(images, region) ** 0.5 for images in low_hu]
        slope = _slope(DOSES, sds)
        measures.append(_near(f"{name}, log-log slope of SD against dose", slope, -0.5, SD_SLOPE_LIMIT))
        curves[name] = (
            [100 * dose for dose in DOSES],
            [sd * dose**0.5 for dose, sd in zip(DOSES, sds, strict=True)],
        )
    return Check(
        key="dose-law",
        title="SD ∝ 1/√dose",
        proves="The SD of the low-dose image (a direct simulation at normal dose plus the inserted noise) "
        "follows the inverse square root of the dose where every ray keeps over 100 photons. What rises "
        "at the lowest dose is electronic noise, which no dose law knows.",
        quantity="slope",
        measures=measures,
        plots=[Plot("SD × √dose, centre of the body [HU]", "dose [%]", curves)],
    )


def tube_current_law(benches: Mapping[str, Bench]) -> Check:
    """Variance against mAs, in the direct simulation and in the insertion; at low flux it departs from −1."""
    measures, curves = [], {}
    for name, bench in benches.items():
        photons = LOW_FLUX * bench.flux.photons_per_ray
        starved = replace(bench, flux=replace(bench.flux, photons_per_ray=photons))
        for flux, at in (("high flux", bench), ("low flux", starved)):
            for source, variances in _against_exposure(at).items():
                label = f"{name}, {source}"
                if flux == "high flux":
                    slope = _slope(EXPOSURES, variances)
                    measures.append(_near(label, slope, -1.0, MAS_SLOPE_LIMIT))
                excess = [v * e / variances[-1] for v, e in zip(variances, EXPOSURES, strict=True)]
                curves[f"{label}, {flux}"] = ([math.log2(e) for e in EXPOSURES], excess)
    return Check(
        key="tube-current",
        title="Noise variance against mAs",
        proves="Variance falls as 1/mAs at high flux: log-log slope −1, for the direct simulation and for "
        "the inserted noise. At low flux electronic noise and the logarithm lift it above the line.",
        quantity="log-log slope",
        measures=measures,
        plots=[Plot("Variance × mAs, relative to normal mAs", "log2 of relative mAs", curves)],
    )


def _against_exposure(bench: Bench) -> dict[str, list[float]]:
    """Variance in the centre at each exposure: direct scans, and noise inserted at a quarter of the dose."""
    region = bench.region(CENTRE)
    direct = [_region_variance(bench.direct_noise_hu(exposure), region) for exposure in EXPOSURES]
    inserted = [
        _region_variance(bench.added_noise_hu(None, [0.25], exposure=exposure)[0], region)
        for exposure in EXPOSURES
    ]
    return {"direct": direct, "inserted": inserted}


def _region_variance(images: torch.Tensor, region: torch.Tensor) -> float:
    return float(images[:, region].var(dim=0).mean())


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of log y against log x."""
    log_x, log_y = torch.tensor(x).double().log(), torch.tensor(y).double().log()
    centred = log_x - log_x.mean()
    return float((centred * log_y).sum() / (centred**2).sum())


def _near(what: str, value: float, target: float, tolerance: float) -> Measure:
    return Measure(what, value, low=target - tolerance, high=target + tolerance)
