"""Enhanced multi-frame CT for tests: a hand-built true one, and one that highdicom converts from slices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import EnhancedCTImageStorage

from pipeline.dicom import deterministic_uid
from pipeline.dicom.quiet import quiet_pydicom
from tests.dicom_factory import AXIAL

Rescale = tuple[float, float]


def make_enhanced(
    stored: np.ndarray,
    positions: Sequence[Sequence[float]],
    rescales: Sequence[Rescale],
    *,
    frame_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
    rescale_type: str | None = "HU",
    **attributes: Any,
) -> pydicom.Dataset:
    """An Enhanced CT image: orientation and kernel shared; position, rescale and exposure per frame.

    Args:
        stored: (frames, rows, columns) stored values.
        positions: ImagePositionPatient of each frame.
        rescales: slope and intercept of each frame.
        frame_type: FrameType of each frame.
        rescale_type: RescaleType of each frame; None leaves it out.
        attributes: set on the image as DICOM keywords; None deletes one.
    """
    image = _image(stored, frame_type)
    image.SharedFunctionalGroupsSequence = [_shared_groups(frame_type)]
    image.PerFrameFunctionalGroupsSequence = [
        _groups_of_frame(frame, position, rescale, rescale_type)
        for frame, (position, rescale) in enumerate(zip(positions, rescales, strict=True))
    ]
    for keyword, value in attributes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    return image


def legacy_converted(files: Sequence[Path]) -> pydicom.Dataset:
    """What highdicom makes of single-frame slices: a Legacy Converted Enhanced CT image."""
    with quiet_pydicom():
        return highdicom.legacy.LegacyConvertedEnhancedCTImage(
            [pydicom.dcmread(path) for path in files],
            series_instance_uid=deterministic_uid("converted series"),
            series_number=7,
            sop_instance_uid=deterministic_uid("converted"),
            instance_number=1,
        )


def _item(**attributes: Any) -> pydicom.Dataset:
    item = pydicom.Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _code(concept: Any) -> pydicom.Dataset:
    return _item(
        CodeValue=concept.value,
        CodingSchemeDesignator=concept.scheme_designator,
        CodeMeaning=concept.meaning,
    )


def _image(stored: np.ndarray, frame_type: Sequence[str]) -> pydicom.Dataset:
    """All that stands outside the functional groups."""
    organization = deterministic_uid("dimensions")
    image = _item(
        SOPClassUID=EnhancedCTImageStorage,
        SOPInstanceUID=deterministic_uid("enhanced"),
        StudyInstanceUID=deterministic_uid("study"),
        SeriesInstanceUID=deterministic_uid("enhanced series"),
        FrameOfReferenceUID=deterministic_uid("frame of reference"),
        PositionReferenceIndicator="",
        Modality="CT",
        PatientName="SECRET^NAME",
        PatientID="SECRET-ID",
        PatientBirthDate="",
        PatientSex="O",
        PatientPosition="HFS",
        StudyDate="20260101",
        StudyTime="100000",
        StudyID="1",
        AccessionNumber="",
        ReferringPhysicianName="",
        SeriesNumber=3,
        SeriesDescription="abdomen",
        InstanceNumber=1,
        Manufacturer="maker",
        ManufacturerModelName="scanner",
        DeviceSerialNumber="1",
        SoftwareVersions="1",
        ContentDate="20260101",
        ContentTime="100000",
        AcquisitionDateTime="20260101100000",
        AcquisitionDuration=1.0,
        AcquisitionContextSequence=[],
        ImageType=list(frame_type),
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
        ContentQualification="PRODUCT",
        PresentationLUTShape="IDENTITY",
        BurnedInAnnotation="NO",
        LossyImageCompression="00",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        NumberOfFrames=len(stored),
        Rows=stored.shape[1],
        Columns=stored.shape[2],
        BitsAllocated=8 * stored.dtype.itemsize,
        BitsStored=8 * stored.dtype.itemsize,
        HighBit=8 * stored.dtype.itemsize - 1,
        PixelRepresentation=int(stored.dtype.kind == "i"),
        DimensionOrganizationSequence=[_item(DimensionOrganizationUID=organization)],
        DimensionIndexSequence=[
            _item(
                DimensionIndexPointer=pydicom.tag.Tag(keyword),
                FunctionalGroupPointer=pydicom.tag.Tag("FrameContentSequence"),
                DimensionOrganizationUID=organization,
            )
            for keyword in ("StackID", "InStackPositionNumber")
        ],
        PixelData=stored.tobytes(),
    )
    image["PixelData"].VR = "OW"
    return image


def _shared_groups(frame_type: Sequence[str]) -> pydicom.Dataset:
    return _item(
        PixelMeasuresSequence=[_item(PixelSpacing=[0.8, 0.7], SliceThickness=2.0)],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=list(AXIAL))],
        FrameAnatomySequence=[
            _item(FrameLaterality="U", AnatomicRegionSequence=[_code(codes.SCT.Abdomen)]),
        ],
        FrameVOILUTSequence=[_item(WindowCenter=[40, 300], WindowWidth=[400, 1500])],
        CTImageFrameTypeSequence=[
            _item(
                FrameType=list(frame_type),
                PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME",
                VolumeBasedCalculationTechnique="NONE",
            )
        ],
        CTAcquisitionTypeSequence=[
            _item(AcquisitionType="SPIRAL", ConstantVolumeFlag="NO", FluoroscopyFlag="NO"),
        ],
        CTAcquisitionDetailsSequence=[
            _item(
                RotationDirection="CW",
                RevolutionTime=0.5,
                SingleCollimationWidth=0.6,
                TotalCollimationWidth=38.4,
                TableHeight=150.0,
                GantryDetectorTilt=0.0,
                DataCollectionDiameter=500.0,
            )
        ],
        CTTableDynamicsSequence=[
            _item(TableSpeed=40.0, TableFeedPerRotation=20.0, SpiralPitchFactor=0.9),
        ],
        CTGeometrySequence=[
            _item(DistanceSourceToDetector=1085.0, DistanceSourceToDataCollectionCenter=595.0),
        ],
        CTReconstructionSequence=[
            _item(
                ReconstructionAlgorithm="FILTER_BACK_PROJ",
                ConvolutionKernel="B40f",
                ConvolutionKernelGroup="SOFT_TISSUE",
                ReconstructionDiameter=350.0,
                ReconstructionPixelSpacing=[0.8, 0.7],
                ReconstructionAngle=360.0,
                ImageFilter="NONE",
            )
        ],
        CTXRayDetailsSequence=[
            _item(
                KVP=120.0,
                FocalSpots=[1.2],
                FilterType="FLAT",
                FilterMaterial="ALUMINUM",
                CalciumScoringMassFactorPatient=1.0,
            )
        ],
    )


def _groups_of_frame(
    frame: int, position: Sequence[float], rescale: Rescale, rescale_type: str | None
) -> pydicom.Dataset:
    transformation = _item(RescaleSlope=rescale[0], RescaleIntercept=rescale[1])
    if rescale_type is not None:
        transformation.RescaleType = rescale_type
    return _item(
        FrameContentSequence=[
            _item(
                FrameAcquisitionNumber=4,
                FrameReferenceDateTime="20260101100000",
                FrameAcquisitionDateTime=f"2026010110{frame // 60 % 60:02d}{frame % 60:02d}.5",
                FrameAcquisitionDuration=500.0,
                StackID="1",
                InStackPositionNumber=frame + 1,
                DimensionIndexValues=[1, frame + 1],
            )
        ],
        PlanePositionSequence=[_item(ImagePositionPatient=list(position))],
        CTPositionSequence=[
            _item(
                TablePosition=float(position[2]),
                DataCollectionCenterPatient=list(position),
                ReconstructionTargetCenterPatient=list(position),
            )
        ],
        CTExposureSequence=[
            _item(
                ExposureTimeInms=500.0,
                XRayTubeCurrentInmA=200.4 + frame,
                ExposureInmAs=100.2 + frame / 2,
                ExposureModulationType="NONE",
                CTDIvol=5.5,
                CTDIPhantomTypeCodeSequence=[_code(codes.cid4052.IECBodyDosimetryPhantom)],
            )
        ],
        PixelValueTransformationSequence=[transformation],
        IrradiationEventIdentificationSequence=[_item(IrradiationEventUID=deterministic_uid("event"))],
    )
