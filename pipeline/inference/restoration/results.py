"""What becomes of a series: its derived images, its segmentation, and what is measured and shown of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from pipeline.dicom import (
    CTSlice,
    Derivation,
    DerivedSeriesWriter,
    Geometry,
    SegmentLabel,
    SeriesEntry,
    write_segmentation,
)
from pipeline.dicom.pixels import rescale_of, stored_pixels
from pipeline.dicom.segmentation import plane_header
from pipeline.hu import AIR_HU
from pipeline.inference.preview import Shown
from pipeline.inference.read_back import check_slice
from pipeline.inference.restoration.networks import LabelMap, Volume
from pipeline.inference.restoration.nifti import NiftiWriter, hu_dtype
from pipeline.inference.stream import Chunk
from pipeline.inference.survey import Survey
from pipeline.inference.treatment import Stopwatch

DENOISED: Final = "denoised"
DENOISED_NIFTI: Final = "denoised.nii"
SEGMENTATION_NIFTI: Final = "segmentation.nii"


class DenoisedSeries:
    """The derived series in `folder/denoised`, read back as it is written, and on request a NIfTI beside it.

    Args:
        entry: the source.
        survey: the first pass over it.
        folder: where to write.
        derivation: what makes the new pixels.
        now: date and time that the files carry.
        nifti_grid: grid of the NIfTI; None writes none.
        watch: is told the time of each step.
    """

    def __init__(
        self,
        entry: SeriesEntry,
        survey: Survey,
        folder: Path,
        *,
        derivation: Derivation,
        now: datetime,
        nifti_grid: Geometry | None,
        watch: Stopwatch,
    ) -> None:
        self._watch = watch
        self._slices = len(entry.files)
        self._writer = DerivedSeriesWriter(
            entry, survey.content_digests, folder / DENOISED, derivation=derivation, now=now
        )
        self._nifti: NiftiWriter | None = None
        if nifti_grid is not None:
            scales = [(scale.slope, scale.intercept) for scale in entry.rescales if scale is not None]
            dtype = hu_dtype(scales, highest_stored=survey.highest_stored)
            self._nifti = NiftiWriter(folder / DENOISED_NIFTI, nifti_grid, dtype=dtype)

    def write(self, chunk: Chunk, hu: Volume) -> None:
        """Write the slices of a chunk with `hu` (n, rows, columns) in place of their own.

        Raises:
            SeriesError: a header holds values that cannot be written again.
            DataError: a slice reads back differently.
            OSError: the disk is full or gone.
        """
        for index, one, image in zip(chunk.indices, chunk.slices, hu, strict=True):
            with self._watch.step("write"):
                path = self._writer.write(index, one, image)
                if self._nifti is not None:
                    self._nifti.write(index, _as_written(one, image))
            with self._watch.step("check"):
                check_slice(path, one, image, index=index, slices=self._slices)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._nifti is not None:
            self._nifti.__exit__(kind, error, trace)


def _as_written(one: CTSlice, hu: Volume) -> Volume:
    """The HU that a reader of the derived slice finds; padding is air."""
    stored = stored_pixels(one.header, hu, padding=one.padding, padding_stored=one.padding_stored)
    written = rescale_of(one.header).to_hu(stored)
    written[one.padding] = AIR_HU
    return written


class SegmentedSeries:
    """The label map of a series, and what a DICOM segmentation has to know of its source.

    Args:
        entry: the source.
        grid: its regular grid.
        labels: of the classes 1, 2, …: the body (whatever of it no organ claims), then the organs.
    """

    def __init__(self, entry: SeriesEntry, grid: Geometry, labels: Sequence[SegmentLabel]) -> None:
        self._entry = entry
        self._grid = grid
        self._labels = labels
        self._label_map: LabelMap = np.zeros((len(entry.files), entry.rows, entry.columns), np.uint8)
        self._voxels = np.zeros(256, np.int64)
        self._headers: list[Any] = []

    def add(self, chunk: Chunk, label_map: LabelMap) -> None:
        """Keep the (n, rows, columns) labels of a chunk."""
        self._label_map[chunk.first : chunk.first + len(label_map)] = label_map
        self._voxels += np.bincount(label_map.ravel(), minlength=256)
        for one in chunk.slices:
            self._headers.append(plane_header(one.header) if self._headers else one.header)

    @property
    def pixel_spacing_mm(self) -> tuple[float, float]:
        """Between rows and between columns."""
        _, row_mm, column_mm = self._grid.spacing_mm
        return row_mm, column_mm

    @property
    def empty(self) -> bool:
        """Whether all is background."""
        return not self._voxels[1:].any()

    def volumes_ml(self) -> dict[str, float]:
        """Volume of each organ, and of the body with its organs."""
        voxel_ml = math.prod(self._grid.spacing_mm) / 1000
        body, *organs = self._labels
        return {
            body.name: round(int(self._voxels[1:].sum()) * voxel_ml, 2),
            **{organ.name: round(int(self._voxels[organ.value]) * voxel_ml, 2) for organ in organs},
        }

    def write(
        self,
        folder: Path,
        content_digests: Sequence[str],
        *,
        derivation: Derivation,
        now: datetime,
        with_nifti: bool,
    ) -> None:
        """Write the DICOM segmentation and, on request, its label map as NIfTI.

        Raises:
            SeriesError: a source header lacks what a segmentation must refer to.
        """
        body, *organs = self._labels
        write_segmentation(
            self._entry,
            self._label_map,
            organs or [body],
            folder,
            headers=self._headers,
            content_digests=content_digests,
            derivation=derivation,
            now=now,
            whole_body=body if organs else None,
        )
        if with_nifti:
            with NiftiWriter(folder / SEGMENTATION_NIFTI, self._grid, dtype=np.uint8) as nifti:
                for index, labels in enumerate(self._label_map):
                    nifti.write(index, labels)


class KeptSlices:
    """The few slices that are measured and shown once all are through.

    Args:
        survey: its sample is measured.
        middle: number of the slice that is shown.
    """

    def __init__(self, survey: Survey, middle: int) -> None:
        self._sample = frozenset(survey.indices)
        self._middle = middle
        self._denoised: list[Volume] = []
        self._shown: Shown | None = None

    def add(self, chunk: Chunk, denoised_hu: Volume | None, label_map: LabelMap | None) -> None:
        """Look through a chunk and its results."""
        for number, index in enumerate(chunk.indices):
            if denoised_hu is not None and index in self._sample:
                self._denoised.append(denoised_hu[number].copy())
            if index == self._middle:
                self._shown = Shown(
                    chunk.hu[number].copy(),
                    None if denoised_hu is None else denoised_hu[number].copy(),
                    None if label_map is None else label_map[number].copy(),
                )

    @property
    def shown(self) -> Shown:
        """The middle slice.

        Raises:
            ValueError: it has not come by yet.
        """
        if self._shown is None:
            raise ValueError("the middle slice has not come by yet")
        return self._shown

    @property
    def denoised_hu(self) -> Volume | None:
        """(sample, rows, columns) HU of the survey's sample after denoising; None where there was none."""
        return np.stack(self._denoised) if self._denoised else None
