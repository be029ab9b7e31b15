"""X-ray photons in a scanner: how water attenuates them, and how their counts read."""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch

Values = TypeVar("Values", npt.NDArray[np.float32], torch.Tensor)

WATER_PER_MM: Final = 0.0193
"""Linear attenuation of water at 70 keV, the mean energy of a 120 kV beam (NIST XCOM), 1/mm."""

HU_PER_ATTENUATION: Final = 1000 / WATER_PER_MM
"""HU that one 1/mm of linear attenuation is worth."""

ELECTRONIC_VARIANCE: Final = 10.0
"""Variance of the read-out noise in photons²."""

LEAST_COUNT: Final = 0.5
"""Starved rays read as half a photon, since a log needs a positive count."""


def attenuation_per_mm(hu: Values) -> Values:
    """Linear attenuation of CT numbers: μ = μ_water (1 + HU/1000), in 1/mm; never below vacuum."""
    return ((hu / 1000 + 1) * WATER_PER_MM).clip(min=0)


def attenuation_to_hu(per_mm: Values) -> Values:
    """CT numbers of linear attenuation in 1/mm."""
    return (per_mm / WATER_PER_MM - 1) * 1000
