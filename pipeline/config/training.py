"""Settings that all families of models share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from pipeline.config.base import Settings

Fraction = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


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


class TrainingSettings(Settings):
    """What every training has.

    Attributes:
        steps: steps of the optimizers.
        batch_size: samples per step, over all GPUs and micro-batches.
        validate_every: steps between validations.
        checkpoint_every: steps between resume states.
        log_every: steps that one point of the curves averages.
        seed: of weights, samples and noise, below 2**63.
        precision: of the layers; `auto` is bfloat16 where the hardware computes in it.
        workers: processes that prepare samples; 0 prepares them between steps.
        accumulate: micro-batches per step and process, whose gradients are summed: less memory, same batch.
        clip_norm: largest gradient norm.
        ema_decay: of the averaged weights, which are then validated and kept.
        leave_out: sources whose cases neither train nor validate, by the names of their manifests.
        model: what is trained.
        optim: its optimizer.
    """

    steps: PositiveInt
    batch_size: PositiveInt
    validate_every: PositiveInt = 200
    checkpoint_every: PositiveInt = 200
    log_every: PositiveInt = 20
    seed: Seed = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: NonNegativeInt = 0
    accumulate: PositiveInt = 1
    clip_norm: PositiveFloat | None = None
    ema_decay: Decay | None = None
    leave_out: tuple[str, ...] = ()
    model: ModelSettings
    optim: OptimSettings

    @field_validator("accumulate")
    @classmethod
    def _divides_the_batch(cls, accumulate: int, given: ValidationInfo) -> int:
        batch_size = given.data.get("batch_size", accumulate)
        if batch_size % accumulate:
            raise ValueError(f"micro-batches are equal shares, so it must divide batch_size {batch_size}")
        return accumulate
