"""Segmenters: Dice per organ, on the normal dose or on all three kinds of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from pipeline.bundle import Bundle
from pipeline.data import Case
from pipeline.figures import Panel, save_panels
from pipeline.metrics import dice, summarise
from pipeline.models.apply import class_logits
from pipeline.stages.evaluation.context import (
    Context,
    Metrics,
    chosen_slices,
    display_window,
    one_per_anatomy,
    progress,
    ready,
    to_device,
)
from pipeline.stages.evaluation.restoration import restore_slice

Image = npt.NDArray[Any]
Labels = npt.NDArray[np.uint8]
BODY: Final = "body"
AGGREGATION: Final = "slices of a patient pooled, mean over the patients in whom the organ is present"


def evaluate_segmentation(bundle: Bundle, context: Context) -> Metrics:
    """Dice per organ on the normal-dose slices of the test cases."""
    return _evaluate(bundle, None, context)


def evaluate_task(segmenter: Bundle, denoiser: Bundle, context: Context) -> Metrics:
    """Dice per organ on normal-dose, low-dose and restored slices of the test cases."""
    return _evaluate(segmenter, denoiser, context)


def _evaluate(segmenter: Bundle, denoiser: Bundle | None, context: Context) -> Metrics:
    cases = [case for case in context.test if case.has_mask]
    if not cases:
        raise DataError("no test case has a mask; Dice needs labels: see the manifest")
    segment = _segment_with(segmenter)
    doses = _doses(denoiser)
    classes = _classes(segmenter)
    slices = chosen_slices(cases, context.settings.slices_per_patient)
    predicted: dict[str, list[Labels]] = {dose: [] for dose in doses}
    targets = []
    for case, index in progress(slices, "segmenting slices"):
        targets.append(classes.of_label[case.mask()[index]])
        for dose, image_of in doses.items():
            predicted[dose].append(segment(image_of(case, index), case))
    table = _dice_table(slices, targets, predicted, classes.names)
    table.round(4).to_csv(context.folder / "dice.csv", index=False, lineterminator="\n")
    _draw(slices, targets, predicted, doses, segmenter, context)
    return {
        "patients": len({case.patient_id for case in cases}),
        "slices": len(slices),
        "aggregation": AGGREGATION,
        "dice": _mean_dice(table, np.random.default_rng(context.settings.seed)),
    }
