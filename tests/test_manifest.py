"""Manifests and splits: what is written is read back, and every bad line is named."""

import csv
import errno
import hashlib
from collections import Counter
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.manifest import (
    COLUMNS,
    ManifestCase,
    folder_sha256,
    holdout_roles,
    read_manifest,
    read_split,
    series_sha256,
    write_manifest,
    write_split,
)

HEADER = ",".join(COLUMNS)


def case(case_id: str = "c1", patient_id: str = "p1", **changes: object) -> ManifestCase:
    values = {"anatomy": "chest", "dose_fraction": 0.25, "noise": "shared", "normal_dose": f"{case_id}/nd"}
    return ManifestCase(case_id=case_id, patient_id=patient_id, **{**values, **changes})


def manifest_of(folder: Path, *lines: str) -> Path:
    (folder / "cases.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    return folder


def test_a_written_manifest_is_read_back_equal(tmp_path):
    cases = (
        case(low_dose="c1/ld", mask="c1/labels.nii", truth="c1/truth.nii", normal_dose_sha256="a" * 64),
        case("c2", "p2", dose_fraction=0.1, noise="independent"),
    )
    write_manifest(tmp_path / "new", cases)
    assert read_manifest(tmp_path / "new") == cases


def test_a_spreadsheet_byte_order_mark_and_blank_lines_are_no_trouble(tmp_path):
    text = f"{HEADER}\r\nc1, p1 ,chest,0.25,shared,nd,,,,,\r\n\r\n"
    (tmp_path / "cases.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_manifest(tmp_path) == (case(normal_dose="nd"),)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "c1,p1,chest,0.25,shared,/data/nd,,,,,",
            "normal_dose '/data/nd' must be a path below the data root",
        ),
        ("c1,p1,chest,0.25,shared,nd,a/../../ld,,,,", "low_dose 'a/../../ld' must be a path below"),
        ("c1,p1,chest,0.25,shared,nd,,C:/m.nii,,,", "mask 'C:/m.nii' must be a path below"),
        ("c1,p1,chest,0.25,shared,,,,,,", "normal_dose '' must be a path below"),
        ("a/b,p1,chest,0.25,shared,nd,,,,,", "case_id 'a/b' is no safe name"),
        ("..,p1,chest,0.25,shared,nd,,,,,", "case_id '..' is no safe name"),
        ("QC,p1,chest,0.25,shared,nd,,,,,", "case_id 'QC' is a name that ingest uses itself"),
        ("c1,,chest,0.25,shared,nd,,,,,", "patient_id '' is no safe name"),
        ("c1,../p1,chest,0.25,shared,nd,,,,,", "patient_id '../p1' is no safe name"),
        ("c1,p1,head/neck,0.25,shared,nd,,,,,", "anatomy 'head/neck' is no safe name"),
        ("c1,p1,,0.25,shared,nd,,,,,", "anatomy '' is no safe name"),
        ("c1,p1,chest,quarter,shared,nd,,,,,", "dose_fraction must be a number in (0, 1], got 'quarter'"),
        ("c1,p1,chest,25,shared,nd,,,,,", "dose_fraction must be in (0, 1], got 25.0"),
        ("c1,p1,chest,nan,shared,nd,,,,,", "dose_fraction must be in (0, 1], got nan"),
        ("c1,p1,chest,0.25,some,nd,,,,,", "noise must be one of independent, shared, got 'some'"),
        ("c1,p1,chest,0.25,shared,nd,,,,abc,", "normal_dose_sha256 must be 64 lower-case hexadecimal digits"),
        ("c1,p1,chest,0.25,shared,nd", "6 values for 11 columns"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path, line, complaint):
    manifest_of(tmp_path, "c0,p0,chest,0.25,shared,nd0,,,,,", line)
    with pytest.raises(DataError) as error:
        read_manifest(tmp_path)
    assert f"{tmp_path}/cases.csv: line 3: " in str(error.value)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_case_without_a_low_dose_needs_neither_dose_fraction_nor_kind_of_noise(tmp_path):
    (tmp_path / "cases.csv").write_text(f"{HEADER}\nc1,p1,chest,,,nd,,,,,\n")
    (case,) = read_manifest(tmp_path)
    assert (case.low_dose, case.dose_fraction, case.noise) == (None, 1.0, "shared")
    (tmp_path / "cases.csv").write_text(f"{HEADER}\nc1,p1,chest,,,nd,ld,,,,\n")
    with pytest.raises(DataError, match="dose_fraction must be a number"):
        read_manifest(tmp_path)


def test_an_empty_manifest_is_refused(tmp_path):
    with pytest.raises(DataError, match="no cases below the header"):
        read_manifest(manifest_of(tmp_path))
    (tmp_path / "cases.csv").write_text("")
    with pytest.raises(DataError, match="the file is empty; its first line must be case_id,"):
        read_manifest(tmp_path)


def test_a_missing_or_binary_manifest_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cases\.csv: no such manifest file"):
        read_manifest(tmp_path)
    (tmp_path / "cases.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_manifest(tmp_path)


def test_missing_and_unknown_columns_are_named(tmp_path):
    (tmp_path / "cases.csv").write_text(HEADER.replace("anatomy", "region") + "\n")
    with pytest.raises(DataError, match="missing column 'anatomy'; unknown column 'region'"):
        read_manifest(tmp_path)


def test_a_repeated_case_id_is_refused_even_in_other_capitals(tmp_path):
    manifest_of(tmp_path, "c1,p1,chest,0.25,shared,a,,,,,", "C1,p1,chest,0.25,shared,b,,,,,")
    with pytest.raises(DataError, match="case_id C1 appears twice"):
        read_manifest(tmp_path)
    with pytest.raises(ValueError, match="appears twice"):
        write_manifest(tmp_path, [case(), case()])


def test_a_split_is_read_back_in_the_order_of_the_cases(tmp_path):
    cases = [case("c1", "p1"), case("c2", "p2"), case("c3", "p1")]
    write_split(tmp_path, "holdout", {"c3": "train", "c2": "test", "c1": "train"})
    assert list(read_split(tmp_path, "holdout", cases).items()) == [
        ("c1", "train"),
        ("c2", "test"),
        ("c3", "train"),
    ]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["c1,train", "c2,test", "c3,test"], "patient p1 is in train (case c1) and test (case c3)"),
        (["c1,train", "c2,test"], "no role for case c3"),
        (["c1,train", "c2,test", "c3,train", "c4,test"], "case c4 not in cases.csv"),
        (
            ["c1,train", "c2,tset", "c3,train"],
            "line 3: role must be one of train, validation, test, got 'tset'",
        ),
        (["c1,train", "c1,train", "c2,test", "c3,train"], "line 3: case c1 appears twice"),
    ],
)
def test_a_bad_split_is_named(tmp_path, lines, complaint):
    cases = [case("c1", "p1"), case("c2", "p2"), case("c3", "p1")]
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "bad.csv").write_text("\n".join(["case_id,role", *lines]))
    with pytest.raises(DataError) as error:
        read_split(tmp_path, "bad", cases)
    assert complaint in str(error.value)
    assert "bad.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_split_lists_the_splits_there_are(tmp_path):
    write_split(tmp_path, "fold1", {"c1": "train"})
    with pytest.raises(DataError, match=r"holdout\.csv: no such split; splits of this manifest: fold1"):
        read_split(tmp_path, "holdout", [case()])
    with pytest.raises(DataError, match="no safe file name"):
        read_split(tmp_path, "../../etc", [case()])
    with pytest.raises(ValueError, match="got 'training'"):
        write_split(tmp_path, "fold2", {"c1": "training"})


def test_folder_digest_is_the_stated_formula(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"one")
    lines = f"a\0{hashlib.sha256(b'one').hexdigest()}\nb/2\0{hashlib.sha256(b'two').hexdigest()}\n"
    assert folder_sha256(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()


def test_the_digest_of_a_series_is_that_of_its_folder_or_of_its_file(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"one")
    assert series_sha256(tmp_path) == folder_sha256(tmp_path)
    assert series_sha256(tmp_path / "a.dcm") == hashlib.sha256(b"one").hexdigest()
    with pytest.raises(DataError, match=r"b\.dcm: no such folder"):
        series_sha256(tmp_path / "b.dcm")


def test_a_disk_that_fills_up_leaves_no_part_of_a_manifest(tmp_path, monkeypatch):
    def fill_up(writer, rows):
        raise OSError(errno.ENOSPC, "no space left on device")

    write_manifest(tmp_path, [case("a", "a")])
    before = (tmp_path / "cases.csv").read_bytes()
    monkeypatch.setattr(csv.DictWriter, "writerows", fill_up)
    with pytest.raises(OSError, match="no space"):
        write_manifest(tmp_path, [case("b", "b")])
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("cases.csv", before)]


def test_folder_digest_sees_a_renamed_file_but_no_folder_name_or_hidden_file(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.dcm").write_bytes(b"slice")
    (tmp_path / "y" / ".DS_Store").write_bytes(b"junk")
    before = folder_sha256(tmp_path / "x")
    assert folder_sha256(tmp_path / "y") == before
    (tmp_path / "x" / "1.dcm").rename(tmp_path / "x" / "2.dcm")
    assert folder_sha256(tmp_path / "x") != before


def test_folder_digest_refuses_missing_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        folder_sha256(tmp_path / "gone")
    with pytest.raises(DataError, match="holds no files"):
        folder_sha256(tmp_path)


def patients(count: int, anatomy: str = "chest") -> list[ManifestCase]:
    """Two cases of each patient."""
    return [
        case(f"{anatomy}{number}-{dose}", f"{anatomy}{number}", anatomy=anatomy)
        for number in range(count)
        for dose in (10, 25)
    ]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, {"train": 1}),
        (2, {"train": 1, "validation": 1}),
        (3, {"train": 1, "validation": 1, "test": 1}),
        (20, {"train": 14, "validation": 3, "test": 3}),
    ],
)
def test_a_holdout_gives_every_role_its_share_of_the_patients(count, expected):
    roles = holdout_roles(patients(count), seed=0)
    assert Counter(roles.values()) == {role: 2 * number for role, number in expected.items()}


def test_a_holdout_is_stratified_by_anatomy_and_keeps_patients_whole(tmp_path):
    cases = [*patients(10, "chest"), *patients(10, "head"), *patients(20, "abdomen")]
    roles = holdout_roles(cases, seed=0)
    trained = Counter(case.anatomy for case in cases if roles[case.case_id] == "train")
    assert trained == {"chest": 14, "head": 14, "abdomen": 28}
    write_manifest(tmp_path, cases)
    write_split(tmp_path, "holdout", roles)
    assert read_split(tmp_path, "holdout", cases) == roles


def test_a_holdout_depends_on_the_seed_and_not_on_the_order_of_the_cases():
    cases = patients(12)
    assert holdout_roles(cases[::-1], seed=1) == holdout_roles(cases, seed=1)
    assert holdout_roles(cases, seed=1) != holdout_roles(cases, seed=2)
