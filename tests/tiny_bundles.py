"""Weights that nobody trained: small enough for tests; unless asked to, they change no pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.bundle import Bundle, save_bundle
from pipeline.hu import WATER_CENTRED, HUWindow
from pipeline.models import build_model
from tests.predict_cases import LABELS

COMMON: dict[str, Any] = {"score": {}, "config_digest": "", "data_digest": ""}


def denoiser_bundle(*, weights_sd: float = 0.0, **arguments: Any) -> Bundle:
    """A RED-CNN of three features; its last layer is drawn with `weights_sd`: 0.05 corrects by tens of HU."""
    arguments = {"features": 3, **arguments}
    torch.manual_seed(0)
    model: Any = build_model("redcnn", **arguments)
    nn.init.normal_(model.decoder[-1].weight, std=weights_sd)
    return Bundle(
        kind="denoiser",
        architecture="redcnn",
        arguments=arguments,
        name="redcnn",
        scale=WATER_CENTRED,
        tensors=model.state_dict(),
        **COMMON,
    )


def write_bundles(folder: Path) -> tuple[Path, Path]:
    """An untrained denoiser and an untrained segmenter."""
    denoiser = denoiser_bundle(features=2)
    sizes: dict[str, Any] = {"classes": 3, "channels": [4, 8], "residual_units": 1}
    segmenter = Bundle(
        kind="segmenter",
        architecture="unet",
        arguments=sizes,
        name="unet",
        window=HUWindow(-1000, 1000),
        input_spacing_mm=1.5,
        labels=tuple(vars(label) for label in LABELS),
        tensors=build_model("unet", **sizes).state_dict(),
        **COMMON,
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "denoiser.safetensors", folder / "segmenter.safetensors"
    for path, bundle in zip(paths, (denoiser, segmenter), strict=True):
        save_bundle(path, bundle)
    return paths
