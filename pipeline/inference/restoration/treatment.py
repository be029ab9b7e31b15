"""Trained networks as a treatment: a series is surveyed, found like the training or not, and restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from pipeline import __version__
from pipeline.dicom import Derivation, Geometry, SeriesEntry, Task
from pipeline.inference.output.journal import PREVIEW, SeriesRecord
from pipeline.inference.preview import Shown, save_preview
from pipeline.inference.restoration.facts import facts_of
from pipeline.inference.restoration.familiarity import (
    BOTH_DOSES,
    FACT_CODES,
    LOW_DOSE,
    Unfamiliar,
    unfamiliar,
)
from pipeline.inference.restoration.fitness import check_matrix, check_neighbours, check_noise
from pipeline.inference.restoration.networks import Network
from pipeline.inference.restoration.restorer import Applied, Restored, SeriesRestorer
from pipeline.inference.survey import Survey, survey_series
from pipeline.inference.treatment import Measured, OnSlices, Stopwatch, UnfitSeriesError
from pipeline.inference.untouched import link_files
from pipeline.metrics.noise import global_noise_sd_hu

UNTOUCHED: Final = "untouched"
NOTHING_SEGMENTED: Final = "NOTHING_SEGMENTED"
"""Reason code of a series in which the segmenter saw background only."""
OTHER_TRAINING: Final = "OTHER_TRAINING"
"""Reason code of a series whose denoiser was not trained on low dose."""
UNFAMILIAR: Final = "UNFAMILIAR"
"""Reason code of a series that is unlike what the networks were trained on."""
UNFAMILIAR_PASSED: Final = "UNFAMILIAR_PASSED"
"""Reason code of such a series when it was handed on untouched."""

NOISE_DECIMALS: Final = 3
"""Of a measured noise SD in HU."""

OnUnfamiliar = Literal["warn", "pass", "refuse"]


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """The networks that a folder goes through.

    A series is read twice and never held: memory is bounded by a few chunks of slices, and by the label map
    of a segmentation.

    Attributes:
        denoiser: network of a denoiser's bundle, or None.
        segmenter: network of a segmenter's bundle, or None; it sees the denoised slices if there are any.
        strength: share of the denoiser's correction, 0..1.
        told_noise_sd_hu: of every series, in place of what is measured in each; None to measure.
        not_for_diagnosis: write "not for diagnostic use" into the results.
        on_unfamiliar: what is done with a series unlike the training: treat it with a warning, pass its files
            on untouched, or refuse it.
        nifti: write results of a regular grid as NIfTI, too.

    Raises:
        ValueError: there is neither a denoiser nor a segmenter.
    """

    denoiser: Network | None
    segmenter: Network | None
    strength: float = 1.0
    told_noise_sd_hu: float | None = None
    not_for_diagnosis: bool = True
    on_unfamiliar: OnUnfamiliar = "warn"
    nifti: bool = False

    command = "predict"

    def __post_init__(self) -> None:
        if self.denoiser is None and self.segmenter is None:
            raise ValueError("a restoration needs a denoiser, a segmenter or both")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What a series must be fit for."""
        wanted = ((Task.DENOISE, self.denoiser), (Task.SEGMENT, self.segmenter))
        return tuple(task for task, network in wanted if network is not None)

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the written files, as JSON."""
        return {
            "denoiser": None if self.denoiser is None else _describe(self.denoiser),
            "segmenter": None if self.segmenter is None else _describe(self.segmenter),
            "strength": None if self.denoiser is None else self.strength,
            "told_noise_sd_hu": self.told_noise_sd_hu,
            "tile_pixels": None if self.denoiser is None else self.denoiser.tile_pixels,
            "not_for_diagnosis": self.not_for_diagnosis,
            "on_unfamiliar": self.on_unfamiliar,
            "nifti": self.nifti,
            "product_version": __version__,
        }

    def passes(self, slices: int, *, segmentable: bool) -> int:
        """Every slice goes through each network that takes the series."""
        return slices * (len(self.tasks) if segmentable else 1)

    def treat(
        self,
        entry: SeriesEntry,
        folder: Path,
        *,
        grid: Geometry | None,
        clock: datetime,
        on_slices: OnSlices,
    ) -> Measured:
        """Write the derived series, the segmentation and a preview (see `inference.treatment.Treatment`)."""
        if self.denoiser is not None:
            check_matrix(self.denoiser, entry.rows, entry.columns)
            check_neighbours(self.denoiser, grid)
        watch = Stopwatch()
        with watch.step("total"):
            measured = self._survey_and_treat(entry, folder, grid, clock, on_slices, watch)
        return replace(measured, timings_s=watch.timings_s())

    def remark(self, record: SeriesRecord) -> str:
        """The warnings with their codes; where there is none, nothing: the verdict says it."""
        unlike = f"unlike the training: {'; '.join(record.unfamiliar)}"
        details = " ".join(code for code in record.reason_codes if code in FACT_CODES)
        trained_on = "" if self.denoiser is None else self.denoiser.bundle.trained_on
        texts = {
            OTHER_TRAINING: f"the denoiser was trained on {trained_on}, not on low dose",
            UNFAMILIAR: f"{details} {unlike}",
            UNFAMILIAR_PASSED: f"{details} handed on untouched, as it is {unlike}",
        }
        return "; ".join(f"{code} {texts[code]}" for code in record.reason_codes if code in texts)

    def write_views(self, target: Path, finished: Sequence[SeriesRecord]) -> None:
        """Nothing: the journal says it."""

    def derivation(
        self, network: Network, entry: SeriesEntry, *, noise_sd_hu: float | None = None
    ) -> Derivation:
        """How an object made of `entry` by `network` says where it comes from.

        Args:
            network: what makes it.
            entry: the source series.
            noise_sd_hu: that a denoiser with a noise map is told.
        """
        settings: dict[str, str | float] = {
            "engine": network.engine,
            "precision": network.precision,
        }
        if self.denoiser is not None:
            settings["strength"] = self.strength
            if self.denoiser.tiles(entry.rows, entry.columns):
                settings["tile pixels"] = self.denoiser.tile_pixels
            if self.denoiser.neighbours:
                settings["neighbours"] = self.denoiser.neighbours
            if self.denoiser.noise_map and noise_sd_hu is not None:
                settings["noise SD HU"] = noise_sd_hu
            if network is not self.denoiser:
                settings["denoiser"] = self.denoiser.bundle.model_hash
                settings["denoiser engine"] = self.denoiser.engine
        return Derivation(
            model_name=network.bundle.name,
            model_version=network.bundle.model_hash[:12],
            model_hash=network.bundle.model_hash,
            settings=settings,
            product_version=__version__,
            not_for_diagnosis=self.not_for_diagnosis,
        )

    def _survey_and_treat(
        self,
        entry: SeriesEntry,
        folder: Path,
        grid: Geometry | None,
        clock: datetime,
        on_slices: OnSlices,
        watch: Stopwatch,
    ) -> Measured:
        with watch.step("survey"):
            survey = survey_series(entry)
        with watch.step("measure"):
            measured_sd_hu = _noise_sd_hu(survey)
        noise_sd_hu = measured_sd_hu if self.told_noise_sd_hu is None else self.told_noise_sd_hu
        facts = self._unlike_training(entry, survey, noise_sd_hu)
        unlike = tuple(dict.fromkeys(fact.phrase for fact in facts))
        details = tuple(dict.fromkeys(fact.code for fact in facts))
        if unlike and self.on_unfamiliar == "refuse":
            raise UnfitSeriesError(
                UNFAMILIAR,
                f"unlike the training: {'; '.join(unlike)}; name a network trained on such series, "
                "or use --on-unfamiliar warn",
                details,
            )
        if unlike and self.on_unfamiliar == "pass":
            _pass_on(entry, folder, survey, watch)
            return Measured(
                noise_sd_hu={"before": measured_sd_hu, "after": None},
                reason_codes=(UNFAMILIAR_PASSED, *details),
                unfamiliar=unlike,
            )
        if self.denoiser is not None:
            check_noise(self.denoiser, noise_sd_hu)
        restored = SeriesRestorer(
            entry,
            folder,
            survey,
            grid=grid,
            clock=clock,
            denoiser=self._applied(self.denoiser, entry, noise_sd_hu),
            segmenter=self._applied(self.segmenter, entry, noise_sd_hu) if _is_segmentable(entry) else None,
            strength=self.strength,
            noise_sd_hu=noise_sd_hu,
            nifti=self.nifti,
            watch=watch,
        ).run(on_slices)
        return Measured(
            noise_sd_hu={"before": measured_sd_hu, "after": restored.noise_after_sd_hu},
            volumes_ml=restored.volumes_ml,
            reason_codes=self._codes(restored, details),
            unfamiliar=unlike,
        )

    def _codes(self, restored: Restored, details: tuple[str, ...]) -> tuple[str, ...]:
        codes = {
            OTHER_TRAINING: self._has_other_training,
            UNFAMILIAR: bool(details),
            **dict.fromkeys(details, True),
            NOTHING_SEGMENTED: restored.nothing_segmented,
        }
        return tuple(code for code, applies in codes.items() if applies)

    @property
    def _has_other_training(self) -> bool:
        return self.denoiser is not None and self.denoiser.bundle.trained_on != "low dose"

    def _applied(
        self, network: Network | None, entry: SeriesEntry, noise_sd_hu: float | None
    ) -> Applied | None:
        if network is None:
            return None
        return Applied(network, self.derivation(network, entry, noise_sd_hu=noise_sd_hu))

    def _unlike_training(
        self, entry: SeriesEntry, survey: Survey, noise_sd_hu: float | None
    ) -> list[Unfamiliar]:
        """What of the series lies outside the training of any network.

        No range is known of the noise that a denoiser has met which was trained on degraded normal dose.
        """
        facts = facts_of(entry, survey, noise_sd_hu)
        return [
            fact
            for network, doses in (
                (self.denoiser, () if self._has_other_training else LOW_DOSE),
                (self.segmenter, BOTH_DOSES),
            )
            if network is not None
            for fact in unfamiliar(
                network.bundle.fingerprint,
                facts,
                noise_of=doses,
                made_noise_sd_hu=network.bundle.made_noise_sd_hu,
            )
        ]


def _is_segmentable(entry: SeriesEntry) -> bool:
    """Some series have a grid and still give no segmentation: those of enhanced CT."""
    return entry.finding(Task.SEGMENT) is None


def _noise_sd_hu(survey: Survey) -> float | None:
    """Noise of the source; rounded, so that what a network is told is what the results say."""
    measured = global_noise_sd_hu(survey.hu, survey.hu)
    return None if measured is None else round(measured, NOISE_DECIMALS)


def _describe(network: Network) -> dict[str, Any]:
    description: dict[str, Any] = {
        "name": network.bundle.name,
        "model_hash": network.bundle.model_hash,
        "engine": network.engine,
        "precision": network.precision,
    }
    beyond_the_slice = {"neighbours": network.neighbours, "noise_map": network.noise_map}
    return description | {name: value for name, value in beyond_the_slice.items() if value}


def _pass_on(entry: SeriesEntry, folder: Path, survey: Survey, watch: Stopwatch) -> None:
    """The source's own files, and a picture of one slice."""
    with watch.step("write"):
        link_files(entry.files, folder / UNTOUCHED)
    with watch.step("preview"):
        save_preview(folder / PREVIEW, Shown(survey.hu[len(survey.hu) // 2]), (), entry.body_part)
