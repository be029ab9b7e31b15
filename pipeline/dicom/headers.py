"""The header of each image in a file as plain values; what is missing or malformed is None."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pydicom
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import CTImageStorage

from pipeline.dicom.elements import integer_of, number_of, numbers_of, text_of, values_of
from pipeline.dicom.encoding import is_lossy, transfer_syntax
from pipeline.dicom.geometry import Vector, are_orthonormal
from pipeline.dicom.identity import IDENTITY_KEYWORDS, shown
from pipeline.dicom.multiframe import (
    MAX_FRAMES,
    MULTI_FRAME_CLASSES,
    frame_count,
    is_multi_frame,
    single_frame_header,
)
from pipeline.dicom.pixels import Rescale
from pipeline.dicom.quiet import quiet_pydicom
from pipeline.dicom.verdicts import Code, Finding, file_finding
from pipeline.dicom.writing import PRODUCT

CT_CLASSES: Final = frozenset({CTImageStorage, *MULTI_FRAME_CLASSES})
_FARTHEST_MM: Final = 1e6
"""A position farther off is garbage, and overflows in what is computed from it."""

_UNKNOWN_MODALITY: Final = "unknown"
_MODALITY_TERMS: Final = """
    ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL
    IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG
    RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN
    TEXTUREMAP TG US VA XA XAPROTOCOL XC
    AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST TEMP VF
"""
_MODALITIES: Final = frozenset(_MODALITY_TERMS.split())
"""Defined terms, retired ones last (PS3.3 C.7.3.1.1.1); anything else may be what an operator typed."""
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
    "ContributingEquipmentSequence",
    "SeriesDescription",
    "PatientID",
    "LossyImageCompression",
    "BodyPartExamined",
    "SliceThickness",
    "KVP",
    "Exposure",
    "XRayTubeCurrent",
    "ExposureTime",
    "ExposureInuAs",
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
    *IDENTITY_KEYWORDS,
]
_TAGS: Final[list[BaseTag | int]] = [Tag(keyword) for keyword in _KEYWORDS]
_FUNCTIONAL_GROUPS: Final[list[BaseTag | int]] = [
    Tag("SharedFunctionalGroupsSequence"),
    Tag("PerFrameFunctionalGroupsSequence"),
]
_GROUPS_OF_FRAMES: Final = 0x5200
_GROUP_OF_PIXELS: Final = 0x7FE0
_DENOISED: Final = "Denoised"
"""How ContributionDescription begins where this product denoised; where it added noise, otherwise."""
_DICOM_SUFFIXES: Final = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class SliceHeader:
    """What discovery needs to know of one image: a single-frame file, or one frame of a multi-frame file.

    `frame` counts from 0 and is None in a single-frame file, and in a multi-frame one whose frames cannot be
    told apart: then `frames` is how many the file declares, else 1. Texts that repeat an identity are None.
    """

    path: Path
    frame: int | None
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
    high_bit: int | None
    rescale: Rescale | None
    rescale_type: str
    position_mm: Vector | None
    row_cosines: Vector | None
    column_cosines: Vector | None
    pixel_spacing_mm: tuple[float, float] | None
    slice_thickness_mm: float | None
    acquisition: int | None
    kvp: float | None
    exposure_mas: float | None
    kernel: str | None
    manufacturer: str | None
    body_part: str | None
    series_description: str | None
    patient_id: str = field(repr=False)
    is_lossy: bool
    is_denoised: bool
    is_simulated: bool


def read_header(path: Path) -> tuple[SliceHeader, ...] | Finding | None:
    """Parse one file without its pixels: a header per frame of an enhanced CT image, else one.

    None for a DICOMDIR, a finding for what is no image.
    """
    try:
        if not _looks_like_dicom(path):
            return _no_dicom(path)
        with quiet_pydicom():
            return _parse(path, _read(path, _TAGS, stop_at={_GROUPS_OF_FRAMES, _GROUP_OF_PIXELS}))
    except PermissionError:
        message = f"{path.name}: no permission to read it; make it readable"
        return file_finding(Code.UNREADABLE, message, path)
    except MemoryError:  # the sandbox ran out of it; the header may be sound
        raise
    except Exception as broken:  # noqa: BLE001  whatever a hostile header raises, the folder goes on
        return file_finding(
            Code.UNREADABLE,
            f"{path.name}: the header cannot be read ({type(broken).__name__}); copy the file again",
            path,
        )


def files_of(slices: Iterable[SliceHeader]) -> tuple[Path, ...]:
    """The files that hold them, each once."""
    return tuple(dict.fromkeys(header.path for header in slices))


def repeated_images(slices: Sequence[SliceHeader]) -> list[SliceHeader]:
    """Those that share SOPInstanceUID and frame with another one: by the standard, copies of one image."""
    images = Counter((header.sop_instance_uid, header.frame) for header in slices)
    return [
        header
        for header in slices
        if header.sop_instance_uid and images[header.sop_instance_uid, header.frame] > 1
    ]


def _looks_like_dicom(path: Path) -> bool:
    """A DICM prefix, or no preamble and a first element of group 0002 or 0008 in either byte order."""
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")


def _read(path: Path, tags: list[BaseTag | int], *, stop_at: set[int]) -> pydicom.Dataset:
    """The elements of a file with one of `tags`, up to the first of a group in `stop_at`."""
    with path.open("rb") as file:
        return read_partial(
            file, stop_when=lambda tag, _vr, _length: tag.group in stop_at, force=True, specific_tags=tags
        )


def _no_dicom(path: Path) -> Finding:
    if path.stat().st_size == 0:
        return file_finding(Code.UNREADABLE, f"{path.name}: 0 bytes; copy the file again", path)
    if path.suffix.lower() in _DICOM_SUFFIXES:
        message = f"{path.name}: named like DICOM, but its first bytes are not; copy the file again"
        return file_finding(Code.UNREADABLE, message, path)
    return file_finding(Code.NOT_DICOM, f"{path.name}: not a DICOM file", path)


def _parse(path: Path, dataset: pydicom.Dataset) -> tuple[SliceHeader, ...] | Finding | None:
    meta = getattr(dataset, "file_meta", pydicom.Dataset())
    sop_class = text_of(dataset, "SOPClassUID") or text_of(meta, "MediaStorageSOPClassUID")
    if sop_class == _DIRECTORY_CLASS or path.name.upper() == "DICOMDIR":
        return None
    rows, columns = integer_of(dataset, "Rows"), integer_of(dataset, "Columns")
    if rows is None or columns is None or rows < 1 or columns < 1:
        return _no_image(path, sop_class, dataset)
    matrix = rows, columns
    sop_instance = text_of(dataset, "SOPInstanceUID") or text_of(meta, "MediaStorageSOPInstanceUID")
    if sop_class in MULTI_FRAME_CLASSES and frame_count(dataset) <= MAX_FRAMES:
        whole = _read(path, [*_TAGS, *_FUNCTIONAL_GROUPS], stop_at={_GROUP_OF_PIXELS})
        if is_multi_frame(whole):
            return tuple(_frames(path, whole, sop_class, sop_instance, matrix))
    return (_slice_header(path, None, dataset, sop_class, sop_instance, matrix),)


def _frames(
    path: Path, dataset: pydicom.Dataset, sop_class: str, sop_instance: str, matrix: tuple[int, int]
) -> Iterable[SliceHeader]:
    for frame in range(frame_count(dataset)):
        yield _slice_header(path, frame, single_frame_header(dataset, frame), sop_class, sop_instance, matrix)


def _no_image(path: Path, sop_class: str, dataset: pydicom.Dataset) -> Finding:
    if sop_class in CT_CLASSES:
        message = f"{path.name}: a CT image without a matrix; copy the file again"
        return file_finding(Code.UNREADABLE, message, path)
    if not text_of(dataset, "Modality"):  # also a CT image that was cut short: it must not pass for a report
        message = f"{path.name}: no modality in its header; copy the file again"
        return file_finding(Code.UNREADABLE, message, path)
    message = f"{path.name}: a DICOM object without an image (modality {_modality(dataset)})"
    return file_finding(Code.NOT_AN_IMAGE, message, path)


def _slice_header(
    path: Path,
    frame: int | None,
    dataset: pydicom.Dataset,
    sop_class: str,
    sop_instance: str,
    matrix: tuple[int, int],
) -> SliceHeader:
    """One line per field."""
    row_cosines, column_cosines = _plane(dataset)
    our_work = _our_work(dataset)
    return SliceHeader(
        path=path,
        frame=frame,
        sop_class_uid=sop_class,
        sop_instance_uid=sop_instance,
        study_uid=text_of(dataset, "StudyInstanceUID"),
        series_uid=text_of(dataset, "SeriesInstanceUID"),
        frame_of_reference_uid=text_of(dataset, "FrameOfReferenceUID"),
        transfer_syntax_uid=transfer_syntax(dataset),
        modality=_modality(dataset),
        image_type=tuple(str(part).strip().upper() for part in values_of(dataset, "ImageType")),
        rows=matrix[0],
        columns=matrix[1],
        frames=frame_count(dataset),
        samples=integer_of(dataset, "SamplesPerPixel") or 1,
        bits_allocated=integer_of(dataset, "BitsAllocated") or 0,
        bits_stored=integer_of(dataset, "BitsStored") or 0,
        high_bit=integer_of(dataset, "HighBit"),
        rescale=_rescale(dataset),
        rescale_type=text_of(dataset, "RescaleType").upper(),
        position_mm=_position_mm(dataset),
        row_cosines=row_cosines,
        column_cosines=column_cosines,
        pixel_spacing_mm=_pixel_spacing_mm(dataset),
        slice_thickness_mm=number_of(dataset, "SliceThickness"),
        acquisition=integer_of(dataset, "AcquisitionNumber"),
        kvp=number_of(dataset, "KVP"),
        exposure_mas=_exposure_mas(dataset),
        kernel=kernel_of(dataset),
        manufacturer=shown(text_of(dataset, "Manufacturer"), dataset),
        body_part=shown(text_of(dataset, "BodyPartExamined"), dataset),
        series_description=shown(text_of(dataset, "SeriesDescription"), dataset),
        patient_id=text_of(dataset, "PatientID"),
        is_lossy=is_lossy(dataset),
        is_denoised=any(_is_denoising(text) for text in our_work),
        is_simulated=any(not _is_denoising(text) for text in our_work),
    )


def kernel_of(dataset: pydicom.Dataset) -> str | None:
    """ConvolutionKernel as it may be shown; None where it is missing or repeats the patient's identity."""
    return shown(" ".join(str(part) for part in values_of(dataset, "ConvolutionKernel")), dataset)


def _modality(dataset: pydicom.Dataset) -> str:
    modality = text_of(dataset, "Modality")
    return modality if modality in _MODALITIES else _UNKNOWN_MODALITY


def _exposure_mas(dataset: pydicom.Dataset) -> float | None:
    """Exposure in mAs from the first of its three spellings that holds a positive one (PS3.3 C.8.2.1).

    XRayTubeCurrent × ExposureTime comes first: GE writes an Exposure that is not that of a rotation (15 mAs
    beside 499 mA × 500 ms). Philips writes no ExposureTime; its Exposure, like that of Siemens, is
    mAs / pitch.
    """
    current_ma, time_ms, mas, in_uas = (
        number_of(dataset, keyword) or 0.0
        for keyword in ("XRayTubeCurrent", "ExposureTime", "Exposure", "ExposureInuAs")
    )
    of_rotation = max(current_ma, 0.0) * time_ms / 1000
    return next((value for value in (of_rotation, mas, in_uas / 1000) if 0 < value < math.inf), None)


def _rescale(dataset: pydicom.Dataset) -> Rescale | None:
    slope, intercept = number_of(dataset, "RescaleSlope"), number_of(dataset, "RescaleIntercept")
    return None if slope is None or intercept is None else Rescale(slope, intercept)


def _position_mm(dataset: pydicom.Dataset) -> Vector | None:
    numbers = numbers_of(dataset, "ImagePositionPatient", 3)
    if numbers is None or max(map(abs, numbers)) > _FARTHEST_MM:
        return None
    return numbers[0], numbers[1], numbers[2]


def _pixel_spacing_mm(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    numbers = numbers_of(dataset, "PixelSpacing", 2)
    return (numbers[0], numbers[1]) if numbers and min(numbers) > 0 else None


def _plane(dataset: pydicom.Dataset) -> tuple[Vector, Vector] | tuple[None, None]:
    """Row and column cosines, if they are orthonormal."""
    numbers = numbers_of(dataset, "ImageOrientationPatient", 6)
    if numbers is None:
        return None, None
    a, b, c, d, e, f = numbers
    row, column = (a, b, c), (d, e, f)
    return (row, column) if are_orthonormal(row, column) else (None, None)


def _our_work(dataset: pydicom.Dataset) -> list[str]:
    """What this product says that it did to another image's pixels, once per time."""
    equipment = values_of(dataset, "ContributingEquipmentSequence")
    return [
        text_of(item, "ContributionDescription")
        for item in equipment
        if text_of(item, "Manufacturer") == PRODUCT
    ]


def _is_denoising(description: str) -> bool:
    return description.startswith(_DENOISED)
