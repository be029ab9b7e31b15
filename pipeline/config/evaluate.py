"""Settings of `ldct evaluate` (`configs/<preset>/evaluate.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator, model_validator

from pipeline.config.base import Settings

ConventionName = Literal["redcnn", "redcnn-legacy", "ldctbench", "dugan", "wide", "full"]
BaselineName = Literal["gaussian", "nlm", "tv", "bm3d"]
DoseFraction = Annotated[float, Field(gt=0, lt=1)]


class MadeDoseSettings(Settings):
    """Low doses made from the normal dose of the test slices, in place of the stored one."""

    dose_fractions: Annotated[tuple[DoseFraction, ...], Field(min_length=1)]
    """Shares of the normal dose; each is scored by itself."""
    assumed_cutoff_per_mm: PositiveFloat | None = None
    """Of the kernel, where a scan cannot be read from its images; without it such cases are left out."""

    @field_validator("dose_fractions")
    @classmethod
    def _each_once(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(fractions)) < len(fractions):
            raise ValueError("a dose appears twice; remove one of them")
        return fractions


class DetectabilitySettings(Settings):
    """A known lesion, looked for before and after denoising, at doses that are made."""

    contrast_hu: PositiveFloat = 10
    """Of the disc against its surround."""
    diameter_mm: PositiveFloat = 6
    """Of the disc, before the scan's kernel blurs it."""
    realisations: Annotated[int, Field(ge=100)] = 100
    """Of the noise at each place, with and without the disc each; fewer would tell no denoisers apart."""
    dose_fractions: Annotated[tuple[DoseFraction, ...], Field(min_length=1)]
    """Some of those of `low_dose`."""
    cases: PositiveInt = 6
    """Most test cases to look at, from all sources and kernels alike."""
    places_per_case: PositiveInt = 4
    """Most places in each."""


class SharpnessSettings(Settings):
    """Edges of discs in the noise of the made doses."""

    contrasts_hu: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (50, 100, 300)
    """Of the discs against their surround."""
    realisations: Annotated[int, Field(ge=2)] = 20
    """Of the noise; their mean image is measured."""
    cases: PositiveInt = 3
    """Most test cases to take noise and kernel from, of all sources and kernels alike."""


class RestorationSettings(Settings):
    """How a denoiser is scored."""

    conventions: Annotated[tuple[ConventionName, ...], Field(min_length=1)] = ("redcnn", "full")
    """Metric conventions; the first decides gains, verdict and the tuning of the baselines."""
    tuning_slices_per_case: PositiveInt = 2
    """Slices of each validation case on which the baselines are tuned."""
    baselines: dict[BaselineName, Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]]
    """Values to try: sigma in pixels (gaussian); h (nlm), weight (tv) and noise SD (bm3d) in multiples of the
    noise level of the image's series, which a network with a noise map is told.

    `bm3d` needs the package of that name, whose licence is non-commercial (`pip install bm3d`).
    """
    low_dose: MadeDoseSettings | None = None
    """Low doses to make; None for the stored one."""
    detectability: DetectabilitySettings | None = None
    """None where no lesions are looked for; needs `low_dose`."""
    sharpness: SharpnessSettings | None = None
    """None where no edges are measured; needs `low_dose`."""

    @field_validator("low_dose")
    @classmethod
    def _scored_over_the_full_range(
        cls, low_dose: MadeDoseSettings | None, given: ValidationInfo
    ) -> MadeDoseSettings | None:
        if low_dose is not None and "full" not in given.data.get("conventions", ("full",)):
            raise ValueError(
                "slices below their input are counted under the convention full; add it to conventions"
            )
        return low_dose

    @model_validator(mode="after")
    def _observed_at_made_doses(self) -> Self:
        asked = [name for name in ("detectability", "sharpness") if getattr(self, name) is not None]
        if asked and self.low_dose is None:
            raise ValueError(f"{asked[0]} needs low doses that are made; set low_dose.dose_fractions")
        if self.detectability is not None and self.low_dose is not None:
            made = self.low_dose.dose_fractions
            others = [dose for dose in self.detectability.dose_fractions if dose not in made]
            if others:
                raise ValueError(
                    f"detectability at {others[0]:g} of the dose, which low_dose does not make; add it to "
                    "low_dose.dose_fractions, for which baselines are tuned"
                )
        return self


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
