"""Settings of `train`: one schema per family of models, told apart by `family:`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from pipeline.config.base import Settings, load_settings
from pipeline.config.degradations import LowDoseStep, Steps

Fraction = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class ModelSettings(Settings):
    """A model of `pipeline.models.MODELS` and what its constructor takes."""

    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class OptimSettings(Settings):
    """Adam with warm-up and cosine decay."""

    lr: PositiveFloat
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 0
    final_fraction: Fraction = 1.0


class Window(Settings):
    """An HU range."""

    low: float
    high: float

    @model_validator(mode="after")
    def _check_order(self) -> Window:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got low {self.low:g} and high {self.high:g}")
        return self


class Scale(Settings):
    """Network units: `(hu - zero_hu) / unit_hu`."""

    zero_hu: float
    unit_hu: PositiveFloat


class PatchData(Settings):
    """Patches of pairs; `validation_slices` whole slices of each validation case."""

    patch_size: PositiveInt
    scale: Scale
    validation_slices: PositiveInt


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


class _Training(Settings):
    steps: PositiveInt
    batch_size: PositiveInt
    validate_every: PositiveInt
    checkpoint_every: PositiveInt
    log_every: PositiveInt
    seed: NonNegativeInt
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: NonNegativeInt = 0
    clip_norm: PositiveFloat | None = None
    ema_decay: Decay | None = None
    model: ModelSettings
    optim: OptimSettings


class RestorationSettings(_Training):
    """A denoiser: of the stored low dose, or of the normal dose after the steps of `degradation`."""

    family: Literal["restoration"]
    data: PatchData
    degradation: Steps | None = None

    @field_validator("degradation")
    @classmethod
    def _only_what_a_patch_can_have(cls, steps: Steps | None) -> Steps | None:
        if any(isinstance(step, LowDoseStep) for step in steps or ()):
            raise ValueError(
                "low_dose needs the ray sums of a whole slice, and training sees patches; make pairs with "
                "`ldct simulate dose` and leave degradation out"
            )
        return steps


class SegmentationSettings(_Training):
    """A segmenter."""

    family: Literal["segmentation"]
    data: LabelledData


class VAESettings(_Training):
    """A variational autoencoder; `noise_sd` in units of the window."""

    family: Literal["vae"]
    data: SliceData
    noise_sd: PositiveFloat
    beta: NonNegativeFloat
    beta_warmup_steps: NonNegativeInt


class GANSettings(_Training):
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
