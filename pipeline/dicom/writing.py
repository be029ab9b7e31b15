"""What all DICOM writers share: file names, decimal strings, pixels, and one file written whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from pipeline.dicom.quiet import quiet_pydicom
from pipeline.dicom.uids import deterministic_uid

PRODUCT: Final = "ldct-pipeline"
"""Manufacturer of phantom series, and of the equipment that derived images name as a contributor."""

IMPLEMENTATION_CLASS_UID: Final = deterministic_uid("ldct-pipeline", "implementation class")
IMPLEMENTATION_VERSION_NAME: Final = "LDCT-PIPELINE"


def prepare_folder(folder: Path) -> None:
    """Make `folder`, or accept it when it is empty.

    Raises:
        ValueError: it holds something: half of one series beside another would pass for one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; write each series into a folder of its own")


def slice_file_name(index: int) -> str:
    """`0001.dcm` for slice 0."""
    return f"{index + 1:04d}.dcm"


def as_decimal(value: float) -> str:
    """A decimal string of at most 16 characters, as exact as that allows (PS3.5 6.2)."""
    return format_number_as_ds(float(value))


def set_pixels(dataset: pydicom.Dataset, stored: npt.NDArray[Any]) -> None:
    """Put (rows, columns) stored values in as uncompressed little-endian words."""
    dataset.Rows, dataset.Columns = stored.shape
    little_endian = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = little_endian + b"\0" * (len(little_endian) % 2)
    dataset["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"


def write_file(dataset: pydicom.Dataset, path: Path) -> Path:
    """Write explicit VR little endian with a fresh file meta group."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(dataset.SOPClassUID)
    meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    save_whole(dataset, path)
    return path


def save_whole(dataset: pydicom.Dataset, path: Path) -> None:
    """Save a dataset with its file meta group; the file appears whole, or nothing does.

    Raises:
        OSError: the file cannot be written; `errno` says why.
        ValueError: the dataset holds a value that cannot be encoded. So do other types of error.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with quiet_pydicom():
            dataset.save_as(partial, enforce_file_format=True)
        os.replace(partial, path)  # noqa: PTH105  the one atomic call
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _as_it_was(error) from None
        raise


def _as_it_was(error: OSError) -> OSError | ValueError:
    """The error of the disk that pydicom wraps, and empties of its errno; it calls bad values OSError too."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause
        cause = cause.__cause__ or cause.__context__
    return ValueError("a value that cannot be encoded")
