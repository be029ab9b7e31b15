"""A slice, or its pixels, in one number: equal for equal images, however their files are encoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName

from pipeline.dicom.elements import text_of
from pipeline.dicom.encoding import is_lossy
from pipeline.dicom.multiframe import MULTI_FRAME_CLASSES
from pipeline.dicom.pixels import Stored

_PADDING_OF_THE_FILE: Final = 0xFFFCFFFC
_GROUP_OF_PIXELS: Final = 0x7FE0


def pixel_digest(stored: Stored) -> str:
    """SHA-256 of stored pixels (rows, columns) with their type."""
    digest = hashlib.sha256(f"{stored.dtype.name} {stored.shape}".encode())
    digest.update(np.ascontiguousarray(stored, stored.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def content_digest(header: pydicom.Dataset, pixels: str) -> str:
    """SHA-256 of all that a derived image takes from a slice.

    That is its stored pixels and each element of its header, wherever it stands in the file and in whichever
    transfer syntax, but for private ones, the lengths of groups and what describes the pixels' encoding;
    whether that lost detail counts. A malformed element counts with its bytes.

    Args:
        header: of a slice just read, its elements converted where they can be.
        pixels: `pixel_digest` of its stored pixels.
    """
    digest = hashlib.sha256()
    for part in _parts(header):
        digest.update(part)
    digest.update(f"{_class_of_frame(header)} {is_lossy(header)} {pixels}".encode())
    return digest.hexdigest()


def _class_of_frame(header: pydicom.Dataset) -> str:
    """Of the multi-frame image, to which a derived one refers by it; empty in a single-frame image."""
    uid = text_of(header.file_meta, "MediaStorageSOPClassUID")
    return uid if uid in MULTI_FRAME_CLASSES else ""


def _parts(dataset: pydicom.Dataset) -> Iterator[bytes]:
    """Each element as what it is, how long its value is, and the value, so that no two headers run alike."""
    for tag in sorted(dataset.keys()):
        if tag.is_private or tag.element == 0 or tag.group == _GROUP_OF_PIXELS or tag == _PADDING_OF_THE_FILE:
            continue
        element = dataset.get_item(tag)
        if isinstance(element.value, Sequence):
            yield f"{int(tag):x} SQ {len(element.value)} ".encode()
            for item in element.value:
                yield from _parts(item)
                yield b"end "
        else:
            kind = "raw" if isinstance(element, RawDataElement) else element.VR
            value = _bytes_of(element)
            yield f"{int(tag):x} {kind} {len(value)} ".encode()
            yield value


def _bytes_of(element: DataElement | RawDataElement) -> bytes:
    value: Any = element.value
    if isinstance(value, bytes):
        return value
    if isinstance(value, PersonName):
        return value.encode()
    if value is None:
        return b""
    text = repr([str(part) for part in value]) if isinstance(value, MultiValue) else str(value)
    return text.encode("utf-8", "surrogatepass")
