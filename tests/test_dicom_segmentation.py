import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom import DataElement

from pipeline.dicom import Derivation, SegmentLabel, SeriesError, segmentation, write_segmentation
from pipeline.dicom.segmentation import plane_header
from pipeline.errors import DataError
from tests.dicom_factory import NOON, make_slice, read_only_series, save, save_stack, write_phantom
from tests.judges import conformance_errors

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


def write(series, label_map, folder, *, labels=(LUNGS, LIVER), **options):
    folder.mkdir(exist_ok=True)
    options = {"headers": series.headers, "derivation": DERIVATION, "now": NOON, **options}
    digests = series.content_digests
    return write_segmentation(series.entry, label_map, labels, folder, content_digests=digests, **options)


def headers_alone(slices, side):
    """A series of large slices of which nothing is on disk."""
    with tempfile.TemporaryDirectory() as folder:
        save_stack(Path(folder), [(0.0, 0.0, 0.0)])
        one = read_only_series(Path(folder))
    headers = []
    for index in range(slices):
        header = plane_header(one.headers[0]) if headers else one.headers[0]
        header["ImagePositionPatient"] = DataElement(0x00200032, "DS", [0, 0, 2.0 * index])
        header.Rows = header.Columns = side
        headers.append(header)
    entry = replace(
        one.entry,
        files=one.entry.files * slices,
        frames=one.entry.frames * slices,
        sop_instance_uids=tuple(f"1.2.{index}" for index in range(slices)),
        rows=side,
        columns=side,
    )
    return SimpleNamespace(entry=entry, headers=headers, content_digests=one.content_digests * slices)


def masks_of(path, series):
    segmentation = highdicom.seg.segread(path)
    assert segmentation.segmentation_type.value == "BINARY"
    masks = segmentation.get_pixels_by_source_instance(
        list(series.entry.sop_instance_uids), assert_missing_frames_are_empty=True
    )
    return [segment.SegmentLabel for segment in segmentation.SegmentSequence], masks


def test_masks_come_back_on_the_grid_of_the_source(tmp_path, series, label_map):
    organs, body = write(series, label_map, tmp_path / "out", whole_body=BODY)
    names, masks = masks_of(organs, series)
    assert (organs.name, names) == ("segmentation.dcm", ["lungs", "liver"])
    np.testing.assert_array_equal(masks[..., 0], label_map == LUNGS.value)
    np.testing.assert_array_equal(masks[..., 1], label_map == LIVER.value)
    names, masks = masks_of(body, series)
    assert (body.name, names) == ("body.dcm", ["body"])
    np.testing.assert_array_equal(masks[..., 0], label_map > 0)


def test_both_files_are_instances_of_one_series(tmp_path, series, label_map):
    one, other = (pydicom.dcmread(path) for path in write(series, label_map, tmp_path, whole_body=BODY))
    assert one.SeriesInstanceUID == other.SeriesInstanceUID
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert (one.InstanceNumber, other.InstanceNumber) == (1, 2)


def test_a_body_without_organs_is_written_alone(tmp_path, series, label_map):
    label_map[label_map > 0] = BODY.value
    (body,) = write(series, label_map, tmp_path / "out", whole_body=BODY)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [body.name] == ["body.dcm"]


def test_the_planes_of_the_source_headers_are_enough(tmp_path, series, label_map):
    stripped = [series.headers[0], *map(plane_header, series.headers[1:])]
    assert len(stripped[1]) <= 10
    whole, lean = (
        write(series, label_map, tmp_path / name, headers=headers, whole_body=BODY)
        for name, headers in (("whole", series.headers), ("lean", stripped))
    )
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in lean]


def test_codes_and_colours_are_those_of_the_labels(tmp_path, series, label_map):
    dataset = pydicom.dcmread(*write(series, label_map, tmp_path / "out"))
    liver = dataset.SegmentSequence[1]
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    colour = highdicom.color.CIELabColor.from_dicom_value(tuple(liver.RecommendedDisplayCIELabValue))
    np.testing.assert_allclose(colour.to_rgb(), LIVER.rgb, atol=2)
    assert dataset.SeriesDescription == "Segmentation. Not for diagnostic use."
    assert dataset["ContentCreatorName"].is_empty


def test_bits_behind_the_last_frame_are_zero(tmp_path):
    """A frame of 21 x 21 is 441 bits in 56 bytes; one of 18 x 18 is 324 bits in 41 bytes and one more."""
    for side in (21, 18):
        save_stack(tmp_path / str(side) / "in", [(0, 0, 0)], stored=np.zeros((side, side), np.int16))
        series = read_only_series(tmp_path / str(side) / "in")
        label_map = np.full((1, side, side), LIVER.value, np.uint8)
        dataset = pydicom.dcmread(*write(series, label_map, tmp_path / str(side), labels=(LIVER,)))
        bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
        assert len(bits) == {21: 56, 18: 42}[side] * 8
        assert bits.sum() == side**2


def test_rerun_gives_the_same_bytes(tmp_path, series, label_map):
    runs = [write(series, label_map, tmp_path / name, whole_body=BODY) for name in ("a", "b")]
    one, other = ([path.read_bytes() for path in paths] for paths in runs)
    assert one == other


def test_another_label_map_gets_other_uids(tmp_path, series, label_map):
    other_map = label_map.copy()
    other_map[0, 5, 5] = LIVER.value
    (one,), (other,) = (
        write(series, values, tmp_path / name) for name, values in (("a", label_map), ("b", other_map))
    )
    one, other = pydicom.dcmread(one), pydicom.dcmread(other)
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert one.SOPInstanceUID != other.SOPInstanceUID


def test_another_clock_gives_other_uids(tmp_path, series, label_map):
    (one,), (other,) = (
        write(series, label_map, tmp_path / str(seconds), now=NOON + timedelta(seconds=seconds))
        for seconds in (0, 1)
    )
    one, other = pydicom.dcmread(one), pydicom.dcmread(other)
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert one.SOPInstanceUID != other.SOPInstanceUID


def test_label_that_no_voxel_carries_is_described_without_frames(tmp_path, series, label_map):
    spleen = replace(LIVER, name="spleen", value=9)
    dataset = pydicom.dcmread(*write(series, label_map, tmp_path / "out", labels=(LIVER, spleen)))
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["liver", "spleen"]
    assert dataset.NumberOfFrames == 2


def test_tilted_series_is_segmented_in_its_own_slices(tmp_path):
    positions = [(0.0, 0.0, z) for z in (0.0, 2.0, 4.0)]
    save_stack(tmp_path / "in", positions, orientation=(1, 0, 0, 0, 0.96, -0.28), FrameOfReferenceUID=None)
    series = read_only_series(tmp_path / "in")
    label_map = np.full(series.hu.shape, LIVER.value, np.uint8)
    dataset = pydicom.dcmread(*write(series, label_map, tmp_path / "out", labels=(LIVER,)))
    frames = dataset.PerFrameFunctionalGroupsSequence
    heights = [frame.PlanePositionSequence[0].ImagePositionPatient[2] for frame in frames]
    assert sorted(heights) == [0, 2, 4]


def test_dates_and_their_offset_are_those_of_the_source(tmp_path):
    save_stack(tmp_path / "in", [(0.0, 0.0, 0.0), (0.0, 0.0, 2.0)], TimezoneOffsetFromUTC="+0530")
    series = read_only_series(tmp_path / "in")
    label_map = np.full(series.hu.shape, LIVER.value, np.uint8)
    late = datetime(2026, 1, 2, 23, tzinfo=UTC)
    dataset = pydicom.dcmread(*write(series, label_map, tmp_path / "out", labels=(LIVER,), now=late))
    for moment in ("InstanceCreation", "Series", "Content"):
        written = dataset[f"{moment}Date"].value + dataset[f"{moment}Time"].value
        assert written == "20260103043000"
    assert dataset.TimezoneOffsetFromUTC == "+0530"


def test_lossy_compression_of_the_source_is_declared(tmp_path, series, label_map):
    for header in series.headers:
        header.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    dataset = pydicom.dcmread(*write(series, label_map, tmp_path / "out"))
    assert dataset.LossyImageCompression == "01"


@pytest.mark.parametrize("lean", [False, True])
def test_lossy_compression_of_one_later_slice_is_declared(tmp_path, series, label_map, lean):
    for header in series.headers:
        header.LossyImageCompression = "00"
    series.headers[2].LossyImageCompression = "01"
    series.headers[2].LossyImageCompressionRatio = 12
    series.headers[2].LossyImageCompressionMethod = "ISO_10918_1"
    headers = [series.headers[0], *map(plane_header, series.headers[1:])] if lean else series.headers
    dataset = pydicom.dcmread(*write(series, label_map, tmp_path / "out", headers=headers))
    assert dataset.LossyImageCompression == "01"
    assert (dataset.LossyImageCompressionRatio, dataset.LossyImageCompressionMethod) == (12, "ISO_10918_1")


def test_lossy_encoding_of_one_later_slice_is_declared(tmp_path, series, label_map):
    series.headers[3].file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    lean = [series.headers[0], *map(plane_header, series.headers[1:])]
    dataset = pydicom.dcmread(*write(series, label_map, tmp_path / "out", headers=lean))
    assert dataset.LossyImageCompression == "01"


def unconvertible(_):
    raise NotImplementedError


@pytest.mark.parametrize("defect", ["too few bytes", "not implemented"])
def test_a_header_that_cannot_be_referred_to_is_one_line(tmp_path, monkeypatch, defect):
    path = save(make_slice(StudyID="abcd"), tmp_path / "in" / "a")
    if defect == "too few bytes":
        path.write_bytes(path.read_bytes().replace(b"\x20\0\x10\0SH", b"\x20\0\x10\0FD"))
    else:
        monkeypatch.setattr(segmentation, "_algorithm", unconvertible)
    series = read_only_series(tmp_path / "in")
    label_map = np.full(series.hu.shape, LIVER.value, np.uint8)
    with pytest.raises(SeriesError, match="UNREADABLE: a: its header cannot be copied"):
        write(series, label_map, tmp_path / "out", labels=(LIVER,))


def test_empty_label_map_is_refused(tmp_path, series, label_map):
    with pytest.raises(DataError, match="no voxel carries any of the 2 labels"):
        write(series, label_map * 0, tmp_path / "out", whole_body=BODY)
    assert list((tmp_path / "out").iterdir()) == []


def test_caller_mistakes_are_value_errors(tmp_path, series, label_map):
    with pytest.raises(ValueError, match="shape"):
        write(series, label_map[1:], tmp_path / "out")
    with pytest.raises(ValueError, match="3 headers, 4 digests for 4 slices"):
        write(series, label_map, tmp_path / "out", headers=series.headers[1:])
    with pytest.raises(ValueError, match="distinct"):
        write(series, label_map, tmp_path / "out", labels=(LIVER, LIVER))


@pytest.mark.slow
def test_memory_is_a_fraction_of_the_masks_of_all_segments(tmp_path):
    """1000 slices of 512 x 512 with 8 organs and the body: their masks would be 2.3 GB."""
    command = [sys.executable, "-c", WRITE_LONG_SEGMENTATION, str(tmp_path)]
    peak_mib = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["body.dcm", "segmentation.dcm"]
    assert peak_mib < 1200


WRITE_LONG_SEGMENTATION = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from tests.memory import peak_mib
from tests import test_dicom_segmentation as cases

label_map = np.zeros((1000, 512, 512), np.uint8)
label_map[:, 56:456, 100:400] = 1
for organ in range(2, 10):
    label_map[100 * (organ - 2) : 100 * organ, 50 * organ : 50 * organ + 40, 150:350] = organ
series = cases.headers_alone(1000, 512)
organs = [replace(cases.LIVER, name=f"organ {value}", value=value) for value in range(2, 10)]
cases.write(series, label_map, Path(sys.argv[1]), labels=organs, whole_body=cases.BODY)
print(peak_mib())
"""


def test_segmentation_is_conformant(tmp_path, series, label_map):
    for path in write(series, label_map, tmp_path / "out", whole_body=BODY):
        assert not conformance_errors(path)
