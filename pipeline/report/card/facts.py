"""What a card is written from, and how to look something up in scores that may be incomplete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Scores = Mapping[str, Any]
"""What an evaluation wrote as JSON."""

INPUT: Final = "input"
RESTORED: Final = "restored"
FULL: Final = "full"
"""Convention by which slices are compared with their input."""
ASSUMED: Final = "assumed"
"""Group of `by_scan`: the scan's own noise could not be read from its images."""
BIAS: Final = "bias_against_normal_dose_hu"
TISSUES: Final = ("body", "soft_tissue", "bone", "lung", "fat")
_DOSE: Final = "dose_"


@dataclass(frozen=True)
class Weights:
    """A trained bundle, as its header tells it.

    Attributes:
        path: of the file.
        model_hash: SHA-256 of weights and header.
        is_shipped: whether the file in the package is this very model.
        architecture: name of the network.
        arguments: that it was built with.
        parameters: how many numbers were learnt.
        size_bytes: of the file.
        precision: of the layers in training.
        config_sha256: of the settings that it was trained with.
        data_sha256: of the cases.
        score: best validation score.
        noise_sd_hu: lowest and highest noise that it was trained on, where known.
        slice_thickness_mm: lowest and highest of the cases that it was trained on, where known.
        pixel_mm: the same of the pixels.
    """

    path: str
    model_hash: str
    is_shipped: bool
    architecture: str
    arguments: Mapping[str, Any]
    parameters: int
    size_bytes: int
    precision: str
    config_sha256: str
    data_sha256: str
    score: Mapping[str, Any]
    noise_sd_hu: tuple[float, float] | None
    slice_thickness_mm: Sequence[float] | None = None
    pixel_mm: Sequence[float] | None = None


@dataclass(frozen=True)
class Model:
    """A training of the preset, and how it scored.

    Attributes:
        name: of its settings file.
        held_out: the source that it did not see; empty for one that saw all.
        settings: what the card says of its settings, by name.
        config_sha256: of the settings file as it is now.
        weights: None where it was not trained.
        scores: None where it was not evaluated.
        lowest_gain_db: of a slice, by dose fraction and how its scan was found; see `tables.lowest_gains`.
        squares: of the noise spectra by source; see `tables.squares_of`.
    """

    name: str
    held_out: str
    settings: Mapping[str, str]
    config_sha256: str
    weights: Weights | None
    scores: Scores | None
    lowest_gain_db: Mapping[tuple[float, str], float] = field(default_factory=dict)
    squares: Mapping[str, int] = field(default_factory=dict)

    @property
    def by_dose(self) -> dict[float, Scores]:
        """Scores by dose fraction, the highest dose first."""
        return scores_by_dose(self.scores)

    @property
    def slices(self) -> int | None:
        """How many were scored at each dose."""
        found: int | None = get(self.scores, "slices")
        return found


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        name: of its manifest.
        title: that it is known by.
        dois: without the resolver.
        repository: where the files were taken from.
        licence: of the images.
        attribution: that the licence asks for.
        manifest_sha256: digest of the manifest's folder.
        cases: what ingest found, see `data.fingerprint.describe`; None where nothing was ingested.
        roles: cases by role; None where nothing was ingested.
    """

    name: str
    title: str
    dois: Sequence[str]
    repository: str
    licence: str
    attribution: str
    manifest_sha256: str
    cases: Mapping[str, Any] | None
    roles: Mapping[str, int] | None

    @property
    def is_phantom(self) -> bool:
        """Simulated here: it was taken from nowhere."""
        return not self.dois and not self.repository


@dataclass(frozen=True)
class Card:
    """All that a card tells.

    Attributes:
        preset: that it is of.
        plain: the denoiser that was trained on the error alone.
        texture: the one whose noise is nearer to that of a normal dose; None where the preset has none.
        folds: the trainings without one source each.
        sources: that were trained on.
        dose_fractions: that are scored.
        conventions: that are scored under; the first decides gains.
        promised_up_to: highest dose fraction at which no slice should fall below its input.
        rounding_db: by how much a slice may, for rounding alone.
        settings_sha256: of the evaluation's settings as they are now.
        slices_per_case: most slices of a case that are scored.
        texture_gate: of `ldct publish`: whether the texture variant `ships`, the `broken` rules, and the
            `model_hash` of both variants; None where it was not judged.
        kernel_pairs: `text`, and perhaps `columns` and `rows`, on scans of one acquisition with two kernels,
            and the `model_hash` that they were measured with.
        why: hand-written: why this network.
        known: hand-written: what is known to fail.
        pictures: caption by file name, beside the card; those of `worst_of_each_dose`.
    """

    preset: str
    plain: Model
    texture: Model | None
    folds: Sequence[Model]
    sources: Sequence[Source]
    dose_fractions: Sequence[float]
    conventions: Sequence[str]
    promised_up_to: float
    rounding_db: float
    settings_sha256: str
    slices_per_case: int
    texture_gate: Mapping[str, Any] | None = None
    kernel_pairs: Mapping[str, Any] | None = None
    why: str = ""
    known: str = ""
    pictures: Mapping[str, str] = field(default_factory=dict)

    @property
    def variants(self) -> tuple[Model, ...]:
        """The plain denoiser, and the one for texture where the preset has one."""
        return (self.plain,) if self.texture is None else (self.plain, self.texture)

    @property
    def models(self) -> tuple[Model, ...]:
        """All of them."""
        return (*self.variants, *self.folds)

    def scored_otherwise(self, model: Model) -> str:
        """Of what else than these weights and settings its scores are; empty where of these."""
        if model.scores is None:
            return ""
        others = []
        if model.weights is not None and model.scores.get("model_hash") != model.weights.model_hash:
            others.append("weights")
        if model.scores.get("settings_sha256") != self.settings_sha256:
            others.append("settings")
        return " and ".join(others)

    @property
    def are_kernel_pairs_of_other_weights(self) -> bool:
        """Whether the kernel pairs were measured with another model than the plain denoiser."""
        if self.kernel_pairs is None or self.plain.weights is None:
            return False
        return self.kernel_pairs.get("model_hash") != self.plain.weights.model_hash

    def command(self, stage: str, name: str) -> str:
        """What makes the part that is missing."""
        return f"`ldct {stage} {name} --preset {self.preset}`"


def scores_by_dose(scores: Scores | None) -> dict[float, Scores]:
    """Scores by dose fraction, the highest dose first."""
    found = (scores or {}).get("doses", {})
    doses = {float(key.removeprefix(_DOSE)): own for key, own in found.items()}
    return {dose: doses[dose] for dose in sorted(doses, reverse=True)}


def get(scores: Mapping[str, Any] | None, *keys: str) -> Any:
    """What lies below these keys, None where something on the way is missing."""
    found: Any = scores
    for key in keys:
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found


def against_normal_dose(scores: Scores | None, convention: str, method: str, score: str) -> float | None:
    """One number of the scores at one dose."""
    found: float | None = get(scores, "against_normal_dose", convention, method, score)
    return found


def baselines_of(scores: Scores | None, convention: str) -> list[str]:
    """Methods that the network is compared with."""
    return [
        name for name in get(scores, "against_normal_dose", convention) or {} if name not in (INPUT, RESTORED)
    ]
