"""Trained networks as a treatment: read, denoise, segment, write, read back and compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import __version__
from pipeline.dicom import (
    CTSeries,
    Derivation,
    Geometry,
    SegmentLabel,
    SeriesEntry,
    Task,
    read_series,
    write_derived_series,
    write_segmentation,
)
from pipeline.inference.journal import SeriesRecord
from pipeline.inference.networks import LabelMap, Network, Volume, denoise, segment, segment_labels
from pipeline.inference.preview import save_preview
from pipeline.inference.read_back import check_slice
from pipeline.inference.treatment import Measured, OnSlices, Stopwatch
from pipeline.metrics.noise import global_noise_sd_hu

DENOISED = "denoised"
SEGMENTATION = "segmentation.dcm"
PREVIEW = "preview.png"
NOTHING_SEGMENTED = "NOTHING_SEGMENTED"
"""Reason code of a series in which the segmenter saw background only."""
OTHER_TRAINING = "OTHER_TRAINING"
"""Reason code of a series whose denoiser was not trained on low dose."""


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """The networks that a folder goes through.

    Attributes:
        denoiser: network of a denoiser's bundle, or None.
        segmenter: network of a segmenter's bundle, or None; it sees the denoised slices if there are any.
        strength: share of the denoiser's correction, 0..1.
        not_for_diagnosis: write "not for diagnostic use" into the results.

    Raises:
        ValueError: there is neither a denoiser nor a segmenter.
    """

    denoiser: Network | None
    segmenter: Network | None
    strength: float = 1.0
    not_for_diagnosis: bool = True

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
            "not_for_diagnosis": self.not_for_diagnosis,
            "product_version": __version__,
        }

    def passes(self, slices: int, *, has_grid: bool) -> int:
        """Every slice goes through each network; without a grid there is no segmentation."""
        return slices * (len(self.tasks) if has_grid else 1)

    def treat(
        self,
        entry: SeriesEntry,
        folder: Path,
        *,
        grid: Geometry | None,
        clock: datetime,
        on_slices: OnSlices | None = None,
    ) -> Measured:
        """Write the derived series, the segmentation and a preview (see `treatment.Treatment`)."""
        job = _Job(self, folder, clock, on_slices)
        with job.watch.step("read"):
            series = read_series(entry)
        denoised_hu = _denoise(job, series)
        hu = series.hu if denoised_hu is None else denoised_hu
        label_map = None if grid is None else _segment(job, series, hu, grid)
        labels = () if self.segmenter is None else segment_labels(self.segmenter)
        with job.watch.step("preview"):
            save_preview(folder / PREVIEW, series, denoised_hu, label_map, labels)
        with job.watch.step("measure"):
            noise = {
                "before": global_noise_sd_hu(series.hu, series.hu),
                "after": None if denoised_hu is None else global_noise_sd_hu(series.hu, denoised_hu),
            }
        empty = label_map is not None and not label_map.any()
        codes = {OTHER_TRAINING: self._has_other_training(), NOTHING_SEGMENTED: empty}
        return Measured(
            noise_sd_hu=noise,
            volumes_ml={} if grid is None or label_map is None else _volumes_ml(label_map, labels, grid),
            timings_s=job.watch.timings_s(),
            reason_codes=tuple(code for code, applies in codes.items() if applies),
        )

    def remark(self, record: SeriesRecord) -> str:
        """A warning where the denoiser was trained for something else; else nothing: the verdict says it."""
        if self.denoiser is None or OTHER_TRAINING not in record.reason_codes:
            return ""
        return (
            f"{OTHER_TRAINING} the denoiser was trained on {self.denoiser.bundle.trained_on}, not on low dose"
        )

    def _has_other_training(self) -> bool:
        return self.denoiser is not None and self.denoiser.bundle.trained_on != "low dose"

    def write_views(self, target: Path, finished: Sequence[SeriesRecord]) -> None:
        """Nothing: the journal says it."""

    def derivation(self, network: Network) -> Derivation:
        """How an object written by `network` says where it comes from."""
        settings: dict[str, str | float] = {
            "engine": f"torch-{network.device.type}",
            "precision": network.precision,
        }
        if self.denoiser is not None:
            settings["strength"] = self.strength
            if network is not self.denoiser:
                settings["denoiser"] = self.denoiser.bundle.model_hash
        return Derivation(
            model_name=network.bundle.name,
            model_version=network.bundle.model_hash[:12],
            model_hash=network.bundle.model_hash,
            settings=settings,
            product_version=__version__,
            not_for_diagnosis=self.not_for_diagnosis,
        )


def _describe(network: Network) -> dict[str, str]:
    return {
        "name": network.bundle.name,
        "model_hash": network.bundle.model_hash,
        "engine": f"torch-{network.device.type}",
        "precision": network.precision,
    }


@dataclass
class _Job:
    """A series on its way: where it is written, under which clock, and the seconds of each step."""

    restoration: Restoration
    folder: Path
    clock: datetime
    on_slices: OnSlices | None
    watch: Stopwatch = field(default_factory=Stopwatch)


def _denoise(job: _Job, series: CTSeries) -> Volume | None:
    network = job.restoration.denoiser
    if network is None:
        return None
    with job.watch.step("denoise"):
        hu = denoise(
            network, series.hu, series.padding, strength=job.restoration.strength, on_slices=job.on_slices
        )
    with job.watch.step("write"):
        written = write_derived_series(
            series, hu, job.folder / DENOISED, derivation=job.restoration.derivation(network), now=job.clock
        )
    with job.watch.step("check"):
        for index, path in enumerate(written):
            check_slice(path, series.slice_at(index), hu[index], index=index, slices=len(hu))
    return hu


def _segment(job: _Job, series: CTSeries, hu: Volume, grid: Geometry) -> LabelMap | None:
    network = job.restoration.segmenter
    if network is None:
        return None
    _, row_mm, column_mm = grid.spacing_mm
    with job.watch.step("segment"):
        label_map = segment(
            network, hu, series.padding, spacing_mm=(row_mm, column_mm), on_slices=job.on_slices
        )
    if not label_map.any():
        return label_map
    body, *organs = segment_labels(network)
    with job.watch.step("write"):
        write_segmentation(
            series,
            label_map,
            organs or [body],
            job.folder / SEGMENTATION,
            derivation=job.restoration.derivation(network),
            now=job.clock,
            whole_body=body if organs else None,
        )
    return label_map


def _volumes_ml(label_map: LabelMap, labels: Sequence[SegmentLabel], grid: Geometry) -> dict[str, float]:
    """Volume of each organ, and of the body with its organs."""
    voxel_ml = math.prod(grid.spacing_mm) / 1000
    voxels = np.bincount(label_map.ravel(), minlength=len(labels) + 1)
    body, *organs = labels
    return {
        body.name: round(int(voxels[1:].sum()) * voxel_ml, 2),
        **{organ.name: round(int(voxels[organ.value]) * voxel_ml, 2) for organ in organs},
    }
