"""Denoisers: PSNR, SSIM, RMSE, HU bias and noise beside the input and classical baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.bundle import Bundle
from pipeline.config.evaluate import RestorationSettings
from pipeline.data import Case
from pipeline.errors import DataError
from pipeline.figures import Panel, save_panels
from pipeline.hu import HUWindow, display_window
from pipeline.metrics import (
    Convention,
    Summary,
    clean_output_gain_db,
    convention,
    gain_ceiling_db,
    mean_difference_hu,
    noise_sd_hu,
    psnr,
    rmse_hu,
    ssim,
    summarise,
    tissue_regions,
)
from pipeline.models.baselines import BASELINES, gaussian
from pipeline.stages.bars import progress
from pipeline.stages.evaluation.context import (
    Context,
    Metrics,
    Slice,
    chosen_slices,
    one_per_anatomy,
    restore_with,
    with_low_dose,
)

INPUT: Final = "input"
RESTORED: Final = "restored"
NORMAL_DOSE: Final = "normal_dose"
TRUTH: Final = "truth"
DIFFERENCE: Final = HUWindow(-30, 30)
SMOOTHING_PIXELS: Final = 2.0
"""Without a truth, regions are cut from the normal dose smoothed by this sigma; noise is not measured."""
ZOOM_PIXELS: Final = 192


def evaluate_restoration(bundle: Bundle, context: Context) -> Metrics:
    """Score a denoiser on the test cases; tables and pictures go to the context's folder.

    Cases without a low dose are left out.

    Raises:
        DataError: no case has a low dose, or a case's dose fraction and kind of noise do not fit each other.
    """
    settings = context.settings.restoration
    context = replace(
        context,
        test=with_low_dose(context.test, "test"),
        validation=with_low_dose(context.validation, "validation"),
    )
    limits = _limits(context.test)
    conventions = [convention(name) for name in settings.conventions]
    amounts = tune_baselines(context.validation, settings, conventions[0])
    methods = _methods(bundle, amounts)
    slices = chosen_slices(context.test, context.settings.slices_per_case)
    shown = one_per_anatomy(slices)
    scores, tissue, pictures = [], [], {}
    for case, index in progress(slices, "scoring slices"):
        outputs = {name: restore(case, index) for name, restore in methods.items()}
        scores += _score_rows(case, index, outputs, conventions)
        tissue += _tissue_rows(case, index, outputs)
        if (case, index) in shown:
            pictures[case, index] = outputs
    score_table, tissue_table = pd.DataFrame(scores), pd.DataFrame(tissue)
    score_table.round(4).to_csv(context.folder / "slices.csv", index=False, lineterminator="\n")
    tissue_table.round(4).to_csv(context.folder / "tissue.csv", index=False, lineterminator="\n")
    metrics = _summarise(score_table, tissue_table, context)
    _draw(pictures, context)
    sentence = verdict(metrics[f"against_{NORMAL_DOSE}"][conventions[0].name], conventions[0].name)
    if bundle.trained_on != "low dose":
        sentence = f"trained on {bundle.trained_on}, scored on low dose: {sentence}"
    return {
        "verdict": sentence,
        "patients": len({case.patient_id for case in context.test}),
        "slices": len(slices),
        "conventions": {chosen.name: chosen.describe() for chosen in conventions},
        "baselines": amounts,
        "baselines_at_grid_end": at_grid_end(amounts, settings),
        **limits,
        **metrics,
    }


def tune_baselines(
    cases: Sequence[Case], settings: RestorationSettings, chosen: Convention
) -> dict[str, float]:
    """For each baseline the value with the best mean PSNR on slices of the validation cases."""
    slices = chosen_slices(cases, settings.tuning_slices_per_case)
    trials = [(name, value) for name, values in settings.baselines.items() for value in values]
    scored = {
        (name, value): np.mean(
            [
                psnr(
                    _baseline(name, value, case, index),
                    _hu(case.normal_dose(), index),
                    chosen,
                    anatomy=case.anatomy,
                )
                for case, index in slices
            ]
        )
        for name, value in progress(trials, "tuning baselines")
    }
    return {
        name: max(values, key=lambda value: scored[name, value])
        for name, values in settings.baselines.items()
    }


def at_grid_end(amounts: Mapping[str, float], settings: RestorationSettings) -> dict[str, float]:
    """The chosen values that are the smallest or largest of at least three: a better one may lie beyond."""
    grids = settings.baselines.items()
    ends = {name: (min(values), max(values)) for name, values in grids if len(values) > 2}
    return {name: amounts[name] for name in ends if amounts[name] in ends[name]}


def verdict(scores: Mapping[str, Mapping[str, float]], convention_name: str) -> str:
    """One sentence: does the model beat its input and the baselines?

    Args:
        scores: `psnr_db` and `gain_db` for each method, `input` and `restored` among them.
        convention_name: of the scores.
    """
    gain = round(scores[RESTORED]["gain_db"], 2)
    if gain <= 0:
        word = "WORSE THAN" if gain < 0 else "no better than"
        return f"{word} its input: {gain:+.2f} dB (PSNR, {convention_name}); do not use this model"
    better = [
        name
        for name in scores
        if name not in (INPUT, RESTORED) and scores[name]["psnr_db"] >= scores[RESTORED]["psnr_db"]
    ]
    rank = f"but {' and '.join(better)} did as well or better" if better else "and beats every baseline"
    return f"gains {gain:.2f} dB over its input (PSNR, {convention_name}) {rank}"


def _methods(bundle: Bundle, amounts: Mapping[str, float]) -> dict[str, Callable[[Case, int], Slice]]:
    """Input, network and tuned baselines, all from a case and the number of a slice to a slice."""
    methods = {INPUT: _low_dose, RESTORED: restore_with(bundle)}
    for name, amount in amounts.items():
        methods[name] = partial(_baseline, name, amount)
    return methods


def _baseline(name: str, amount: float, case: Case, index: int) -> Slice:
    return BASELINES[name](_low_dose(case, index), amount)


def _references(case: Case, index: int) -> dict[str, Slice]:
    references = {NORMAL_DOSE: _hu(case.normal_dose(), index)}
    if case.has_truth:
        references[TRUTH] = _hu(case.truth(), index)
    return references


def _noise_free(references: Mapping[str, Slice]) -> Slice:
    if TRUTH in references:
        return references[TRUTH]
    return gaussian(references[NORMAL_DOSE], SMOOTHING_PIXELS)


def _score_rows(
    case: Case, index: int, outputs: Mapping[str, Slice], conventions: Sequence[Convention]
) -> list[dict[str, Any]]:
    return [
        {
            "patient": case.patient_id,
            "case": case.case_id,
            "slice": index,
            "anatomy": case.anatomy,
            "reference": reference,
            "convention": chosen.name,
            "method": method,
            "psnr_db": psnr(output, target, chosen, anatomy=case.anatomy),
            "ssim": ssim(output, target, chosen, anatomy=case.anatomy),
            "rmse_hu": rmse_hu(output, target, chosen, anatomy=case.anatomy),
        }
        for reference, target in _references(case, index).items()
        for chosen in conventions
        for method, output in outputs.items()
    ]


def _tissue_rows(case: Case, index: int, outputs: Mapping[str, Slice]) -> list[dict[str, Any]]:
    references = _references(case, index)
    noise_free = _noise_free(references)
    images = {NORMAL_DOSE: references[NORMAL_DOSE], **outputs}
    return [
        {
            "patient": case.patient_id,
            "case": case.case_id,
            "slice": index,
            "tissue": tissue,
            "method": method,
            "noise_sd_hu": noise_sd_hu(image, noise_free, region) if TRUTH in references else None,
            **{
                f"bias_against_{name}_hu": mean_difference_hu(image, reference, region)
                for name, reference in references.items()
            },
        }
        for tissue, region in tissue_regions(noise_free).items()
        if region.any()
        for method, image in images.items()
    ]


def _summarise(scores: pd.DataFrame, tissue: pd.DataFrame, context: Context) -> Metrics:
    generator = np.random.default_rng(context.settings.seed)
    metrics: Metrics = {}
    for (reference, name, method), rows in scores.groupby(["reference", "convention", "method"], sort=False):
        values = {
            score: _over_patients(rows, score, generator).mean for score in ("psnr_db", "ssim", "rmse_hu")
        }
        metrics.setdefault(f"against_{reference}", {}).setdefault(name, {})[method] = values
    for (reference, name), rows in scores.groupby(["reference", "convention"], sort=False):
        for method, gain in _gains(rows, generator).items():
            values = metrics[f"against_{reference}"][name][method]
            values["gain_db"] = gain.mean
            if gain.interval is not None:
                values["gain_95_low_db"], values["gain_95_high_db"] = gain.interval
    primary = context.settings.restoration.conventions[0]
    metrics["by_patient"] = _by_patient(scores[scores["convention"] == primary])
    for column in [name for name in map(str, tissue.columns) if name.endswith("_hu")]:
        wanted = tissue.dropna(subset=[column])
        for (region, method), rows in wanted.groupby(["tissue", "method"], sort=False):
            mean = _over_patients(rows, column, generator).mean
            metrics.setdefault(column, {}).setdefault(str(region), {})[str(method)] = mean
    return metrics


def _by_patient(rows: pd.DataFrame) -> Metrics:
    """For each patient and reference the mean PSNR of the input and of the network, and the gain."""
    table: Metrics = {}
    for (patient, reference), own in rows.groupby(["patient", "reference"], sort=False):
        psnr_db = own.groupby("method")["psnr_db"].mean()
        table.setdefault(str(patient), {})[str(reference)] = {
            "input_psnr_db": float(psnr_db[INPUT]),
            "restored_psnr_db": float(psnr_db[RESTORED]),
            "gain_db": float(psnr_db[RESTORED] - psnr_db[INPUT]),
        }
    return table


def _gains(rows: pd.DataFrame, generator: np.random.Generator) -> dict[str, Summary]:
    """PSNR over the input's, slice by slice, for every other method."""
    wide = rows.pivot_table(index=["patient", "case", "slice"], columns="method", values="psnr_db")
    gains = wide.drop(columns=INPUT).sub(wide[INPUT], axis=0).reset_index()
    return {
        method: _over_patients(gains, method, generator)
        for method in rows["method"].unique()
        if method != INPUT
    }


def _over_patients(rows: pd.DataFrame, column: str, generator: np.random.Generator) -> Summary:
    values = {str(patient): list(group) for patient, group in rows.groupby("patient")[column]}
    return summarise(values, generator)


def _limits(cases: Sequence[Case]) -> Metrics:
    try:
        ceilings = [gain_ceiling_db(case.dose_fraction, case.noise) for case in cases]
        clean = [clean_output_gain_db(case.dose_fraction, case.noise) for case in cases]
    except ValueError as impossible:
        raise DataError(
            f"test cases: {impossible}; correct dose_fraction and noise in the manifest"
        ) from None
    return {"gain_ceiling_db": float(np.mean(ceilings)), "clean_output_gain_db": float(np.mean(clean))}


def _draw(pictures: Mapping[tuple[Case, int], Mapping[str, Slice]], context: Context) -> None:
    """A row per anatomy: before, after, target and difference; and all methods, zoomed into the centre."""
    panels, zooms = [], []
    for (case, index), outputs in pictures.items():
        window = display_window(case.anatomy)
        references = _references(case, index)
        normal_dose = references[NORMAL_DOSE]
        panels.append(
            [
                Panel(outputs[INPUT], window, f"{case.anatomy}, low dose ({case.dose_fraction:.0%})"),
                Panel(outputs[RESTORED], window, RESTORED),
                Panel(normal_dose, window, "normal dose"),
                Panel(outputs[RESTORED] - normal_dose, DIFFERENCE, "restored − normal dose", diverging=True),
            ]
        )
        zoomed = {**outputs, **references}
        zooms.append(
            [Panel(_centre(image), window, name.replace("_", " ")) for name, image in zoomed.items()]
        )
    save_panels(context.folder / "panels.png", panels)
    save_panels(context.folder / "methods.png", zooms)


def _centre(image: Slice) -> Slice:
    top, left = (max(0, (side - ZOOM_PIXELS) // 2) for side in image.shape)
    return image[top : top + ZOOM_PIXELS, left : left + ZOOM_PIXELS]


def _low_dose(case: Case, index: int) -> Slice:
    return _hu(case.low_dose(), index)


def _hu(volume: npt.NDArray[np.int16], index: int) -> Slice:
    return np.asarray(volume[index], np.float32)
