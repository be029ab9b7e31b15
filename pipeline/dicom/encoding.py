"""How the pixels of a file are encoded: what decodes, and what lost detail."""

from __future__ import annotations

from functools import cache
from typing import Final

import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from pipeline.dicom.elements import text_of
from pipeline.dicom.quiet import quiet_pydicom

LOSSY: Final = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
"""Transfer syntaxes that lose detail."""

PERHAPS_LOSSY: Final = frozenset({JPEG2000, HTJ2K})
"""Transfer syntaxes that lose detail or keep it, as the encoder chose."""

_LOSSY_JPEG_BITS: Final = 8


def transfer_syntax(dataset: pydicom.Dataset) -> UID:
    """The transfer syntax of a file just read; without one, the encoding that pydicom found."""
    declared = text_of(getattr(dataset, "file_meta", pydicom.Dataset()), "TransferSyntaxUID")
    if declared:
        return UID(declared)
    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def transfer_syntax_name(transfer_syntax_uid: str) -> str:
    """The standard's name for an encoding (PS3.6 A); `unknown` for any other text, which is not shown."""
    with quiet_pydicom():
        syntax = UID(transfer_syntax_uid)
        return syntax.name if syntax.is_transfer_syntax else "unknown"


def is_lossy(dataset: pydicom.Dataset) -> bool:
    """Whether detail was lost: declared, or owed to the encoding (PS3.3 C.7.6.1.1.5)."""
    declared = text_of(dataset, "LossyImageCompression")
    syntax = transfer_syntax(dataset)
    return declared == "01" or syntax in LOSSY or (syntax in PERHAPS_LOSSY and declared != "00")


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
