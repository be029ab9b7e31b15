"""The header of a derived CT image: the source's, with what was done, by what and when."""

from __future__ import annotations

import re
from copy import deepcopy
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import BytesLengthException
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as CodedEntry
from pydicom.uid import CTImageStorage

from pipeline.dicom.derivation import Derivation, Purpose
from pipeline.dicom.elements import clean
from pipeline.dicom.encoding import LOSSY, PERHAPS_LOSSY
from pipeline.dicom.verdicts import Code, SeriesError, file_finding
from pipeline.dicom.writing import PRODUCT

NOT_FOR_DIAGNOSIS: Final = "Not for diagnostic use."
_LARGEST_SERIES_NUMBER: Final = 2**31 - 1
_STALE: Final = (
    "IconImageSequence",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "EncryptedAttributesSequence",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "DataSetTrailingPadding",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "SOPInstanceStatus",
    "SOPAuthorizationDateTime",
    "SOPAuthorizationComment",
    "AuthorizationEquipmentCertificationNumber",
    "InstanceCreatorUID",
    "InstanceCoercionDateTime",
    "PixelDataProviderURL",
    "ContentQualification",
)
"""True of the source's pixels, bytes or approval alone."""

CANNOT_BE_COPIED: Final = (
    AttributeError,
    BytesLengthException,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)
"""What pydicom and highdicom raise for values that they cannot convert or write; see `header_error`."""


def derived_header(
    source: pydicom.Dataset, derivation: Derivation, purpose: Purpose, now: datetime
) -> pydicom.Dataset:
    """The source's header as a derived image's, still without UIDs, references and pixels."""
    dataset = pydicom.Dataset()
    for element in source:
        if not element.tag.is_private and element.keyword not in _STALE:
            dataset.add(deepcopy(element))
    dataset.remove_private_tags()
    kind = [str(value).strip() for value in source.get("ImageType") or []]
    dataset.ImageType = ["DERIVED", "SECONDARY", *(kind[2:] or ["AXIAL"])]
    dataset.SOPClassUID = CTImageStorage
    declare_lossy_compression(dataset, source)
    now = local_time(now, source)
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    dataset.SeriesDate, dataset.SeriesTime = date, time
    dataset.ContentDate, dataset.ContentTime = date, time
    dataset.SeriesNumber = derived_series_number(source, purpose.series_number_offset)
    description = str(source.get("SeriesDescription") or "").replace("\\", "/")
    suffix = purpose.description_suffix
    dataset.SeriesDescription = (description[: 64 - len(suffix)] + suffix).strip()
    dataset.DerivationDescription = _prepended(
        derivation.description(purpose.action), source.get("DerivationDescription"), longest=1024
    )
    if purpose.derivation_code is not None:
        dataset.DerivationCodeSequence = [
            *(dataset.get("DerivationCodeSequence") or []),
            _coded_item(purpose.derivation_code),
        ]
    dataset.ContributingEquipmentSequence = [
        *(dataset.get("ContributingEquipmentSequence") or []),
        _equipment(derivation, purpose, now),
    ]
    if derivation.not_for_diagnosis:
        dataset.ImageComments = _prepended(NOT_FOR_DIAGNOSIS, source.get("ImageComments"), longest=10240)
    return dataset


def header_error(path: Path, broken: Exception) -> SeriesError:
    """A source header that can be read for its pixels, but not copied."""
    message = f"{path.name}: its header cannot be copied ({type(broken).__name__}); export the series again"
    return SeriesError(file_finding(Code.UNREADABLE, message, path))


def local_time(now: datetime, source: pydicom.Dataset) -> datetime:
    """`now` in the source's TimezoneOffsetFromUTC, in which all its dates and times stand (PS3.3 C.12.1).

    Where the source has none, or `now` has no zone itself, it stays as it is: to add an offset would move the
    times that the source wrote without one.
    """
    offset = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", str(source.get("TimezoneOffsetFromUTC") or "").strip())
    if offset is None or now.tzinfo is None:
        return now
    sign, hours, minutes = offset.groups()
    east = timedelta(hours=int(hours), minutes=int(minutes))
    if east >= timedelta(days=1):
        return now
    return now.astimezone(timezone(-east if sign == "-" else east))


def declare_lossy_compression(dataset: pydicom.Dataset, source: pydicom.Dataset) -> None:
    """Say that pixels once went through lossy compression, where the source forgot to (PS3.3 C.7.6.1.1.5)."""
    if source.file_meta.TransferSyntaxUID in LOSSY | PERHAPS_LOSSY and not dataset.get(
        "LossyImageCompression"
    ):
        dataset.LossyImageCompression = "01"


def derived_series_number(source: pydicom.Dataset, offset: int) -> int:
    """A new SeriesNumber, recognisable beside the source's."""
    return min(int(source.get("SeriesNumber") or 0) + offset, _LARGEST_SERIES_NUMBER)


def source_image(
    sop_instance_uid: str, *, sop_class_uid: str = CTImageStorage, frame: int | None = None
) -> pydicom.Dataset:
    """A SourceImageSequence item: the CT image, or its one frame, that was processed (PS3.3 C.12.4.1.2).

    Args:
        sop_instance_uid: the image.
        sop_class_uid: its SOP class.
        frame: counted from 0; None for a single-frame image.
    """
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    if frame is not None:
        item.ReferencedFrameNumber = frame + 1
    item.PurposeOfReferenceCodeSequence = [_coded_item(codes.DCM.SourceImageForImageProcessingOperation)]
    return item


def declare_pixel_range(dataset: pydicom.Dataset, stored: npt.NDArray[np.integer]) -> None:
    """Where the source declares the range of its pixels, declare the new one."""
    vr = "SS" if int(dataset.PixelRepresentation) == 1 else "US"
    for keyword, value in (
        ("SmallestImagePixelValue", stored.min()),
        ("LargestImagePixelValue", stored.max()),
    ):
        if keyword in dataset:
            dataset.add_new(keyword, vr, int(value))


def _prepended(text: str, former: object, *, longest: int) -> str:
    return f"{text} {former or ''}".strip()[:longest]


def _equipment(derivation: Derivation, purpose: Purpose, now: datetime) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.PurposeOfReferenceCodeSequence = [_coded_item(codes.DCM.ProcessingEquipment)]
    item.Manufacturer = PRODUCT
    item.ManufacturerModelName = clean(f"{derivation.model_name} {derivation.model_version}") or "unnamed"
    item.SoftwareVersions = clean(derivation.product_version) or "unknown"
    item.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    item.ContributionDescription = derivation.description(purpose.action)
    return item


def _coded_item(code: CodedEntry) -> pydicom.Dataset:
    """A code sequence item (PS3.3 8.8)."""
    item = pydicom.Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
