"""What a card is written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.report.card.scores import AtDose, Detectability, Gate, KernelPairs, Scores, Ttf

FULL: Final = "full"
"""Convention by which slices are compared with their input."""
ASSUMED: Final = "assumed"
"""Group of `by_scan`: the scan's own noise could not be read from its images."""
TISSUES: Final = ("body", "soft_tissue", "bone", "lung", "fat")


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
    def by_dose(self) -> dict[float, AtDose]:
        """Scores by dose fraction, the highest dose first; none where it was not evaluated."""
        return {} if self.scores is None else self.scores.by_dose

    @property
    def patients(self) -> int:
        """How many were scored."""
        return 0 if self.scores is None else self.scores.patients

    @property
    def slices(self) -> int:
        """How many were scored at each dose."""
        return 0 if self.scores is None else self.scores.slices

    @property
    def detectability(self) -> Detectability | None:
        """None where no lesions were looked for."""
        return None if self.scores is None else self.scores.detectability

    @property
    def ttf(self) -> Ttf | None:
        """None where no edges were measured."""
        return None if self.scores is None else self.scores.ttf


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
        texture_gate: of `ldct publish`; None where it was not judged.
        kernel_pairs: of `benchmarks/kernel_pairs.py`; None where they were not measured.
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
    texture_gate: Gate | None = None
    kernel_pairs: KernelPairs | None = None
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
        if model.weights is not None and model.scores.model_hash != model.weights.model_hash:
            others.append("weights")
        if model.scores.settings_sha256 != self.settings_sha256:
            others.append("settings")
        return " and ".join(others)

    @property
    def are_kernel_pairs_of_other_weights(self) -> bool:
        """Whether the kernel pairs were measured with another model than the plain denoiser."""
        if self.kernel_pairs is None or self.plain.weights is None:
            return False
        return self.kernel_pairs.model_hash != self.plain.weights.model_hash

    def command(self, stage: str, name: str) -> str:
        """What makes the part that is missing."""
        return f"`ldct {stage} {name} --preset {self.preset}`"


def against_normal_dose(scores: AtDose | None, convention: str, method: str, score: str) -> float | None:
    """One number of the scores at one dose; None where this was not scored or could not be measured."""
    methods = None if scores is None else scores.against_normal_dose.get(convention)
    found = None if methods is None else methods.by_name.get(method)
    value: float | None = getattr(found, score, None)
    return value
