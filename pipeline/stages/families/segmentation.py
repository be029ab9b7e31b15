"""The family of segmenters: labelled slices of the normal dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.labels import LabelTable, load_labels
from pipeline.config.train import SegmentationSettings
from pipeline.data import Case
from pipeline.data.batches import SampleBatches
from pipeline.data.patches import LabelledSlices, class_lookup, spread_slices
from pipeline.errors import ConfigError, DataError
from pipeline.hu import HUWindow
from pipeline.models import build_model
from pipeline.objectives import LabelledSlice, Segmentation
from pipeline.stages.families.bundles import Training, blank_bundle
from pipeline.transforms import labelled_slices


def build_segmentation(
    settings: SegmentationSettings,
    training: Sequence[Case],
    validation: Sequence[Case],
    fingerprint: Mapping[str, Any],
) -> Training:
    """A segmenter, and the labelled slices that it learns from.

    Raises:
        ConfigError: a class is no label, or the model cannot be built.
        DataError: no case has a mask.
    """
    data = settings.data
    window = HUWindow(data.window.low, data.window.high)
    labels, class_of_label = _classes(data.classes, load_labels())
    slices = [
        LabelledSlice(
            case.normal_dose()[position],
            class_of_label[case.mask()[position]],
            (case.spacing_mm[1], case.spacing_mm[2]),
        )
        for case in _with_masks(validation)
        for position in spread_slices(case.shape[0], data.validation_slices)
    ]
    transform = labelled_slices(
        data.image_size,
        rotation_degrees=data.rotation_degrees,
        scale=data.scale,
        shift_hu=data.shift_hu,
        noise_hu=data.noise_hu,
    )
    samples = LabelledSlices(
        _with_masks(training),
        transform,
        input_spacing_mm=data.input_spacing_mm,
        class_of_label=class_of_label,
        seed=settings.seed,
    )
    arguments = {**settings.model.arguments, "classes": len(labels) + 1}
    return Training(
        objective=Segmentation(
            [label["name"] for label in labels],
            window=window,
            input_spacing_mm=data.input_spacing_mm,
            colours={label["value"]: label["rgb"] for label in labels},
            validation=slices,
        ),
        networks={Segmentation.product: build_model(settings.model.architecture, **arguments)},
        batches=SampleBatches(samples, settings.batch_size),
        bundle=blank_bundle(
            "segmenter",
            settings,
            arguments,
            fingerprint,
            window=window,
            input_spacing_mm=data.input_spacing_mm,
            labels=tuple(labels),
        ),
    )


def _with_masks(cases: Sequence[Case]) -> list[Case]:
    masked = [case for case in cases if case.has_mask]
    if not masked:
        raise DataError(f"no {cases[0].role} case has a mask; a segmenter needs labels: see the manifest")
    return masked


def _classes(names: Sequence[str], table: LabelTable) -> tuple[list[dict[str, Any]], npt.NDArray[np.uint8]]:
    """Bundle labels of classes 1 (the body), 2, … and the class of each mask value."""
    try:
        class_of_label = class_lookup(
            names, {label.name: label.value for label in table.labels}, table.outside
        )
    except ValueError as unknown:
        raise ConfigError(f"data.classes: {unknown}") from None
    by_name = {label.name: label for label in table.labels}
    chosen = [table.body, *(by_name[name] for name in names)]
    labels = [{**label.model_dump(), "value": value} for value, label in enumerate(chosen, start=1)]
    return labels, class_of_label
