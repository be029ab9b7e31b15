"""Settings of `train`: one schema per family of models, told apart by `family:`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pipeline.config.base import Settings, load_settings
from pipeline.config.restoration import RestorationSettings
from pipeline.config.training import OptimSettings, TrainingSettings

__all__ = [
    "GANSettings",
    "RestorationSettings",
    "SegmentationSettings",
    "TrainSettings",
    "VAESettings",
    "load_train_settings",
]


class Window(Settings):
    """An HU range."""

    low: float
    high: float

    @model_validator(mode="after")
    def _check_order(self) -> Window:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got low {self.low:g} and high {self.high:g}")
        return self


class LabelledData(Settings):
    """Whole slices with organ classes, at `input_spacing_mm`, and how far they are varied."""

    classes: Annotated[list[str], Field(min_length=1)]
    window: Window
    input_spacing_mm: PositiveFloat
    image_size: PositiveInt
    rotation_degrees: NonNegativeFloat
    scale: Annotated[float, Field(ge=0, lt=1)]
    shift_hu: NonNegativeFloat
    noise_hu: NonNegativeFloat
    validation_slices: PositiveInt


class SliceData(Settings):
    """Whole small slices around the body's centre, and how far they are varied."""

    window: Window
    image_size: PositiveInt
    field_of_view_mm: PositiveFloat
    shift_pixels: NonNegativeFloat
    scale: Annotated[float, Field(ge=0, lt=1)]


class SegmentationSettings(TrainingSettings):
    """A segmenter."""

    family: Literal["segmentation"]
    data: LabelledData


class VAESettings(TrainingSettings):
    """A variational autoencoder; `noise_sd` in units of the window."""

    family: Literal["vae"]
    data: SliceData
    noise_sd: PositiveFloat
    beta: NonNegativeFloat
    beta_warmup_steps: NonNegativeInt


class GANSettings(TrainingSettings):
    """A GAN: `model` and `optim` are the generator's."""

    family: Literal["gan"]
    data: SliceData
    discriminator_features: PositiveInt
    discriminator_optim: OptimSettings


TrainSettings = RestorationSettings | SegmentationSettings | VAESettings | GANSettings

_SCHEMAS: Final[dict[str, type[TrainSettings]]] = {
    "restoration": RestorationSettings,
    "segmentation": SegmentationSettings,
    "vae": VAESettings,
    "gan": GANSettings,
}


class _Family(Settings):
    model_config = ConfigDict(extra="ignore", frozen=True)

    family: Literal["restoration", "segmentation", "vae", "gan"]


def load_train_settings(path: Path) -> TrainSettings:
    """Read a model's YAML file with the schema that its `family:` names.

    Raises:
        ConfigError: the file is missing, is not YAML, or has unknown, missing or invalid keys.
    """
    return load_settings(path, _SCHEMAS[load_settings(path, _Family).family])
