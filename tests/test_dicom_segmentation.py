import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime

import highdicom
import numpy as np
import pydicom
import pytest

from pipeline.dicom import Derivation, SegmentLabel, write_segmentation
from pipeline.errors import DataError
from tests.dicom_factory import NOON, read_only_series, save_stack, write_phantom

ANATOMY = ("123037004", "SCT", "Anatomical Structure")
LIVER = SegmentLabel("liver", 5, ANATOMY, ("10200004", "SCT", "Liver"), (200, 80, 60))
LUNGS = SegmentLabel("lungs", 3, ANATOMY, ("39607008", "SCT", "Lung"), (100, 150, 200))
BODY = SegmentLabel("body", 1, ANATOMY, ("38266002", "SCT", "Entire body as a whole"), (220, 180, 150))
DERIVATION = Derivation("unet", "1", "cd" * 32, {"engine": "cpu"}, "0.1.0")


@pytest.fixture
def series(tmp_path):
    write_phantom(np.zeros((4, 24, 20), np.int16), tmp_path / "in")
    return read_only_series(tmp_path / "in")


@pytest.fixture
def label_map():
    values = np.zeros((4, 24, 20), np.uint8)
    values[1:3, 4:9, 3:12] = LIVER.value
    values[2:, 12:20, 3:8] = LUNGS.value
    values[0, 0, 0] = 7
    return values


def write(series, label_map, path, *, labels=(LUNGS, LIVER), derivation=DERIVATION, **options):
    return write_segmentation(series, label_map, labels, path, derivation=derivation, now=NOON, **options)


def test_masks_come_back_on_the_grid_of_the_source(tmp_path, series, label_map):
    path = write(series, label_map, tmp_path / "seg.dcm", whole_body=BODY)
    segmentation = highdicom.seg.segread(path)
    assert segmentation.segmentation_type.value == "BINARY"
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == ["lungs", "liver", "body"]
    masks = segmentation.get_pixels_by_source_instance(
        list(series.entry.sop_instance_uids), assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(masks[..., 0], label_map == LUNGS.value)
    np.testing.assert_array_equal(masks[..., 1], label_map == LIVER.value)
    np.testing.assert_array_equal(masks[..., 2], label_map > 0)


def test_codes_and_colours_are_those_of_the_labels(tmp_path, series, label_map):
    dataset = pydicom.dcmread(write(series, label_map, tmp_path / "seg.dcm"))
    liver = dataset.SegmentSequence[1]
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    colour = highdicom.color.CIELabColor.from_dicom_value(tuple(liver.RecommendedDisplayCIELabValue))
    np.testing.assert_allclose(colour.to_rgb(), LIVER.rgb, atol=2)
    assert dataset.SeriesDescription == "Segmentation. Not for diagnostic use."


def test_rerun_gives_the_same_bytes(tmp_path, series, label_map):
    one, other = (write(series, label_map, tmp_path / name, whole_body=BODY) for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()


def test_label_that_no_voxel_carries_is_described_without_frames(tmp_path, series, label_map):
    spleen = replace(LIVER, name="spleen", value=9)
    dataset = pydicom.dcmread(write(series, label_map, tmp_path / "seg.dcm", labels=(LIVER, spleen)))
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["liver", "spleen"]
    assert dataset.NumberOfFrames == 2


def test_tilted_series_is_segmented_in_its_own_slices(tmp_path):
    positions = [(0.0, 0.0, z) for z in (0.0, 2.0, 4.0)]
    save_stack(tmp_path / "in", positions, orientation=(1, 0, 0, 0, 0.96, -0.28), FrameOfReferenceUID=None)
    series = read_only_series(tmp_path / "in")
    label_map = np.full(series.hu.shape, LIVER.value, np.uint8)
    dataset = pydicom.dcmread(write(series, label_map, tmp_path / "seg.dcm", labels=(LIVER,)))
    frames = dataset.PerFrameFunctionalGroupsSequence
    heights = [frame.PlanePositionSequence[0].ImagePositionPatient[2] for frame in frames]
    assert sorted(heights) == [0, 2, 4]


def test_dates_and_their_offset_are_those_of_the_source(tmp_path):
    save_stack(tmp_path / "in", [(0.0, 0.0, 0.0), (0.0, 0.0, 2.0)], TimezoneOffsetFromUTC="+0530")
    series = read_only_series(tmp_path / "in")
    path = write_segmentation(
        series,
        np.full(series.hu.shape, LIVER.value, np.uint8),
        (LIVER,),
        tmp_path / "seg.dcm",
        derivation=DERIVATION,
        now=datetime(2026, 1, 2, 23, tzinfo=UTC),
    )
    dataset = pydicom.dcmread(path)
    for moment in ("InstanceCreation", "Series", "Content"):
        written = dataset[f"{moment}Date"].value + dataset[f"{moment}Time"].value
        assert written == "20260103043000"
    assert dataset.TimezoneOffsetFromUTC == "+0530"


def test_lossy_compression_of_the_source_is_declared(tmp_path, series, label_map):
    for header in series.headers:
        header.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    dataset = pydicom.dcmread(write(series, label_map, tmp_path / "seg.dcm"))
    assert dataset.LossyImageCompression == "01"


def test_empty_label_map_is_refused(tmp_path, series, label_map):
    with pytest.raises(DataError, match="no voxel carries any of the 2 labels"):
        write(series, label_map * 0, tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


def test_caller_mistakes_are_value_errors(tmp_path, series, label_map):
    with pytest.raises(ValueError, match="shape"):
        write(series, label_map[1:], tmp_path / "seg.dcm")
    with pytest.raises(ValueError, match="distinct"):
        write(series, label_map, tmp_path / "seg.dcm", labels=(LIVER, LIVER))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian dicom3tools) is not installed")
def test_segmentation_is_conformant(tmp_path, series, label_map):
    path = write(series, label_map, tmp_path / "seg.dcm", whole_body=BODY)
    judgement = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    assert [line for line in judgement.stderr.splitlines() if line.startswith("Error")] == []
