"""Write a processed series as new CT images that say what was done to them and whence they came."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

from pipeline.dicom.derivation import DENOISED, Derivation, Purpose, source_identity
from pipeline.dicom.derived_header import (
    CANNOT_BE_COPIED,
    declare_pixel_range,
    derived_header,
    header_error,
    source_image,
)
from pipeline.dicom.discovery import SeriesEntry
from pipeline.dicom.pixels import Stored, rescale_of, stored_pixels
from pipeline.dicom.quiet import quiet_pydicom
from pipeline.dicom.reading import CTSeries, CTSlice, corrupt, read_slice
from pipeline.dicom.uids import deterministic_uid
from pipeline.dicom.writing import prepare_folder, set_pixels, slice_file_name, write_file


class DerivedSeriesWriter:
    """Writes new pixels for a series slice by slice: CT Image Storage, explicit little endian, raw.

    Geometry, rescale, acquisition and windows are the source's own. HU are rounded and clipped to BitsStored;
    padding keeps its stored values, and no other pixel takes one of them. Where the HU equal the source's,
    the stored pixels are equal bit for bit. The same source, derivation, purpose and `now` give the same
    bytes.

    Args:
        entry: the source.
        content_digests: the `content_digest` of each of its slices; UIDs depend on them all.
        folder: where to write; made if absent, and it must be empty.
        derivation: what makes the new pixels.
        purpose: `DENOISED` or a `simulated_dose`.
        now: the one clock behind all new dates; written as `local_time`.

    Raises:
        ValueError: `folder` is not empty, or there is not one digest per slice.
    """

    def __init__(
        self,
        entry: SeriesEntry,
        content_digests: Sequence[str],
        folder: Path,
        *,
        derivation: Derivation,
        purpose: Purpose = DENOISED,
        now: datetime,
    ) -> None:
        if len(content_digests) != len(entry.files):
            raise ValueError(f"{len(content_digests)} digests for {len(entry.files)} slices")
        prepare_folder(folder)
        self._entry = entry
        self._content_digests = tuple(content_digests)
        self._folder = folder
        self._derivation = derivation
        self._purpose = purpose
        self._now = now
        self._series_uid = deterministic_uid(
            purpose.identity,
            *source_identity(entry, self._content_digests),
            derivation.identity(),
            now.isoformat(timespec="seconds"),
        )

    def write(self, index: int, source: CTSlice, hu: npt.NDArray[np.floating]) -> Path:
        """Write slice `index`; slices may come in any order.

        Args:
            index: its number along the normal.
            source: the slice of that number in the source.
            hu: (rows, columns) HU in place of `source.hu`.

        Returns:
            The file.

        Raises:
            SeriesError: the source's header holds values that cannot be written again, or its content is no
                longer that of `content_digests`.
            ValueError: `hu` has another shape or holds non-finite values.
        """
        _check_hu(hu, source)
        path = self._entry.files[index]
        if source.content_digest != self._content_digests[index]:
            raise corrupt(path, "its content changed while the series was processed")
        stored = _meant_pixels(source, hu)
        try:
            with quiet_pydicom():
                dataset = derived_header(source.header, self._derivation, self._purpose, self._now)
                self._identify(dataset, index)
                dataset.SourceImageSequence = [self._source_image(index, source.header)]
                set_pixels(dataset, stored)
                declare_pixel_range(dataset, stored)
                return write_file(dataset, self._folder / slice_file_name(index))
        except CANNOT_BE_COPIED as broken:
            raise header_error(path, broken) from None

    def _identify(self, dataset: pydicom.Dataset, index: int) -> None:
        """New UIDs; frames of multi-frame images get one each, and a number in the series."""
        source_uid = self._entry.sop_instance_uids[index]
        dataset.SeriesInstanceUID = self._series_uid
        dataset.SOPInstanceUID = deterministic_uid(
            self._series_uid, str(index), source_uid, self._content_digests[index]
        )
        if self._entry.frames[index] is not None:
            dataset.InstanceNumber = index + 1

    def _source_image(self, index: int, header: pydicom.Dataset) -> pydicom.Dataset:
        """The reference to the source slice."""
        source_uid, frame = self._entry.sop_instance_uids[index], self._entry.frames[index]
        if frame is None:
            return source_image(source_uid)
        return source_image(source_uid, sop_class_uid=header.file_meta.MediaStorageSOPClassUID, frame=frame)


def write_derived_series(
    series: CTSeries,
    hu: npt.NDArray[np.floating],
    folder: Path,
    *,
    derivation: Derivation,
    purpose: Purpose = DENOISED,
    now: datetime,
) -> tuple[Path, ...]:
    """Write `hu` in place of the pixels of a series in memory, as `DerivedSeriesWriter` does.

    Args:
        series: the source.
        hu: (slices, rows, columns) HU.
        folder: where to write; made if absent, and it must be empty.
        derivation: what made `hu`.
        purpose: `DENOISED` or a `simulated_dose`.
        now: the one clock behind all new dates.

    Returns:
        The files, in the order of the slices.

    Raises:
        SeriesError: a source header holds values that cannot be written again.
        ValueError: `hu` has another shape or holds non-finite values, or `folder` is not empty.
    """
    if hu.shape != series.hu.shape:
        raise ValueError(f"hu has shape {hu.shape}, its source {series.hu.shape}")
    writer = DerivedSeriesWriter(
        series.entry, series.content_digests, folder, derivation=derivation, purpose=purpose, now=now
    )
    return tuple(writer.write(index, series.slice_at(index), hu[index]) for index in range(len(hu)))


def reads_back(path: Path, source: CTSlice, hu: npt.NDArray[np.floating]) -> bool:
    """Whether a derived slice holds, pixel by pixel and padding included, what was meant.

    Args:
        path: the file that `DerivedSeriesWriter.write` returned.
        source: as it was given there.
        hu: as it was given there.

    Raises:
        SeriesError: the file cannot be read.
    """
    rows, columns = hu.shape
    again = read_slice(path, rows=rows, columns=columns)
    meant_hu = rescale_of(again.header).to_hu(_meant_pixels(source, hu))
    return (
        np.array_equal(again.padding, source.padding)
        and np.array_equal(again.padding_stored, source.padding_stored)
        and np.array_equal(again.hu[~source.padding], meant_hu[~source.padding])
    )


def _check_hu(hu: npt.NDArray[np.floating], source: CTSlice) -> None:
    if hu.shape != source.hu.shape:
        raise ValueError(f"hu has shape {hu.shape}, its source {source.hu.shape}")
    if not np.isfinite(hu).all():
        raise ValueError("hu holds values that are not finite")


def _meant_pixels(source: CTSlice, hu: npt.NDArray[np.floating]) -> Stored:
    return stored_pixels(source.header, hu, padding=source.padding, padding_stored=source.padding_stored)
