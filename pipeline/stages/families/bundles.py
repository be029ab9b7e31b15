"""What a family hands over: a training and the bundle that its weights go into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from pipeline.bundle import Bundle
from pipeline.config.training import TrainingSettings
from pipeline.data.batches import Batches
from pipeline.hu import HUScale, HUWindow
from pipeline.objectives import Objective


@dataclass(frozen=True)
class Training:
    """What the engine trains, and the bundle that its weights go into.

    Attributes:
        objective: losses and validation.
        networks: freshly built, by name.
        batches: of the whole run.
        bundle: complete but for weights, score, name and digests.
        remarks: lines that whoever starts the training should read.
    """

    objective: Objective
    networks: Mapping[str, nn.Module]
    batches: Batches
    bundle: Bundle
    remarks: tuple[str, ...] = ()


def blank_bundle(
    kind: str,
    settings: TrainingSettings,
    arguments: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    *,
    scale: HUScale | None = None,
    window: HUWindow | None = None,
    input_spacing_mm: float | None = None,
    training: Mapping[str, Any] = MappingProxyType({}),
    labels: tuple[Mapping[str, Any], ...] = (),
) -> Bundle:
    """A bundle that lacks weights, score, name and digests.

    Args:
        kind: see `pipeline.bundle.KINDS`.
        settings: name the architecture.
        arguments: what it is built with.
        fingerprint: of the training data.
        scale: of a denoiser.
        window: of the other kinds.
        input_spacing_mm: of a segmenter.
        training: what the bundle keeps of how it was trained, plain JSON values, beside the sources that were
            left out.
        labels: of a segmenter.
    """
    left_out = {"left_out": sorted(settings.leave_out)} if settings.leave_out else {}
    return Bundle(
        kind=kind,
        architecture=settings.model.architecture,
        arguments=arguments,
        name=kind,
        scale=scale,
        window=window,
        input_spacing_mm=input_spacing_mm,
        training={**training, **left_out},
        labels=labels,
        fingerprint=fingerprint,
        score={},
        config_digest="",
        data_digest="",
        tensors={},
    )
