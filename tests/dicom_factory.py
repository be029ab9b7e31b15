"""Synthetic CT series for tests: small slices whose geometry, encoding and defects are chosen freely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from pipeline.dicom import CTSeries, Geometry, deterministic_uid, discover, read_series, write_ct_series

NOON = datetime(2026, 1, 2, 12, 0, 0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
HEAD_FIRST_GRID = Geometry(
    (-10.0, -20.0, 5.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (2.5, 0.8, 0.7), (4, 24, 20)
)


def make_slice(
    stored: np.ndarray | None = None,
    *,
    position: Sequence[float] | None = (0.0, 0.0, 0.0),
    orientation: Sequence[float] = AXIAL,
    series: str = "series",
    instance: str | None = None,
    **attributes: Any,
) -> pydicom.Dataset:
    """One CT slice; `attributes` are set as DICOM keywords, and None deletes one."""
    if stored is None:
        stored = np.arange(24 * 20, dtype=np.int16).reshape(24, 20)
    dataset = pydicom.Dataset()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = deterministic_uid("instance", series, instance or repr(position))
    dataset.StudyInstanceUID = deterministic_uid("study")
    dataset.SeriesInstanceUID = deterministic_uid(series)
    dataset.FrameOfReferenceUID = deterministic_uid("frame of reference")
    dataset.Modality = "CT"
    dataset.PatientName = "SECRET^NAME"
    dataset.PatientID = "SECRET-ID"
    dataset.PixelSpacing = [0.8, 0.7]
    dataset.SliceThickness = 2.0
    dataset.SeriesNumber = 3
    dataset.SeriesDescription = "abdomen"
    dataset.ImageOrientationPatient = list(orientation)
    if position is not None:
        dataset.ImagePositionPatient = list(position)
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored = dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.RescaleSlope = 1
    dataset.RescaleIntercept = 0
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def save(dataset: pydicom.Dataset, path: Path) -> Path:
    """Write one dataset as explicit VR little endian."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID(dataset.SOPClassUID)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def save_stack(folder: Path, positions: Sequence[Sequence[float]], **attributes: Any) -> tuple[Path, ...]:
    """One slice per position; file names run against the order of the positions."""
    names = [f"{len(positions) - index:03d}" for index in range(len(positions))]
    return tuple(
        save(make_slice(position=position, **attributes), folder / name)
        for name, position in zip(names, positions, strict=True)
    )


def write_phantom(
    hu: np.ndarray, folder: Path, geometry: Geometry = HEAD_FIRST_GRID, **changes: Any
) -> tuple[Path, ...]:
    """`write_ct_series` with harmless arguments."""
    arguments: Mapping[str, Any] = {
        "patient_id": "phantom-01",
        "study_uid": deterministic_uid("study"),
        "series_uid": deterministic_uid("series"),
        "frame_of_reference_uid": deterministic_uid("frame of reference"),
        "uid_seed": "seed",
        "series_number": 1,
        "series_description": "normal dose",
        "study_datetime": NOON,
        "body_part": "CHEST",
        "kernel": "RAMP",
        "kvp": 120.0,
        "tube_current_ma": 200.0,
        "exposure_mas": 100.0,
        "slice_thickness_mm": 2.5,
        "comment": "seed 7",
    }
    return write_ct_series(hu, geometry, folder, **{**arguments, **changes})


def read_only_series(folder: Path) -> CTSeries:
    """The one series of a folder."""
    (entry,) = discover(folder).series
    return read_series(entry)
