"""Settings of degradations: a list of steps in order, each told apart by `kind:`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.config.base import Settings


class IdentityStep(Settings):
    """H = I."""

    kind: Literal["identity"]


class BlurStep(Settings):
    """A Gaussian blur."""

    kind: Literal["blur"]
    sigma_mm: PositiveFloat


class DownsampleStep(Settings):
    """Means of `factor` × `factor` pixels, interpolated back to the same grid."""

    kind: Literal["downsample"]
    factor: Annotated[int, Field(ge=2)]
    interpolation: Literal["linear", "cubic"] = "cubic"


class _Range(Settings):
    smallest_mm: PositiveFloat
    largest_mm: PositiveFloat

    @model_validator(mode="after")
    def _check_order(self) -> _Range:
        if self.smallest_mm > self.largest_mm:
            raise ValueError(
                f"smallest_mm must not exceed largest_mm, got {self.smallest_mm:g} and {self.largest_mm:g}"
            )
        return self


class HolesStep(_Range):
    """Random holes, each width between the smallest and the largest."""

    kind: Literal["holes"]
    shape: Literal["rectangle", "ellipse"]
    count: PositiveInt
    fill_hu: float


class StrokesStep(Settings):
    """Random strokes of a round brush."""

    kind: Literal["strokes"]
    count: PositiveInt
    width_mm: PositiveFloat
    length_mm: PositiveFloat
    fill_hu: float


class MetalStep(_Range):
    """Random discs in the body where metal hides the values; no artefacts around them."""

    kind: Literal["metal"]
    count: PositiveInt
    metal_hu: float


class WhiteNoiseStep(Settings):
    """White Gaussian noise."""

    kind: Literal["white_noise"]
    sd_hu: PositiveFloat


class LowDoseStep(Settings):
    """Noise of a lower dose, inserted in the ray sums of whole slices."""

    kind: Literal["low_dose"]
    dose_fraction: Annotated[float, Field(gt=0, lt=1)]
    photons_per_ray: PositiveFloat
    kernel_cutoff_per_mm: PositiveFloat


Step = Annotated[
    IdentityStep
    | BlurStep
    | DownsampleStep
    | HolesStep
    | StrokesStep
    | MetalStep
    | WhiteNoiseStep
    | LowDoseStep,
    Field(discriminator="kind"),
]

Steps = Annotated[list[Step], Field(min_length=1)]
"""A degradation; each step's fields are `kind` and the arguments of that degradation."""
