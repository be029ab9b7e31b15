"""The noise of a case's own images, for networks that are told it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.cases import Case
from pipeline.errors import DataError
from pipeline.metrics.noise import SLICES_LOOKED_AT, global_noise_sd_hu
from pipeline.transforms import resample_image


def low_dose_noise_sd_hu(case: Case, zoom: float = 1.0) -> float:
    """Global noise level of a case's low dose, found as at inference: from the low dose alone.

    Args:
        case: with a low dose.
        zoom: magnification at which it is seen; resampling changes the noise, so it is measured afterwards.

    Raises:
        DataError: the case has no low dose, or too little soft tissue to measure its noise in.
    """
    return _noise_sd_hu(case, case.low_dose(), zoom, "low dose")


def normal_dose_noise_sd_hu(case: Case, zoom: float = 1.0) -> float:
    """Global noise level of a case's normal dose; arguments and errors as for the low dose."""
    return _noise_sd_hu(case, case.normal_dose(), zoom, "normal dose")


def _noise_sd_hu(case: Case, volume: npt.NDArray[np.int16], zoom: float, dose: str) -> float:
    slices = np.unique(np.linspace(0, len(volume) - 1, SLICES_LOOKED_AT).round().astype(int))
    images = torch.from_numpy(volume[slices].astype(np.float32))
    size = (round(case.shape[1] * zoom), round(case.shape[2] * zoom))
    seen = resample_image(images, size).numpy()
    noise_sd_hu = global_noise_sd_hu(seen, seen)
    if noise_sd_hu is None:
        raise DataError(
            f"case {case.case_id}: too little soft tissue to measure the noise of its {dose} in; set "
            "model.arguments.noise_map: false, or leave the case out"
        )
    return noise_sd_hu
