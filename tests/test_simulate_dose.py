"""`ldct simulate dose`: partners, their manifest, and how every bad option and series ends."""

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.dicom import DerivedSeriesWriter, Geometry, discover, read_series, write_ct_series
from pipeline.errors import ConfigError, DataError
from pipeline.inference import partners, read_back
from pipeline.manifest import folder_sha256, read_manifest, read_split
from pipeline.stages import dose

SHAPE = (5, 96, 96)
PIXEL_MM = 1.5
NOISE_HU = 10.0


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project of its own, and one clock: the same input gives the same bytes."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("LDCT_TRACKING", "off")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")


def write_scan(folder, name="a", *, slices=SHAPE[0], patient="DOE^JANE", change=None):
    """A water cylinder with white noise, corners of the matrix at -2000; `change` edits each dataset."""
    rng = np.random.default_rng(len(name))
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]] - (SHAPE[1] - 1) / 2
    radius = np.hypot(rows, columns)
    hu = np.where(radius < 40, 0.0, -1000.0) + rng.normal(0, NOISE_HU, (slices, *SHAPE[1:]))
    hu = np.where(radius < 48, hu.clip(-1024), -2000.0)
    files = write_ct_series(
        hu.astype(np.float32),
        Geometry((0, 0, 0), (1, 0, 0), (0, 1, 0), (2.0, PIXEL_MM, PIXEL_MM), hu.shape),
        folder,
        patient_id=patient,
        study_uid=f"1.2.3.{ord(name[0])}",
        series_uid=f"1.2.3.{ord(name[0])}.1",
        frame_of_reference_uid="1.2.4",
        uid_seed=name,
        series_number=1,
        series_description="test",
        study_datetime=datetime(2020, 1, 1),
        body_part="ABDOMEN",
        kernel="B30f",
        kvp=120.0,
        tube_current_ma=100.0,
        exposure_mas=100.0,
        slice_thickness_mm=2.0,
        comment="",
    )
    for path in files:
        dataset = pydicom.dcmread(path)
        if change is not None:
            change(dataset)
        dataset.save_as(path)
    return files


def simulate(tmp_path, target="out", **options):
    options = {"doses": [0.25], "flux": "2e5", "kernel": "hann", **options}
    return dose.run(tmp_path / "in", tmp_path / target, **options)


def records(target):
    return [json.loads(path.read_text()) for path in sorted(target.glob("*/*/series.json"))]


def contents(target):
    return {
        path.relative_to(target).as_posix(): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and path.name != "series.json" and path.name != "journal.jsonl"
    }


def test_a_series_gets_partners_a_manifest_and_a_record(tmp_path, capsys):
    files = write_scan(tmp_path / "in")
    assert simulate(tmp_path, doses=[0.25, 0.1]) == 0
    (record,) = records(tmp_path / "out")
    folder = tmp_path / "out" / record["study"] / record["series"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "dose_0.1",
        "dose_0.25",
        "normal_dose",
        "preview.png",
        "series.json",
    ]
    normal_dose = read_series(discover(folder / "normal_dose").series[0])
    links = sorted((folder / "normal_dose").iterdir())
    assert [path.stat().st_ino for path in links] == [path.stat().st_ino for path in files]
    for name in ("dose_0.25", "dose_0.1"):
        low_dose = read_series(discover(folder / name).series[0])
        assert "SIMULATED" in low_dose.headers[0].SeriesDescription
        assert np.array_equal(low_dose.padding, normal_dose.padding)
        assert record["noise_sd_hu"][name] > record["noise_sd_hu"]["before"]
    cases = read_manifest(tmp_path / "out" / "manifest")
    assert [case.case_id for case in cases] == [f"{record['series']}-d25", f"{record['series']}-d10"]
    assert [(case.dose_fraction, case.noise, case.anatomy) for case in cases] == [
        (0.25, "shared", "abdomen"),
        (0.1, "shared", "abdomen"),
    ]
    assert cases[0].low_dose_sha256 == folder_sha256(tmp_path / "out" / cases[0].low_dose)
    assert set(read_split(tmp_path / "out" / "manifest", "holdout", cases).values()) == {"train"}
    line, total = capsys.readouterr().out.splitlines()
    assert line.startswith(f"done      {record['series']}  files: 5  SD ")
    assert "at 25 %" in line
    assert total == "simulate dose: 1 done"


def test_the_image_s_own_noise_gives_photons_and_the_noise_foretold(tmp_path):
    write_scan(tmp_path / "in")
    simulate(tmp_path, flux="image", kernel="image")
    (record,) = records(tmp_path / "out")
    (partner,) = record["simulated"]["doses"]
    assert record["noise_sd_hu"]["before"] == pytest.approx(NOISE_HU, rel=0.1)
    assert partner["predicted_sd_hu"] == pytest.approx(2 * NOISE_HU, rel=0.1)
    assert partner["achieved_sd_hu"] == pytest.approx(partner["predicted_sd_hu"], rel=0.1)
    assert (record["simulated"]["flux_from"], record["simulated"]["kernel_from"]) == ("image", "image")


def test_the_same_seed_gives_the_same_bytes_in_another_folder(tmp_path):
    write_scan(tmp_path / "in")
    for target, seed in (("one", 0), ("two", 0), ("three", 1)):
        simulate(tmp_path, target, seed=seed)
    one, two, three = (contents(tmp_path / target) for target in ("one", "two", "three"))
    assert one == two
    changed = {name for name in one if name.endswith(".dcm") and three.get(name) != one[name]}
    assert changed == {name for name in one if "dose_0.25/" in name}


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(tmp_path):
    for name in "abc":
        write_scan(tmp_path / "in" / name, name)
    simulate(tmp_path, "one", flux="image", kernel="image", workers=1)
    simulate(tmp_path, "two", flux="image", kernel="image", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_dose_has_the_same_noise_whatever_other_doses_are_made(tmp_path):
    write_scan(tmp_path / "in")
    simulate(tmp_path, "one", doses=[0.25])
    simulate(tmp_path, "two", doses=[0.5, 0.25])
    one, two = (
        {name: content for name, content in contents(tmp_path / target).items() if "dose_0.25/" in name}
        for target in ("one", "two")
    )
    assert one == two
    assert len(one) == SHAPE[0]


def test_a_rerun_keeps_what_is_finished_and_another_dose_is_made_anew(tmp_path, capsys):
    write_scan(tmp_path / "in")
    simulate(tmp_path)
    first = capsys.readouterr().out.splitlines()[0]
    simulate(tmp_path)
    again = capsys.readouterr().out.splitlines()[0]
    assert again == first.replace("files: 5", "files: 5 (already done)")
    simulate(tmp_path, doses=[0.5])
    assert "already done" not in capsys.readouterr().out
    assert [case.dose_fraction for case in read_manifest(tmp_path / "out" / "manifest")] == [0.5]


def test_single_slices_get_partners_but_no_case(tmp_path, capsys):
    write_scan(tmp_path / "in", slices=1)
    assert simulate(tmp_path) == 0
    (record,) = records(tmp_path / "out")
    assert (record["verdict"], record["reason_codes"]) == ("slicewise", ["TOO_FEW_SLICES"])
    assert len(list((tmp_path / "out").rglob("dose_0.25/*.dcm"))) == 1
    assert not (tmp_path / "out" / "manifest" / "cases.csv").exists()


def test_links_that_cannot_be_made_become_copies(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(18, "Invalid cross-device link")

    files = write_scan(tmp_path / "in")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert simulate(tmp_path) == 0
    copies = sorted((tmp_path / "out").rglob("normal_dose/*.dcm"))
    assert [path.read_bytes() for path in copies] == [path.read_bytes() for path in files]


def test_patients_are_pseudonyms_and_a_placeholder_gives_way_to_the_study(tmp_path):
    for name, patient in (("a", "DOE^JANE"), ("b", "DOE^JANE"), ("c", "Anonymous"), ("d", "Anonymous")):
        write_scan(tmp_path / "in" / name, name, patient=patient)
    simulate(tmp_path)
    patients = [case.patient_id for case in read_manifest(tmp_path / "out" / "manifest")]
    assert len(set(patients)) == 3
    codes = sorted(tuple(record["reason_codes"]) for record in records(tmp_path / "out"))
    assert codes == [(), (), ("PATIENT_BY_STUDY",), ("PATIENT_BY_STUDY",)]
    for name, content in contents(tmp_path / "out").items():
        assert "DOE" not in name
        assert name.endswith(".dcm") or b"DOE" not in content


def test_tags_without_exposure_refuse_the_series_and_name_the_way_out(tmp_path, capsys):
    def strip(dataset):
        for keyword in ("Exposure", "XRayTubeCurrent", "KVP"):
            if keyword in dataset:
                delattr(dataset, keyword)

    write_scan(tmp_path / "in" / "a", "a", change=strip)
    write_scan(tmp_path / "in" / "b", "b")
    assert simulate(tmp_path, flux="tags") == 3
    refused = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("refused"))
    assert "MISSING_DOSE_TAGS no KVP, Exposure in the headers; name the photons per ray" in refused
    (record,) = records(tmp_path / "out")
    assert "FLUX_FROM_TAGS" in record["reason_codes"]


def test_without_uniform_tissue_the_tags_stand_in_and_the_line_says_so(tmp_path, capsys):
    def to_lung(dataset):
        dataset.RescaleIntercept = float(dataset.RescaleIntercept) - 700

    write_scan(tmp_path / "in", change=to_lung)
    assert simulate(tmp_path, flux="image", kernel="image") == 0
    (record,) = records(tmp_path / "out")
    assert record["reason_codes"] == ["FEW_UNIFORM_REGIONS", "FLUX_FROM_TAGS"]
    assert record["simulated"]["flux_from"] == "tags"
    assert "SD not measured; " in capsys.readouterr().out


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    for name in "ab":
        write_scan(tmp_path / "in" / name, name)
    write = DerivedSeriesWriter.write

    def fill_up(self, index, source, hu):
        if index == 2 and source.header.StudyInstanceUID == f"1.2.3.{ord('a')}":
            raise OSError(28, "No space left on device")
        return write(self, index, source, hu)

    monkeypatch.setattr(DerivedSeriesWriter, "write", fill_up)
    assert simulate(tmp_path) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines if line.startswith("failed")] == [
        "UNEXPECTED_ERROR OSError: No space left on device"
    ]
    assert len(read_manifest(tmp_path / "out" / "manifest")) == 1
    assert not (tmp_path / "out" / ".staging").exists()


def test_a_slice_that_reads_back_differently_drops_its_series(tmp_path, monkeypatch, capsys):
    write_scan(tmp_path / "in")
    monkeypatch.setattr(read_back, "reads_back", lambda path, *_: path.name != "0003.dcm")
    assert simulate(tmp_path) == 1
    assert "slice 3 of 5 reads back differently" in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("*.dcm"))


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ({"doses": [1.2]}, "--dose 1.2: must lie between 0 and 1"),
        ({"doses": [0.0]}, "--dose 0: must lie between 0 and 1"),
        ({"doses": [float("nan")]}, "--dose nan: must lie between 0 and 1"),
        ({"doses": [0.25, 0.5, 0.25]}, "--dose 0.25 is named twice"),
        ({"doses": []}, "name at least one"),
        ({"flux": "many"}, "--flux many: must be image, tags or a number"),
        ({"flux": "-5"}, "--flux -5: must be image, tags or a number"),
        ({"kernel": "B30f"}, "unknown --kernel 'B30f'"),
        ({"geometry": "cone"}, "--geometry cone: must be one of fan, parallel"),
        ({"bowtie": "leg"}, "--bowtie leg: must be one of auto, body, head, none"),
    ],
)
def test_options_that_cannot_be_used_are_refused_in_one_line(tmp_path, option, complaint):
    with pytest.raises(ConfigError, match=complaint) as refused:
        simulate(tmp_path, **option)
    assert (refused.value.exit_code, "\n" in str(refused.value)) == (2, False)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_command_is_refused(tmp_path):
    write_scan(tmp_path / "in")
    (tmp_path / "out").mkdir()
    marker = {"ldct_predict": 1, "started": "2026-01-01T00:00:00+00:00", "key_id": "0"}
    (tmp_path / "out" / ".ldct.json").write_text(json.dumps(marker))
    with pytest.raises(DataError, match="out: not written by ldct simulate dose"):
        simulate(tmp_path)


def test_memory_does_not_grow_with_the_series(tmp_path, monkeypatch):
    """At most 16 images are made at a time, however many slices and doses."""
    write_scan(tmp_path / "in", slices=40)
    seen = []
    insert = partners.insert_noise

    def count(hu, *arguments, **options):
        seen.append(len(hu) * len(options["dose_fractions"]))
        return insert(hu, *arguments, **options)

    monkeypatch.setattr(partners, "insert_noise", count)
    assert simulate(tmp_path, doses=[0.5, 0.25]) == 0
    assert seen == [16, 16, 16, 16, 16]


@pytest.mark.slow
@pytest.mark.real
def test_a_real_chest_gets_a_partner_with_the_noise_foretold(tmp_path, real_data):
    assert dose.run(real_data / "ct" / "lidc_0314_chest_1mm", tmp_path / "out", doses=[0.25]) == 0
    (record,) = records(tmp_path / "out")
    (partner,) = record["simulated"]["doses"]
    assert partner["achieved_sd_hu"] == pytest.approx(partner["predicted_sd_hu"], rel=0.05)
    assert partner["predicted_sd_hu"] == pytest.approx(2 * record["noise_sd_hu"]["before"], rel=0.1)


@pytest.mark.slow
@pytest.mark.real
def test_every_hostile_series_gets_a_partner_or_a_named_reason(tmp_path, real_data):
    assert dose.run(real_data / "nasty", tmp_path / "out", doses=[0.25], kernel="hann", flux="2e5") == 3
    _, *lines = map(json.loads, (tmp_path / "out" / "journal.jsonl").read_text().splitlines())
    assert {line["verdict"] for line in lines} >= {"slicewise", "refused", "skipped"}
    assert all(line["reason_codes"] for line in lines if line["verdict"] != "done")
    assert "UNEXPECTED_ERROR" not in {code for line in lines for code in line["reason_codes"]}
