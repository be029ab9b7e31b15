import logging
import math
import os
from pathlib import Path

import highdicom.spatial
import numpy as np
import pydicom
import pytest
from pydicom.uid import BasicTextSRStorage, EnhancedCTImageStorage, SecondaryCaptureImageStorage

from pipeline.dicom import Code, Task, Verdict, discover
from pipeline.errors import DataError
from tests.dicom_factory import make_slice, save, save_stack

COLUMN = [(-10.0, -20.0, z) for z in (0.0, 2.5, 5.0, 7.5, 10.0)]


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
    save_stack(tmp_path / "a", COLUMN, instance=None)
    save_stack(tmp_path / "b", COLUMN)
    finding = only_entry(tmp_path).finding(Task.DENOISE)
    assert (finding.code, finding.verdict) == (Code.DUPLICATE_POSITION, Verdict.REFUSED)
    assert "10 of 10 slices" in finding.message


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


def test_what_may_not_be_read_is_reported_and_not_passed_over(tmp_path, monkeypatch):
    save_stack(tmp_path, COLUMN)
    (tmp_path / "locked").mkdir()
    open_file, scan_folder = Path.open, os.scandir

    def refuse_file(path, *arguments, **options):
        if path.name == "003":
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *arguments, **options)

    def refuse_folder(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan_folder(path)

    monkeypatch.setattr(Path, "open", refuse_file)
    monkeypatch.setattr(os, "scandir", refuse_folder)
    found = discover(tmp_path)
    assert [(finding.code, finding.message) for finding in found.findings] == [
        (Code.UNREADABLE, "003: no permission to read it; make it readable"),
        (Code.UNREADABLE, "locked: the folder cannot be read (Permission denied); make it readable"),
    ]


def test_unknown_transfer_syntax_is_refused_without_a_word_from_pydicom(tmp_path):
    path = save(make_slice(), tmp_path / "a")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.x\0", 1))
    assert only_entry(tmp_path).finding(Task.DENOISE).code == Code.UNSUPPORTED_TRANSFER_SYNTAX


def test_link_loops_are_not_followed(tmp_path):
    save_stack(tmp_path / "scan", COLUMN)
    (tmp_path / "scan" / "loop").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "scan" / "pipe")
    assert len(only_entry(tmp_path).files) == 5


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
