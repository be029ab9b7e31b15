"""Write simulated CT as new CT Image Storage series that cannot be mistaken for a patient's."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import CTImageStorage

from pipeline.dicom.geometry import Geometry
from pipeline.dicom.uids import deterministic_uid
from pipeline.dicom.writing import (
    PRODUCT,
    as_decimal,
    prepare_folder,
    set_pixels,
    slice_file_name,
    write_file,
)
from pipeline.hu import LOWEST_HU

_DISPLAY_WINDOW: Final = (40, 400)
"""Centre and width that viewers open with, HU (soft tissue)."""


def write_ct_series(
    hu: npt.NDArray[np.floating] | npt.NDArray[np.integer],
    geometry: Geometry,
    folder: Path,
    *,
    patient_id: str,
    study_uid: str,
    series_uid: str,
    frame_of_reference_uid: str,
    uid_seed: str,
    series_number: int,
    series_description: str,
    study_datetime: datetime,
    body_part: str,
    kernel: str,
    kvp: float,
    tube_current_ma: float,
    exposure_mas: float,
    slice_thickness_mm: float,
    comment: str,
) -> tuple[Path, ...]:
    r"""Write a phantom's volume, one file per slice, signed 16 bit, explicit VR little endian.

    ImageType is ORIGINAL\PRIMARY\AXIAL: DERIVED means made from other images (PS3.3 C.7.6.1.1.2), and these
    are not. That nobody was scanned is said by QualityControlSubject, QualityControlImage, PatientName,
    StudyDescription, SeriesDescription and ImageComments. The same arguments give the same bytes.

    Args:
        hu: (slices, rows, columns) HU; rounded, and clipped to [`LOWEST_HU`, 32767] as scanners do.
        geometry: its grid.
        folder: where to write; made if absent, and it must be empty.
        patient_id: identifier of the phantom.
        study_uid: StudyInstanceUID, shared by the doses of one phantom.
        series_uid: SeriesInstanceUID.
        frame_of_reference_uid: FrameOfReferenceUID, shared by the doses of one phantom.
        uid_seed: with `series_uid` it decides the SOPInstanceUIDs; name in it all that decides the content.
        series_number: SeriesNumber.
        series_description: SeriesDescription, after "SIMULATED"; cut where that exceeds 64 characters (LO).
        study_datetime: the date and time of everything, from an injected clock.
        body_part: BodyPartExamined, e.g. `CHEST`.
        kernel: ConvolutionKernel.
        kvp: peak tube voltage, kV.
        tube_current_ma: XRayTubeCurrent, mA.
        exposure_mas: Exposure, mAs.
        slice_thickness_mm: SliceThickness.
        comment: ImageComments, after "SIMULATED PHANTOM".

    Returns:
        The files, in slice order.

    Raises:
        ValueError: `hu` is not of `geometry.shape`, or `folder` is not empty.
    """
    if hu.shape != geometry.shape:
        raise ValueError(f"hu has shape {hu.shape}, its geometry {geometry.shape}")
    prepare_folder(folder)
    stored = np.clip(np.rint(hu), LOWEST_HU, np.iinfo(np.int16).max).astype(np.int16)
    common = _series_header(geometry)
    common.PatientName = f"PHANTOM^{patient_id}"
    common.PatientID = patient_id
    common.StudyInstanceUID = study_uid
    common.SeriesInstanceUID = series_uid
    common.FrameOfReferenceUID = frame_of_reference_uid
    common.SeriesNumber = series_number
    common.SeriesDescription = f"SIMULATED {series_description}"[:64]
    common.BodyPartExamined = body_part
    common.ConvolutionKernel = kernel
    common.KVP = as_decimal(kvp)
    common.XRayTubeCurrent = round(tube_current_ma)
    common.Exposure = round(exposure_mas)
    common.SliceThickness = as_decimal(slice_thickness_mm)
    common.ImageComments = f"SIMULATED PHANTOM. {comment}".strip()
    for moment in ("Study", "Series", "Acquisition", "Content", "InstanceCreation"):
        setattr(common, f"{moment}Date", study_datetime.strftime("%Y%m%d"))
        setattr(common, f"{moment}Time", study_datetime.strftime("%H%M%S"))
    paths = []
    for index in range(geometry.shape[0]):
        dataset = common.copy()
        dataset.SOPInstanceUID = deterministic_uid(uid_seed, series_uid, str(index))
        dataset.InstanceNumber = index + 1
        position_mm = geometry.position_mm(index)
        dataset.ImagePositionPatient = [as_decimal(value) for value in position_mm]
        dataset.SliceLocation = as_decimal(float(np.dot(position_mm, geometry.normal)))
        set_pixels(dataset, stored[index])
        paths.append(write_file(dataset, folder / slice_file_name(index)))
    return tuple(paths)


def _series_header(geometry: Geometry) -> pydicom.Dataset:
    """What every phantom slice shares: CT Image IOD, PS3.3 A.3.3."""
    _, row_mm, column_mm = geometry.spacing_mm
    _, rows, columns = geometry.shape
    header = pydicom.Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.SOPClassUID = CTImageStorage
    header.AccessionNumber = ""
    header.Modality = "CT"
    header.Manufacturer = PRODUCT
    header.ManufacturerModelName = "phantom simulation"
    header.ReferringPhysicianName = ""
    header.StudyDescription = "SIMULATED PHANTOM"
    header.PatientBirthDate = ""
    header.PatientSex = ""
    header.QualityControlSubject = "YES"
    header.QualityControlImage = "YES"
    header.StudyID = ""
    header.AcquisitionNumber = 1
    header.PatientPosition = "HFS"
    header.PositionReferenceIndicator = ""
    header.GantryDetectorTilt = "0"
    header.SpacingBetweenSlices = as_decimal(geometry.spacing_mm[0])
    header.ReconstructionDiameter = as_decimal(max(rows * row_mm, columns * column_mm))
    header.ImageOrientationPatient = [
        as_decimal(value) for value in (*geometry.row_cosines, *geometry.column_cosines)
    ]
    header.PixelSpacing = [as_decimal(row_mm), as_decimal(column_mm)]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = 16
    header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = 1
    header.RescaleIntercept = "0"
    header.RescaleSlope = "1"
    header.RescaleType = "HU"
    header.WindowCenter, header.WindowWidth = (str(value) for value in _DISPLAY_WINDOW)
    return header
