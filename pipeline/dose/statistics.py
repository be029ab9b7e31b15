"""What a lower dose does to one ray: variance and log bias of the noise that is missing at normal dose.

A ray that expects λ photons reads N ~ Poisson(λ) + Normal(0, σe²), and −ln max(N, ½) as its line integral.
Going from I photons down to αI adds noise of variance V(αI) − V(I) and mean b(αI) − b(I), with V and b the
variance and the bias of the logarithm. From `low_count` photons on, both are read off their series in 1/λ
(moments of ln(1 + x) with the cumulants of N), and the noise is close to normal. Below, the noise has the
distribution that counting the photons gives, read from a table at the quantile of a normal number: so slices
that share these numbers share noise in starved rays too.
"""

from __future__ import annotations

import functools
import math
from typing import Final, NamedTuple

import torch

from pipeline.dose.photons import LEAST_COUNT

_TABLE_LEAST: Final = 1e-3
_TABLE_POINTS: Final = 128
_TABLE_DRAWS: Final = 50_000
_TABLE_REACH: Final = 4.5
"""Standard normal numbers between which quantiles are kept; 7 in a million lie beyond."""
_TABLE_QUANTILES: Final = 226
_READ_OUT_STEPS: Final = torch.linspace(-8, 8, 801, dtype=torch.float64)


def low_count(electronic_variance: float) -> float:
    """Expected photons below which the noise of a ray follows from counting them one by one.

    At 30 + σe² photons the series below are within 1 % of the exact variance and 0.2 % of the exact bias for
    σe² from 0 to 25; at 20 they would be 6 % off for σe² = 10, and the first-order variance 19 %.
    """
    return 30 + electronic_variance


def missing_variance(counts: torch.Tensor, dose_fraction: float, electronic_variance: float) -> torch.Tensor:
    """Variance of the line-integral noise that a lower dose would have added.

    For many counts I it is (1/α − 1)/I · (1 + (1 + α)/α · σe²/I); the next orders and starved rays (from
    the table that `missing_noise` reads, within 2 %) are included, so it stays finite at any count.

    Args:
        counts: expected photons at normal dose, any shape.
        dose_fraction: α, the share of the normal dose that is left.
        electronic_variance: σe² in photons².

    Returns:
        Variances in the shape of `counts`.

    Raises:
        ValueError: `dose_fraction` is not between 0 and 1.
    """
    require_dose_fraction(dose_fraction)
    at_dose = counts * dose_fraction
    threshold = low_count(electronic_variance)
    inverse = 1 / at_dose.clamp(min=threshold)
    variance = _powers(inverse, _steps(_variance_series(electronic_variance), dose_fraction))
    starved = at_dose < threshold
    if bool(starved.any()):
        row, share = _row(at_dose[starved], threshold)
        table = _starved_rays(dose_fraction, electronic_variance).variances.to(counts)
        variance[starved] = torch.lerp(table[row], table[row + 1], share)
    return variance


def missing_noise(
    counts: torch.Tensor, dose_fraction: float, standard_normal: torch.Tensor, *, electronic_variance: float
) -> torch.Tensor:
    """Noise that takes line integrals from normal dose to a fraction of it, log bias included.

    Args:
        counts: expected photons at normal dose, any shape.
        dose_fraction: α, the share of the normal dose that is left.
        standard_normal: a standard normal number for each ray, in the shape of `counts`; the noise rises
            with it.
        electronic_variance: σe² in photons².

    Returns:
        What to add to the line integrals, in the shape of `counts`.

    Raises:
        ValueError: `dose_fraction` is not between 0 and 1.
    """
    require_dose_fraction(dose_fraction)
    at_dose = counts * dose_fraction
    threshold = low_count(electronic_variance)
    inverse = 1 / at_dose.clamp(min=threshold)
    noise = _noise_series(inverse, dose_fraction, standard_normal, electronic_variance)
    starved = at_dose < threshold
    if bool(starved.any()):
        row, share = _row(at_dose[starved], threshold)
        table = _starved_rays(dose_fraction, electronic_variance).quantiles.to(counts)
        noise[starved] = _quantile(table, row, share, standard_normal[starved])
    return noise


def plentiful_noise(
    counts: torch.Tensor, dose_fraction: float, standard_normal: torch.Tensor, *, electronic_variance: float
) -> torch.Tensor:
    """`missing_noise` without its table; rays with fewer than `low_count` photons left count as if that many.

    Nothing in it makes the host wait for a GPU. Arguments, result and errors as for `missing_noise`.
    """
    require_dose_fraction(dose_fraction)
    inverse = 1 / (counts * dose_fraction).clamp_(min=low_count(electronic_variance))
    return _noise_series(inverse, dose_fraction, standard_normal, electronic_variance)


def require_dose_fraction(dose_fraction: float) -> None:
    """Raise `ValueError` unless a dose fraction lies between 0 and 1."""
    if not 0 < dose_fraction < 1:
        raise ValueError(f"dose_fraction must be between 0 and 1, both excluded, got {dose_fraction}")


def _noise_series(
    inverse: torch.Tensor, dose_fraction: float, standard_normal: torch.Tensor, electronic_variance: float
) -> torch.Tensor:
    noise = _powers(inverse, _steps(_variance_series(electronic_variance), dose_fraction)).sqrt_()
    noise *= standard_normal
    return noise.add_(_powers(inverse, _steps(_bias_series(electronic_variance), dose_fraction)))


def _variance_series(electronic_variance: float) -> tuple[float, ...]:
    """Coefficients of V(λ) in powers of 1/λ: r − 1/λ² + 5/2 r², with r = 1/λ + σe²/λ²."""
    s = electronic_variance
    return (1.0, s + 1.5, 5 * s, 2.5 * s**2)


def _bias_series(electronic_variance: float) -> tuple[float, ...]:
    """Coefficients of b(λ): r/2 − 1/(3λ²) + 3/4 r² + 1/(4λ³) − 2 r/λ² + 5/2 r³, to the fourth power."""
    s = electronic_variance
    return (0.5, s / 2 + 5 / 12, 1.5 * s + 0.75, 0.75 * s**2 + 5.5 * s)


def _steps(series: tuple[float, ...], dose_fraction: float) -> tuple[float, ...]:
    """Coefficients in 1/(αI) of a series at αI minus the same at I."""
    return tuple(c * (1 - dose_fraction**power) for power, c in enumerate(series, start=1))


def _powers(x: torch.Tensor, coefficients: tuple[float, ...]) -> torch.Tensor:
    """c1 x + c2 x² + …, by Horner's rule."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total.mul_(x).add_(coefficient)
    return total.mul_(x)


def draw_missing_noise(
    counts: torch.Tensor, dose_fraction: float, electronic_variance: float, generator: torch.Generator
) -> torch.Tensor:
    """Two scans of the same photons: at normal dose, and with each photon kept with probability α.

    The kept and the lost photons are independent Poisson numbers. The read-out errors α e1 + √(1 − α²) e2 at
    the lower dose and e1 at normal dose make the covariance of the two logs equal to the variance at normal
    dose, to first order, so the difference of the logs is the missing noise.
    """
    at_dose = counts * dose_fraction
    kept = torch.poisson(at_dose, generator=generator)
    normal = kept + torch.poisson(counts - at_dose, generator=generator)
    errors = torch.randn((2, *counts.shape), generator=generator, device=counts.device)
    errors *= electronic_variance**0.5
    kept += dose_fraction * errors[0] + (1 - dose_fraction**2) ** 0.5 * errors[1]
    normal += errors[0]
    return (normal.clamp_(min=LEAST_COUNT) / kept.clamp_(min=LEAST_COUNT)).log_() + math.log(dose_fraction)


class _StarvedRays(NamedTuple):
    """Distributions of the missing noise from 1e-3 to `low_count` photons left, in even steps of ln λ.

    Attributes:
        quantiles: `(points, quantiles)` at even steps of the normal number, mean exact.
        variances: `(points,)`.
    """

    quantiles: torch.Tensor
    variances: torch.Tensor


@functools.lru_cache(maxsize=32)
def _starved_rays(dose_fraction: float, electronic_variance: float) -> _StarvedRays:
    ends = (math.log(_TABLE_LEAST), math.log(low_count(electronic_variance)))
    at_dose = torch.linspace(*ends, _TABLE_POINTS, dtype=torch.float64).exp()
    counts = (at_dose / dose_fraction).float()[:, None].expand(-1, _TABLE_DRAWS)
    generator = torch.Generator().manual_seed(0)
    draws = draw_missing_noise(counts, dose_fraction, electronic_variance, generator).sort(dim=1).values
    normal = torch.linspace(-_TABLE_REACH, _TABLE_REACH, _TABLE_QUANTILES, dtype=torch.float64)
    place = torch.special.ndtr(normal) * (_TABLE_DRAWS - 1)
    lower = place.long()
    quantiles = torch.lerp(draws[:, lower].double(), draws[:, lower + 1].double(), place - lower)
    mean = _log_bias(at_dose, electronic_variance) - _log_bias(at_dose / dose_fraction, electronic_variance)
    quantiles += (mean - quantiles @ torch.softmax(-(normal**2) / 2, dim=0))[:, None]
    return _StarvedRays(quantiles, draws.var(dim=1))


def _row(at_dose: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Row of the table just below these photons, and the share of the step to the next one."""
    steps_per_e_fold = (_TABLE_POINTS - 1) / math.log(threshold / _TABLE_LEAST)
    place = (at_dose.clamp(min=_TABLE_LEAST) / _TABLE_LEAST).log() * steps_per_e_fold
    row = place.long().clamp(max=_TABLE_POINTS - 2)
    return row, place - row


def _quantile(
    table: torch.Tensor, row: torch.Tensor, share: torch.Tensor, standard_normal: torch.Tensor
) -> torch.Tensor:
    """The table at these rows and normal numbers, linear between its points."""
    place = (
        (standard_normal.clamp(-_TABLE_REACH, _TABLE_REACH) / _TABLE_REACH + 1) / 2 * (_TABLE_QUANTILES - 1)
    )
    column = place.long().clamp(max=_TABLE_QUANTILES - 2)
    values, corner = table.flatten(), row * _TABLE_QUANTILES + column
    near, far = (
        torch.lerp(values[at], values[at + 1], place - column) for at in (corner, corner + _TABLE_QUANTILES)
    )
    return torch.lerp(near, far, share)


def _log_bias(counts: torch.Tensor, electronic_variance: float) -> torch.Tensor:
    """b(λ), summed over photons and read-out errors below `low_count`, from its series above; float64."""
    threshold = low_count(electronic_variance)
    photons = torch.arange(math.ceil(threshold + 12 * threshold**0.5), dtype=torch.float64)
    read = (photons[:, None] + electronic_variance**0.5 * _READ_OUT_STEPS).clamp(min=LEAST_COUNT)
    logs = -read.log() @ torch.softmax(-(_READ_OUT_STEPS**2) / 2, dim=0)
    few = counts.clamp(max=threshold)[:, None]
    summed = (photons * few.log() - few - torch.lgamma(photons + 1)).exp() @ logs + counts.log()
    series = _powers(1 / counts.clamp(min=threshold), _bias_series(electronic_variance))
    return torch.where(counts < threshold, summed, series)
