"""The baselines' one parameter each, chosen on validation slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.config.evaluate import RestorationSettings
from pipeline.metrics import Convention, psnr
from pipeline.models.baselines import baseline
from pipeline.stages.bars import progress
from pipeline.stages.evaluation.context import Slice
from pipeline.stages.evaluation.restoration.whole_bar import Bar


@dataclass(frozen=True)
class TuningSlice:
    """A validation slice at both doses.

    Attributes:
        low_dose: (H, W) HU.
        normal_dose: (H, W) HU.
        anatomy: region, for conventions that ask for it.
        noise_sd_hu: noise level of the low dose's series, as a network with a noise map is told it;
            None where no baseline needs it.
    """

    low_dose: Slice
    normal_dose: Slice
    anatomy: str
    noise_sd_hu: float | None


def tune_baselines(
    slices: Sequence[TuningSlice],
    settings: RestorationSettings,
    chosen: Convention,
    *,
    what: str = "tuning baselines",
    bar: Bar = progress,
) -> dict[str, float]:
    """For each baseline the value with the best mean PSNR.

    Args:
        slices: of the validation cases.
        settings: values to try; of the baselines in `IN_NOISE_SDS` multiples of each slice's noise level.
        chosen: convention of the PSNR.
        what: is said beside the progress bar.
        bar: goes through the trials.
    """
    trials = [(name, value) for name, values in settings.baselines.items() for value in values]
    scored = {
        (name, value): np.mean(
            [
                psnr(
                    baseline(name)(one.low_dose, value, one.noise_sd_hu),
                    one.normal_dose,
                    chosen,
                    anatomy=one.anatomy,
                )
                for one in slices
            ]
        )
        for name, value in bar(trials, what)
    }
    return {
        name: max(values, key=lambda value: scored[name, value])
        for name, values in settings.baselines.items()
    }


def tuned(amounts: Mapping[str, float], noise_sd_hu: float | None) -> dict[str, Callable[[Slice], Slice]]:
    """Each baseline as a function from a slice of a series of this noise level to a slice, (H, W) HU."""
    return {name: partial(_apply, name, amount, noise_sd_hu) for name, amount in amounts.items()}


def at_grid_end(amounts: Mapping[str, float], settings: RestorationSettings) -> dict[str, float]:
    """The chosen values that are the smallest or largest of at least three: a better one may lie beyond."""
    grids = settings.baselines.items()
    ends = {name: (min(values), max(values)) for name, values in grids if len(values) > 2}
    return {name: amounts[name] for name in ends if amounts[name] in ends[name]}


def _apply(name: str, amount: float, noise_sd_hu: float | None, image_hu: Slice) -> Slice:
    return baseline(name)(image_hu, amount, noise_sd_hu)
