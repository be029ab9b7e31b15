"""One image from a file to HU. It runs in a sandbox: hostile files crash C decoders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence
from pydicom.valuerep import VR

from pipeline.dicom.defects import MAX_SLICE_PIXELS
from pipeline.dicom.digests import content_digest, pixel_digest
from pipeline.dicom.encoding import can_decode, transfer_syntax
from pipeline.dicom.frames import frame_as_image
from pipeline.dicom.pixels import Rescale, Stored, padding_mask, rescale_of
from pipeline.dicom.quiet import quiet_pydicom
from pipeline.dicom.verdicts import Code, SeriesError, file_finding
from pipeline.hu import AIR_HU


@dataclass(frozen=True)
class CTSlice:
    """One slice in memory.

    Args:
        header: its dataset, without pixels; that of a frame is made into a single-frame image's.
        hu: (rows, columns) float32 HU; padding pixels hold `AIR_HU`.
        padding: (rows, columns) bool: pixels outside the field of view, or below `LOWEST_HU`.
        padding_stored: the stored values at its padding pixels, for writers to put back.
        pixel_digest: SHA-256 of its stored pixels.
        content_digest: SHA-256 of its stored pixels and of its header.
    """

    header: pydicom.Dataset
    hu: npt.NDArray[np.float32]
    padding: npt.NDArray[np.bool_]
    padding_stored: Stored
    pixel_digest: str
    content_digest: str


def decode_slice(path: Path, rows: int, columns: int, frame: int | None) -> CTSlice:
    """Decode one image, which must have `rows` × `columns` pixels.

    Args:
        path: the file.
        rows: of the matrix.
        columns: of the matrix.
        frame: which one of a multi-frame file, from 0; None for a single-frame file.

    Raises:
        SeriesError: it is gone, damaged, too large or in an encoding that nothing decodes.
    """
    with quiet_pydicom():
        header, rescale, stored = _decode(path, (rows, columns), frame)
        try:
            hu = rescale.to_hu(stored)
            padding = padding_mask(header, stored, hu)
            _parse(header)
            pixels = pixel_digest(stored)
            content = content_digest(header, pixels)
        except MemoryError:
            raise
        except Exception as broken:  # noqa: BLE001  hostile values raise anything
            raise corrupt(path, f"its header cannot be used ({type(broken).__name__})") from None
    hu[padding] = AIR_HU
    return CTSlice(header, hu, padding, stored[padding], pixels, content)


def corrupt(path: Path, reason: str) -> SeriesError:
    """A file whose pixels cannot be used; `reason` holds no DICOM text."""
    message = f"{path.name}: {reason}; copy the file again"
    return SeriesError(file_finding(Code.CORRUPT_PIXEL_DATA, message, path))


def _parse(header: pydicom.Dataset) -> None:
    """Convert every element here: sequences that unpack to gigabytes must do so in the sandbox.

    One that is malformed stays as it is; whoever needs it meets the error. So do several names in one
    element: converted, they could not leave the process.
    """
    for tag in list(header.keys()):
        raw = header.get_item(tag)
        try:
            element = header[tag]
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001, S112  hostile values raise anything
            continue
        if element.VR == VR.PN and element.VM > 1:
            header[tag] = raw
        elif isinstance(element.value, Sequence):
            for item in element.value:
                _parse(item)


def _decode(
    path: Path, wanted: tuple[int, int], frame: int | None
) -> tuple[pydicom.Dataset, Rescale, Stored]:
    """The header (without pixels), the rescale and the stored values of one image."""
    dataset, rescale = _read(path, wanted, frame)
    syntax = transfer_syntax(dataset)
    if not can_decode(syntax, int(dataset.BitsStored)):
        message = f"{path.name}: no decoder for its transfer syntax; store it uncompressed first"
        raise SeriesError(file_finding(Code.UNSUPPORTED_TRANSFER_SYNTAX, message, path))
    if "PixelData" not in dataset:
        raise corrupt(path, "it holds no pixel data")
    if dataset["PixelData"].is_undefined_length and not syntax.is_encapsulated:
        raise corrupt(path, "its pixel data are encapsulated, its transfer syntax is not")
    try:
        dataset.file_meta.TransferSyntaxUID = syntax
        stored: Stored = pixel_array(dataset, raw=True)
    except MemoryError:
        raise
    except Exception as broken:  # noqa: BLE001  decoders raise anything
        raise corrupt(path, f"its pixel data cannot be decoded ({type(broken).__name__})") from None
    if stored.shape != wanted:
        raise corrupt(path, f"its pixel data decode to {stored.shape}, its header says {wanted}")
    del dataset.PixelData
    return dataset, rescale, stored


def _read(path: Path, wanted: tuple[int, int], frame: int | None) -> tuple[pydicom.Dataset, Rescale]:
    """One image as it was when found, pixels not decoded yet."""
    try:
        dataset = pydicom.dcmread(path, force=True) if frame is None else frame_as_image(path, frame)
        size = int(dataset.Rows), int(dataset.Columns)
        bits_stored = int(dataset.BitsStored)
        highest_bit = int(dataset.get("HighBit", bits_stored - 1))
        rescale = rescale_of(dataset)
        is_single_frame = int(dataset.get("NumberOfFrames") or 1) == 1
    except MemoryError:
        raise
    except Exception as broken:  # noqa: BLE001  hostile files raise anything
        raise corrupt(path, f"the file cannot be read ({type(broken).__name__})") from None
    if size != wanted or not is_single_frame or size[0] * size[1] > MAX_SLICE_PIXELS:
        raise corrupt(path, f"{size[0]} x {size[1]} pixels now, {wanted[0]} x {wanted[1]} when found")
    if highest_bit != bits_stored - 1:
        raise corrupt(path, "its bits are not where its header said when found")
    return dataset, rescale
