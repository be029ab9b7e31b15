"""`ldct inspect`: what it tells of a folder, how it ends, and what it never shows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import BasicTextSRStorage

from pipeline.cli import main
from pipeline.errors import DataError
from pipeline.stages import inspect
from tests.dicom_factory import make_slice, save, save_stack

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


@pytest.mark.parametrize(
    ("attributes", "stray", "code"),
    [
        ({}, None, 0),
        ({}, "notes.txt", 0),
        ({"PixelSpacing": None}, None, 0),  # slicewise
        ({}, "empty.dcm", 3),
        ({"RescaleSlope": None}, None, 3),
        ({"Modality": "MR"}, None, 1),
        ({"Modality": "MR"}, "empty.dcm", 1),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, None, 1),
    ],
)
def test_exit_code_says_whether_every_ct_series_can_be_denoised(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    attributes: dict[str, Any],
    stray: str | None,
    code: int,
) -> None:
    save_stack(tmp_path, COLUMN, **attributes)
    if stray:
        (tmp_path / stray).touch()
        if stray.endswith(".txt"):
            (tmp_path / stray).write_text("notes")
    assert inspect.run(tmp_path) == code
    assert ("no CT here" in capsys.readouterr().out) == (code == 1)


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
        ("transfer_syntaxes_same_slice", 3, [("refused", "DUPLICATE_POSITION")], {}),
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
    whole = [series["folder"] for series in document["series"] if series["no_grid"] is None]
    assert whole == [
        "lidc_0314_chest_1mm",
        "lungdx_a0002_chest_8mm",
        "philips_head_phantom_kernel_pairs/UB_1mm",
        "philips_head_phantom_kernel_pairs/YA_1mm",
        "totalseg_dicom_j2k/ct",
    ]
