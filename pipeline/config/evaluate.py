"""Settings of `ldct evaluate` (`configs/<preset>/evaluate.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from pipeline.config.base import Settings
from pipeline.config.scan import AssumedScanSettings

ConventionName = Literal["redcnn", "redcnn-legacy", "ldctbench", "dugan", "wide", "full"]
BaselineName = Literal["gaussian", "nlm", "tv", "bm3d"]
DoseFraction = Annotated[float, Field(gt=0, lt=1)]


class MadeDoseSettings(Settings):
    """Low doses made from the normal dose of the test slices, in place of the stored one."""

    dose_fractions: Annotated[tuple[DoseFraction, ...], Field(min_length=1)]
    """Shares of the normal dose; each is scored by itself."""
    unreadable: AssumedScanSettings | None = None
    """Assumed where a scan cannot be read from its images; without it such cases are left out."""

    @field_validator("dose_fractions")
    @classmethod
    def _each_once(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(fractions)) < len(fractions):
            raise ValueError("a dose appears twice; remove one of them")
        return fractions


class RestorationSettings(Settings):
    """How a denoiser is scored."""

    conventions: Annotated[tuple[ConventionName, ...], Field(min_length=1)] = ("redcnn", "full")
    """Metric conventions; the first decides gains, verdict and the tuning of the baselines."""
    tuning_slices_per_case: PositiveInt = 2
    """Slices of each validation case on which the baselines are tuned."""
    baselines: dict[BaselineName, Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]]
    """Values to try: sigma in pixels (gaussian), h (nlm), weight (tv) and noise SD (bm3d) in HU.

    `bm3d` needs the package of that name, whose licence is non-commercial (extra `benchmarks`).
    """
    low_dose: MadeDoseSettings | None = None
    """Low doses to make; None for the stored one."""

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
