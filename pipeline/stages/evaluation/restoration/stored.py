"""Denoisers on the low dose that the cases have: PSNR, SSIM, RMSE, HU bias and noise beside baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from pipeline.bundle import Bundle
from pipeline.data import Case
from pipeline.metrics import convention
from pipeline.stages.bars import progress
from pipeline.stages.evaluation.context import (
    INPUT,
    RESTORED,
    Context,
    Metrics,
    Slice,
    chosen_slices,
    one_per_anatomy,
    restore_with,
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
from pipeline.stages.evaluation.restoration.tuning import TuningSlice, at_grid_end, tune_baselines, tuned
from pipeline.stages.evaluation.restoration.verdicts import verdict


def evaluate_stored(bundle: Bundle, context: Context) -> Metrics:
    """Score a denoiser on the low dose of the test cases; tables and pictures go to the context's folder.

    Cases without a low dose are left out.

    Raises:
        ConfigError: the settings name a baseline that is not installed.
        DataError: no case has a low dose, or a case's dose fraction and kind of noise do not fit each other,
            or an output is not finite.
    """
    settings = context.settings.restoration
    test = with_low_dose(context.test, "test")
    context = replace(context, test=test, validation=with_low_dose(context.validation, "validation"))
    best_possible = limits([(case.dose_fraction, case.noise) for case in test])
    conventions = [convention(name) for name in settings.conventions]
    amounts = tune_baselines(_tuning_slices(context), settings, conventions[0])
    methods = _methods(bundle, amounts)
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
    }


def _tuning_slices(context: Context) -> list[TuningSlice]:
    chosen = chosen_slices(context.validation, context.settings.restoration.tuning_slices_per_case)
    return [
        TuningSlice(_low_dose(case, index), slice_hu(case.normal_dose(), index), case.anatomy)
        for case, index in chosen
    ]


def _methods(bundle: Bundle, amounts: Mapping[str, float]) -> dict[str, Callable[[Case, int], Slice]]:
    """Input, network and tuned baselines, all from a case and the number of a slice to a slice."""

    def on_low_dose(denoise: Callable[[Slice], Slice]) -> Callable[[Case, int], Slice]:
        return lambda case, index: denoise(_low_dose(case, index))

    baselines = {name: on_low_dose(denoise) for name, denoise in tuned(amounts).items()}
    return {INPUT: _low_dose, RESTORED: restore_with(bundle), **baselines}


def _low_dose(case: Case, index: int) -> Slice:
    return slice_hu(case.low_dose(), index)
