"""The noise level of a series at lower doses, as inference would find it in the series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.cases import Case
from pipeline.data.low_dose_slices import normal_dose_hu, visible_pixels
from pipeline.data.noise_levels import measured_noise_sd_hu
from pipeline.dose.insertion import Acquisition
from pipeline.dose.realisations import NoiseRealisations
from pipeline.metrics.noise import slices_looked_at

_DOSES: Final = 3
_SIDE: Final = 64
"""Pixels within which the noise drawn is that of all views: far more than the regions it is measured in."""
_SEED: Final = 0


@dataclass(frozen=True)
class LowDoseLevels:
    """Noise levels of one series at some doses, and at those in between.

    Attributes:
        dose_fractions: (K,) shares of the normal dose, rising.
        sd_hu: (K, zooms) `metrics.noise.global_noise_sd_hu` of the series at that dose and magnification.
    """

    dose_fractions: npt.NDArray[np.float64]
    sd_hu: npt.NDArray[np.float64]

    def at(self, dose_fraction: float, zoom: int, added: float = 1.0) -> float:
        """Level in HU at a dose and the magnification of this number.

        Between the doses of the table its logarithm is linear in that of the dose, as it is where the normal
        dose's own noise is that of its photons. Then the added noise has the share 1 − dose of the variance.

        Args:
            dose_fraction: share of the normal dose.
            zoom: number of the magnification.
            added: level of the added noise over that of the series' own texture, at this magnification.
        """
        logs = np.interp(np.log(dose_fraction), np.log(self.dose_fractions), np.log(self.sd_hu[:, zoom]))
        return float(np.exp(logs) * np.sqrt(1 + (1 - dose_fraction) * (added**2 - 1)))


def low_dose_levels(
    case: Case,
    acquisition: Acquisition,
    *,
    dose_fractions: tuple[float, float],
    zooms: Sequence[float] = (1.0,),
    device: torch.device,
) -> LowDoseLevels:
    """Draw the slices that inference looks at at a few doses, and measure them as it does.

    Args:
        case: with a normal dose.
        acquisition: of the case.
        dose_fractions: lowest and highest share of the normal dose.
        zooms: magnifications at which the series is seen.
        device: where the noise is drawn.

    Raises:
        DataError: too little soft tissue to measure the noise in.
    """
    low, high = dose_fractions
    doses = np.geomspace(low, high, _DOSES) if low < high else np.array([low])
    made = low_doses_looked_at(case, acquisition, doses.tolist(), device)
    levels = [
        [measured_noise_sd_hu(case, images, zoom, "made low dose") for zoom in zooms] for images in made
    ]
    return LowDoseLevels(doses, np.array(levels))


def low_doses_looked_at(
    case: Case, acquisition: Acquisition, doses: Sequence[float], device: torch.device
) -> npt.NDArray[np.float32]:
    """The slices of a case that its noise is measured in (`slices_looked_at`), at lower doses.

    Args:
        case: with a normal dose.
        acquisition: of the case.
        doses: shares of the normal dose.
        device: where the noise is drawn.

    Returns:
        `(doses, slices, rows, columns)` HU.
    """
    noise = NoiseRealisations(acquisition, side=_SIDE)
    generator = torch.Generator(device).manual_seed(_SEED)
    positions = slices_looked_at(case.shape[0])
    made = np.empty((len(doses), len(positions), *case.shape[1:]), np.float32)
    for place, position in enumerate(positions.tolist()):
        hu = normal_dose_hu(case, slice(position, position + 1), device)
        visible = visible_pixels(hu)
        rays = noise.line_integrals(hu, visible).expand(len(doses), -1, -1)
        added_hu = noise.slices_hu(noise.draw(rays, doses, generator=generator), case.shape[1:])
        made[:, place] = torch.where(visible, hu + added_hu, hu).cpu().numpy()
    return made
