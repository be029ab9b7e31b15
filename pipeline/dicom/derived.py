"""Write a processed series as new CT images that say what was done to them and whence they came."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as CodedEntry
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    CTImageStorage,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from pipeline.dicom.headers import clean
from pipeline.dicom.quiet import quiet_pydicom
from pipeline.dicom.reading import CTSeries, padding_range, rescale_of
from pipeline.dicom.uids import deterministic_uid, sha256_hex
from pipeline.dicom.verdicts import Code, SeriesError, file_finding
from pipeline.dicom.writing import prepare_folder, set_pixels, slice_file_name, write_file
from pipeline.hu import LOWEST_HU

NOT_FOR_DIAGNOSIS: Final = "Not for diagnostic use."
_DESCRIPTION_SUFFIX: Final = " (denoised)"
_SERIES_NUMBER_OFFSET: Final = 9000
_LARGEST_SERIES_NUMBER: Final = 2**31 - 1
_STALE: Final = (
    "IconImageSequence",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "EncryptedAttributesSequence",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "DataSetTrailingPadding",
)
"""True of the source's pixels or bytes alone."""
_LOSSY: Final = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K})
"""Transfer syntaxes that lose detail, or may have done so."""


@dataclass(frozen=True)
class Derivation:
    """What made the new pixels; everything but `not_for_diagnosis` names the method.

    Args:
        model_name: name of the weights.
        model_version: their version.
        model_hash: SHA-256 of the weights, hexadecimal.
        settings: whatever changes the result: strength, engine, precision.
        product_version: version of this package.
        not_for_diagnosis: say so in ImageComments.
    """

    model_name: str
    model_version: str
    model_hash: str
    settings: Mapping[str, str | float]
    product_version: str
    not_for_diagnosis: bool = True

    def description(self, action: str) -> str:
        """One ASCII line for people, at most 1024 characters (DerivationDescription, ST)."""
        settings = ", ".join(f"{key} {value}" for key, value in sorted(self.settings.items()))
        line = (
            f"{action} by ldct-pipeline {self.product_version} with {self.model_name} {self.model_version} "
            f"(sha256 {self.model_hash[:16]}); {settings}"
        )
        return line.encode("ascii", "replace").decode().replace("\\", "/")[:1024]

    def identity(self) -> str:
        """Canonical text of everything that decides the content, as a part of deterministic UIDs."""
        return json.dumps(
            {
                "model": [self.model_name, self.model_version, self.model_hash],
                "settings": dict(self.settings),
                "product_version": self.product_version,
                "not_for_diagnosis": self.not_for_diagnosis,
            },
            sort_keys=True,
        )


def write_derived_series(
    series: CTSeries,
    hu: npt.NDArray[np.floating],
    folder: Path,
    *,
    derivation: Derivation,
    now: datetime,
) -> tuple[Path, ...]:
    """Write `hu` in place of the pixels of `series`: CT Image Storage, explicit little endian, raw.

    Geometry, rescale, acquisition and windows are the source's own. HU are rounded and clipped to BitsStored;
    padding keeps its stored values, and no other pixel takes one of them. Where `hu` equals the source, the
    stored pixels are equal bit for bit. The same source, derivation and `now` give the same bytes.

    Args:
        series: the source.
        hu: (slices, rows, columns) HU.
        folder: where to write; made if absent, and it must be empty.
        derivation: what made `hu`.
        now: the one clock behind all new dates; written as `local_time`.

    Returns:
        The files, in the order of the slices.

    Raises:
        SeriesError: a source header holds values that cannot be written again.
        ValueError: `hu` has another shape or holds non-finite values, or `folder` is not empty.
    """
    if hu.shape != series.hu.shape:
        raise ValueError(f"hu has shape {hu.shape}, its source {series.hu.shape}")
    if not np.isfinite(hu).all():
        raise ValueError("hu holds values that are not finite")
    prepare_folder(folder)
    series_uid = deterministic_uid("derived series", *source_identity(series), derivation.identity())
    paths = []
    for index, source in enumerate(series.headers):
        stored = stored_pixels(
            source, hu[index], padding=series.padding[index], padding_stored=series.padding_stored[index]
        )
        try:
            with quiet_pydicom():
                dataset = _derive(source, derivation, now)
                _identify(dataset, series, index, series_uid)
                set_pixels(dataset, stored)
                _set_pixel_range(dataset, stored)
                paths.append(write_file(dataset, folder / slice_file_name(index)))
        except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as broken:
            raise header_error(series.entry.files[index], broken) from None
    return tuple(paths)


def header_error(path: Path, broken: Exception) -> SeriesError:
    """A source header that can be read for its pixels, but not copied."""
    message = f"{path.name}: its header cannot be copied ({type(broken).__name__}); export the series again"
    return SeriesError(file_finding(Code.UNREADABLE, message, path))


def source_identity(series: CTSeries) -> tuple[str, str]:
    """The source as parts of a deterministic UID: its SeriesInstanceUID and a digest of its stored pixels."""
    digest = sha256_hex(
        *(value.encode() for value in (*series.entry.sop_instance_uids, *series.pixel_digests))
    )
    return series.entry.series_uid, digest


def stored_pixels(
    header: pydicom.Dataset,
    hu: npt.NDArray[np.floating],
    *,
    padding: npt.NDArray[np.bool_],
    padding_stored: npt.NDArray[np.integer],
) -> npt.NDArray[np.integer]:
    """HU to the stored values of one slice, (rows, columns), padding put back as it was."""
    is_signed = int(header.PixelRepresentation) == 1
    dtype = np.dtype(f"{'i' if is_signed else 'u'}{int(header.BitsAllocated) // 8}")
    bits = int(header.BitsStored)
    type_low, type_high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    low = max(_lowest_image_value(header), type_low)
    wanted = np.clip(rescale_of(header).to_stored(hu), low, type_high)
    declared = padding_range(header)
    if declared is not None:
        beside = declared[1] + 1 if declared[1] < type_high else declared[0] - 1
        wanted[(wanted >= declared[0]) & (wanted <= declared[1])] = beside
    stored = wanted.astype(dtype)
    stored[padding] = padding_stored
    return stored


def _lowest_image_value(header: pydicom.Dataset) -> int:
    """The smallest stored value that reads back as an image value: below `LOWEST_HU` all is padding."""
    rescale = rescale_of(header)
    nearest = int(np.rint((LOWEST_HU - rescale.intercept) / rescale.slope))
    candidates = np.arange(nearest - 1, nearest + 2)
    return int(candidates[rescale.to_hu(candidates) >= LOWEST_HU][0])


def _derive(source: pydicom.Dataset, derivation: Derivation, now: datetime) -> pydicom.Dataset:
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
    dataset.SeriesNumber = derived_series_number(source, _SERIES_NUMBER_OFFSET)
    description = str(source.get("SeriesDescription") or "").replace("\\", "/")
    dataset.SeriesDescription = (description[: 64 - len(_DESCRIPTION_SUFFIX)] + _DESCRIPTION_SUFFIX).strip()
    dataset.DerivationDescription = _prepended(
        derivation.description("Denoised"), source.get("DerivationDescription"), longest=1024
    )
    dataset.DerivationCodeSequence = [
        *(dataset.get("DerivationCodeSequence") or []),
        coded_item(codes.DCM.Smoothing),
    ]
    dataset.ContributingEquipmentSequence = [
        *(dataset.get("ContributingEquipmentSequence") or []),
        _equipment(derivation, now),
    ]
    if derivation.not_for_diagnosis:
        dataset.ImageComments = _prepended(NOT_FOR_DIAGNOSIS, source.get("ImageComments"), longest=10240)
    return dataset


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
    if source.file_meta.TransferSyntaxUID in _LOSSY and not dataset.get("LossyImageCompression"):
        dataset.LossyImageCompression = "01"


def _identify(dataset: pydicom.Dataset, series: CTSeries, index: int, series_uid: str) -> None:
    """New UIDs, and the reference to the source slice."""
    source_uid = series.entry.sop_instance_uids[index]
    dataset.SeriesInstanceUID = series_uid
    dataset.SOPInstanceUID = deterministic_uid(
        series_uid, str(index), source_uid, series.pixel_digests[index]
    )
    dataset.SourceImageSequence = [_source_image(source_uid)]


def derived_series_number(source: pydicom.Dataset, offset: int) -> int:
    """A new SeriesNumber, recognisable beside the source's."""
    return min(int(source.get("SeriesNumber") or 0) + offset, _LARGEST_SERIES_NUMBER)


def coded_item(code: CodedEntry) -> pydicom.Dataset:
    """A code sequence item (PS3.3 8.8)."""
    item = pydicom.Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _prepended(text: str, former: object, *, longest: int) -> str:
    return f"{text} {former or ''}".strip()[:longest]


def _equipment(derivation: Derivation, now: datetime) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.PurposeOfReferenceCodeSequence = [coded_item(codes.DCM.ProcessingEquipment)]
    item.Manufacturer = "ldct-pipeline"
    item.ManufacturerModelName = clean(f"{derivation.model_name} {derivation.model_version}") or "unnamed"
    item.SoftwareVersions = clean(derivation.product_version) or "unknown"
    item.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    item.ContributionDescription = derivation.description("Denoised")
    return item


def _source_image(sop_instance_uid: str) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID = CTImageStorage
    item.ReferencedSOPInstanceUID = sop_instance_uid
    item.PurposeOfReferenceCodeSequence = [coded_item(codes.DCM.SourceImageForImageProcessingOperation)]
    return item


def _set_pixel_range(dataset: pydicom.Dataset, stored: npt.NDArray[np.integer]) -> None:
    """Where the source declares the range of its pixels, declare the new one."""
    vr = "SS" if int(dataset.PixelRepresentation) == 1 else "US"
    for keyword, value in (
        ("SmallestImagePixelValue", stored.min()),
        ("LargestImagePixelValue", stored.max()),
    ):
        if keyword in dataset:
            dataset.add_new(keyword, vr, int(value))
