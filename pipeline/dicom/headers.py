"""One file's header, parsed once into plain values; what is missing or malformed is None."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    LegacyConvertedEnhancedCTImageStorage,
)

from pipeline.dicom.geometry import Vector, are_orthonormal
from pipeline.dicom.quiet import quiet_pydicom
from pipeline.dicom.verdicts import Code, Finding, file_finding

CT_CLASSES: Final = frozenset({CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage})
_LOSSY_JPEG_BITS: Final = 8
_DIRECTORY_CLASS: Final = "1.2.840.10008.1.3.10"
_KEYWORDS: Final = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "Manufacturer",
    "BodyPartExamined",
    "SliceThickness",
    "KVP",
    "ConvolutionKernel",
    "AcquisitionNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
]
_DICOM_SUFFIXES: Final = (".dcm", ".dicom", ".ima")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9 ._+/-]+")


@dataclass(frozen=True)
class SliceHeader:
    """What discovery needs to know of one single-frame image."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    transfer_syntax_uid: str
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    rescale_slope: float | None
    rescale_intercept: float | None
    rescale_type: str
    position_mm: Vector | None
    row_cosines: Vector | None
    column_cosines: Vector | None
    pixel_spacing_mm: tuple[float, float] | None
    slice_thickness_mm: float | None
    acquisition: int | None
    kvp: float | None
    kernel: str | None
    manufacturer: str | None
    body_part: str | None


def read_header(path: Path) -> SliceHeader | Finding | None:
    """Parse one file without its pixels; None for a DICOMDIR, a finding for what is no image."""
    try:
        if not _looks_like_dicom(path):
            return _no_dicom(path)
        with quiet_pydicom():
            dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_KEYWORDS)
            return _parse(path, dataset)
    except PermissionError:
        message = f"{path.name}: no permission to read it; make it readable"
        return file_finding(Code.UNREADABLE, message, path)
    except Exception as broken:  # noqa: BLE001  whatever a hostile header raises, the folder goes on
        return file_finding(
            Code.UNREADABLE,
            f"{path.name}: the header cannot be read ({type(broken).__name__}); copy the file again",
            path,
        )


def _looks_like_dicom(path: Path) -> bool:
    """A DICM prefix, or no preamble and a first element of group 0002 or 0008 in either byte order."""
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")


def _no_dicom(path: Path) -> Finding:
    if path.stat().st_size == 0:
        return file_finding(Code.UNREADABLE, f"{path.name}: 0 bytes; copy the file again", path)
    if path.suffix.lower() in _DICOM_SUFFIXES:
        message = f"{path.name}: named like DICOM, but its first bytes are not; copy the file again"
        return file_finding(Code.UNREADABLE, message, path)
    return file_finding(Code.NOT_DICOM, f"{path.name}: not a DICOM file", path)


def _parse(path: Path, dataset: pydicom.Dataset) -> SliceHeader | Finding | None:
    meta = getattr(dataset, "file_meta", pydicom.Dataset())
    sop_class = _text(dataset, "SOPClassUID") or _text(meta, "MediaStorageSOPClassUID")
    modality = clean(_text(dataset, "Modality")) or "unknown"
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    if sop_class == _DIRECTORY_CLASS or path.name.upper() == "DICOMDIR":
        return None
    if rows is None or columns is None or rows < 1 or columns < 1:
        if sop_class in CT_CLASSES:
            message = f"{path.name}: a CT image without a matrix; copy the file again"
            return file_finding(Code.UNREADABLE, message, path)
        return file_finding(
            Code.NOT_AN_IMAGE, f"{path.name}: a DICOM object without an image (modality {modality})", path
        )
    orientation = _floats(dataset, "ImageOrientationPatient", 6)
    row_cosines, column_cosines = _plane(orientation)
    position = _floats(dataset, "ImagePositionPatient", 3)
    spacing = _floats(dataset, "PixelSpacing", 2)
    return SliceHeader(
        path=path,
        sop_class_uid=sop_class,
        sop_instance_uid=_text(dataset, "SOPInstanceUID") or _text(meta, "MediaStorageSOPInstanceUID"),
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        frame_of_reference_uid=_text(dataset, "FrameOfReferenceUID"),
        transfer_syntax_uid=transfer_syntax(dataset),
        modality=modality,
        image_type=tuple(str(part).strip().upper() for part in _values(dataset, "ImageType")),
        rows=rows,
        columns=columns,
        frames=_integer(dataset, "NumberOfFrames") or 1,
        samples=_integer(dataset, "SamplesPerPixel") or 1,
        bits_allocated=_integer(dataset, "BitsAllocated") or 0,
        bits_stored=_integer(dataset, "BitsStored") or 0,
        rescale_slope=_float(dataset, "RescaleSlope"),
        rescale_intercept=_float(dataset, "RescaleIntercept"),
        rescale_type=_text(dataset, "RescaleType").upper(),
        position_mm=(position[0], position[1], position[2]) if position else None,
        row_cosines=row_cosines,
        column_cosines=column_cosines,
        pixel_spacing_mm=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        slice_thickness_mm=_float(dataset, "SliceThickness"),
        acquisition=_integer(dataset, "AcquisitionNumber"),
        kvp=_float(dataset, "KVP"),
        kernel=clean(" ".join(str(part) for part in _values(dataset, "ConvolutionKernel"))),
        manufacturer=clean(_text(dataset, "Manufacturer")),
        body_part=clean(_text(dataset, "BodyPartExamined")),
    )


def transfer_syntax(dataset: pydicom.Dataset) -> UID:
    """The transfer syntax of a file just read; without one, the encoding that pydicom found."""
    declared = _text(getattr(dataset, "file_meta", pydicom.Dataset()), "TransferSyntaxUID")
    if declared:
        return UID(declared)
    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def _plane(orientation: Sequence[float] | None) -> tuple[Vector | None, Vector | None]:
    if orientation is None:
        return None, None
    a, b, c, d, e, f = orientation
    row, column = (a, b, c), (d, e, f)
    return (row, column) if are_orthonormal(row, column) else (None, None)


def clean(text: str) -> str | None:
    """At most 64 harmless characters of a DICOM text, for tables and log lines; None when empty."""
    return _UNSAFE.sub(" ", text).strip()[:64] or None


def _values(dataset: pydicom.Dataset, keyword: str) -> list[Any]:
    """The values of an element; none when it is absent, empty or malformed."""
    try:
        value = dataset.get(keyword)
    except Exception:  # noqa: BLE001  a malformed value is as good as a missing one
        return []
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    values = _values(dataset, keyword)
    return str(values[0]).strip(" \0") if values else ""


def _floats(dataset: pydicom.Dataset, keyword: str, count: int) -> list[float] | None:
    try:
        numbers = [float(value) for value in _values(dataset, keyword)]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _float(dataset: pydicom.Dataset, keyword: str) -> float | None:
    numbers = _floats(dataset, keyword, 1)
    return numbers[0] if numbers else None


def _integer(dataset: pydicom.Dataset, keyword: str) -> int | None:
    number = _float(dataset, keyword)
    return None if number is None else int(number)


@cache
def can_decode(transfer_syntax_uid: str, bits_stored: int) -> bool:
    """Whether an installed decoder handles the encoding; none handles 12-bit lossy JPEG."""
    with quiet_pydicom():
        syntax = UID(transfer_syntax_uid)
        if syntax == JPEGExtended12Bit and bits_stored > _LOSSY_JPEG_BITS:
            return False
        try:
            return bool(get_decoder(syntax).is_available)
        except NotImplementedError:
            return False
