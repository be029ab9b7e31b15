"""The direct simulation: every photon counted at the dose in question, no code shared with the insertion.

A ray that expects λ photons reads N ~ Poisson(λ) + Normal(0, σe²) and gives the line integral
−ln(max(N, ½) / λ0), with λ0 what it expects without the object. Mean and variance are also summed exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from pipeline.dose.photons import LEAST_COUNT

_FEWEST: Final = 1e-3
_MOST: Final = 3000.0
"""Expected counts between which the moments are summed exactly; above, a series is accurate to 1e-6."""
_GRID: Final = 600
_ELECTRONIC_STEPS: Final = 801
_REACH: Final = 8.0
"""Standard deviations to which the sums go."""


def noise_of_a_scan(
    counts: torch.Tensor, electronic_variance: float, generator: torch.Generator
) -> torch.Tensor:
    """Noise of the line integrals of one scan, as counting gives it.

    Args:
        counts: expected photons of each ray at the dose of the scan, any shape.
        electronic_variance: σe² in photons².
        generator: draws the noise.

    Returns:
        Measured minus true line integrals, in the shape of `counts`.
    """
    read = torch.poisson(counts, generator=generator)
    read += electronic_variance**0.5 * torch.randn(counts.shape, generator=generator)
    return counts.log() - read.clamp_(min=LEAST_COUNT).log_()


@dataclass(frozen=True)
class LogMoments:
    """Mean and variance of that noise for any expected count, without drawing it.

    Attributes:
        log_counts: `(K,)` ln λ, rising, float64.
        means: `(K,)` mean of the noise of a line integral at λ.
        variances: `(K,)` its variance.
        electronic_variance: σe² in photons².
    """

    log_counts: torch.Tensor
    means: torch.Tensor
    variances: torch.Tensor
    electronic_variance: float

    def mean(self, counts: torch.Tensor) -> torch.Tensor:
        """Log bias, E[−ln max(N, ½)] + ln λ."""
        relative = 1 / counts.double() + self.electronic_variance / counts.double() ** 2
        return self._read(counts, self.means, relative / 2)

    def variance(self, counts: torch.Tensor) -> torch.Tensor:
        """Variance of −ln max(N, ½)."""
        many = counts.double()
        series = 1 / many + (self.electronic_variance + 1.5) / many**2
        return self._read(counts, self.variances, series)

    def _read(self, counts: torch.Tensor, table: torch.Tensor, beyond: torch.Tensor) -> torch.Tensor:
        where = counts.double().clamp(_FEWEST, _MOST).log()
        place = (where - self.log_counts[0]) / (self.log_counts[1] - self.log_counts[0])
        lower = place.floor().long().clamp(0, len(table) - 2)
        found = torch.lerp(table[lower], table[lower + 1], place - lower)
        return torch.where(counts < _MOST, found, beyond).float()


def log_moments(electronic_variance: float) -> LogMoments:
    """Sum the moments over all photon numbers and read-out errors."""
    log_counts = torch.linspace(math.log(_FEWEST), math.log(_MOST), _GRID, dtype=torch.float64)
    photons = torch.arange(math.ceil(_MOST + _REACH * _MOST**0.5), dtype=torch.float64)
    probability = (
        photons * log_counts[:, None] - log_counts.exp()[:, None] - torch.lgamma(photons + 1)
    ).exp()
    steps = torch.linspace(-_REACH, _REACH, _ELECTRONIC_STEPS, dtype=torch.float64)
    weight = torch.softmax(-(steps**2) / 2, dim=0)
    logs = -(photons[:, None] + electronic_variance**0.5 * steps).clamp(min=LEAST_COUNT).log()
    mean = probability @ (logs @ weight)
    square = probability @ (logs**2 @ weight)
    return LogMoments(log_counts, mean + log_counts, square - mean**2, electronic_variance)
