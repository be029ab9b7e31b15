"""Denoisers on the low dose that the cases have: PSNR, SSIM, RMSE, HU bias and noise beside baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from rich.console import Console

from pipeline.bundle import Bundle
from pipeline.data import Case
from pipeline.data.noise_levels import low_dose_noise_sd_hu
from pipeline.errors import DataError
from pipeline.metrics import convention
from pipeline.models.apply import among_neighbours
from pipeline.models.baselines import baseline, need_noise_level
from pipeline.stages.bars import progress
from pipeline.stages.evaluation.context import (
    INPUT,
    RESTORED,
    Context,
    Denoiser,
    Metrics,
    Slice,
    chosen_slices,
    denoiser_of,
    one_per_anatomy,
    with_low_dose,
)
from pipeline.stages.evaluation.restoration.pictures import Example, draw_before_and_after, draw_methods
from pipeline.stages.evaluation.restoration.scores import (
    NORMAL_DOSE,
    limits,
    require_finite,
    save_table,
    score_rows,
    slice_hu,
    summarise_scores,
    tissue_rows,
)
from pipeline.stages.evaluation.restoration.tuning import TuningSlice, at_grid_end, tune_baselines
from pipeline.stages.evaluation.restoration.verdicts import verdict

Levels = dict[Case, float | None]
"""Cases with the noise level of their low dose in HU; None where neither network nor baseline is told it."""


def evaluate_stored(bundle: Bundle, context: Context) -> Metrics:
    """Score a denoiser on the low dose of the test cases; tables and pictures go to the context's folder.

    Cases without a low dose are left out; so are those whose noise level cannot be measured, where network or
    baselines are told it.

    Raises:
        ConfigError: the settings name a baseline that is not installed.
        DataError: no case has a low dose or a noise level, or a case's dose fraction and kind of noise do not
            fit each other, or an output is not finite.
    """
    settings, denoiser = context.settings.restoration, denoiser_of(bundle)
    told = need_noise_level(settings.baselines)
    levels, left_out = _levels(context.test, "test", wanted=told or denoiser.takes_noise_map)
    tuning_levels, not_tuned_on = _levels(context.validation, "validation", wanted=told)
    test = tuple(levels)
    best_possible = limits([(case.dose_fraction, case.noise) for case in test])
    conventions = [convention(name) for name in settings.conventions]
    tuning = _tuning_slices(tuning_levels, settings.tuning_slices_per_case)
    amounts = tune_baselines(tuning, settings, conventions[0])
    methods = _methods(denoiser, amounts, levels)
    slices = chosen_slices(test, context.settings.slices_per_case)
    shown = one_per_anatomy(slices)
    scores, tissue, examples = [], [], []
    for case, index in progress(slices, "scoring slices"):
        outputs = {name: restore(case, index) for name, restore in methods.items()}
        require_finite(case, index, case.dose_fraction, outputs)
        scores += score_rows(case, index, outputs, conventions)
        tissue += tissue_rows(case, index, outputs)
        if (case, index) in shown:
            examples.append(Example(case, index, case.dose_fraction, outputs, case.anatomy))
    score_table, tissue_table = pd.DataFrame(scores), pd.DataFrame(tissue)
    save_table(score_table, context.folder / "slices.csv")
    save_table(tissue_table, context.folder / "tissue.csv")
    generator = np.random.default_rng(context.settings.seed)
    metrics = summarise_scores(score_table, tissue_table, generator, primary=conventions[0].name)
    draw_before_and_after(context.folder / "panels.png", examples)
    draw_methods(context.folder / "methods.png", examples)
    sentence = verdict(metrics[f"against_{NORMAL_DOSE}"][conventions[0].name], conventions[0].name)
    if bundle.trained_on != "low dose":
        sentence = f"trained on {bundle.trained_on}, scored on low dose: {sentence}"
    return {
        "verdict": sentence,
        "patients": len({case.patient_id for case in test}),
        "slices": len(slices),
        "conventions": {chosen.name: chosen.describe() for chosen in conventions},
        "baselines": amounts,
        "baselines_at_grid_end": at_grid_end(amounts, settings),
        **best_possible,
        **metrics,
        "cases_left_out": left_out,
        "tuning_cases_left_out": not_tuned_on,
    }


def _levels(cases: Sequence[Case], role: str, *, wanted: bool) -> tuple[Levels, dict[str, str]]:
    """Those of the cases that have a low dose, with its noise level; and why a case has none, by case.

    Args:
        cases: of this role.
        role: named in errors.
        wanted: whether network or baselines are told the level; otherwise all is None.

    Raises:
        DataError: no case has a low dose, or a level.
    """
    levels: Levels = {}
    left_out = {}
    for case in with_low_dose(cases, role):
        try:
            levels[case] = low_dose_noise_sd_hu(case) if wanted else None
        except DataError as unknown:
            left_out[case.case_id] = str(unknown)
    if not levels:
        raise DataError(f"no {role} case can be used: {next(iter(left_out.values()))}")
    for reason in left_out.values():
        Console(stderr=True).print(f"{role} case left out: {reason}", highlight=False, soft_wrap=True)
    return levels, left_out


def _tuning_slices(levels: Levels, slices_per_case: int) -> list[TuningSlice]:
    return [
        TuningSlice(_low_dose(case, index), slice_hu(case.normal_dose(), index), case.anatomy, levels[case])
        for case, index in chosen_slices(tuple(levels), slices_per_case)
    ]


def _methods(
    denoiser: Denoiser, amounts: Mapping[str, float], levels: Levels
) -> dict[str, Callable[[Case, int], Slice]]:
    """Input, network and tuned baselines, all from a case and the number of a slice to a slice."""

    def restored(case: Case, index: int) -> Slice:
        seen_hu = among_neighbours(case.low_dose(), index, denoiser.neighbours)
        return denoiser.restore(seen_hu, levels[case])

    def tuned_baseline(name: str, amount: float) -> Callable[[Case, int], Slice]:
        denoise = baseline(name)
        return lambda case, index: denoise(_low_dose(case, index), amount, levels[case])

    baselines = {name: tuned_baseline(name, amount) for name, amount in amounts.items()}
    return {INPUT: _low_dose, RESTORED: restored, **baselines}


def _low_dose(case: Case, index: int) -> Slice:
    return slice_hu(case.low_dose(), index)
