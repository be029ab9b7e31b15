"""Whole validation slices of restoration networks: always the same, whatever the seed of the training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from pipeline.config.restoration import LowDoseSettings
from pipeline.data import Case
from pipeline.data.low_dose_levels import low_dose_levels
from pipeline.data.low_dose_slices import low_dose_slice
from pipeline.data.noise_levels import low_dose_noise_sd_hu
from pipeline.data.patches import spread_slices
from pipeline.data.scans import read_or_assumed
from pipeline.degradations import Degradation
from pipeline.models.apply import among_neighbours, neighbours_of, takes_noise_map
from pipeline.objectives import RestorationPair
from pipeline.stages.bars import progress

SEED: Final = 0
"""Of everything random in validation slices, with the case's id, so that scores stay comparable."""


def stored_pairs(cases: Sequence[Case], slices: int, network: nn.Module) -> list[RestorationPair]:
    """The stored low dose, with the neighbours and the noise level that the network takes.

    Raises:
        DataError: the noise of a case cannot be measured.
    """
    levels = [low_dose_noise_sd_hu(case) if takes_noise_map(network) else None for case in cases]
    return [
        RestorationPair(
            among_neighbours(case.low_dose(), position, neighbours_of(network)),
            case.normal_dose()[position],
            level,
            patient=case.patient_id,
        )
        for case, level in zip(cases, levels, strict=True)
        for position in spread_slices(case.shape[0], slices)
    ]


def degraded_pairs(
    cases: Sequence[Case], slices: int, degradation: Sequence[Degradation]
) -> list[RestorationPair]:
    """The normal dose, degraded once."""
    pairs = []
    for case in cases:
        generator = _generator_of(case)
        pairs += [
            RestorationPair.from_normal_dose(
                case.normal_dose()[position],
                degradation,
                pixel_mm=case.pixel_mm,
                generator=generator,
                patient=case.patient_id,
            )
            for position in spread_slices(case.shape[0], slices)
        ]
    return pairs


def made_pairs(
    cases: Sequence[Case], slices: int, settings: LowDoseSettings, *, noise_levels: bool
) -> tuple[list[RestorationPair], list[Case]]:
    """A low dose made once from the normal dose, at the geometric mean of the doses that training draws.

    Args:
        cases: with a normal dose.
        slices: of each case.
        settings: of the low dose.
        noise_levels: whether the network is told the noise: the level of the whole series at this dose.

    Returns:
        The pairs, and the cases whose scan is assumed in part.

    Raises:
        DataError: the noise of a case cannot be read or measured.
    """
    dose = _middle_dose(settings)
    pairs, assumed = [], []
    for case in progress(cases, "Validation slices"):
        positions = spread_slices(case.shape[0], slices)
        generator = _generator_of(case)
        scan, is_assumed = read_or_assumed(
            case,
            photons_per_ray=settings.photons_per_ray,
            kernel_cutoff_per_mm=settings.kernel_cutoff_per_mm,
            assumed_cutoff_per_mm=settings.assumed_cutoff_per_mm,
            device=generator.device,
        )
        if is_assumed:
            assumed.append(case)
        made = [
            low_dose_slice(case, position, scan, dose_fraction=dose, generator=generator)
            for position in positions
        ]
        level = None
        if noise_levels:
            levels = low_dose_levels(case, scan, dose_fractions=(dose, dose), device=generator.device)
            level = levels.at(dose, 0)
        pairs += [
            RestorationPair(low_dose, case.normal_dose()[position], level, patient=case.patient_id)
            for position, low_dose in zip(positions, made, strict=True)
        ]
    return pairs, assumed


def made_in_words(settings: LowDoseSettings) -> str:
    """What the input of `made_pairs` is, for the convention of a score."""
    return f"low dose made at {100 * _middle_dose(settings):.3g} % of the normal dose"


def _generator_of(case: Case) -> torch.Generator:
    """The same for a case whatever other cases there are, so that leaving a source out changes no other's."""
    digest = hashlib.sha256(f"{SEED}/{case.case_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _middle_dose(settings: LowDoseSettings) -> float:
    return math.sqrt(math.prod(settings.dose_fractions))
