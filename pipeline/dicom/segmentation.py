"""Write a label map as DICOM Segmentation on the source's own slices."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
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
    NOT_FOR_DIAGNOSIS,
    declare_lossy_compression,
    derived_series_number,
    header_error,
    local_time,
)
from pipeline.dicom.elements import clean
from pipeline.dicom.quiet import quiet_pydicom
from pipeline.dicom.reading import CTSeries
from pipeline.dicom.uids import deterministic_uid, sha256_hex
from pipeline.dicom.writing import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, save_whole
from pipeline.errors import DataError

_SERIES_NUMBER_OFFSET: Final = 9500
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


def write_segmentation(
    series: CTSeries,
    label_map: npt.NDArray[np.uint8],
    labels: Sequence[SegmentLabel],
    path: Path,
    *,
    derivation: Derivation,
    now: datetime,
    whole_body: SegmentLabel | None = None,
) -> Path:
    """Write one BINARY segment per label, in the order of `labels`, each frame referencing its source slice.

    Every label is described, and a label that no voxel carries has no frames. The same arguments give the
    same bytes.

    Args:
        series: the source.
        label_map: (slices, rows, columns) of `SegmentLabel.value`; other values belong to no segment.
        labels: the structures; their values differ and are above 0.
        path: file to write.
        derivation: what made the label map.
        now: the one clock behind all dates; written as `local_time`.
        whole_body: a further segment, the union of all values above 0; its own `value` is not looked up.

    Raises:
        DataError: no voxel is in any segment.
        SeriesError: a source header lacks what a segmentation must refer to.
        ValueError: `label_map` is not of the shape of `series`, or the values of `labels` are not distinct.
    """
    if label_map.shape != series.hu.shape:
        raise ValueError(f"label map has shape {label_map.shape}, its source {series.hu.shape}")
    values = [label.value for label in labels]
    if not values or len(set(values)) < len(values) or min(values) < 1:
        raise ValueError(f"label values must be distinct and above 0, got {values}")
    segments = [*labels, *([whole_body] if whole_body else [])]
    masks = _masks(label_map, values, with_union=whole_body is not None)
    if not masks.any():
        raise DataError(
            f"{path.name}: no voxel carries any of the {len(values)} labels; check the scan's body region"
        )
    parts = (
        *source_identity(series.entry, series.pixel_digests),
        derivation.identity(),
        repr(segments),
        sha256_hex(masks.tobytes()),
    )
    now = local_time(now, series.headers[0])
    algorithm = _algorithm(derivation)
    descriptions = [_describe(number, segment, algorithm) for number, segment in enumerate(segments, start=1)]
    try:
        with quiet_pydicom():
            segmentation = _segmentation(series, masks, descriptions, derivation, now, parts)
            _make_reproducible(segmentation, now, parts)
            _keep_time_zone(segmentation, series.headers[0])
            save_whole(segmentation, path)
    except (AttributeError, LookupError, TypeError, ValueError) as broken:
        raise header_error(series.entry.files[0], broken) from None
    return path


def _masks(
    label_map: npt.NDArray[np.uint8], values: Sequence[int], *, with_union: bool
) -> npt.NDArray[np.uint8]:
    """(slices, rows, columns, segments) of 0 and 1; segments may overlap."""
    masks = np.empty((*label_map.shape, len(values) + with_union), np.uint8)
    for index, value in enumerate(values):
        masks[..., index] = label_map == value
    if with_union:
        masks[..., -1] = label_map > 0
    return masks


def _segmentation(
    series: CTSeries,
    masks: npt.NDArray[np.uint8],
    descriptions: Sequence[highdicom.seg.SegmentDescription],
    derivation: Derivation,
    now: datetime,
    parts: Sequence[str],
) -> highdicom.seg.Segmentation:
    comment = f" {NOT_FOR_DIAGNOSIS}" if derivation.not_for_diagnosis else ""
    return highdicom.seg.Segmentation(
        source_images=_references(series),
        pixel_array=masks,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=deterministic_uid("segmentation series", *parts),
        series_number=derived_series_number(series.headers[0], _SERIES_NUMBER_OFFSET),
        sop_instance_uid=deterministic_uid("segmentation", *parts),
        instance_number=1,
        manufacturer="ldct-pipeline",
        manufacturer_model_name="segmentation",
        software_versions=clean(derivation.product_version) or "unknown",
        device_serial_number=derivation.model_hash[:16] or "unknown",
        content_label="SEGMENTATION",
        content_description=f"Automatic.{comment}",
        series_description=f"Segmentation.{comment}",
        omit_empty_frames=True,
        content_date=now.date(),
        content_time=now.time().replace(microsecond=0),
        series_date=now.date(),
        series_time=now.time().replace(microsecond=0),
    )


def _references(series: CTSeries) -> list[pydicom.Dataset]:
    """The source headers with the empty values that highdicom expects where a file lacks them.

    One frame of reference stands for all (some archives gave each slice of one scan a new one), and so does
    one slice thickness: the source's, else the step of its grid, else none.
    """
    entry = series.entry
    frame_of_reference_uid = entry.frame_of_reference_uid or deterministic_uid(
        "frame of reference", entry.series_uid
    )
    thickness_mm = entry.slice_thickness_mm or (entry.geometry and entry.geometry.spacing_mm[0])
    references = []
    for header, sop_instance_uid in zip(series.headers, entry.sop_instance_uids, strict=True):
        reference = deepcopy(header)
        reference.SOPClassUID = CTImageStorage
        reference.SOPInstanceUID = sop_instance_uid
        declare_lossy_compression(reference, header)
        reference.FrameOfReferenceUID = frame_of_reference_uid
        reference.SliceThickness = thickness_mm
        for keyword in _NEEDED_BY_HIGHDICOM:
            if keyword not in reference:
                setattr(reference, keyword, "")
        references.append(reference)
    return references


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
