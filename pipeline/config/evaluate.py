"""Settings of `ldct evaluate` (`configs/<preset>/evaluate.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.config.base import Settings

ConventionName = Literal["redcnn", "redcnn-legacy", "ldctbench", "dugan", "wide", "full"]
BaselineName = Literal["gaussian", "nlm", "tv"]


class RestorationSettings(Settings):
    """How a denoiser is scored."""

    conventions: Annotated[tuple[ConventionName, ...], Field(min_length=1)] = ("redcnn", "full")
    """Metric conventions; the first decides gains, verdict and the tuning of the baselines."""
    tuning_slices_per_case: PositiveInt = 2
    """Slices of each validation case on which the baselines are tuned."""
    baselines: dict[BaselineName, Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]]
    """Values to try: sigma in pixels (gaussian), h in HU (nlm), weight in HU (tv)."""


class TaskSettings(Settings):
    """Segmentation of normal-dose, low-dose and restored images."""

    denoiser: str = "redcnn"
    segmenter: str = "unet"


class GenerativeSettings(Settings):
    """How a VAE or GAN is scored."""

    samples: Annotated[int, Field(ge=2)] = 256
    """Samples drawn for the distance to real images."""


class EvaluateSettings(Settings):
    """All evaluations of a preset."""

    seed: int = 0
    """Seed of samples and bootstrap intervals."""
    slices_per_case: PositiveInt = 6
    """Evenly spread slices of each test case on which denoisers and segmenters are scored."""
    restoration: RestorationSettings
    task: TaskSettings = TaskSettings()
    generative: GenerativeSettings = GenerativeSettings()
