"""Enhanced multi-frame CT: the header of each frame as that of a classic, single-frame CT image."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Final

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from pipeline.dicom.elements import integer_of, number_of, text_of, values_of

MULTI_FRAME_CLASSES: Final = frozenset({EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage})
MAX_FRAMES: Final = 10_000
"""More frames than any scan has: twice the longest series that is streamed."""

_CONVERTED: Final = (
    "UnassignedSharedConvertedAttributesSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
)
"""What a legacy converted image took over from its single-frame sources as it was (PS3.3 C.7.6.16.2.25)."""

_MACROS: Final = frozenset(
    {
        "PixelMeasuresSequence",
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "FrameAnatomySequence",
        "FrameContentSequence",
        "FrameVOILUTSequence",
        "PixelValueTransformationSequence",
        "DerivationImageSequence",
        "IrradiationEventIdentificationSequence",
        "TemporalPositionSequence",
        "CardiacSynchronizationSequence",
        "RespiratorySynchronizationSequence",
        "CTImageFrameTypeSequence",
        "CTAcquisitionTypeSequence",
        "CTAcquisitionDetailsSequence",
        "CTTableDynamicsSequence",
        "CTPositionSequence",
        "CTGeometrySequence",
        "CTReconstructionSequence",
        "CTExposureSequence",
        "CTXRayDetailsSequence",
    }
)
"""Functional groups whose attributes describe a single-frame image just as well (PS3.3 C.7.6.16, C.8.15.3).

Further groups, such as ReferencedImageSequence, are sequences of a single-frame image too and stay whole.
"""

_RENAMED: Final = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameComments": "ImageComments",
    "FrameLaterality": "ImageLaterality",
}

_IN_OTHER_UNITS: Final = {
    "ExposureInmAs": ("Exposure", "ExposureInuAs"),
    "ExposureTimeInms": ("ExposureTime", "ExposureTimeInuS"),
    "XRayTubeCurrentInmA": ("XRayTubeCurrent", "XRayTubeCurrentInuA"),
}
"""Real numbers in a multi-frame image; whole milli-units, and micro-units, in a single-frame one."""

_MULTI_FRAME_ONLY: Final = frozenset(
    {
        *_CONVERTED,
        "NumberOfFrames",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "DimensionOrganizationSequence",
        "DimensionOrganizationType",
        "DimensionIndexSequence",
        "DimensionIndexValues",
        "FrameIncrementPointer",
        "ConcatenationUID",
        "ConcatenationFrameOffsetNumber",
        "InConcatenationNumber",
        "InConcatenationTotalNumber",
        "SOPInstanceUIDOfConcatenationSource",
        "ConversionSourceAttributesSequence",
        "ReferencedSeriesSequence",
        "StudiesContainingOtherReferencedInstancesSequence",
        "ReferencedImageEvidenceSequence",
        "SourceImageEvidenceSequence",
        "StackID",
        "InStackPositionNumber",
        "TemporalPositionIndex",
        "FrameLabel",
        "FrameReferenceDateTime",
        "FrameAcquisitionDateTime",
        "FrameAcquisitionDuration",
        "ReferencedPathIndex",
        "PixelPresentation",
        "VolumetricProperties",
        "VolumeBasedCalculationTechnique",
        "ContentQualification",
        "PresentationLUTShape",
        "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths",
        "PixelData",
    }
)
"""What a CT image cannot say, or what lists the references of all frames: as long as the scan, in each."""

_OF_ALL_FRAMES: Final = frozenset({"InstanceNumber", "SmallestImagePixelValue", "LargestImagePixelValue"})
"""True of a multi-frame image, not of each of its frames."""

_NEVER_ABSENT: Final = ("KVP", "AcquisitionNumber", "SliceThickness", "PositionReferenceIndicator")
"""Type 2 in a CT image: empty where unknown."""

_UNSPECIFIED_UNITS: Final = "US"
_DATE_AND_TIME: Final = re.compile(r"(\d{8})(\d\d(?:\d\d(?:\d\d(?:\.\d{1,6})?)?)?)")

_BODY_PARTS: Final = {
    "818981001": "ABDOMEN",
    "818982008": "ABDOMENPELVIS",
    "12738006": "BRAIN",
    "51185008": "CHEST",
    "816094009": "CHEST",
    "416550000": "CHESTABDOMEN",
    "416775004": "CHESTABDPELVIS",
    "122494005": "CSPINE",
    "69536005": "HEAD",
    "774007": "HEADNECK",
    "80891009": "HEART",
    "10200004": "LIVER",
    "122496007": "LSPINE",
    "39607008": "LUNG",
    "45048000": "NECK",
    "417437006": "NECKCHEST",
    "416152001": "NECKCHESTABDOMEN",
    "416319003": "NECKCHESTABDPELV",
    "816092008": "PELVIS",
    "421060004": "SPINE",
    "122495006": "TSPINE",
    "38266002": "WHOLEBODY",
}
"""Anatomic regions of CT by their SNOMED CT code (PS3.16 L)."""


def is_multi_frame(dataset: pydicom.Dataset) -> bool:
    """Whether this is an enhanced, or legacy converted enhanced, CT image whose frames can be told apart.

    Each frame must have its functional groups, none of them both its own and shared: then it would be open
    which one holds (PS3.3 C.7.6.16.1.1 forbids it).
    """
    if text_of(dataset, "SOPClassUID") not in MULTI_FRAME_CLASSES:
        return False
    own = _items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = _items(dataset, "SharedFunctionalGroupsSequence")
    if not own or len(own) != frame_count(dataset) or len(shared) > 1:
        return False
    common = {tag for groups in shared for tag in _tags(groups) if not tag.is_private}
    return all(common.isdisjoint(groups.keys()) for groups in own)


def frame_count(dataset: pydicom.Dataset) -> int:
    """NumberOfFrames; 1 where there is none."""
    count = integer_of(dataset, "NumberOfFrames")
    return 1 if count is None else count


def single_frame_header(dataset: pydicom.Dataset, frame: int) -> pydicom.Dataset:
    """One frame's header as that of a CT Image Storage instance, without pixels and private elements.

    Shared and own functional groups become the attributes that a single-frame image has for them, in its
    units. SOPInstanceUID is the multi-frame image's, and so is `file_meta`, whose MediaStorageSOPClassUID
    names its SOP class: with the number of the frame they are what a reference to the frame needs. Elements
    that both headers hold are copies.

    Args:
        dataset: a dataset of which `is_multi_frame` holds; its pixels are not used.
        frame: counted from 0.

    Raises:
        IndexError: there is no such frame.
    """
    header = _of_the_image(dataset)
    own = dataset.PerFrameFunctionalGroupsSequence[frame]
    groups = [*_items(dataset, "SharedFunctionalGroupsSequence"), own]
    for group in groups:
        _take_converted(header, group)
    for group in groups:
        _take_group(header, group)
    _describe(header, own)
    if "InstanceNumber" not in header:
        header.InstanceNumber = frame + 1
    return header


def _items(dataset: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    return [item for item in values_of(dataset, keyword) if isinstance(item, pydicom.Dataset)]


def _of_the_image(dataset: pydicom.Dataset) -> pydicom.Dataset:
    """What holds for every frame because it stands outside the functional groups."""
    header = pydicom.Dataset()
    is_implicit, is_little_endian = dataset.original_encoding
    header.set_original_encoding(is_implicit, is_little_endian, dataset.original_character_set)
    _take(header, dataset, [tag for tag in _tags(dataset) if _keyword(tag) not in _OF_ALL_FRAMES])
    header.file_meta = deepcopy(getattr(dataset, "file_meta", FileMetaDataset()))
    header.file_meta.MediaStorageSOPClassUID = UID(text_of(dataset, "SOPClassUID"))
    header.SOPClassUID = CTImageStorage
    return header


def _take_group(header: pydicom.Dataset, group: pydicom.Dataset) -> None:
    """The functional groups in one item of the shared or per-frame sequence."""
    for tag in _tags(group):
        if _keyword(tag) in _MACROS:
            _take_items(header, group, _keyword(tag))
        else:
            _take(header, group, [tag])


def _take_converted(header: pydicom.Dataset, group: pydicom.Dataset) -> None:
    """What was carried over from the single-frame source, where the image itself does not say otherwise."""
    for keyword in _CONVERTED:
        for item in _items(group, keyword):
            _take(header, item, [tag for tag in _tags(item) if tag not in header])


def _take_items(header: pydicom.Dataset, group: pydicom.Dataset, keyword: str) -> None:
    """The attributes in a functional group; of several items none, for it is open which one is meant."""
    items = _items(group, keyword)
    if len(items) == 1:
        _take(header, items[0], _tags(items[0]))


def _take(header: pydicom.Dataset, source: pydicom.Dataset, tags: Iterable[BaseTag]) -> None:
    """Copies of elements, not parsed where they were not, so that malformed ones harm nobody here."""
    for tag in tags:
        keyword = _keyword(tag)
        if not keyword or keyword in _MULTI_FRAME_ONLY:
            continue
        if keyword in _IN_OTHER_UNITS:
            _convert(header, _IN_OTHER_UNITS[keyword], number_of(source, keyword))
        elif keyword in _RENAMED:
            _rename(header, _RENAMED[keyword], values_of(source, keyword))
        else:
            element = source.get_item(tag)
            header[tag] = element if isinstance(element, RawDataElement) else deepcopy(element)


def _rename(header: pydicom.Dataset, keyword: str, values: list[Any]) -> None:
    if values:
        setattr(header, keyword, values[0] if len(values) == 1 else values)


def _convert(header: pydicom.Dataset, keywords: tuple[str, str], value: float | None) -> None:
    milli, micro = keywords
    if value is not None:
        setattr(header, milli, round(value))
        setattr(header, micro, round(1000 * value))


def _describe(header: pydicom.Dataset, own: pydicom.Dataset) -> None:
    """What a single-frame image says in other words than a multi-frame one."""
    header.ImageType = _image_type([str(value).strip() for value in values_of(header, "ImageType")])
    if not text_of(header, "RescaleType"):
        header.RescaleType = _UNSPECIFIED_UNITS
    for content in _items(own, "FrameContentSequence"):
        _date(header, text_of(content, "FrameAcquisitionDateTime"))
    _name_body_part(header)
    for keyword in _NEVER_ABSENT:
        if keyword not in header:
            setattr(header, keyword, None)


def _name_body_part(header: pydicom.Dataset) -> None:
    """From the one anatomic region, where the image does not name it."""
    regions = _items(header, "AnatomicRegionSequence")
    if "BodyPartExamined" in header or len(regions) != 1:
        return
    name = _BODY_PARTS.get(text_of(regions[0], "CodeValue"))
    if name is not None and text_of(regions[0], "CodingSchemeDesignator") == "SCT":
        header.BodyPartExamined = name


def _date(header: pydicom.Dataset, moment: str) -> None:
    """When the frame was acquired; date and time stay together in a time zone of their own."""
    if moment:
        header.AcquisitionDateTime = moment
    parts = _DATE_AND_TIME.fullmatch(moment)
    if parts is not None:
        header.AcquisitionDate, header.AcquisitionTime = parts.groups()


def _image_type(frame_type: list[str]) -> list[str]:
    """FrameType as ImageType: value 3 of a CT image is AXIAL or LOCALIZER, and flavours follow it."""
    if len(frame_type) < 3 or frame_type[2].upper() in ("AXIAL", "LOCALIZER"):
        return frame_type
    return [*frame_type[:2], "AXIAL", *frame_type[2:]]


def _tags(dataset: pydicom.Dataset) -> list[BaseTag]:
    """The tags of a dataset; iterating over it would parse every element."""
    return list(dataset.keys())


def _keyword(tag: BaseTag) -> str:
    """Empty for private and unknown elements."""
    return keyword_for_tag(tag)
