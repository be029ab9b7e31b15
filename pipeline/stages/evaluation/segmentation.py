"""Segmenters: Dice per organ, on the normal dose alone or on normal-dose, low-dose and restored images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.bundle import Bundle
from pipeline.config.labels import LabelTable
from pipeline.data import Case
from pipeline.data.patches import class_lookup
from pipeline.errors import DataError
from pipeline.figures import Panel, save_panels
from pipeline.hu import display_window
from pipeline.metrics import dice, summarise
from pipeline.models.apply import class_logits
from pipeline.models.precision import ieee_float32
from pipeline.stages.bars import progress
from pipeline.stages.evaluation.context import (
    RESTORED,
    Context,
    Metrics,
    chosen_slices,
    one_per_anatomy,
    ready,
    restore_with,
    runs_in_bf16,
    to_device,
    with_low_dose,
)

Image = npt.NDArray[Any]
Labels = npt.NDArray[np.uint8]
Images = Callable[[Case, int], Image]
AGGREGATION: Final = "slices of a patient pooled, mean over the patients in whom the organ is present"
REFERENCE: Final = "reference"


def evaluate_segmentation(bundle: Bundle, labels: LabelTable, context: Context) -> Metrics:
    """Dice per organ on normal-dose slices of the test cases.

    Args:
        bundle: of a segmenter.
        labels: the table of mask values.
        context: cases, settings and where tables and pictures go.

    Raises:
        DataError: no test case has a mask.
    """
    return _evaluate(bundle, labels, {"normal_dose": _normal_dose}, context)


def evaluate_task(segmenter: Bundle, denoiser: Bundle, labels: LabelTable, context: Context) -> Metrics:
    """Dice per organ on normal-dose, low-dose and restored slices of the test cases that have a low dose.

    Raises:
        DataError: no test case has a low dose, or none of these a mask.
    """
    images: dict[str, Images] = {
        "normal_dose": _normal_dose,
        "low_dose": _low_dose,
        RESTORED: restore_with(denoiser),
    }
    context = replace(context, test=with_low_dose(context.test, "test"))
    return _evaluate(segmenter, labels, images, context)


def _evaluate(bundle: Bundle, labels: LabelTable, images: Mapping[str, Images], context: Context) -> Metrics:
    cases = [case for case in context.test if case.has_mask]
    if not cases:
        raise DataError("no test case has a mask; Dice needs labels: see the manifest")
    segment = _segment_with(bundle)
    class_of_label = _class_of_label(bundle, labels)
    slices = chosen_slices(cases, context.settings.slices_per_case)
    shown = one_per_anatomy(slices)
    label_maps, pictures = [], {}
    for case, index in progress(slices, "segmenting slices"):
        hu = {kind: image_of(case, index) for kind, image_of in images.items()}
        predicted = {kind: segment(image_hu, case) for kind, image_hu in hu.items()}
        label_maps.append({REFERENCE: class_of_label[case.mask()[index]], **predicted})
        if (case, index) in shown:
            pictures[case, index] = (hu, label_maps[-1])
    table = _dice_table(bundle, slices, label_maps)
    table.round(4).to_csv(context.folder / "dice.csv", index=False, lineterminator="\n")
    _draw(bundle, pictures, context)
    return {
        "patients": len({case.patient_id for case in cases}),
        "slices": len(slices),
        "aggregation": AGGREGATION,
        "dice": _mean_dice(table, np.random.default_rng(context.settings.seed)),
        "false_ml_where_absent": _mean_false_ml(table),
    }


def _segment_with(bundle: Bundle) -> Callable[[Image, Case], Labels]:
    """From a slice (H, W) HU of a case to its classes."""
    if bundle.kind != "segmenter" or bundle.window is None:
        raise ValueError(f"a segmenter is needed, got a bundle of kind {bundle.kind}")
    model, window = ready(bundle), bundle.window
    bf16 = runs_in_bf16(bundle, model)

    @ieee_float32()
    def segment(image_hu: Image, case: Case) -> Labels:
        _, row_mm, column_mm = case.spacing_mm
        logits = class_logits(
            model,
            to_device(image_hu[None], model),
            window=window,
            spacing_mm=(row_mm, column_mm),
            input_spacing_mm=bundle.input_spacing_mm,
            bf16=bf16,
        )
        classes: Labels = logits[0].argmax(dim=0).cpu().numpy().astype(np.uint8)
        return classes

    return segment


def _class_of_label(bundle: Bundle, table: LabelTable) -> Labels:
    """The bundle's class of each mask value."""
    organs = [str(label["name"]) for label in bundle.labels[1:]]
    try:
        return class_lookup(organs, {label.name: label.value for label in table.labels}, table.outside)
    except ValueError as unknown:
        raise DataError(f"bundle {bundle.name} and the label table disagree: {unknown}") from None


def _dice_table(
    bundle: Bundle, slices: Sequence[tuple[Case, int]], label_maps: Sequence[Mapping[str, Labels]]
) -> pd.DataFrame:
    """One row per patient, kind of image and organ; no Dice where the slices do not show the organ."""
    rows = []
    for patient in dict.fromkeys(case.patient_id for case, _ in slices):
        own = [
            (maps, float(np.prod(case.spacing_mm)) / 1000)
            for (case, _), maps in zip(slices, label_maps, strict=True)
            if case.patient_id == patient
        ]
        pooled = {kind: np.concatenate([maps[kind].ravel() for maps, _ in own]) for kind in own[0][0]}
        reference = pooled.pop(REFERENCE)
        rows += [
            {
                "patient": patient,
                "images": kind,
                "organ": organ,
                "dice": dice(members(predicted), members(reference)) if members(reference).any() else None,
                "found_ml": sum(voxel_ml * int(members(maps[kind]).sum()) for maps, voxel_ml in own),
            }
            for organ, members in _organs(bundle).items()
            for kind, predicted in pooled.items()
        ]
    return pd.DataFrame(rows)


def _organs(bundle: Bundle) -> dict[str, Callable[[Labels], npt.NDArray[np.bool_]]]:
    """For each organ which pixels belong to it; the body is all that is not background."""
    organs: dict[str, Callable[[Labels], npt.NDArray[np.bool_]]] = {
        str(bundle.labels[0]["name"]): lambda classes: classes > 0
    }
    for label in bundle.labels[1:]:
        organs[str(label["name"])] = lambda classes, value=label["value"]: classes == value  # type: ignore[misc]
    return organs


def _mean_dice(table: pd.DataFrame, generator: np.random.Generator) -> Metrics:
    """For each kind of image the mean Dice of each organ, and the mean of these."""
    means: Metrics = {}
    for (kind, organ), rows in table.dropna(subset="dice").groupby(["images", "organ"], sort=False):
        patients = {str(patient): list(values) for patient, values in rows.groupby("patient")["dice"]}
        means.setdefault(str(kind), {})[str(organ)] = summarise(patients, generator).mean
    return {kind: {**organs, "mean": float(np.mean(list(organs.values())))} for kind, organs in means.items()}


def _mean_false_ml(table: pd.DataFrame) -> Metrics:
    """For each kind of image and organ the mean volume found in patients without it, unseen by Dice."""
    false: Metrics = {}
    for (kind, organ), rows in table[table["dice"].isna()].groupby(["images", "organ"], sort=False):
        false.setdefault(str(kind), {})[str(organ)] = float(rows["found_ml"].mean())
    return false


def _draw(
    bundle: Bundle,
    pictures: Mapping[tuple[Case, int], tuple[Mapping[str, Image], Mapping[str, Labels]]],
    context: Context,
) -> None:
    """A row per anatomy: the normal dose with the reference, then each kind of image with its prediction."""
    colours = {label["value"]: label["rgb"] for label in bundle.labels}
    rows = []
    for (case, index), (hu, label_maps) in pictures.items():
        window, normal_dose = display_window(case.anatomy), _normal_dose(case, index)
        row = [
            Panel(normal_dose, window, f"{case.anatomy}, normal dose"),
            Panel(normal_dose, window, REFERENCE, label_maps[REFERENCE], colours),
        ]
        for kind, image_hu in hu.items():
            title = f"predicted on {kind.replace('_', ' ')}"
            row.append(Panel(image_hu, window, title, label_maps[kind], colours))
        rows.append(row)
    save_panels(context.folder / "overlays.png", rows)


def _normal_dose(case: Case, index: int) -> Image:
    return np.asarray(case.normal_dose()[index], np.float32)


def _low_dose(case: Case, index: int) -> Image:
    return np.asarray(case.low_dose()[index], np.float32)
