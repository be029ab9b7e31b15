import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)

from pipeline.dicom import (
    Code,
    Derivation,
    Task,
    Verdict,
    discover,
    headers,
    read_series,
    write_derived_series,
)
from pipeline.dicom.defects import format_defects
from pipeline.dicom.headers import read_header
from pipeline.dicom.multiframe import MAX_FRAMES, is_multi_frame, single_frame_header
from pipeline.dicom.quiet import quiet_pydicom
from tests.dicom_factory import NOON, make_slice, read_only_series, save, save_stack
from tests.enhanced_factory import legacy_converted, make_enhanced

DERIVATION = Derivation("redcnn", "3", "ab" * 32, {"strength": 0.8}, "0.1.0")
POSITIONS = [(-7.0, 3.0, z) for z in (5.0, 0.0, 7.5, 2.5)]
RESCALES = [(1.0, -1024.0), (2.0, -1000.0), (0.5, -1024.0), (1.000244, -1024.0)]
STORED = np.random.default_rng(5).integers(100, 2000, (4, 24, 20)).astype(np.uint16)
"""Four frames that lie in the order 1, 3, 0, 2 along the normal."""
ALONG_NORMAL = [1, 3, 0, 2]
needs_dicom3tools = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy (Debian dicom3tools) is not installed"
)


def enhanced(**changes):
    return make_enhanced(STORED, POSITIONS, RESCALES, **changes)


def defects_of(path):
    return {one.code: one for one in format_defects(read_header(path))}


def reread(dataset, path):
    """As a file holds it: elements not parsed yet."""
    return pydicom.dcmread(save(dataset, path))


def test_frames_are_placed_by_position_and_rescaled_each_by_its_own(tmp_path):
    save(enhanced(), tmp_path / "a")
    series = read_only_series(tmp_path)
    entry = series.entry
    assert entry.is_multi_frame
    assert entry.frames == tuple(ALONG_NORMAL)
    assert entry.files == (tmp_path / "a",) * 4
    assert entry.geometry.origin_mm == (-7.0, 3.0, 0.0)
    assert entry.geometry.spacing_mm == (2.5, 0.8, 0.7)
    assert (entry.kvp, entry.kernel, entry.slice_thickness_mm, entry.body_part) == (120, "B40f", 2, "ABDOMEN")
    for hu, frame in zip(series.hu, ALONG_NORMAL, strict=True):
        slope, intercept = RESCALES[frame]
        np.testing.assert_allclose(hu, STORED[frame] * slope + intercept, atol=1e-3)


def test_the_header_of_a_frame_says_what_its_functional_groups_say(tmp_path):
    header = single_frame_header(reread(enhanced(), tmp_path / "a"), 1)
    expected = {
        "SOPClassUID": CTImageStorage,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "VOLUME", "NONE"],
        "PixelSpacing": [0.8, 0.7],
        "SliceThickness": 2,
        "ImagePositionPatient": [-7, 3, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
        "RescaleType": "HU",
        "WindowCenter": [40, 300],
        "WindowWidth": [400, 1500],
        "KVP": 120,
        "ConvolutionKernel": "B40f",
        "ReconstructionDiameter": 350,
        "GantryDetectorTilt": 0,
        "RotationDirection": "CW",
        "SpiralPitchFactor": 0.9,
        "TablePosition": 0,
        "AcquisitionNumber": 4,
        "AcquisitionDateTime": "20260101100001.5",
        "AcquisitionDate": "20260101",
        "AcquisitionTime": "100001.5",
        "InstanceNumber": 2,
        "BodyPartExamined": "ABDOMEN",
        "ImageLaterality": "U",
        "CTDIvol": 5.5,
        "PatientID": "SECRET-ID",
        "PatientPosition": "HFS",
    }
    assert {keyword: header[keyword].value for keyword in expected} == expected
    assert header.file_meta.MediaStorageSOPClassUID == EnhancedCTImageStorage


def test_exposure_is_converted_to_the_units_of_a_single_frame_image(tmp_path):
    """Whole mA, ms and mAs, and exact µA, µs and µAs (PS3.3 C.8.2.1 and C.8.15.3.8)."""
    header = single_frame_header(reread(enhanced(), tmp_path / "a"), 1)
    assert (header.XRayTubeCurrent, header.XRayTubeCurrentInuA) == (201, 201_400)
    assert (header.ExposureTime, header.ExposureTimeInuS) == (500, 500_000)
    assert (header.Exposure, header.ExposureInuAs) == (101, 100_700)


def test_nothing_of_a_multi_frame_image_alone_is_left(tmp_path):
    dataset = enhanced(ConcatenationUID="1.2.3", InConcatenationNumber=1)
    dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x10, "LO", "secret")
    header = single_frame_header(reread(dataset, tmp_path / "a"), 0)
    assert not [element for element in header if element.tag.is_private or element.tag.group == 0x5200]
    for keyword in (
        "NumberOfFrames",
        "DimensionIndexSequence",
        "FrameContentSequence",
        "StackID",
        "PixelData",
    ):
        assert keyword not in header
    assert not [element.keyword for element in header if "Concatenation" in element.keyword]


def test_headers_of_frames_share_nothing_with_the_image(tmp_path):
    dataset = reread(enhanced(), tmp_path / "a")
    before = str(dataset)
    header = single_frame_header(dataset, 0)
    header.AnatomicRegionSequence[0].CodeValue = "0"
    header.PixelSpacing[0] = 9
    header.file_meta.TransferSyntaxUID = RLELossless
    assert str(dataset) == before
    assert single_frame_header(dataset, 0).AnatomicRegionSequence[0].CodeValue != "0"


def test_of_two_exposures_none_is_taken_for_that_of_the_frame(tmp_path):
    """Two X-ray sources: which item would be the exposure of the slice?"""
    dataset = enhanced()
    (exposure,) = dataset.PerFrameFunctionalGroupsSequence[0].CTExposureSequence
    dataset.PerFrameFunctionalGroupsSequence[0].CTExposureSequence = [exposure, exposure]
    header = single_frame_header(reread(dataset, tmp_path / "a"), 0)
    assert "Exposure" not in header
    assert "XRayTubeCurrent" not in header


def test_converted_and_back_each_slice_is_what_it_was(tmp_path):
    originals = {}
    for index, (x, y, z) in enumerate(POSITIONS):
        dataset = make_slice(
            STORED[index].astype(np.int16) - 1000,
            position=(x, y, z),
            InstanceNumber=10 * index + 1,
            AcquisitionNumber=2,
            AcquisitionDate="20260101",
            AcquisitionTime=f"10000{index}",
            BodyPartExamined="CHEST",
            ContentDate="20260101",
            ContentTime="100000",
            ConvolutionKernel="B30f",
            ExposureTime=500,
            KVP=100,
            Manufacturer="maker",
            PixelPaddingValue=-2000,
            RescaleIntercept=-index,
            RescaleSlope=1.000244,
            WindowCenter=[40, 300],
            WindowWidth=[400, 1500],
            XRayTubeCurrent=200 + index,
        )
        save(dataset, tmp_path / "single" / str(index))
        originals[z] = dataset
    converted = legacy_converted(sorted((tmp_path / "single").iterdir()))
    (tmp_path / "converted").mkdir()
    with quiet_pydicom():
        converted.save_as(tmp_path / "converted" / "a", enforce_file_format=True)
    single, multi = (read_only_series(tmp_path / name) for name in ("single", "converted"))
    np.testing.assert_array_equal(multi.hu, single.hu)
    assert multi.entry.geometry == single.entry.geometry
    assert multi.entry.rescales == single.entry.rescales
    assert multi.entry.exposure_mas == single.entry.exposure_mas
    for header in multi.headers:
        assert header.file_meta.MediaStorageSOPClassUID == LegacyConvertedEnhancedCTImageStorage
        original = originals[header.ImagePositionPatient[2]]
        for element in original:
            if element.keyword not in (
                "SOPInstanceUID",
                "SeriesInstanceUID",
                "SeriesNumber",
                "SeriesDescription",
                "ImageType",
                "PixelData",
            ):
                assert header[element.keyword].value == element.value, element.keyword
        assert header.ImageType[:3] == original.ImageType
        assert "ReferencedSeriesSequence" in converted
        assert "ReferencedSeriesSequence" not in header


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_encodings_make_no_difference(tmp_path, syntax):
    save(enhanced(), tmp_path / "a" / "a")
    dataset = pydicom.dcmread(tmp_path / "a" / "a")
    (tmp_path / "b").mkdir()
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(tmp_path / "b" / "b")
    else:
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = STORED.astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(
            tmp_path / "b" / "b",
            dataset,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            force_encoding=True,
        )
    one, other = (read_only_series(tmp_path / name) for name in "ab")
    np.testing.assert_array_equal(one.hu, other.hu)
    assert one.entry.geometry == other.entry.geometry
    assert one.entry.rescales == other.entry.rescales


def test_enhanced_ct_is_fit_for_denoising_only(tmp_path):
    save(enhanced(), tmp_path / "a")
    (entry,) = discover(tmp_path).series
    assert entry.finding(Task.DENOISE) is None
    for task in (Task.SEGMENT, Task.INGEST, Task.SIMULATE):
        finding = entry.finding(task)
        assert (finding.code, finding.verdict) == (Code.ENHANCED, Verdict.REFUSED)
        assert finding.files == (tmp_path / "a",)
        assert "convert it to single-frame CT" in finding.message


def without_groups(dataset):
    del dataset.PerFrameFunctionalGroupsSequence


def with_a_frame_too_few(dataset):
    del dataset.PerFrameFunctionalGroupsSequence[-1]


def with_two_positions_for_a_frame(dataset):
    """Its own and one that is shared: PS3.3 C.7.6.16.1.1 forbids it."""
    groups = dataset.PerFrameFunctionalGroupsSequence[2]
    dataset.SharedFunctionalGroupsSequence[0].PlanePositionSequence = groups.PlanePositionSequence


def as_classic_ct(dataset):
    dataset.SOPClassUID = CTImageStorage


@pytest.mark.parametrize(
    "defect", [without_groups, with_a_frame_too_few, with_two_positions_for_a_frame, as_classic_ct]
)
def test_frames_that_cannot_be_told_apart_are_refused(tmp_path, defect):
    dataset = enhanced()
    defect(dataset)
    path = save(dataset, tmp_path / "a")
    assert not is_multi_frame(pydicom.dcmread(path))
    (header,) = read_header(path)
    assert (header.frame, header.frames) == (None, 4)
    found = defects_of(path)
    assert Code.MULTI_FRAME in found
    assert Code.ENHANCED not in found


def test_private_groups_may_be_shared_and_a_frames_own(tmp_path):
    """Philips keeps private functional groups in both, under one private creator."""
    dataset = enhanced()
    for groups in (*dataset.SharedFunctionalGroupsSequence, *dataset.PerFrameFunctionalGroupsSequence):
        groups.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0E, "LO", "private")
    assert len(read_header(save(dataset, tmp_path / "a"))) == len(STORED)


@pytest.mark.parametrize("rescale_type", [None, "US", "MGML"])
def test_frames_whose_units_are_not_said_to_be_hu_are_refused(tmp_path, rescale_type):
    """RescaleType is type 1 in a multi-frame image (PS3.3 C.8.15.3.10): without it units are unknown."""
    path = save(enhanced(rescale_type=rescale_type), tmp_path / "a")
    assert Code.NOT_HU in defects_of(path)


def test_frames_without_positions_have_no_geometry(tmp_path):
    dataset = enhanced()
    del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    save(dataset, tmp_path / "a")
    (entry,) = discover(tmp_path).series
    assert entry.finding(Task.DENOISE).code == Code.NO_GEOMETRY
    assert entry.finding(Task.DENOISE).files == (tmp_path / "a",)


def test_a_localizer_frame_is_split_off(tmp_path):
    dataset = enhanced()
    (frame_type,) = dataset.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence
    del dataset.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        groups.CTImageFrameTypeSequence = [frame_type]
    localizer = pydicom.Dataset()
    localizer.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    dataset.PerFrameFunctionalGroupsSequence[2].CTImageFrameTypeSequence = [localizer]
    save(dataset, tmp_path / "a")
    scan, scout = discover(tmp_path).series
    assert scan.frames == (1, 3, 0)
    assert (scout.frames, scout.finding(Task.DENOISE).code) == ((2,), Code.LOCALIZER)


def test_malformed_values_in_a_frame_are_missing_values(tmp_path):
    dataset = enhanced()
    position = pydicom.Dataset()
    position.add_new("ImagePositionPatient", "LO", "here")
    dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence = [position]
    first, second, *_ = read_header(save(dataset, tmp_path / "a"))
    assert first.position_mm is None
    assert second.position_mm == POSITIONS[1]


def test_a_file_is_parsed_no_more_often_for_more_frames(tmp_path, monkeypatch):
    frames = 300
    stored = np.zeros((frames, 2, 2), np.uint16)
    positions = [(0.0, 0.0, float(z)) for z in range(frames)]
    path = save(make_enhanced(stored, positions, [(1, -1024)] * frames), tmp_path / "a")
    parsed = []

    def counted(*arguments, **options):
        parsed.append(path)
        return read_partial(*arguments, **options)

    read_partial = headers.read_partial
    monkeypatch.setattr(headers, "read_partial", counted)
    assert [header.frame for header in read_header(path)] == list(range(frames))
    assert len(parsed) == 2


def test_more_frames_than_any_scan_has_are_refused_unread(tmp_path):
    path = save(enhanced(NumberOfFrames=MAX_FRAMES + 1), tmp_path / "a")
    found = defects_of(path)
    assert f"over {MAX_FRAMES} frames" in found[Code.TOO_LARGE].message
    assert Code.MULTI_FRAME not in found


def test_each_frame_becomes_a_single_frame_image_that_names_it(tmp_path):
    save(enhanced(), tmp_path / "in" / "a")
    series = read_only_series(tmp_path / "in")
    paths = write_derived_series(series, series.hu, tmp_path / "out", derivation=DERIVATION, now=NOON)
    written = [pydicom.dcmread(path) for path in paths]
    assert len({dataset.SOPInstanceUID for dataset in written}) == 4
    for dataset, frame in zip(written, ALONG_NORMAL, strict=True):
        (source,) = dataset.SourceImageSequence
        assert source.ReferencedSOPClassUID == EnhancedCTImageStorage
        assert source.ReferencedSOPInstanceUID == enhanced().SOPInstanceUID
        assert source.ReferencedFrameNumber == frame + 1
        assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        assert dataset.SOPClassUID == dataset.file_meta.MediaStorageSOPClassUID == CTImageStorage
        assert dataset.ImageType == ["DERIVED", "SECONDARY", "AXIAL", "VOLUME", "NONE"]
        np.testing.assert_array_equal(dataset.pixel_array, STORED[frame])
    again = read_only_series(tmp_path / "out")
    assert again.entry.geometry == series.entry.geometry
    assert [entry.finding(Task.SEGMENT) for entry in discover(tmp_path / "out").series] == [None]


def test_frames_of_several_images_are_numbered_through_the_series(tmp_path):
    for part in range(2):
        positions = [(x, y, z + 10 * part) for x, y, z in POSITIONS]
        save(make_enhanced(STORED, positions, RESCALES, SOPInstanceUID=f"1.2.{part}"), tmp_path / str(part))
    series = read_only_series(tmp_path)
    paths = write_derived_series(series, series.hu, tmp_path / "out", derivation=DERIVATION, now=NOON)
    assert [pydicom.dcmread(path).InstanceNumber for path in paths] == list(range(1, 9))


def test_parts_of_one_image_get_series_of_their_own_though_their_pixels_are_equal(tmp_path):
    """Two phases, told apart by acquisition number: same image, same pixels, other frames."""
    dataset = make_enhanced(
        np.zeros((4, 8, 8), np.uint16), [POSITIONS[0], POSITIONS[2]] * 2, [(1.0, -1024.0)] * 4
    )
    for frame, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        groups.FrameContentSequence[0].FrameAcquisitionNumber = frame // 2
    save(dataset, tmp_path / "in" / "a")
    uids = set()
    for entry in discover(tmp_path / "in").series:
        series = read_series(entry)
        folder = tmp_path / f"out{entry.part}"
        paths = write_derived_series(series, series.hu, folder, derivation=DERIVATION, now=NOON)
        uids |= {pydicom.dcmread(path).SeriesInstanceUID for path in paths}
    assert len(uids) == 2


@needs_dicom3tools
@pytest.mark.parametrize("kind", ["enhanced", "legacy converted"])
def test_derived_frames_conform_to_ct_image_storage(tmp_path, kind):
    (tmp_path / "in").mkdir()
    if kind == "enhanced":
        assert judged_by("dciodvfy", save(enhanced(), tmp_path / "in" / "a")) == []
    else:
        with quiet_pydicom():
            complete_conversion(tmp_path).save_as(tmp_path / "in" / "a", enforce_file_format=True)
    series = read_only_series(tmp_path / "in")
    paths = write_derived_series(series, series.hu, tmp_path / "out", derivation=DERIVATION, now=NOON)
    for path in paths:
        assert judged_by("dciodvfy", path) == []
    assert judged_by("dcentvfy", *paths) == []


@pytest.mark.real
@needs_dicom3tools
def test_a_real_series_converted_to_frames_gives_no_error_that_its_slices_have_not(tmp_path, real_data):
    (entry,) = discover(real_data / "ct" / "lungdx_a0002_chest_8mm").series
    single = read_series(entry)
    (tmp_path / "in").mkdir()
    with quiet_pydicom():
        legacy_converted(entry.files).save_as(tmp_path / "in" / "a", enforce_file_format=True)
    multi = read_only_series(tmp_path / "in")
    np.testing.assert_array_equal(multi.hu, single.hu)
    np.testing.assert_array_equal(multi.padding, single.padding)
    assert multi.entry.geometry == single.entry.geometry
    assert multi.entry.exposure_mas == single.entry.exposure_mas
    paths = write_derived_series(multi, multi.hu, tmp_path / "out", derivation=DERIVATION, now=NOON)
    for path, source in zip(paths, entry.files, strict=True):
        assert set(judged_by("dciodvfy", path)) <= set(judged_by("dciodvfy", source))
        assert np.array_equal(pydicom.dcmread(path).pixel_array, pydicom.dcmread(source).pixel_array)


def complete_conversion(tmp_path):
    """Converted from slices that lack no required element."""
    paths = save_stack(
        tmp_path / "single",
        POSITIONS,
        AccessionNumber="",
        AcquisitionNumber=1,
        BodyPartExamined="ABDOMEN",
        ContentDate="20260101",
        ContentTime="100000",
        InstanceNumber=1,
        KVP=120,
        Manufacturer="maker",
        PatientBirthDate="",
        PatientPosition="HFS",
        PatientSex="O",
        PositionReferenceIndicator="",
        ReferringPhysicianName="",
        RescaleType="HU",
        StudyDate="20260101",
        StudyID="",
        StudyTime="100000",
    )
    return legacy_converted(paths)


def judged_by(judge, *paths):
    """The errors that a judge of dicom3tools sees."""
    judgement = subprocess.run([judge, *map(str, paths)], capture_output=True, text=True, check=False)
    return [line for line in judgement.stderr.splitlines() if line.startswith("Error")]


def test_simpleitk_reads_derived_frames_in_the_right_place(tmp_path):
    save(enhanced(), tmp_path / "in" / "a")
    series = read_only_series(tmp_path / "in")
    paths = write_derived_series(series, series.hu, tmp_path / "out", derivation=DERIVATION, now=NOON)
    image = SimpleITK.ReadImage([str(path) for path in paths])
    np.testing.assert_allclose(image.GetOrigin(), (-7, 3, 0), atol=1e-3)
    np.testing.assert_allclose(image.GetSpacing(), (0.7, 0.8, 2.5), atol=1e-3)
    np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-3)
    for path, hu in zip(paths, series.hu, strict=True):
        one = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0]
        np.testing.assert_allclose(one, hu, atol=1e-3)


def test_texts_that_repeat_the_identity_are_kept_back(tmp_path):
    dataset = enhanced(SeriesDescription="Secret, Name: abdomen", Modality="CT")
    (reconstruction,) = dataset.SharedFunctionalGroupsSequence[0].CTReconstructionSequence
    reconstruction.ConvolutionKernel = "B40 SECRET"
    header, *_ = read_header(save(dataset, tmp_path / "a"))
    assert (header.series_description, header.kernel) == (None, None)
    assert (header.manufacturer, header.modality, header.body_part) == ("maker", "CT", "ABDOMEN")
