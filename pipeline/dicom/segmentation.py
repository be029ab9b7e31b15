"""Write a label map as DICOM Segmentation on the source's own slices."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Final

import highdicom
import numpy as np
import numpy.typing as npt
import pydicom
from highdicom.color import CIELabColor
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as CodedEntry
from pydicom.uid import UID, CTImageStorage

from pipeline.dicom.derivation import Derivation, source_identity
from pipeline.dicom.derived_header import (
    CANNOT_BE_COPIED,
    NOT_FOR_DIAGNOSIS,
    derived_series_number,
    header_error,
    local_time,
)
from pipeline.dicom.discovery import SeriesEntry
from pipeline.dicom.elements import clean
from pipeline.dicom.encoding import is_lossy
from pipeline.dicom.quiet import quiet_pydicom
from pipeline.dicom.uids import deterministic_uid
from pipeline.dicom.writing import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, save_whole
from pipeline.errors import DataError

SEGMENTATION: Final = "segmentation.dcm"
BODY: Final = "body.dcm"
"""Names of the two files of a segmentation."""

_SERIES_NUMBER_OFFSET: Final = 9500
_PLANE: Final = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)
_LOSS: Final = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
_NEEDED_BY_HIGHDICOM: Final = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)


@dataclass(frozen=True)
class SegmentLabel:
    """One structure: its value in the label map, its codes (value, scheme, meaning) and its colour."""

    name: str
    value: int
    category: tuple[str, str, str]
    type: tuple[str, str, str]
    rgb: tuple[int, int, int]


def plane_header(header: pydicom.Dataset) -> pydicom.Dataset:
    """What `write_segmentation` needs of all source headers but the first: where a slice lies, what it lost.

    A long series need not be kept with everything that a scanner writes into each of its headers.
    """
    plane = pydicom.Dataset()
    for keyword in (*_PLANE, *_LOSS):
        if keyword in header:
            plane[keyword] = header[keyword]
    if is_lossy(header):
        plane.LossyImageCompression = "01"
    return plane


def write_segmentation(
    entry: SeriesEntry,
    label_map: npt.NDArray[np.uint8],
    labels: Sequence[SegmentLabel],
    folder: Path,
    *,
    headers: Sequence[pydicom.Dataset],
    content_digests: Sequence[str],
    derivation: Derivation,
    now: datetime,
    whole_body: SegmentLabel | None = None,
) -> tuple[Path, ...]:
    """Write one BINARY segment per label, in the order of `labels`, each frame referencing its source slice.

    The labels, which cannot overlap, go into `SEGMENTATION`; the whole body, which holds them, goes into an
    instance of its own in the same series, `BODY`. (One instance for all would take the masks of all
    segments at once in memory.) Every label is described, and a label that no voxel carries has no frames;
    an instance without any voxel is not written. The same arguments give the same bytes.

    Args:
        entry: the source.
        label_map: (slices, rows, columns) of `SegmentLabel.value`; other values belong to no segment.
        labels: the structures; their values differ and are above 0.
        folder: where to write.
        headers: of the source's slices: the first in full, of the others a `plane_header` is enough.
        content_digests: `CTSlice.content_digest` of each.
        derivation: what made the label map.
        now: the one clock behind all dates; written as `local_time`.
        whole_body: a further segment, the union of all values above 0; its own `value` is not looked up.

    Returns:
        The files.

    Raises:
        DataError: no voxel is in any segment.
        SeriesError: a source header lacks what a segmentation must refer to.
        ValueError: `label_map`, `headers` or `content_digests` do not fit `entry`, or the values of `labels`
            are not distinct.
    """
    values = [label.value for label in labels]
    _check_arguments(entry, label_map, headers, content_digests, values)
    series = _Series(
        entry,
        headers,
        derivation,
        local_time(now, headers[0]),
        (
            *source_identity(entry, content_digests),
            derivation.identity(),
            now.isoformat(timespec="seconds"),
            repr([*labels, whole_body]),
            hashlib.sha256(np.ascontiguousarray(label_map).data).hexdigest(),
        ),
    )
    try:
        with quiet_pydicom():
            written = [series.write(_numbered(label_map, values), labels, folder / SEGMENTATION, number=1)]
            if whole_body is not None:
                body = (label_map > 0).astype(np.uint8)
                written.append(series.write(body, [whole_body], folder / BODY, number=2))
    except CANNOT_BE_COPIED as broken:
        raise header_error(entry.files[0], broken) from None
    files = tuple(path for path in written if path is not None)
    if not files:
        raise DataError(
            f"{SEGMENTATION}: no voxel carries any of the {len(values)} labels; check the scan's body region"
        )
    return files


def _check_arguments(
    entry: SeriesEntry,
    label_map: npt.NDArray[np.uint8],
    headers: Sequence[pydicom.Dataset],
    content_digests: Sequence[str],
    values: Sequence[int],
) -> None:
    shape = (len(entry.files), entry.rows, entry.columns)
    if label_map.shape != shape:
        raise ValueError(f"label map has shape {label_map.shape}, its source {shape}")
    if not len(headers) == len(content_digests) == shape[0]:
        raise ValueError(f"{len(headers)} headers, {len(content_digests)} digests for {shape[0]} slices")
    if not values or len(set(values)) < len(values) or min(values) < 1:
        raise ValueError(f"label values must be distinct and above 0, got {values}")


def _numbered(label_map: npt.NDArray[np.uint8], values: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The label map in segment numbers: 1 for the first of `values`, 0 for what is none of them."""
    numbers = np.zeros(256, np.uint8)
    numbers[list(values)] = np.arange(1, len(values) + 1)
    return numbers[label_map]


@dataclass(frozen=True)
class _Series:
    """What the instances of one segmentation series share."""

    entry: SeriesEntry
    headers: Sequence[pydicom.Dataset]
    derivation: Derivation
    now: datetime
    parts: Sequence[str]

    def write(
        self,
        segment_map: npt.NDArray[np.uint8],
        labels: Sequence[SegmentLabel],
        path: Path,
        *,
        number: int,
    ) -> Path | None:
        """One instance of the segments 1, 2, …; None, and no file, where no voxel is in any."""
        if not segment_map.any():
            return None
        parts = (*self.parts, str(number))
        dataset = self._dataset(segment_map, labels, number, deterministic_uid("segmentation", *parts))
        _make_reproducible(dataset, self.now, parts)
        _keep_time_zone(dataset, self.headers[0])
        dataset.ContentCreatorName = ""  # of no person; required, if empty (PS3.3 table 10-12)
        # written from a buffer in blocks, or pydicom would copy all frames twice
        dataset["PixelData"].value = BytesIO(_padded_frames(dataset))
        save_whole(dataset, path)
        return path

    def _dataset(
        self, segment_map: npt.NDArray[np.uint8], labels: Sequence[SegmentLabel], number: int, uid: str
    ) -> highdicom.seg.Segmentation:
        derivation = self.derivation
        algorithm = _algorithm(derivation)
        comment = f" {NOT_FOR_DIAGNOSIS}" if derivation.not_for_diagnosis else ""
        return highdicom.seg.Segmentation(
            source_images=_references(self.entry, self.headers),
            pixel_array=segment_map,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _describe(position, label, algorithm) for position, label in enumerate(labels, start=1)
            ],
            series_instance_uid=deterministic_uid("segmentation series", *self.parts),
            series_number=derived_series_number(self.headers[0], _SERIES_NUMBER_OFFSET),
            sop_instance_uid=uid,
            instance_number=number,
            manufacturer="ldct-pipeline",
            manufacturer_model_name="segmentation",
            software_versions=clean(derivation.product_version) or "unknown",
            device_serial_number=derivation.model_hash[:16] or "unknown",
            content_label="SEGMENTATION",
            content_description=f"Automatic.{comment}",
            series_description=f"Segmentation.{comment}",
            omit_empty_frames=True,
            content_date=self.now.date(),
            content_time=self.now.time().replace(microsecond=0),
            series_date=self.now.date(),
            series_time=self.now.time().replace(microsecond=0),
        )


def _references(entry: SeriesEntry, headers: Sequence[pydicom.Dataset]) -> list[pydicom.Dataset]:
    """The source headers with the empty values that highdicom expects where a file lacks them.

    One frame of reference stands for all (some archives gave each slice of one scan a new one), and so does
    one slice thickness: the source's, else the step of its grid, else none.
    """
    frame_of_reference_uid = entry.frame_of_reference_uid or deterministic_uid(
        "frame of reference", entry.series_uid
    )
    thickness_mm = entry.slice_thickness_mm or (entry.geometry and entry.geometry.spacing_mm[0])
    references = [deepcopy(headers[0]), *(plane_header(header) for header in headers[1:])]
    _declare_loss(references[0], headers)
    for reference, sop_instance_uid in zip(references, entry.sop_instance_uids, strict=True):
        reference.SOPClassUID = CTImageStorage
        reference.SOPInstanceUID = sop_instance_uid
        reference.FrameOfReferenceUID = frame_of_reference_uid
        reference.SliceThickness = thickness_mm
    for keyword in _NEEDED_BY_HIGHDICOM:
        if keyword not in references[0]:
            setattr(references[0], keyword, "")
    return references


def _declare_loss(reference: pydicom.Dataset, headers: Sequence[pydicom.Dataset]) -> None:
    """The masks come from all slices: one that lost detail counts for all."""
    lossy = next(filter(is_lossy, headers), None)
    if lossy is None:
        return
    reference.LossyImageCompression = "01"
    for keyword in _LOSS:
        if keyword in lossy:
            reference[keyword] = deepcopy(lossy[keyword])


def _algorithm(derivation: Derivation) -> highdicom.AlgorithmIdentificationSequence:
    return highdicom.AlgorithmIdentificationSequence(
        name=clean(derivation.model_name) or "unnamed",
        family=codes.DCM.ArtificialIntelligence,
        version=clean(derivation.model_version) or "unknown",
        source="ldct-pipeline",
    )


def _describe(
    number: int, segment: SegmentLabel, algorithm: highdicom.AlgorithmIdentificationSequence
) -> highdicom.seg.SegmentDescription:
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name,
        segmented_property_category=CodedEntry(*segment.category),
        segmented_property_type=CodedEntry(*segment.type),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=CIELabColor.from_rgb(*segment.rgb),
    )


def _padded_frames(dataset: pydicom.Dataset) -> bytes:
    """The packed frames, brought to an even length by a zero byte (PS3.5 8.1.1).

    highdicom takes the letter 0 for that.
    """
    size = -(-int(dataset.NumberOfFrames) * int(dataset.Rows) * int(dataset.Columns) // 8)
    frames: bytes = dataset.PixelData[:size]
    return frames + b"\0" * (size % 2)


def _make_reproducible(dataset: pydicom.Dataset, now: datetime, parts: Sequence[str]) -> None:
    """Replace what highdicom takes from the wall clock and from chance, and name the writer."""
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S")
    for equipment in dataset.ContributingEquipmentSequence:
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    organization_uid = deterministic_uid("dimension organization", *parts)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization_uid


def _keep_time_zone(dataset: pydicom.Dataset, source: pydicom.Dataset) -> None:
    """The study's dates and times are the source's, so the offset that they stand in goes with them."""
    if source.get("TimezoneOffsetFromUTC"):
        dataset.TimezoneOffsetFromUTC = source.TimezoneOffsetFromUTC
