"""Weights that nobody trained: small enough for tests, and harmless, as they change no pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.bundle import Bundle, save_bundle
from pipeline.hu import WATER_CENTRED, HUWindow
from pipeline.models import build_model
from tests.predict_cases import LABELS


def write_bundles(folder: Path) -> tuple[Path, Path]:
    """An untrained denoiser and an untrained segmenter."""
    common: dict[str, Any] = {"score": {}, "config_digest": "", "data_digest": ""}
    denoiser = Bundle(
        kind="denoiser",
        architecture="redcnn",
        arguments={"features": 2},
        name="redcnn",
        scale=WATER_CENTRED,
        tensors=build_model("redcnn", features=2).state_dict(),
        **common,
    )
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
        **common,
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "denoiser.safetensors", folder / "segmenter.safetensors"
    for path, bundle in zip(paths, (denoiser, segmenter), strict=True):
        save_bundle(path, bundle)
    return paths
