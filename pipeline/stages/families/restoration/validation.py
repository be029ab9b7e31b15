"""Whole validation slices of restoration networks: always the same, whatever the seed of the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.config.restoration import LowDoseSettings
from pipeline.data import Case
from pipeline.data.low_dose_slices import case_acquisition, low_dose_slice
from pipeline.data.noise_levels import low_dose_noise_sd_hu
from pipeline.data.patches import spread_slices
from pipeline.degradations import Degradation
from pipeline.errors import DataError
from pipeline.metrics.noise import global_noise_sd_hu
from pipeline.models.apply import neighbours_of, takes_noise_map, with_neighbours
from pipeline.objectives import RestorationPair

SEED: Final = 0
"""Of everything random in validation slices, so that scores stay comparable."""


def stored_pairs(cases: Sequence[Case], slices: int, network: nn.Module) -> list[RestorationPair]:
    """The stored low dose, with the neighbours and the noise level that the network takes.

    Raises:
        DataError: the noise of a case cannot be measured.
    """
    levels = [low_dose_noise_sd_hu(case) if takes_noise_map(network) else None for case in cases]
    return [
        RestorationPair(
            _among_neighbours(case.low_dose(), position, neighbours_of(network)),
            case.normal_dose()[position],
            level,
        )
        for case, level in zip(cases, levels, strict=True)
        for position in spread_slices(case.shape[0], slices)
    ]


def degraded_pairs(
    cases: Sequence[Case], slices: int, degradation: Sequence[Degradation]
) -> list[RestorationPair]:
    """The normal dose, degraded once."""
    generator = torch.Generator().manual_seed(SEED)
    return [
        RestorationPair.from_normal_dose(
            case.normal_dose()[position], degradation, pixel_mm=case.spacing_mm[1], generator=generator
        )
        for case in cases
        for position in spread_slices(case.shape[0], slices)
    ]


def _among_neighbours(volume: npt.NDArray[np.int16], position: int, neighbours: int) -> npt.NDArray[np.int16]:
    """(2k + 1, H, W): one slice between its neighbours."""
    first = max(0, position - neighbours)
    around = torch.from_numpy(np.array(volume[first : position + neighbours + 1]))
    return with_neighbours(around, neighbours)[position - first].numpy()


def made_pairs(
    cases: Sequence[Case], slices: int, settings: LowDoseSettings, *, noise_levels: bool
) -> list[RestorationPair]:
    """A low dose made once from the normal dose, at the geometric mean of the doses that training draws.

    Args:
        cases: with a normal dose.
        slices: of each case.
        settings: of the low dose.
        noise_levels: whether the network is told the noise; then it is measured in the slices made of a case.

    Raises:
        DataError: the noise of a case cannot be read or measured.
    """
    generator = torch.Generator().manual_seed(SEED)
    pairs = []
    for case in cases:
        positions = spread_slices(case.shape[0], slices)
        made = _made_slices(case, positions, settings, generator)
        level = _noise_sd_hu(case, made) if noise_levels else None
        pairs += [
            RestorationPair(low_dose, case.normal_dose()[position], level)
            for position, low_dose in zip(positions, made, strict=True)
        ]
    return pairs


def made_in_words(settings: LowDoseSettings) -> str:
    """What the input of `made_pairs` is, for the convention of a score."""
    return f"low dose made at {100 * _middle_dose(settings):.3g} % of the normal dose"


def _middle_dose(settings: LowDoseSettings) -> float:
    return math.sqrt(math.prod(settings.dose_fractions))


def _made_slices(
    case: Case,
    positions: Sequence[int],
    settings: LowDoseSettings,
    generator: torch.Generator,
) -> npt.NDArray[np.float32]:
    """(slices, H, W) HU, on the CPU wherever the training runs."""
    acquisition = case_acquisition(
        case,
        photons_per_ray=settings.photons_per_ray,
        kernel_cutoff_per_mm=settings.kernel_cutoff_per_mm,
        device=generator.device,
    )
    return np.stack(
        [
            low_dose_slice(
                case, position, acquisition, dose_fraction=_middle_dose(settings), generator=generator
            )
            for position in positions
        ]
    )


def _noise_sd_hu(case: Case, made: npt.NDArray[np.float32]) -> float:
    level = global_noise_sd_hu(made, made)
    if level is None:
        raise DataError(
            f"case {case.case_id}: too little soft tissue to measure the noise of its made low dose in; set "
            "model.arguments.noise_map: false, raise data.validation_slices, or leave the case out"
        )
    return level
