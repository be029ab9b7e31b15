"""From slices to one number: the mean of each patient's slices, then the mean over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

PATIENTS_FOR_INTERVAL: Final = 5
"""With fewer patients a confidence interval says nothing; their values are listed instead."""
RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Summary:
    """A score over patients.

    Attributes:
        mean: mean over patients of each patient's mean over slices.
        patients: each patient's mean.
        interval: 95 % percentile bootstrap interval of the mean over patients; None below 5 patients.
    """

    mean: float
    patients: Mapping[str, float]
    interval: tuple[float, float] | None


def summarise(slices: Mapping[str, Sequence[float]], generator: np.random.Generator) -> Summary:
    """Summarise one score, or one difference of scores (whose interval is the paired comparison).

    Args:
        slices: the values of each patient's slices.
        generator: draws the bootstrap resamples.

    Raises:
        ValueError: there is no patient, or one without slices.
    """
    if not slices or not all(len(values) for values in slices.values()):
        raise ValueError("a summary needs at least one patient and one slice per patient")
    patients = {patient: float(np.mean(values)) for patient, values in slices.items()}
    means = np.array(list(patients.values()))
    if len(means) < PATIENTS_FOR_INTERVAL:
        return Summary(float(means.mean()), patients, None)
    draws = generator.integers(len(means), size=(RESAMPLES, len(means)))
    low, high = np.percentile(means[draws].mean(axis=1), [2.5, 97.5])
    return Summary(float(means.mean()), patients, (float(low), float(high)))
