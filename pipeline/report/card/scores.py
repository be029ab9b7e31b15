"""What a card is written from as JSON: scores of a denoiser on made low doses, verdict, kernel pairs.

A file is checked whole where it is read, and what is told of it relies on that. What every evaluation writes
is required; None is what it could not measure.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

INPUT: Final = "input"
RESTORED: Final = "restored"
NORMAL_DOSE: Final = "normal_dose"
GROUPINGS: Final = ("source", "anatomy", "kernel", "texture", "thickness", "scan")
BIAS: Final = "bias_against_normal_dose_hu"
WORST_BIAS: Final = f"worst_patient_{BIAS}"
NOT_MEASURED: Final = "not_measured"
"""Key of the reason, in place of what was looked for in vain."""
_DOSE: Final = "dose_"


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fraction(key: str) -> str:
    """A dose fraction as text, perhaps behind `dose_`."""
    if not 0 < float(key.removeprefix(_DOSE)) < 1:
        raise ValueError("no dose fraction")
    return key


Measured = Annotated[float | None, BeforeValidator(_or_none)]
"""A number; None where it is infinite or none, as the PSNR of equal images."""
Fraction = Annotated[str, AfterValidator(_fraction)]


class _Part(BaseModel):
    """More than is asked for may stand in the file."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class Gain(_Part):
    """Of the network over its input, a mean over patients."""

    input_psnr_db: Measured
    restored_psnr_db: Measured
    gain_db: Measured


class Quality(_Part):
    """Against the normal dose, means over patients."""

    psnr_db: Measured
    ssim: float
    rmse_hu: float


class Gained(Quality):
    """Of a method other than the input; the interval needs some patients."""

    gain_db: Measured
    gain_95_low_db: Measured = None
    gain_95_high_db: Measured = None


class Methods(_Part):
    """Input, network and, by name, the baselines."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Gained] = Field(init=False)

    input: Quality
    restored: Gained

    @property
    def gained(self) -> dict[str, Gained]:
        """All but the input."""
        return {RESTORED: self.restored, **self.__pydantic_extra__}

    @property
    def by_name(self) -> dict[str, Quality]:
        """All of them."""
        return {INPUT: self.input, **self.gained}


class Group(_Part):
    """Cases that are alike, and by convention what they gain."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Gain] = Field(init=False)

    patients: PositiveInt
    slices: PositiveInt

    @property
    def gains(self) -> dict[str, Gain]:
        """By convention."""
        return self.__pydantic_extra__


class Texture(_Part):
    """Noise power spectrum of a method in the regions of uniform tissue."""

    regions: PositiveInt
    noise_sd_hu: Measured
    peak_per_mm: Measured
    peak_shift_per_mm: Measured
    mean_per_mm: Measured
    mean_shift_per_mm: Measured
    l1_distance: Measured


Groups = Annotated[dict[str, Group], Field(min_length=1)]
ByTissue = dict[str, dict[str, float]]
"""HU by tissue and method."""


class AtDose(_Part):
    """All scores at one dose; no tissue and no texture where no slice has a region of it."""

    gain_ceiling_db: float
    clean_output_gain_db: float
    baselines: dict[str, float]
    baselines_at_grid_end: dict[str, float]
    slices_below_input: NonNegativeInt
    worst_gain_db: Measured
    verdict: str
    against_normal_dose: dict[str, Methods]
    bias_against_normal_dose_hu: ByTissue = Field(default_factory=dict)
    worst_patient_bias_against_normal_dose_hu: ByTissue
    noise_texture: dict[str, Texture]
    by_source: Groups
    by_anatomy: Groups
    by_kernel: Groups
    by_texture: Groups
    by_thickness: Groups
    by_scan: Groups

    def groups(self, grouping: str) -> dict[str, Group]:
        """By name, of one of the `GROUPINGS`."""
        found: dict[str, Group] = getattr(self, f"by_{grouping}")
        return found


class Seen(_Part):
    """How well lesions are found."""

    d_prime: Measured
    d_prime_95_low: Measured
    d_prime_95_high: Measured
    auc: Measured
    auc_95_low: Measured
    auc_95_high: Measured


Verdict = Literal["lost", "kept", "gained"]


class Compared(Seen):
    """The same after a method, against the input."""

    change: Measured
    change_95_low: Measured
    change_95_high: Measured
    verdict: Verdict


class Observed(_Part):
    """Of one observer: input, network and, by name, the baselines."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Compared] = Field(init=False)

    input: Seen
    restored: Compared

    @property
    def baselines(self) -> dict[str, Compared]:
        """By name."""
        return self.__pydantic_extra__


class Lesion(_Part):
    """The disc that is looked for."""

    contrast_hu: float
    diameter_mm: float
    blurred_by: str


class Detectability(_Part):
    """Lesions before and after, by dose fraction and observer."""

    lesion: Lesion
    observers: dict[str, str]
    realisations: PositiveInt
    places: PositiveInt
    verdict: dict[Fraction, dict[str, Verdict]]
    by_dose: Annotated[dict[Fraction, dict[str, Observed]], Field(min_length=1)]
    by_case: dict[str, dict[str, Any]]
    left_out: dict[str, str]


class Disc(_Part):
    """The disc whose edge is measured."""

    radius_mm: float
    background_hu: float
    blurred_by: str


class Shares(_Part):
    """What is left of the disc."""

    f50_share: Measured
    contrast_share: Measured


class Ttf(_Part):
    """Edges by dose fraction, contrast in HU and method."""

    disc: Disc
    realisations: PositiveInt
    by_dose: Annotated[dict[Fraction, dict[str, dict[str, Shares]]], Field(min_length=1)]
    by_case: dict[str, dict[str, Any]]
    left_out: dict[str, str]


class Scores(_Part):
    """What an evaluation wrote; lesions and edges only where the settings ask for them."""

    model_hash: str
    settings_sha256: str
    verdict: str
    patients: PositiveInt
    slices: PositiveInt
    conventions: Annotated[dict[str, str], Field(min_length=1)]
    by_patient: dict[Fraction, dict[str, dict[str, Gain]]]
    doses: Annotated[dict[Fraction, AtDose], Field(min_length=1)]
    below_input: dict[Fraction, dict[str, Measured]]
    detectability: Detectability | None = None
    ttf: Ttf | None = None
    not_measured: dict[str, str] = Field(default_factory=dict)
    cases_left_out: dict[str, str]
    tuning_cases_left_out: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _reasons_apart(cls, values: Any) -> Any:
        """In the file the reason stands in the place of what could not be measured."""
        if not isinstance(values, dict):
            return values
        parts = {key: values[key] for key in ("detectability", "ttf") if isinstance(values.get(key), dict)}
        reasons = {key: part[NOT_MEASURED] for key, part in parts.items() if NOT_MEASURED in part}
        return {key: value for key, value in values.items() if key not in reasons} | {NOT_MEASURED: reasons}

    @property
    def by_dose(self) -> dict[float, AtDose]:
        """Scores by dose fraction, the highest dose first."""
        doses = {fraction_of(key): own for key, own in self.doses.items()}
        return {dose: doses[dose] for dose in sorted(doses, reverse=True)}


class Gate(_Part):
    """Of `ldct publish`: whether the texture variant ships, the rules it breaks, hashes of both variants."""

    ships: bool
    broken: list[str]
    model_hash: dict[str, str]

    @model_validator(mode="after")
    def _ships_unless_broken(self) -> Gate:
        if self.ships == bool(self.broken):
            raise ValueError("it ships with broken rules, or does not without one")
        return self


class KernelPairs(_Part):
    """Scans of one acquisition with two kernels, and the weights that they were measured with."""

    text: str
    columns: list[str]
    rows: list[list[str | int | float | None]]
    model_hash: str

    @model_validator(mode="after")
    def _as_many_cells_as_columns(self) -> KernelPairs:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("a row has another number of cells than there are columns")
        return self


def fraction_of(key: str) -> float:
    """The dose fraction that a key of `doses` names."""
    return float(key.removeprefix(_DOSE))
