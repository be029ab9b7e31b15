"""Rows of scores of single slices, and from these to means over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.data import Case
from pipeline.errors import DataError
from pipeline.metrics import (
    Convention,
    Summary,
    clean_output_gain_db,
    gain_ceiling_db,
    mean_difference_hu,
    noise_sd_hu,
    psnr,
    rmse_hu,
    ssim,
    summarise,
    tissue_regions,
)
from pipeline.models.baselines import gaussian
from pipeline.stages.evaluation.context import INPUT, RESTORED, Metrics, Slice

NORMAL_DOSE: Final = "normal_dose"
TRUTH: Final = "truth"
SCORES: Final = ("psnr_db", "ssim", "rmse_hu")
SMOOTHING_PIXELS: Final = 2.0
"""Without a truth, regions are cut from the normal dose smoothed by this sigma; noise is not measured."""


def references(case: Case, index: int) -> dict[str, Slice]:
    """What a slice is scored against: its normal dose, and the truth where there is one; (H, W) HU."""
    found = {NORMAL_DOSE: slice_hu(case.normal_dose(), index)}
    if case.has_truth:
        found[TRUTH] = slice_hu(case.truth(), index)
    return found


def slice_hu(volume: npt.NDArray[np.int16], index: int) -> Slice:
    """One slice (H, W) of a stored volume, float32 HU."""
    return np.asarray(volume[index], np.float32)


def require_finite(case: Case, index: int, dose_fraction: float, outputs: Mapping[str, Slice]) -> None:
    """A NaN is below no input and worse than no baseline, so it must reach no score.

    Raises:
        DataError: an output has a pixel that is no finite number.
    """
    for method, image_hu in outputs.items():
        if count := int((~np.isfinite(image_hu)).sum()):
            raise DataError(
                f"case {case.case_id}, slice {index}, dose {dose_fraction:g}: {count} pixels of {method} are "
                "not finite; a network that gives such images cannot be scored: train it again"
            )


def score_rows(
    case: Case, index: int, outputs: Mapping[str, Slice], conventions: Sequence[Convention]
) -> list[dict[str, Any]]:
    """A row per reference, convention and method.

    Args:
        case: that the slice is of.
        index: of the slice.
        outputs: what each method, `input` and `restored` among them, makes of it, (H, W) HU.
        conventions: to score under.
    """
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
        for reference, target in references(case, index).items()
        for chosen in conventions
        for method, output in outputs.items()
    ]


def tissue_rows(case: Case, index: int, outputs: Mapping[str, Slice]) -> list[dict[str, Any]]:
    """A row per tissue region and method: bias against each reference, and noise where there is a truth.

    Arguments as in `score_rows`.
    """
    targets = references(case, index)
    noise_free = targets.get(TRUTH)
    if noise_free is None:
        noise_free = gaussian(targets[NORMAL_DOSE], SMOOTHING_PIXELS)
    images = {NORMAL_DOSE: targets[NORMAL_DOSE], **outputs}
    return [
        {
            "patient": case.patient_id,
            "case": case.case_id,
            "slice": index,
            "tissue": tissue,
            "method": method,
            "noise_sd_hu": noise_sd_hu(image, noise_free, region) if TRUTH in targets else None,
            **{
                f"bias_against_{name}_hu": mean_difference_hu(image, target, region)
                for name, target in targets.items()
            },
        }
        for tissue, region in tissue_regions(noise_free).items()
        if region.any()
        for method, image in images.items()
    ]


def summarise_scores(
    scores: pd.DataFrame, tissue: pd.DataFrame, generator: np.random.Generator, *, primary: str
) -> Metrics:
    """Means over patients of everything in two tables.

    Args:
        scores: of `score_rows`.
        tissue: of `tissue_rows`.
        generator: of the bootstrap intervals.
        primary: name of the convention under which patients are listed.

    Returns:
        `against_<reference>`, by convention and method; `by_patient`; and for every column of `tissue` in
        HU its means by region and method.
    """
    metrics: Metrics = {}
    for (reference, name, method), rows in scores.groupby(["reference", "convention", "method"], sort=False):
        values = {score: over_patients(rows, score, generator).mean for score in SCORES}
        metrics.setdefault(f"against_{reference}", {}).setdefault(name, {})[method] = values
    for (reference, name), rows in scores.groupby(["reference", "convention"], sort=False):
        for method, gain in gains(rows, generator).items():
            values = metrics[f"against_{reference}"][name][method]
            values["gain_db"] = gain.mean
            if gain.interval is not None:
                values["gain_95_low_db"], values["gain_95_high_db"] = gain.interval
    metrics["by_patient"] = _by_patient(scores[scores["convention"] == primary])
    for column in [name for name in map(str, tissue.columns) if name.endswith("_hu")]:
        wanted = tissue.dropna(subset=[column])
        for (region, method), rows in wanted.groupby(["tissue", "method"], sort=False):
            mean = over_patients(rows, column, generator).mean
            metrics.setdefault(column, {}).setdefault(str(region), {})[str(method)] = mean
    return metrics


def worst_patient_bias(tissue: pd.DataFrame, column: str) -> Metrics:
    """By tissue region and method the bias of the patient in whom it is largest, with its sign.

    A mean over patients hides biases of either sign.

    Args:
        tissue: of `tissue_rows`.
        column: of the bias.
    """
    worst: Metrics = {}
    if tissue.empty:
        return worst
    for (region, method), rows in tissue.groupby(["tissue", "method"], sort=False):
        by_patient = rows.groupby("patient")[column].mean()
        worst.setdefault(str(region), {})[str(method)] = float(max(by_patient, key=abs))
    return worst


def gains(rows: pd.DataFrame, generator: np.random.Generator) -> dict[str, Summary]:
    """PSNR over the input's, slice by slice, for every other method.

    Args:
        rows: of one reference and one convention.
        generator: of the bootstrap intervals.
    """
    wide = rows.pivot_table(index=["patient", "case", "slice"], columns="method", values="psnr_db")
    over_input = wide.drop(columns=INPUT).sub(wide[INPUT], axis=0).reset_index()
    return {
        method: over_patients(over_input, method, generator)
        for method in rows["method"].unique()
        if method != INPUT
    }


def over_patients(rows: pd.DataFrame, column: str, generator: np.random.Generator) -> Summary:
    """One column, summarised over the patients of these rows."""
    values = {str(patient): list(group) for patient, group in rows.groupby("patient")[column]}
    return summarise(values, generator)


def limits(dose_fractions: Sequence[tuple[float, str]]) -> Metrics:
    """Mean of the best possible gains and of those of a clean output.

    Args:
        dose_fractions: of each case, with its kind of noise.

    Raises:
        DataError: a dose fraction and its kind of noise do not fit each other.
    """
    try:
        ceilings = [gain_ceiling_db(fraction, noise) for fraction, noise in dose_fractions]
        clean = [clean_output_gain_db(fraction, noise) for fraction, noise in dose_fractions]
    except ValueError as impossible:
        raise DataError(
            f"test cases: {impossible}; correct dose_fraction and noise in the manifest"
        ) from None
    return {"gain_ceiling_db": float(np.mean(ceilings)), "clean_output_gain_db": float(np.mean(clean))}


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, numbers to four decimals."""
    table.round(4).to_csv(path, index=False, lineterminator="\n")


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
