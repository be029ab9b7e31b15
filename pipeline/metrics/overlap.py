"""Overlap of segmentations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def dice(prediction: npt.NDArray[Any], target: npt.NDArray[Any]) -> float:
    """Dice coefficient 2|A∩B| / (|A| + |B|) of two boolean masks, in [0, 1].

    Empty masks: two empty ones agree (1); an empty one and a filled one share nothing (0).

    Raises:
        ValueError: shapes differ.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"masks differ in shape: {prediction.shape} and {target.shape}")
    prediction, target = prediction.astype(bool), target.astype(bool)
    size = int(prediction.sum()) + int(target.sum())
    return 1.0 if size == 0 else 2 * int(np.sum(prediction & target)) / size
