"""`ldct inspect`: what it tells of a folder, how it ends, and what it never shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import BasicTextSRStorage

from pipeline.cli import main
from pipeline.errors import DataError
from pipeline.stages import inspect
from tests.dicom_factory import make_slice, save, save_stack
from tests.enhanced_factory import make_enhanced
from tests.tiny_bundles import write_bundles

COLUMN = [(0.0, 0.0, z) for z in (0.0, 2.5, 5.0, 7.5)]
SERIES_KEYS = [
    "number",
    "folder",
    "part",
    "modality",
    "body_part",
    "manufacturer",
    "kernel",
    "transfer_syntax",
    "multi_frame",
    "files",
    "slices",
    "rows",
    "columns",
    "pixel_spacing_mm",
    "slice_spacing_mm",
    "no_grid",
    "slice_thickness_mm",
    "kvp",
    "exposure_mas",
    "tasks",
    "defects",
]
DEFECT_KEYS = ["code", "verdicts", "message", "file_count", "files"]


@pytest.fixture(autouse=True)
def _wide_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def inspected(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = inspect.run(folder, as_json=True)
    printed = capsys.readouterr()
    assert printed.err == ""
    document: dict[str, Any] = json.loads(printed.out)
    assert document["exit_code"] == code
    return document


def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    inspect.run(folder)
    return capsys.readouterr().out


def denoising(document: dict[str, Any]) -> list[tuple[str, str | None]]:
    tasks = [series["tasks"]["denoise"] for series in document["series"]]
    return [(task["verdict"], task["code"]) for task in tasks]


def test_json_has_these_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_stack(tmp_path / "study" / "scan", COLUMN[:1])
    (tmp_path / "notes.txt").write_text("notes")
    document = inspected(tmp_path, capsys)
    assert list(document) == ["format", "exit_code", "files", "series", "other_files"]
    assert (document["format"], document["files"]) == (1, 2)
    (series,), (other,) = document["series"], document["other_files"]
    assert list(series) == SERIES_KEYS
    assert list(series["tasks"]) == ["denoise", "segment", "ingest", "simulate"]
    assert list(other) == list(series["defects"][0]) == DEFECT_KEYS
    assert (other["code"], other["file_count"], other["files"]) == ("NOT_DICOM", 1, ["notes.txt"])


def test_a_series_is_told_by_its_geometry_dose_and_scanner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = {"BodyPartExamined": "CHEST", "Manufacturer": "SIEMENS", "ConvolutionKernel": "B30f", "KVP": 120}
    for position, mas in zip(COLUMN, (80, 100, 120, None), strict=True):
        dataset = make_slice(position=position, PixelSpacing=[0.7, 0.7], **tags)
        if mas is not None:
            dataset.Exposure = mas
        save(dataset, tmp_path / "a" / f"{position[2]}")
    (series,) = inspected(tmp_path, capsys)["series"]
    expected = {
        "number": 1,
        "folder": "a",
        "part": 0,
        "modality": "CT",
        "body_part": "CHEST",
        "manufacturer": "SIEMENS",
        "kernel": "B30f",
        "transfer_syntax": "Explicit VR Little Endian",
        "multi_frame": False,
        "files": 4,
        "slices": 4,
        "rows": 24,
        "columns": 20,
        "pixel_spacing_mm": [0.7, 0.7],
        "slice_spacing_mm": 2.5,
        "no_grid": None,
        "slice_thickness_mm": 2.0,
        "kvp": 120.0,
        "exposure_mas": {"mean": 100.0, "least": 80.0, "most": 120.0, "slices": 3},
        "tasks": {
            task: {"verdict": "done", "code": None} for task in ("denoise", "segment", "ingest", "simulate")
        },
        "defects": [],
    }
    assert series == expected
    table = shown(tmp_path, capsys)
    for words in (
        "4 x 24 x 20",
        "2.5 x 0.7 x 0.7 mm",
        "2 mm thick",
        "regular grid",
        "120 kVp",
        "100 mAs",
        "80 to 120",
        "SIEMENS, kernel B30f",
        "CT CHEST",
    ):
        assert words in table


def test_each_task_has_its_verdict_and_the_code_that_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_stack(tmp_path, [COLUMN[0], COLUMN[1], COLUMN[3]])
    (series,) = inspected(tmp_path, capsys)["series"]
    assert {task: (told["verdict"], told["code"]) for task, told in series["tasks"].items()} == {
        "denoise": ("slicewise", "MISSING_SLICE"),
        "segment": ("slicewise", "MISSING_SLICE"),
        "ingest": ("refused", "MISSING_SLICE"),
        "simulate": ("refused", "NON_SQUARE_PIXELS"),
    }
    assert (series["slice_spacing_mm"], series["no_grid"]) == (None, "MISSING_SLICE")
    assert [defect["code"] for defect in series["defects"]] == ["MISSING_SLICE", "NON_SQUARE_PIXELS"]
    assert "1 of 4 slices missing" in series["defects"][0]["message"]
    table = shown(tmp_path, capsys)
    assert "no grid: MISSING_SLICE" in table
    assert "series 1  MISSING_SLICE  1 of 4 slices missing" in table


def test_no_more_than_three_files_of_a_defect_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_stack(tmp_path / "scan", COLUMN, RescaleSlope=None)
    (series,) = inspected(tmp_path, capsys)["series"]
    (defect,) = (one for one in series["defects"] if one["code"] == "NOT_HU")
    assert defect["file_count"] == 4
    assert defect["files"] == ["scan/001", "scan/002", "scan/003"]
    assert "files: scan/001, scan/002, scan/003 and 1 more" in shown(tmp_path, capsys)


def test_series_with_the_same_defect_share_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcde":
        save_stack(tmp_path / name, COLUMN[:1], series=name, PixelSpacing=[0.7, 0.7])
    lines = [line for line in shown(tmp_path, capsys).splitlines() if line.startswith("series ")]
    assert len(lines) == 1
    assert lines[0].startswith("series 1, 2, 3 and 2 more  TOO_FEW_SLICES  1 slice, and")
    assert lines[0].endswith("files: a/001, b/001, c/001 and 2 more")


def test_a_series_in_several_folders_is_named_by_the_one_that_holds_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_stack(tmp_path / "study" / "disc1", COLUMN[:2])
    save_stack(tmp_path / "study" / "disc2", COLUMN[2:])
    (series,) = inspected(tmp_path, capsys)["series"]
    assert (series["folder"], series["slices"], series["slice_spacing_mm"]) == ("study", 4, 2.5)


def test_stacks_of_one_series_are_rows_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_stack(tmp_path / "a", COLUMN)
    save_stack(tmp_path / "b", COLUMN[:2], stored=np.zeros((16, 16), np.int16))
    rows = inspected(tmp_path, capsys)["series"]
    assert [(row["number"], row["part"], row["folder"]) for row in rows] == [(1, 0, "a"), (2, 1, "b")]
    assert "b (part 1)" in shown(tmp_path, capsys)


def test_stray_files_are_counted_by_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_stack(tmp_path / "scan", COLUMN)
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("notes")
    (tmp_path / "empty.dcm").touch()
    save(
        make_slice(SOPClassUID=BasicTextSRStorage, Modality="SR", Rows=None, Columns=None, PixelData=None),
        tmp_path / "report",
    )
    others = {one["code"]: one for one in inspected(tmp_path, capsys)["other_files"]}
    assert {code: one["file_count"] for code, one in others.items()} == {
        "NOT_AN_IMAGE": 1,
        "NOT_DICOM": 5,
        "UNREADABLE": 1,
    }
    assert others["NOT_DICOM"]["files"] == ["0.txt", "1.txt", "2.txt"]
    table = shown(tmp_path, capsys)
    assert "skipped  NOT_DICOM  files: 0.txt, 1.txt, 2.txt and 2 more\n" in table
    assert "failed  UNREADABLE  files: empty.dcm; empty.dcm: 0 bytes; copy the file again\n" in table
    assert table.endswith("inspect: 11 files, 7 of them no image; 1 series, to denoise: 1 done\n")


REFUSED = {"RescaleSlope": None}
LOCALIZER = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}


@pytest.mark.parametrize(
    ("series", "stray", "code"),
    [
        ([{}], None, 0),
        ([{}], "notes.txt", 0),
        ([{}, {"Modality": "MR"}, LOCALIZER], None, 0),
        ([{"PixelSpacing": None}], None, 0),  # slicewise
        ([{}], "empty.dcm", 3),
        ([{}, REFUSED], None, 3),
        ([REFUSED], None, 1),
        ([REFUSED, REFUSED], "notes.txt", 1),
        ([{"Modality": "MR"}], None, 1),
        ([{"Modality": "MR"}], "empty.dcm", 1),
        ([LOCALIZER], None, 1),
        ([], "notes.txt", 1),
        ([], "empty.dcm", 1),
        ([], None, 1),
    ],
)
def test_the_exit_code_foretells_that_of_predict(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    series: list[dict[str, Any]],
    stray: str | None,
    code: int,
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    folder = tmp_path / "in"
    folder.mkdir()
    stored = np.zeros((32, 32), np.int16)
    for number, attributes in enumerate(series):
        save_stack(folder / str(number), COLUMN, stored=stored, series=str(number), **attributes)
    if stray is not None:
        (folder / stray).write_text("notes" if stray == "notes.txt" else "")
    assert inspect.run(folder) == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert ("no CT here" in last or "predict would do nothing here" in last) == (code == 1)
    denoiser, _ = write_bundles(tmp_path / "weights")
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(folder), str(tmp_path / "out"), "--denoiser", str(denoiser)])
    assert ended.value.code == code


def test_an_empty_folder_has_no_ct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspected(tmp_path, capsys) == {
        "format": 1,
        "exit_code": 1,
        "files": 0,
        "series": [],
        "other_files": [],
    }


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        inspect.run(tmp_path / "nowhere")
    (tmp_path / "scan.dcm").touch()
    with pytest.raises(DataError, match=r"scan\.dcm: a file; name the folder"):
        inspect.run(tmp_path / "scan.dcm")


@pytest.mark.parametrize(
    ("arguments", "code"), [(["FOLDER", "--json"], 0), ([], 2), (["FOLDER", "--xml"], 2)]
)
def test_the_command_ends_with_the_code_of_the_stage(
    tmp_path: Path, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    save_stack(tmp_path, COLUMN)
    given = [str(tmp_path) if word == "FOLDER" else word for word in arguments]
    with pytest.raises(SystemExit) as ended:
        main(["inspect", *given])
    assert ended.value.code == code


def test_identity_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted = {
        "PatientName": "SECRET^NAME",
        "PatientID": "SECRET-ID",
        "AccessionNumber": "SECRET-NUMBER",
        "InstitutionName": "SECRET CLINIC",
        "SeriesDescription": "SECRET SERIES",
        "StudyDescription": "SECRET STUDY",
        "OperatorsName": "SECRET^OPERATOR",
    }
    save_stack(tmp_path / "whole", COLUMN, series="a", **planted)
    save_stack(tmp_path / "gap", [COLUMN[0], COLUMN[1], COLUMN[3]], series="b", **planted)
    save_stack(tmp_path / "mr", COLUMN, series="c", Modality="MR", **planted)
    odd = make_slice(series="d", **planted)
    odd.add_new("PatientAge", "LO", "SECRET-AGE")
    odd.add_new("KVP", "LO", "SECRET-KVP")
    path = save(odd, tmp_path / "odd" / "1")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"SECRET-SYNTAX-UID.\0\0", 1))
    shown_as_json = json.dumps(inspected(tmp_path, capsys))
    table = shown(tmp_path, capsys)
    for text in (shown_as_json, table):
        assert "SECRET" not in text
        assert "2.25." not in text  # UIDs of the series
    assert '"transfer_syntax": "unknown"' in shown_as_json


def test_a_text_that_repeats_an_identity_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = {
        "PatientName": "DOE^JANE",
        "PatientID": "4711-AB",
        "InstitutionName": "Elsewhere Clinic",
        "Manufacturer": "Scanner of ELSEWHERE",
        "ConvolutionKernel": ["B30f", "jane"],
        "BodyPartExamined": "4711 AB",
    }
    save_stack(tmp_path / "ct", COLUMN, series="a", **typed)
    save_stack(tmp_path / "other", COLUMN, series="b", Modality="DOE", PatientName="DOE^JANE")
    ct, other = inspected(tmp_path, capsys)["series"]
    assert (ct["manufacturer"], ct["kernel"], ct["body_part"], ct["modality"]) == (None, None, None, "CT")
    assert other["modality"] == "unknown"
    table = shown(tmp_path, capsys).lower()
    assert not any(word in table for word in ("doe", "jane", "4711", "elsewhere"))


def test_frames_of_an_enhanced_image_are_the_slices_of_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = np.zeros((4, 24, 20), np.int16)
    save(make_enhanced(stored, COLUMN, [(1, -1024)] * 4), tmp_path / "enhanced")
    (series,) = inspected(tmp_path, capsys)["series"]
    assert (series["multi_frame"], series["files"], series["slices"]) == (True, 1, 4)
    assert series["slice_spacing_mm"] == 2.5
    tasks = {task: (told["verdict"], told["code"]) for task, told in series["tasks"].items()}
    assert tasks["denoise"] == ("done", None)
    assert tasks["segment"] == tasks["ingest"] == tasks["simulate"] == ("refused", "ENHANCED")
    (defect,) = (one for one in series["defects"] if one["code"] == "ENHANCED")
    assert (defect["file_count"], defect["files"]) == (1, ["enhanced"])
    table = shown(tmp_path, capsys)
    assert "4 x 24 x 20" in table
    assert "frames of 1 file" in table


@pytest.mark.parametrize("columns", ["20", "40", "60", "80", "120"])
def test_no_terminal_is_too_narrow_for_a_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    positions = [(0.0, 0.0, z) for z in (0.0, 2.5, 6.1)]
    save_stack(tmp_path / ("a-very-long-name-of-a-folder" * 3), positions)
    lines = shown(tmp_path, capsys).splitlines()
    above = [line for line in lines if not line.startswith(("series 1  ", "inspect:"))]
    assert all(len(line) <= int(columns) for line in above)
    words = "".join("".join(above).split())
    assert all(word in words for word in ("slicewise", "refused", "SLICE_INCREMENT_INCONSISTENT"))


def test_a_long_code_is_not_broken_in_a_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    save_stack(tmp_path, [(0.0, 0.0, z) for z in (0.0, 2.5, 6.1)])
    assert "slicewise SLICE_INCREMENT_INCONSISTENT" in shown(tmp_path, capsys)


def test_absurd_numbers_are_still_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for position in COLUMN:
        dataset = make_slice(position=position, KVP="1e308", SliceThickness="-1e308")
        dataset.add_new("Exposure", "DS", "1e308")
        save(dataset, tmp_path / str(position[2]))
    (series,) = inspected(tmp_path, capsys)["series"]
    assert series["exposure_mas"]["mean"] == pytest.approx(1e308)
    assert "1e+308 mAs" in shown(tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_reader_that_stops_early_sees_no_error(tmp_path: Path, arguments: list[str]) -> None:
    for name in range(100):
        save_stack(tmp_path / str(name), COLUMN[:1], series=str(name))
    command = [sys.executable, "-m", "pipeline", "inspect", str(tmp_path), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(10)
        running.stdout.close()
        assert running.stderr.read() == b""


@pytest.mark.slow
def test_three_thousand_files_take_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in range(3):
        (first,) = save_stack(tmp_path / str(name), COLUMN[:1], series=str(name))
        for copy in range(1000):
            first.with_name(f"copy{copy}").write_bytes(first.read_bytes())
    started = time.monotonic()
    document = inspected(tmp_path, capsys)
    assert time.monotonic() - started < 60
    assert [row["tasks"]["denoise"]["code"] for row in document["series"]] == ["DUPLICATE_POSITION"] * 3


def test_names_that_do_not_print_are_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / os.fsdecode(b"red\x1b[31m\xff[bold]")
    save_stack(folder, COLUMN)
    (folder / os.fsdecode(b"\xfe.dcm")).touch()
    name = "red\\x1b[31m\\udcff[bold]"
    document = inspected(tmp_path, capsys)
    assert document["series"][0]["folder"] == name
    assert document["other_files"][0]["files"] == [f"{name}/\\udcfe.dcm"]
    table = shown(tmp_path, capsys)
    assert name in table
    assert "\x1b" not in table


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "code", "verdicts", "others"),
    [
        ("d2n_gantrytilting", 0, [("slicewise", "GANTRY_TILT")], {}),
        ("derived_missing_slice", 0, [("slicewise", "MISSING_SLICE")], {}),
        ("not_an_image", 1, [("skipped", "NOT_CT")] * 3, {"NOT_AN_IMAGE": 5}),
        ("odd_headers", 3, [("slicewise", "TOO_FEW_SLICES")] * 4, {"UNREADABLE": 3}),
        ("other_modality", 1, [("skipped", "NOT_CT")], {}),
        ("transfer_syntaxes_same_slice", 1, [("refused", "DUPLICATE_POSITION")], {}),
    ],
)
def test_nasty_folders_get_their_verdicts(
    real_data: Path,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    code: int,
    verdicts: list[tuple[str, str]],
    others: dict[str, int],
) -> None:
    document = inspected(real_data / "nasty" / folder, capsys)
    assert document["exit_code"] == code
    assert denoising(document) == verdicts
    assert {one["code"]: one["file_count"] for one in document["other_files"]} == others


@pytest.mark.real
def test_every_real_scan_can_be_denoised(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = inspected(real_data / "ct", capsys)
    assert document["exit_code"] == 0
    repeats = [
        series["folder"]
        for series in document["series"]
        if series["tasks"]["segment"] == {"verdict": "refused", "code": "DUPLICATE_UID"}
    ]
    assert repeats == ["totalseg_dicom_j2k/ct"]
    whole = [series["folder"] for series in document["series"] if series["no_grid"] is None]
    assert whole == [
        "lidc_0314_chest_1mm",
        "lungdx_a0002_chest_8mm",
        "philips_head_phantom_kernel_pairs/UB_1mm",
        "philips_head_phantom_kernel_pairs/YA_1mm",
        "totalseg_dicom_j2k/ct",
    ]
