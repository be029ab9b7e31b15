"""The noise of a case's own images, for networks that are told it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.cases import Case
from pipeline.errors import DataError
from pipeline.metrics.noise import global_noise_sd_hu, slices_looked_at
from pipeline.transforms import resample_image


def low_dose_noise_sd_hu(case: Case, zoom: float = 1.0) -> float:
    """Global noise level of a case's low dose, found as at inference: from the low dose alone.

    Args:
        case: with a low dose.
        zoom: magnification at which it is seen; resampling changes the noise, so it is measured afterwards.

    Raises:
        DataError: the case has no low dose, or too little soft tissue to measure its noise in.
    """
    volume = case.low_dose()
    return measured_noise_sd_hu(case, volume[slices_looked_at(len(volume))], zoom, "low dose")


def measured_noise_sd_hu(
    case: Case, images_hu: npt.NDArray[np.int16 | np.float32], zoom: float, dose: str
) -> float:
    """Global noise level of some slices of a case.

    Args:
        case: named in errors.
        images_hu: (slices, rows, columns) HU, those of `slices_looked_at`.
        zoom: see `low_dose_noise_sd_hu`.
        dose: what they are, in words.

    Raises:
        DataError: too little soft tissue to measure the noise in.
    """
    images = torch.from_numpy(images_hu.astype(np.float32))
    size = (round(case.shape[1] * zoom), round(case.shape[2] * zoom))
    seen = resample_image(images, size).numpy()
    noise_sd_hu = global_noise_sd_hu(seen, seen)
    if noise_sd_hu is None:
        raise DataError(
            f"case {case.case_id}: too little soft tissue to measure the noise of its {dose} in; leave "
            "the case out, or do without what is told the level (model.arguments.noise_map; nlm, tv, bm3d)"
        )
    return noise_sd_hu
