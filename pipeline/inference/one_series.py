"""One series: read, denoise, segment, write, read back and compare."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from pipeline.dicom import (
    CTSeries,
    Geometry,
    SegmentLabel,
    SeriesEntry,
    read_series,
    write_derived_series,
    write_segmentation,
)
from pipeline.dicom.derived import stored_pixels
from pipeline.dicom.reading import rescale_of
from pipeline.errors import DataError
from pipeline.inference.networks import LabelMap, Network, OnSlices, Volume, denoise, segment
from pipeline.inference.preview import save_preview
from pipeline.inference.treatment import Treatment
from pipeline.metrics.noise import global_noise_sd_hu

DENOISED = "denoised"
SEGMENTATION = "segmentation.dcm"
PREVIEW = "preview.png"
NOTHING_SEGMENTED = "NOTHING_SEGMENTED"
"""Reason code of a series in which the segmenter saw background only."""


@dataclass(frozen=True)
class Measured:
    """What treating a series told about it (see `journal.SeriesRecord`)."""

    noise_sd_hu: Mapping[str, float | None]
    volumes_ml: Mapping[str, float]
    timings_s: Mapping[str, float]
    reason_codes: tuple[str, ...]


@dataclass
class _Job:
    """A series on its way: where it is written, under which clock, and the seconds of each step."""

    treatment: Treatment
    folder: Path
    clock: datetime
    on_slices: OnSlices | None
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds[name] + time.perf_counter() - started, 3)


def treat_series(
    entry: SeriesEntry,
    treatment: Treatment,
    folder: Path,
    *,
    grid: Geometry | None,
    clock: datetime,
    on_slices: OnSlices | None = None,
) -> Measured:
    """Write the results of one series into `folder` and check them by reading them back.

    Args:
        entry: the source series.
        treatment: what to do.
        folder: exists, is empty, and belongs to this call.
        grid: the regular grid of the series; without one there is no segmentation.
        clock: date and time that the written files carry.
        on_slices: told the number of slices of each batch that went through a network.

    Raises:
        SeriesError: the source cannot be read.
        DataError: what was written reads back differently.
    """
    job = _Job(treatment, folder, clock, on_slices)
    with job.step("read"):
        series = read_series(entry)
    denoised_hu = _denoise(job, series)
    hu = series.hu if denoised_hu is None else denoised_hu
    label_map = None if grid is None else _segment(job, series, hu, grid)
    labels = () if treatment.segmenter is None else segment_labels(treatment.segmenter)
    with job.step("preview"):
        save_preview(folder / PREVIEW, series, denoised_hu, label_map, labels)
    with job.step("measure"):
        noise = {
            "before": global_noise_sd_hu(series.hu, series.hu),
            "after": None if denoised_hu is None else global_noise_sd_hu(series.hu, denoised_hu),
        }
    empty = label_map is not None and not label_map.any()
    return Measured(
        noise_sd_hu=noise,
        volumes_ml={} if grid is None or label_map is None else _volumes_ml(label_map, labels, grid),
        timings_s=dict(job.seconds),
        reason_codes=(NOTHING_SEGMENTED,) if empty else (),
    )


def _denoise(job: _Job, series: CTSeries) -> Volume | None:
    network = job.treatment.denoiser
    if network is None:
        return None
    with job.step("denoise"):
        hu = denoise(
            network, series.hu, series.padding, strength=job.treatment.strength, on_slices=job.on_slices
        )
    with job.step("write"):
        written = write_derived_series(
            series, hu, job.folder / DENOISED, derivation=job.treatment.derivation(network), now=job.clock
        )
    with job.step("check"):
        check_written(series, hu, written)
    return hu


def _segment(job: _Job, series: CTSeries, hu: Volume, grid: Geometry) -> LabelMap | None:
    network = job.treatment.segmenter
    if network is None:
        return None
    _, row_mm, column_mm = grid.spacing_mm
    with job.step("segment"):
        label_map = segment(
            network, hu, series.padding, spacing_mm=(row_mm, column_mm), on_slices=job.on_slices
        )
    if not label_map.any():
        return label_map
    body, *organs = segment_labels(network)
    with job.step("write"):
        write_segmentation(
            series,
            label_map,
            organs or [body],
            job.folder / SEGMENTATION,
            derivation=job.treatment.derivation(network),
            now=job.clock,
            whole_body=body if organs else None,
        )
    return label_map


def segment_labels(network: Network) -> tuple[SegmentLabel, ...]:
    """Labels of the classes 1, 2, …: the body (whatever of it no organ claims), then the organs."""
    return tuple(
        SegmentLabel(
            name=label["name"],
            value=label["value"],
            category=tuple(label["category"]),
            type=tuple(label["type"]),
            rgb=tuple(label["rgb"]),
        )
        for label in network.bundle.labels
    )


def check_written(series: CTSeries, hu: Volume, written: Sequence[Path]) -> None:
    """Read a derived series back and compare every pixel, padding included, with what was meant.

    Raises:
        DataError: something differs.
    """
    again = read_series(replace(series.entry, files=tuple(written)))
    for index, header in enumerate(series.headers):
        padding = series.padding[index]
        meant = stored_pixels(header, hu[index], padding=padding, padding_stored=series.padding_stored[index])
        meant_hu = rescale_of(again.headers[index]).to_hu(meant)
        same = (
            np.array_equal(again.padding[index], padding)
            and np.array_equal(again.padding_stored[index], series.padding_stored[index])
            and np.array_equal(again.hu[index][~padding], meant_hu[~padding])
        )
        if not same:
            raise DataError(
                f"slice {index + 1} of {len(hu)} reads back differently from what was written; "
                "its series was dropped: check the disk and run again"
            )


def _volumes_ml(label_map: LabelMap, labels: Sequence[SegmentLabel], grid: Geometry) -> dict[str, float]:
    """Volume of each organ, and of the body with its organs."""
    voxel_ml = math.prod(grid.spacing_mm) / 1000
    voxels = np.bincount(label_map.ravel(), minlength=len(labels) + 1)
    body, *organs = labels
    return {
        body.name: round(int(voxels[1:].sum()) * voxel_ml, 2),
        **{organ.name: round(int(voxels[organ.value]) * voxel_ml, 2) for organ in organs},
    }
