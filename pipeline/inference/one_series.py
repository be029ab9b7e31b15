"""One series: read, denoise, segment, write, read back and compare."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

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
from pipeline.errors import DataError
from pipeline.inference.networks import LabelMap, OnSlices, Volume, denoise, segment
from pipeline.inference.noise import global_noise_sd_hu
from pipeline.inference.preview import save_preview
from pipeline.inference.treatment import Treatment

DENOISED = "denoised"
SEGMENTATION = "segmentation.dcm"
PREVIEW = "preview.png"
_ROUNDING_SLACK_HU = 1e-2


@dataclass(frozen=True)
class Measured:
    """What treating a series told about it (see `journal.SeriesRecord`)."""

    noise_sd_hu: Mapping[str, float | None]
    volumes_ml: Mapping[str, float]
    timings_s: Mapping[str, float]


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
    labels = _labels(treatment)
    label_map = None if grid is None else _segment(job, series, hu, labels, grid)
    with job.step("preview"):
        save_preview(folder / PREVIEW, series, denoised_hu, label_map, labels)
    with job.step("measure"):
        noise = {
            "before": global_noise_sd_hu(series.hu, series.hu),
            "after": None if denoised_hu is None else global_noise_sd_hu(series.hu, denoised_hu),
        }
    volumes = {} if grid is None or label_map is None else _volumes_ml(label_map, labels, grid)
    return Measured(noise, volumes, dict(job.seconds))


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


def _segment(
    job: _Job, series: CTSeries, hu: Volume, labels: Sequence[SegmentLabel], grid: Geometry
) -> LabelMap | None:
    network = job.treatment.segmenter
    if network is None:
        return None
    _, row_mm, column_mm = grid.spacing_mm
    with job.step("segment"):
        label_map = segment(
            network, hu, series.padding, spacing_mm=(row_mm, column_mm), on_slices=job.on_slices
        )
    with job.step("write"):
        write_segmentation(
            series,
            label_map,
            labels,
            job.folder / SEGMENTATION,
            derivation=job.treatment.derivation(network),
            now=job.clock,
        )
    return label_map


def _labels(treatment: Treatment) -> tuple[SegmentLabel, ...]:
    if treatment.segmenter is None:
        return ()
    return tuple(segment_label(label) for label in treatment.segmenter.bundle.labels)


def segment_label(fields: Mapping[str, Any]) -> SegmentLabel:
    """A bundle's label, whose tuples JSON turned into lists."""
    return SegmentLabel(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    )


def check_written(series: CTSeries, hu: Volume, written: Sequence[Path]) -> None:
    """Read a derived series back and compare every pixel with what was meant.

    Padding must be untouched, and every other pixel the stored value nearest to its HU (or the end of the
    range that the source's bits can store).

    Raises:
        DataError: something differs.
    """
    again = read_series(replace(series.entry, files=tuple(written)))
    if not np.array_equal(again.padding, series.padding):
        raise DataError("the written series has other padding pixels than its source; its folder was dropped")
    for index, header in enumerate(again.headers):
        low, high = _storable_hu(header)
        meant = np.clip(hu[index], low, high)
        half_step = float(header.RescaleSlope) / 2
        off = np.abs(again.hu[index] - meant)[~series.padding[index]]
        if off.size and off.max() > half_step + _ROUNDING_SLACK_HU:
            raise DataError(
                f"slice {index + 1} of {len(hu)} reads back {off.max():.2f} HU away from what was written; "
                "its folder was dropped: check the disk and run again"
            )


def _storable_hu(header: Any) -> tuple[float, float]:
    bits = int(header.BitsStored)
    lowest, highest = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.PixelRepresentation else (0, 2**bits - 1)
    )
    slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
    return lowest * slope + intercept, highest * slope + intercept


def _volumes_ml(label_map: LabelMap, labels: Sequence[SegmentLabel], grid: Geometry) -> dict[str, float]:
    voxel_ml = float(np.prod(grid.spacing_mm)) / 1000
    voxels = np.bincount(label_map.ravel(), minlength=256)
    return {label.name: round(float(voxels[label.value]) * voxel_ml, 2) for label in labels}
