"""Settings of `ldct lab restoration`: claims, what decides them, and the small experiments behind them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.config.base import Settings

Share = Annotated[float, Field(gt=0, lt=1)]


class Measure(Settings):
    """One number per seed; positive speaks for the claim.

    Attributes:
        effect: what the number is.
        unit: its unit; `1` for shares, `log2` for doublings.
        least: smallest mean that counts.
    """

    effect: str
    unit: str
    least: float


class Lessons(Settings):
    """What each verdict would teach, written before there is one."""

    holds: str
    fails: str
    undecided: str


class Claim(Settings):
    """A claim of the lecture and how it is put to the test.

    Attributes:
        number: in the list of claims.
        says: the claim, one sentence.
        lecture: what the lecture says.
        did: what the experiment does.
        measures: by name; all of them have to hold.
        lessons: what to learn from the verdict.
    """

    number: PositiveInt
    says: str
    lecture: str
    did: str
    measures: dict[str, Measure]
    lessons: Lessons


class Phantoms(Settings):
    """Patients of each seed; counts are for each region."""

    regions: Annotated[tuple[Literal["head", "chest", "abdomen"], ...], Field(min_length=1)]
    train_patients: PositiveInt
    validation_patients: PositiveInt
    test_patients: PositiveInt
    slices: PositiveInt
    slice_increment_mm: PositiveFloat
    matrix: Annotated[int, Field(ge=32)]
    pixel_mm: PositiveFloat
    side: Annotated[int, Field(ge=32)]

    @model_validator(mode="after")
    def _check_side(self) -> Phantoms:
        if self.side > self.matrix:
            raise ValueError(f"side must not exceed matrix, got {self.side} and {self.matrix}")
        return self


class Training(Settings):
    """A short training: Adam with warm-up and cosine."""

    steps: PositiveInt
    batch_size: PositiveInt
    patch_size: PositiveInt
    learning_rate: PositiveFloat
    warmup_steps: Annotated[int, Field(ge=0)]
    final_fraction: Annotated[float, Field(gt=0, le=1)]
    log_every: PositiveInt


class IdentityClaim(Claim):
    """Claim 2."""

    noise_sd_hu: PositiveFloat
    blur_sigma_mm: PositiveFloat


class DepthTrainings(Training):
    """The trainings of claims 3 and 4."""

    depths: Annotated[list[PositiveInt], Field(min_length=2)]
    features: PositiveInt
    skip_every: PositiveInt
    noise_sd_hu: PositiveFloat


class DetailClaim(Claim):
    """Claim 3: the disc of the TTF."""

    contrast_hu: PositiveFloat
    background_hu: float
    radius_mm: PositiveFloat
    reach_mm: PositiveFloat
    realisations: PositiveInt


class EaseClaim(Claim):
    """Claim 4."""

    gradient_steps: PositiveInt


class ResidualClaim(Claim, Training):
    """Claim 6."""

    depth: PositiveInt
    skip_every: PositiveInt
    features: PositiveInt
    noise_sd_hu: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)]
    gain_db: PositiveFloat


class Grids(Settings):
    """Values of each filter's one parameter that tuning tries."""

    gaussian: Annotated[list[PositiveFloat], Field(min_length=1)]
    nlm: Annotated[list[PositiveFloat], Field(min_length=1)]
    tv: Annotated[list[PositiveFloat], Field(min_length=1)]


class RemovalClaim(Claim, Training):
    """Claim 9."""

    photons_per_ray: PositiveFloat
    dose_fraction: Share
    views: Annotated[int, Field(ge=4, multiple_of=4)]
    features: PositiveInt
    realisations: Annotated[int, Field(ge=2)]
    region_side: Annotated[int, Field(ge=8)]
    grids: Grids


class FootprintClaim(Claim):
    """Claim 29."""

    kernels: Annotated[list[PositiveInt], Field(min_length=1)]
    strides: Annotated[list[PositiveInt], Field(min_length=1)]


class RestorationLab(Settings):
    """`configs/lab/restoration.yaml`.

    Attributes:
        rule: how numbers become a verdict, in words; `pipeline.lab.verdict` is the same in code.
        history: what earlier rounds found, and what was changed after them.
        seeds: at least three.
        phantoms: the patients that all claims share.
        depth: the trainings that claims 3 and 4 share.
    """

    rule: str
    history: str
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=3)]
    phantoms: Phantoms
    identity: IdentityClaim
    depth: DepthTrainings
    detail: DetailClaim
    ease: EaseClaim
    residual: ResidualClaim
    removal: RemovalClaim
    footprint: FootprintClaim
