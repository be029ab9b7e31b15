"""Low doses of test slices, made from their normal dose: always the same, whatever is scored on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from pipeline.config.evaluate import MadeDoseSettings
from pipeline.data import Case
from pipeline.data.low_dose_levels import LowDoseLevels, low_dose_levels
from pipeline.data.low_dose_slices import low_dose_slice
from pipeline.data.scans import read_or_assumed
from pipeline.dose.insertion import Acquisition
from pipeline.errors import DataError
from pipeline.stages.evaluation.context import Slice

READ: Final = "read from the images"
ASSUMED: Final = "assumed"


@dataclass(frozen=True)
class Scan:
    """A case and the scan behind its normal dose.

    Attributes:
        case: that it is of.
        acquisition: rays, photons and kernel.
        origin: whether these were `READ` from the images' own noise or `ASSUMED`.
        levels: noise at the doses, as inference would find it; None where nothing is told it.
        seed: of the noise that is added.
    """

    case: Case
    acquisition: Acquisition
    origin: str
    levels: LowDoseLevels | None
    seed: int

    def low_dose(self, index: int, dose_fraction: float, device: torch.device) -> Slice:
        """A slice (H, W) HU at a lower dose; its noise is fixed by seed, case, slice and dose."""
        generator = torch.Generator(device).manual_seed(self.seed)
        return low_dose_slice(
            self.case, index, self.acquisition, dose_fraction=dose_fraction, generator=generator
        )

    def noise_sd_hu(self, dose_fraction: float) -> float | None:
        """Global noise level of the series at a lower dose, where it is known."""
        return None if self.levels is None else self.levels.at(dose_fraction, 0)


@dataclass(frozen=True)
class Unusable:
    """A case whose low dose cannot be made, or whose noise level there cannot be told.

    Attributes:
        case: that it is.
        reason: in words.
    """

    case: Case
    reason: str


def scans_of(
    cases: Iterable[Case],
    settings: MadeDoseSettings,
    *,
    noise_levels: bool,
    seed: int,
    device: torch.device,
) -> Iterator[Scan | Unusable]:
    """Each case with the scan behind it, or with why it cannot be used.

    Args:
        cases: with a normal dose.
        settings: doses, and the scan to assume where a case's own noise cannot be read.
        noise_levels: whether network or baselines are told the noise.
        seed: of the evaluation; cases draw different noise from it.
        device: where the noise is made.
    """
    for case in cases:
        try:
            acquisition, assumed = read_or_assumed(
                case,
                photons_per_ray=None,
                kernel_cutoff_per_mm=None,
                assumed_cutoff_per_mm=settings.assumed_cutoff_per_mm,
                device=device,
            )
            levels = _levels(case, acquisition, settings, device) if noise_levels else None
        except DataError as unusable:
            yield Unusable(case, str(unusable))
        else:
            origin = ASSUMED if assumed else READ
            yield Scan(case, acquisition, origin, levels, _seed_of(case, seed))


def _levels(
    case: Case, acquisition: Acquisition, settings: MadeDoseSettings, device: torch.device
) -> LowDoseLevels:
    doses = min(settings.dose_fractions), max(settings.dose_fractions)
    return low_dose_levels(case, acquisition, dose_fractions=doses, device=device)


def _seed_of(case: Case, seed: int) -> int:
    digest = hashlib.sha256(f"{seed}/{case.case_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
