import logging
import math
import os
import resource
import socket
import struct
import subprocess
import tempfile
import zlib
from io import BytesIO
from pathlib import Path

import highdicom.spatial
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    SecondaryCaptureImageStorage,
)

from pipeline.dicom import Code, Task, Verdict, discover, discovery
from pipeline.dicom.headers import read_header
from pipeline.errors import DataError
from tests.dicom_factory import make_slice, save, save_stack
from tests.enhanced_factory import make_enhanced

COLUMN = [(-10.0, -20.0, z) for z in (0.0, 2.5, 5.0, 7.5, 10.0)]


LINKED = "a link to a folder, which is not followed; name its target as IN, or copy it"


def only_entry(folder):
    (entry,) = discover(folder).series
    return entry


def test_slices_are_sorted_along_the_normal_whatever_the_files_are_called(tmp_path):
    paths = save_stack(tmp_path / "deep" / "er", COLUMN)
    entry = only_entry(tmp_path)
    assert entry.files == paths
    assert entry.geometry.origin_mm == (-10, -20, 0)
    assert entry.geometry.spacing_mm == (2.5, 0.8, 0.7)
    assert entry.geometry.shape == (5, 24, 20)
    assert entry.finding(Task.INGEST) is None


@pytest.mark.parametrize(
    "orientation",
    [
        (1, 0, 0, 0, -1, 0),
        (-1, 0, 0, 0, -1, 0),
        (0, 1, 0, -1, 0, 0),
        (math.cos(0.3), math.sin(0.3), 0, -math.sin(0.3), math.cos(0.3), 0),
        (0, 1, 0, 0, 0, -1),
    ],
)
def test_order_and_spacing_agree_with_highdicom(tmp_path, orientation):
    normal = np.cross(orientation[:3], orientation[3:])
    positions = [tuple(np.round(step * 1.25 * normal, 4)) for step in (3, 0, 2, 1)]
    save_stack(tmp_path, positions, orientation=orientation)
    entry = only_entry(tmp_path)
    headers = [pydicom.dcmread(path) for path in entry.files]
    spacing_mm, order = highdicom.spatial.get_series_volume_positions(headers, index_convention="RD")
    assert order == [0, 1, 2, 3]
    assert entry.geometry.spacing_mm[0] == pytest.approx(spacing_mm)


def test_missing_slice_is_named_by_its_position(tmp_path):
    save_stack(tmp_path, [COLUMN[index] for index in (0, 1, 3, 4)])
    entry = only_entry(tmp_path)
    finding = entry.finding(Task.INGEST)
    assert (finding.code, finding.verdict) == (Code.MISSING_SLICE, Verdict.REFUSED)
    assert "1 of 5 slices missing" in finding.message
    assert "5.00 mm" in finding.message
    assert entry.geometry is None
    assert entry.finding(Task.DENOISE).verdict == Verdict.SLICEWISE


def test_gantry_tilt_is_found_from_positions_and_named_in_degrees(tmp_path):
    tilt = math.radians(14)
    save_stack(tmp_path, COLUMN, orientation=(1, 0, 0, 0, math.cos(tilt), -math.sin(tilt)))
    finding = only_entry(tmp_path).finding(Task.DENOISE)
    assert (finding.code, finding.verdict) == (Code.GANTRY_TILT, Verdict.SLICEWISE)
    assert "14.0 degrees" in finding.message


def test_uneven_steps_name_both_extremes(tmp_path):
    save_stack(tmp_path, [(0, 0, z) for z in (0.0, 1.0, 2.0, 3.4)])
    finding = only_entry(tmp_path).finding(Task.INGEST)
    assert finding.code == Code.SLICE_INCREMENT_INCONSISTENT
    assert "1.00 to 1.40 mm" in finding.message


def test_a_slice_shifted_sideways_breaks_the_grid(tmp_path):
    save_stack(tmp_path, [(0, 0, 0), (0, 0, 1), (3, 0, 2), (0, 0, 3)])
    assert only_entry(tmp_path).finding(Task.INGEST).code == Code.SLICE_INCREMENT_INCONSISTENT


def test_positions_rounded_to_two_decimals_are_still_a_grid(tmp_path):
    save_stack(tmp_path, [(0, 0, round(index / 3, 2)) for index in range(12)])
    assert only_entry(tmp_path).geometry.spacing_mm[0] == pytest.approx(1 / 3, abs=1e-3)


def test_one_slice_is_denoised_slicewise_but_is_no_volume(tmp_path):
    save_stack(tmp_path, COLUMN[:1])
    entry = only_entry(tmp_path)
    assert entry.finding(Task.DENOISE).verdict == Verdict.SLICEWISE
    assert entry.finding(Task.INGEST).code == Code.TOO_FEW_SLICES


def test_duplicate_positions_without_acquisition_numbers_are_refused(tmp_path):
    save_stack(tmp_path / "a", COLUMN)
    for number, position in enumerate(COLUMN):
        save(make_slice(position=position, instance=f"phase {number}"), tmp_path / "b" / str(number))
    finding = only_entry(tmp_path).finding(Task.DENOISE)
    assert (finding.code, finding.verdict) == (Code.DUPLICATE_POSITION, Verdict.REFUSED)
    assert "10 of 10 slices" in finding.message
    assert finding.message.endswith("keep one phase or copy per series")


@pytest.mark.parametrize(
    ("copied", "words"), [(5, "; these are copies of"), (3, "; 6 of these are copies of")]
)
def test_copies_of_the_same_images_are_told_from_phases(tmp_path, copied, words):
    save_stack(tmp_path / "a", COLUMN)
    for number, position in enumerate(COLUMN):
        instance = None if number < copied else f"phase {number}"
        save(make_slice(position=position, instance=instance), tmp_path / "b" / str(number))
    entry = only_entry(tmp_path)
    finding = entry.finding(Task.DENOISE)
    assert finding.code == Code.DUPLICATE_POSITION
    assert words in finding.message
    (repeated,) = (one for one in entry.observations if one.code == Code.DUPLICATE_UID)
    assert f"{2 * copied} of 10 slices" in repeated.message
    assert len(repeated.files) == 2 * copied


def test_slices_that_share_an_identifier_cannot_be_segmented(tmp_path):
    uid = make_slice().SOPInstanceUID
    save_stack(tmp_path, COLUMN, SOPInstanceUID=uid)
    entry = only_entry(tmp_path)
    assert entry.geometry is not None
    assert (entry.finding(Task.SEGMENT).code, entry.finding(Task.SEGMENT).verdict) == (
        Code.DUPLICATE_UID,
        Verdict.REFUSED,
    )
    assert [entry.finding(task) for task in (Task.DENOISE, Task.INGEST)] == [None, None]


def test_frames_of_one_file_do_not_share_their_identifier(tmp_path):
    frames = np.zeros((4, 24, 20), np.int16)
    save(make_enhanced(frames, COLUMN[:4], [(1, -1024)] * 4), tmp_path / "enhanced")
    assert Code.DUPLICATE_UID not in {one.code for one in only_entry(tmp_path).observations}
    (tmp_path / "copy").write_bytes((tmp_path / "enhanced").read_bytes())
    assert Code.DUPLICATE_UID in {one.code for one in only_entry(tmp_path).observations}


@pytest.mark.parametrize(
    "other",
    [
        {"PatientID": "SECRET-OTHER"},
        {"PatientID": None},
        {"StudyInstanceUID": "2.25.7"},
        {"StudyInstanceUID": None},
    ],
)
@pytest.mark.parametrize("heights", [COLUMN, [(-10.0, -20.0, 12.5 + z) for z in (0.0, 2.5, 5.0)]])
def test_patients_and_studies_under_one_series_uid_are_kept_apart(tmp_path, other, heights):
    ours = save_stack(tmp_path / "a", COLUMN)
    theirs = save_stack(tmp_path / "b", heights, instance=None, **other)
    entries = discover(tmp_path).series
    assert {entry.files for entry in entries} == {ours, theirs}
    assert {entry.series_uid for entry in entries} == {entries[0].series_uid}
    assert all(entry.finding(Task.INGEST) is None for entry in entries)
    assert len({(entry.study_uid, entry.part) for entry in entries}) == 2


def test_phases_are_told_apart_by_acquisition_number(tmp_path):
    save_stack(tmp_path / "a", COLUMN, AcquisitionNumber=1)
    save_stack(tmp_path / "b", COLUMN, AcquisitionNumber=2)
    entries = discover(tmp_path).series
    assert [entry.part for entry in entries] == [0, 1]
    assert all(entry.finding(Task.INGEST) is None for entry in entries)


def test_a_localizer_within_the_series_is_split_off(tmp_path):
    save_stack(tmp_path, COLUMN)
    scout = make_slice(
        instance="scout", orientation=(0, 1, 0, 0, 0, -1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    save(scout, tmp_path / "000")
    scan, localizer = discover(tmp_path).series
    assert scan.finding(Task.INGEST) is None
    assert localizer.finding(Task.DENOISE).code == Code.LOCALIZER
    assert localizer.finding(Task.DENOISE).verdict == Verdict.SKIPPED


def test_another_matrix_in_the_series_is_a_stack_of_its_own(tmp_path):
    save_stack(tmp_path / "a", COLUMN)
    save_stack(tmp_path / "b", COLUMN, stored=np.zeros((16, 16), np.int16))
    assert [entry.rows for entry in discover(tmp_path).series] == [24, 16]


def test_radial_slices_have_no_common_orientation(tmp_path):
    for degrees in (0, 10, 20):
        turn = math.radians(degrees)
        orientation = (math.cos(turn), math.sin(turn), 0, 0, 0, -1)
        save(make_slice(instance=str(degrees), orientation=orientation), tmp_path / str(degrees))
    assert only_entry(tmp_path).finding(Task.INGEST).code == Code.IMAGE_ORIENTATION_INCONSISTENT


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"Modality": "MR"}, Code.NOT_CT),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, Code.NOT_CT),
        ({"SOPClassUID": EnhancedCTImageStorage, "NumberOfFrames": 2}, Code.MULTI_FRAME),
        ({"RescaleSlope": None}, Code.NOT_HU),
        ({"RescaleSlope": 0}, Code.NOT_HU),
        ({"RescaleType": "US"}, Code.NOT_HU),
        ({"SamplesPerPixel": 3}, Code.NOT_HU),
        ({"SeriesInstanceUID": None}, Code.MISSING_UID),
        ({"PixelSpacing": None}, Code.NO_GEOMETRY),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, Code.NO_GEOMETRY),
        ({"Rows": 60000, "Columns": 60000}, Code.TOO_LARGE),
    ],
)
def test_each_defect_has_its_code(tmp_path, attributes, code):
    save_stack(tmp_path, COLUMN, **attributes)
    assert {entry.finding(Task.INGEST).code for entry in discover(tmp_path).series} == {code}


@pytest.mark.parametrize("name", ["HU", "Hounsfield Unit", "Houndsfield Unit"])
def test_spellings_of_hounsfield_units_are_understood(tmp_path, name):
    save_stack(tmp_path, COLUMN, RescaleType=name)
    assert only_entry(tmp_path).finding(Task.INGEST) is None


def test_bad_files_are_reported_and_do_not_stop_the_folder(tmp_path):
    save_stack(tmp_path, COLUMN)
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "README.txt").write_text("notes")
    (tmp_path / "photo.dcm").write_bytes(b"JFIF" * 50)
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "001").read_bytes()[:400])
    (tmp_path / "noise").write_bytes(bytes(128) + b"DICM" + bytes(range(256)))
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / ".hidden").write_bytes(b"anything")
    report = save(
        make_slice(SOPClassUID=BasicTextSRStorage, Modality="SR", Rows=None, Columns=None, PixelData=None),
        tmp_path / "sr",
    )
    found = discover(tmp_path)
    assert len(found.series) == 1
    codes = {finding.files[0].name: finding.code for finding in found.findings}
    assert codes.pop("noise") in (Code.UNREADABLE, Code.NOT_AN_IMAGE)
    assert codes == {
        "empty.dcm": Code.UNREADABLE,
        "README.txt": Code.NOT_DICOM,
        "photo.dcm": Code.UNREADABLE,
        "cut.dcm": Code.UNREADABLE,
        report.name: Code.NOT_AN_IMAGE,
    }


def test_a_folder_that_may_not_be_read_is_reported_and_not_passed_over(tmp_path, monkeypatch):
    save_stack(tmp_path, COLUMN)
    (tmp_path / "locked").mkdir()
    scan_folder = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan_folder(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = discover(tmp_path)
    assert len(found.series) == 1
    assert [(finding.code, finding.message) for finding in found.findings] == [
        (Code.UNREADABLE, "locked: the folder cannot be read (Permission denied); make it readable"),
    ]


def test_a_file_that_may_not_be_read_is_reported(tmp_path, monkeypatch):
    (path, *_) = save_stack(tmp_path, COLUMN)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    finding = read_header(path)
    assert (finding.code, finding.message) == (
        Code.UNREADABLE,
        "005: no permission to read it; make it readable",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_without_permission_everything_else_is_found(tmp_path):
    paths = save_stack(tmp_path, COLUMN)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    paths[0].chmod(0)
    found = discover(tmp_path)
    locked.chmod(0o700)
    assert len(found.series[0].files) == 4
    assert {finding.files for finding in found.findings} == {(locked,), (paths[0],)}


def test_unknown_transfer_syntax_is_refused_without_a_word_from_pydicom(tmp_path):
    path = save(make_slice(), tmp_path / "a")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.x\0", 1))
    assert only_entry(tmp_path).finding(Task.DENOISE).code == Code.UNSUPPORTED_TRANSFER_SYNTAX


def test_links_and_what_is_no_file_neither_hang_nor_lead_astray(tmp_path):
    scan = tmp_path / "in" / "scan"
    save_stack(scan, COLUMN)
    (scan / "loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (scan / "outside").symlink_to("/", target_is_directory=True)
    (scan / "self").symlink_to(scan / "self")
    (scan / "dangling.dcm").symlink_to(tmp_path / "gone")
    (scan / "006").symlink_to(save(make_slice(position=(-10.0, -20.0, 12.5)), tmp_path / "elsewhere"))
    os.mkfifo(scan / "pipe")
    (scan / "link to pipe").symlink_to(scan / "pipe")
    (scan / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(scan / "socket"))
        found = discover(tmp_path / "in")
    (entry,) = found.series
    assert [path.name for path in entry.files] == ["005", "004", "003", "002", "001", "006"]
    way_out = "a link to a file that is not there; bring that back or delete the link"
    assert [(finding.code, finding.message) for finding in found.findings] == [
        (Code.UNREADABLE, f"dangling.dcm: {way_out}"),
        (Code.LINKED_FOLDER, f"loop: {LINKED}"),
        (Code.LINKED_FOLDER, f"outside: {LINKED}"),
        (Code.UNREADABLE, f"self: {way_out}"),
    ]


def test_a_folder_of_links_to_folders_is_not_silently_empty(tmp_path):
    save_stack(tmp_path / "elsewhere", COLUMN)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scan").symlink_to(tmp_path / "elsewhere")
    found = discover(tmp_path / "in")
    assert found.series == ()
    (finding,) = found.findings
    assert (finding.verdict, finding.code, finding.files) == (
        Verdict.SKIPPED,
        Code.LINKED_FOLDER,
        (tmp_path / "in" / "scan",),
    )


@pytest.fixture
def deep_folder(monkeypatch):
    """Folders nested deeper than Python recurses, a slice in the last; pytest could not remove them."""
    top = Path(tempfile.mkdtemp())
    monkeypatch.chdir(top)
    for _ in range(1500):
        os.mkdir("d")  # noqa: PTH102  the whole path is longer than a call may name
        os.chdir("d")
    save(make_slice(), Path("a"))
    os.chdir(top)
    yield Path("d")
    subprocess.run(["rm", "-rf", top], check=True)


def test_folders_may_be_nested_deeper_than_the_interpreter_recurses(deep_folder):
    assert only_entry(deep_folder).rows == 24


def test_names_that_are_no_text_are_read(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"\xff\xfe")  # noqa: PTH118  bytes
    os.mkdir(folder)  # noqa: PTH102  bytes
    path = save(make_slice(), tmp_path / "a").rename(Path(os.fsdecode(os.path.join(folder, b"\xe9\n"))))  # noqa: PTH118
    assert only_entry(tmp_path).files == (path,)


def read_or_crash(path):
    if path.name == "culprit":
        os.abort()
    return read_header(path)


def read_all_or_crash(paths):
    return [read_or_crash(path) for path in paths]


@pytest.mark.parametrize("neighbours", [3, 40])
def test_a_file_that_crashes_its_parser_is_the_only_one_reported(tmp_path, monkeypatch, neighbours):
    save_stack(tmp_path, [(0, 0, z) for z in range(neighbours)])
    save(make_slice(instance="x"), tmp_path / "culprit")
    monkeypatch.setattr(discovery, "read_header", read_or_crash)
    monkeypatch.setattr(discovery, "_parse_all", read_all_or_crash)
    seen = []
    found = discover(tmp_path, on_file=seen.append)
    assert len(found.series[0].files) == neighbours
    (finding,) = found.findings
    assert (finding.code, finding.files) == (Code.UNREADABLE, (tmp_path / "culprit",))
    assert finding.message.startswith("culprit: the parser of its header crashed")
    assert finding.message.endswith("; copy the file again")
    assert seen == list(range(1, neighbours + 2))


def deflated_bomb(path, megabytes):
    """A deflated data set that unpacks to zeros in a private element before the image."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = BytesIO()
    write_file_meta_info(file, meta, enforce_standard=True)
    packer = zlib.compressobj(1, wbits=-15)
    start = packer.compress(struct.pack("<HH2sHL", 9, 0x1001, b"OB", 0, megabytes << 20))
    start += packer.flush(zlib.Z_FULL_FLUSH)
    megabyte = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(bytes(128) + b"DICM" + file.getvalue() + start + megabyte * megabytes + packer.flush())
    return path


@pytest.mark.slow
def test_a_deflated_header_bomb_is_bounded(tmp_path):
    save_stack(tmp_path, COLUMN)
    bomb = deflated_bomb(tmp_path / "bomb", 3000)
    assert bomb.stat().st_size < 20 * 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = discover(tmp_path)
    assert len(found.series[0].files) == 5
    (finding,) = found.findings
    assert (finding.code, finding.files) == (Code.UNREADABLE, (bomb,))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_deflated_header_that_is_no_bomb_is_read(tmp_path):
    dataset = make_slice()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "a", enforce_file_format=True)
    assert only_entry(tmp_path).rows == 24


def test_every_file_is_counted(tmp_path):
    save_stack(tmp_path, COLUMN)
    seen = []
    discover(tmp_path, on_file=seen.append)
    assert seen == [1, 2, 3, 4, 5]


def test_missing_folder_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        discover(tmp_path / "nowhere")


def test_nothing_of_the_patient_reaches_messages_warnings_or_logs(tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    dataset = make_slice(position=None, instance="x")
    dataset.add_new("PatientBirthDate", "LO", "SECRET-DATE")
    dataset.add_new("PatientAge", "LO", "SECRET-AGE")
    save(dataset, tmp_path / "a.dcm")
    entry = only_entry(tmp_path)
    shown = repr(entry.observations) + caplog.text + "".join(capfd.readouterr())
    assert "SECRET" not in shown
    assert entry.finding(Task.INGEST).code == Code.NO_GEOMETRY


def test_dicom_text_is_cleaned_before_it_is_shown(tmp_path):
    save_stack(tmp_path, COLUMN, ConvolutionKernel="B30f\n\x1b[31m<b>", BodyPartExamined="")
    entry = only_entry(tmp_path)
    assert entry.kernel == "B30f 31m b"
    assert entry.body_part is None


def test_a_header_of_garbage_behind_the_prefix_is_unreadable_not_skipped(tmp_path):
    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM" + b"\x08\x00\x05\x00UL\x04\x00garbage, not a header")
    (finding,) = discover(tmp_path).findings
    assert (finding.code, finding.verdict) == (Code.UNREADABLE, Verdict.FAILED)
