"""Settings of restoration networks: input, losses, patches, and the game against a discriminator."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from pipeline.config.base import Settings
from pipeline.config.degradations import LowDoseStep, Steps
from pipeline.config.training import OptimSettings, TrainingSettings

DoseFraction = Annotated[float, Field(gt=0, lt=1)]


def _in_the_project(bundle: str) -> str:
    path = PurePath(bundle)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(
            "a bundle lies below the project root: write models/<preset>/<model>/bundle.safetensors"
        )
    return bundle


BundlePath = Annotated[str, AfterValidator(_in_the_project)]
"""Of a bundle, relative to the project root and below it."""


_SCALING_WITH_THE_IMAGES: Final = {"gradient", "l1", "mse"}


class _Loss(Settings):
    weight: PositiveFloat = 1.0


class MeanSquaredErrorTerm(_Loss):
    """Mean squared error."""

    kind: Literal["mse"]


class AbsoluteErrorTerm(_Loss):
    """Mean absolute error."""

    kind: Literal["l1"]


class CharbonnierTerm(_Loss):
    """A smooth absolute error: quadratic below `epsilon_hu`."""

    kind: Literal["charbonnier"]
    epsilon_hu: PositiveFloat = 1.0


class GradientTerm(_Loss):
    """Difference of the image gradients."""

    kind: Literal["gradient"]


class SSIMTerm(_Loss):
    """1 − SSIM."""

    kind: Literal["ssim"]
    data_range_hu: PositiveFloat = 400.0


class FeaturesTerm(_Loss):
    """Distance of the features that the encoder of one of our segmenters sees."""

    kind: Literal["features"]
    encoder: BundlePath


LossTerm = Annotated[
    MeanSquaredErrorTerm | AbsoluteErrorTerm | CharbonnierTerm | GradientTerm | SSIMTerm | FeaturesTerm,
    Field(discriminator="kind"),
]


class Scale(Settings):
    """Network units: `(hu - zero_hu) / unit_hu`."""

    zero_hu: float = 0.0
    unit_hu: PositiveFloat = 1000.0


class PatchData(Settings):
    """Patches of pairs; `validation_slices` whole slices of each validation case.

    Drawn for each sample: one of the `zooms` by which it is enlarged (below 1: made smaller), an offset of up
    to `shift_hu` either way, and a factor from `contrast` on its distance from air.
    """

    patch_size: PositiveInt = 64
    scale: Scale = Scale()
    validation_slices: PositiveInt = 3
    zooms: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0,)
    shift_hu: NonNegativeFloat = 0.0
    contrast: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)

    @field_validator("contrast")
    @classmethod
    def _ordered(cls, contrast: tuple[float, float]) -> tuple[float, float]:
        low, high = contrast
        if low > high:
            raise ValueError(f"the lower factor comes first, so write [{high:g}, {low:g}]")
        return contrast


class LowDoseSettings(Settings):
    """Low dose made while training: a new dose and new noise for every slice that is drawn.

    `photons_per_ray` and `kernel_cutoff_per_mm` are read from the images' own noise where they are not given,
    and where they cannot be read, `assumed_cutoff_per_mm` is that of the kernel, and the photons follow from
    the noise level (`data.scans`); without it such a case stops the training.
    With `varied` kernels half of the slices get the noise texture of another kernel than their own.
    """

    dose_fractions: tuple[DoseFraction, DoseFraction] = (0.1, 0.6)
    patches_per_slice: PositiveInt = 4
    photons_per_ray: PositiveFloat | None = None
    kernel_cutoff_per_mm: PositiveFloat | None = None
    assumed_cutoff_per_mm: PositiveFloat | None = None
    kernels: Literal["own", "varied"] = "own"

    @field_validator("dose_fractions")
    @classmethod
    def _ordered(cls, fractions: tuple[float, float]) -> tuple[float, float]:
        low, high = fractions
        if low > high:
            raise ValueError(f"the lower dose comes first, so write [{high:g}, {low:g}]")
        return fractions


class DiscriminatorSettings(Settings):
    """A patch discriminator."""

    features: PositiveInt = 32
    layers: PositiveInt = 3


class _Game(Settings):
    weight: PositiveFloat
    start_step: NonNegativeInt = 0
    ramp_steps: NonNegativeInt = 0
    keep: Literal["best", "last"] = "best"
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    optim: OptimSettings


class NonSaturatingGame(_Game):
    """Non-saturating losses with R1, the penalty on the discriminator's gradient at real images."""

    game: Literal["non_saturating"]
    r1_gamma: PositiveFloat = 1e-3


class WassersteinGame(_Game):
    """WGAN-GP: a critic with a gradient penalty, `critic_steps` turns of it for each of the denoiser."""

    game: Literal["wasserstein"]
    penalty_weight: PositiveFloat = 10.0
    critic_steps: PositiveInt = 5


Game = Annotated[NonSaturatingGame | WassersteinGame, Field(discriminator="game")]


class RestorationSettings(TrainingSettings):
    """A denoiser, of the stored low dose where neither `degradation` nor `low_dose` is given.

    Attributes:
        data: patches, scale and validation.
        losses: terms whose weighted sum is minimised.
        error_unit: `hu` as they are; `noise_sd`: of each sample in units of its noise, so that every dose and
            scanner counts alike; for a network with a noise map, and terms without a length in HU.
        degradation: steps that make the input from the normal dose.
        low_dose: low dose that is made while training.
        adversarial: a discriminator joins in.
        start_from: bundle of a denoiser whose weights are the first ones.
    """

    family: Literal["restoration"]
    data: PatchData = PatchData()
    losses: Annotated[tuple[LossTerm, ...], Field(min_length=1)] = (MeanSquaredErrorTerm(kind="mse"),)
    error_unit: Literal["hu", "noise_sd"] = "hu"
    degradation: Steps | None = None
    low_dose: LowDoseSettings | None = None
    adversarial: Game | None = None
    start_from: BundlePath | None = None

    @field_validator("error_unit")
    @classmethod
    def _terms_without_a_length(cls, unit: str, given: ValidationInfo) -> str:
        bound = {term.kind for term in given.data.get("losses", ())} - _SCALING_WITH_THE_IMAGES
        if unit == "noise_sd" and bound:
            raise ValueError(
                f"losses {', '.join(sorted(bound))} have lengths in HU of their own; use "
                f"{', '.join(sorted(_SCALING_WITH_THE_IMAGES))}, or error_unit: hu"
            )
        return unit

    @field_validator("degradation")
    @classmethod
    def _only_what_a_patch_can_have(cls, steps: Steps | None) -> Steps | None:
        if any(isinstance(step, LowDoseStep) for step in steps or ()):
            raise ValueError(
                "low_dose needs the ray sums of a whole slice, and training sees patches; give the block "
                "`low_dose:` in place of degradation"
            )
        return steps

    @field_validator("low_dose")
    @classmethod
    def _one_source_of_the_input(
        cls, low_dose: LowDoseSettings | None, given: ValidationInfo
    ) -> LowDoseSettings | None:
        if low_dose is None:
            return None
        if given.data.get("degradation") is not None:
            raise ValueError("degradation makes the network's input already; remove one of them")
        share = given.data.get("batch_size", 0) // given.data.get("accumulate", 1)
        if share % low_dose.patches_per_slice:
            raise ValueError(
                f"patches_per_slice {low_dose.patches_per_slice} must divide batch_size / accumulate = "
                f"{share}: the patches of a slice share a micro-batch"
            )
        return low_dose

    @field_validator("adversarial")
    @classmethod
    def _the_game_begins(cls, game: Game | None, given: ValidationInfo) -> Game | None:
        steps = given.data.get("steps")
        if game is not None and steps is not None and game.start_step >= steps:
            raise ValueError(
                f"start_step {game.start_step} is not below steps {steps}, so the discriminator would never "
                "join in; lower it, or remove adversarial"
            )
        return game

    def loss_terms(self) -> list[dict[str, Any]]:
        """The terms as plain values."""
        return [term.model_dump() for term in self.losses]
