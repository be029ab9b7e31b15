"""`ldct simulate dose`: partners, their manifest, and how every bad option and series ends."""

import json
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.dicom import DerivedSeriesWriter, Geometry, discover, read_series, write_ct_series
from pipeline.errors import ConfigError, DataError
from pipeline.inference import read_back
from pipeline.inference.low_dose import pairs, partners
from pipeline.inference.low_dose import treatment as low_dose
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


def write_scan(
    folder,
    name="a",
    *,
    slices=SHAPE[0],
    patient="DOE^JANE",
    change=None,
    noise_hu=NOISE_HU,
    corners_hu=-2000.0,
):
    """A water cylinder with white noise, corners of the matrix padding; `change` edits each dataset."""
    rng = np.random.default_rng(len(name))
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]] - (SHAPE[1] - 1) / 2
    radius = np.hypot(rows, columns)
    hu = np.where(radius < 40, 0.0, -1000.0) + rng.normal(0, noise_hu, (slices, *SHAPE[1:]))
    hu = np.where(radius < 48, hu.clip(-1024), corners_hu)
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
    line, total, hint = capsys.readouterr().out.splitlines()
    assert line.startswith(f"done      {record['series']}  files: 5  SD ")
    assert "at 25 %" in line
    assert total == "simulate dose: 1 done"
    out = tmp_path / "out"
    source = f"{{manifest: {out}/manifest, split: holdout, root: {out}}}"
    assert hint == f"next: `- {source}` below `sources:` in configs/<preset>/ingest.yaml"


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


def test_a_rerun_keeps_what_is_finished(tmp_path, capsys):
    write_scan(tmp_path / "in")
    simulate(tmp_path)
    first = capsys.readouterr().out.splitlines()[0]
    simulate(tmp_path)
    again = capsys.readouterr().out.splitlines()[0]
    assert again == first.replace("files: 5", "files: 5 (already done)")


@pytest.mark.parametrize("option", [{"doses": [0.5]}, {"doses": [0.25, 0.5]}, {"seed": 1}, {"flux": "3e5"}])
def test_pairs_are_not_replaced_by_those_of_other_options(tmp_path, option):
    write_scan(tmp_path / "in")
    simulate(tmp_path)
    before = contents(tmp_path / "out")
    with pytest.raises(DataError) as refused:
        simulate(tmp_path, **option)
    made_with = "--dose 0.25 --flux 200000.0 --kernel hann --geometry fan --bowtie auto --seed 0"
    advice = "name another folder, or repeat those options"
    assert str(refused.value) == f"{tmp_path / 'out'}: made with {made_with}; {advice}"
    assert contents(tmp_path / "out") == before


def test_pairs_of_another_product_version_are_made_anew(tmp_path, capsys, monkeypatch):
    write_scan(tmp_path / "in")
    simulate(tmp_path)
    monkeypatch.setattr(low_dose, "__version__", "99")
    assert simulate(tmp_path) == 0
    assert "already done" not in capsys.readouterr().out


def test_single_slices_get_partners_but_no_case(tmp_path, capsys):
    write_scan(tmp_path / "in", slices=1)
    assert simulate(tmp_path) == 0
    (record,) = records(tmp_path / "out")
    assert (record["verdict"], record["reason_codes"]) == ("slicewise", ["TOO_FEW_SLICES"])
    assert len(list((tmp_path / "out").rglob("dose_0.25/*.dcm"))) == 1
    assert not (tmp_path / "out" / "manifest" / "cases.csv").exists()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "no manifest: no series is a regular volume; ingest stores volumes"


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
    assert "MISSING_DOSE_TAGS no KVP, Exposure above 0 in the headers; name the photons per ray" in refused
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
    line = capsys.readouterr().out.splitlines()[0]
    assert "files: 5  SD not measured; FEW_UNIFORM_REGIONS 0 uniform regions" in line
    assert "FLUX_FROM_TAGS photons from the tags, right within a factor of three at best, since" in line


def with_structure(dataset):
    """Random structure with a power of 1/f³, 40 HU of it, much more than there is noise."""
    frequency = np.fft.fftfreq(SHAPE[1])
    radius = np.hypot(frequency[:, None], frequency[None, :])
    radius[0, 0] = np.inf
    white = np.random.default_rng(1).normal(size=SHAPE[1:])
    structure = np.fft.ifft2(np.fft.fft2(white) * radius**-1.5).real
    structure *= 40 / structure.std()
    dataset.PixelData = (dataset.pixel_array + structure.round().astype(np.int16)).astype("<i2").tobytes()


def test_where_anatomy_hides_the_noise_the_tags_and_a_hann_kernel_stand_in(tmp_path, capsys):
    write_scan(tmp_path / "in", noise_hu=0.5, change=with_structure)
    assert simulate(tmp_path, flux="image", kernel="image") == 0
    (record,) = records(tmp_path / "out")
    assert record["reason_codes"] == ["MORE_ANATOMY_THAN_NOISE", "FLUX_FROM_TAGS"]
    simulated = record["simulated"]
    assert (simulated["flux_from"], simulated["kernel_from"]) == ("tags", "assumed")
    assert simulated["kernel_cutoff_per_mm"] == pytest.approx(1 / (2 * PIXEL_MM), rel=1e-5)
    assert simulated["doses"][0]["predicted_sd_hu"] > record["noise_sd_hu"]["before"] > 2
    assert "of the spectrum): a Hann kernel is assumed" in capsys.readouterr().out


def test_where_anatomy_hides_the_noise_and_tags_are_missing_the_series_is_refused(tmp_path, capsys):
    def change(dataset):
        with_structure(dataset)
        del dataset.KVP

    write_scan(tmp_path / "in", noise_hu=0.5, change=change)
    assert simulate(tmp_path, flux="image", kernel="hann") == 1
    line = capsys.readouterr().out.splitlines()[0]
    assert "MISSING_DOSE_TAGS the image's own noise cannot be measured, and no KVP" in line
    assert simulate(tmp_path, flux="2e5", kernel="hann") == 0


def test_a_line_tells_verdict_reason_result_and_warnings_in_this_order(tmp_path, capsys):
    write_scan(tmp_path / "in", slices=1, patient="Anonymous")
    simulate(tmp_path, flux="tags")
    line = capsys.readouterr().out.splitlines()[0]
    verdict, reason, remark = line.split("  ")[0], *line.split("  ")[2:]
    assert verdict == "slicewise series-" + line.split("series-")[1][:12]
    assert reason.startswith("TOO_FEW_SLICES 1 slice, and a volume needs 2 or more")
    result, *warnings = remark.split("; ")
    assert result.startswith("SD ")
    assert [one.split()[0] for one in warnings] == ["FLUX_FROM_TAGS", "PATIENT_BY_STUDY"]


def test_a_series_without_noise_is_refused_and_named_photons_are_the_way_out(tmp_path, capsys):
    write_scan(tmp_path / "in", noise_hu=0.0)
    assert simulate(tmp_path, flux="image") == 1
    line = capsys.readouterr().out.splitlines()[0]
    assert "NO_NOISE uniform tissue shows less noise than rounding to 1 HU makes" in line
    assert "--flux 2e5" in line
    assert simulate(tmp_path, flux="2e5") == 0


@pytest.mark.parametrize(("mas", "codes"), [(2, []), (100, ["FLUX_DISAGREES"])])
def test_photons_of_image_and_tags_that_are_far_apart_are_told(tmp_path, capsys, mas, codes):
    def change(dataset):
        dataset.Exposure = mas
        del dataset.XRayTubeCurrent

    write_scan(tmp_path / "in", change=change)
    assert simulate(tmp_path, flux="image") == 0
    (record,) = records(tmp_path / "out")
    assert record["reason_codes"] == codes
    line = capsys.readouterr().out.splitlines()[0]
    assert ("by the image's noise, " in line) == bool(codes)
    assert ("--kernel hann is not the image's" in line) == bool(codes)


def with_thickness(thickness_mm):
    def change(dataset):
        dataset.SliceThickness = thickness_mm

    return change


def with_one_slice_of_many_mas(dataset):
    del dataset.XRayTubeCurrent
    dataset.Exposure = 100 if dataset.InstanceNumber > 1 else 2100


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        (with_thickness(50), "slices 50 mm thick and 2 mm apart"),
        (with_thickness(-2), "slices -2 mm thick and 2 mm apart"),
        (with_one_slice_of_many_mas, "100 to 2100 mAs in one series"),
    ],
)
def test_tags_that_no_scan_has_are_not_used_and_the_line_says_so(tmp_path, capsys, change, doubt):
    for target, edit in (("plain", None), ("out", change)):
        write_scan(tmp_path / "in", change=edit)
        simulate(tmp_path, target)
        shutil.rmtree(tmp_path / "in")
    assert f"IMPLAUSIBLE_TAGS {doubt}" in capsys.readouterr().out
    plain, odd = (records(tmp_path / target)[0] for target in ("plain", "out"))
    assert (plain["reason_codes"], odd["reason_codes"]) == ([], ["IMPLAUSIBLE_TAGS"])
    assert odd["simulated"]["doses"][0]["achieved_sd_hu"] == plain["simulated"]["doses"][0]["achieved_sd_hu"]


def test_a_thickness_below_zero_refuses_the_tags(tmp_path, capsys):
    write_scan(tmp_path / "in", change=with_thickness(-2))
    assert simulate(tmp_path, flux="tags") == 1
    assert "MISSING_DOSE_TAGS no SliceThickness above 0 in the headers" in capsys.readouterr().out


@pytest.mark.parametrize(("field_mm", "corners_hu"), [(780, -1000.0), (1000, -2000.0)])
def test_a_field_wider_than_the_fan_is_refused_and_parallel_rays_are_the_way_out(
    tmp_path, capsys, field_mm, corners_hu
):
    def widen(dataset):
        dataset.PixelSpacing = [field_mm / SHAPE[2]] * 2
        dataset.PixelData = dataset.PixelData[:-2] + b"\x00\x00"  # a corner that is not plain air

    write_scan(tmp_path / "in", change=widen, corners_hu=corners_hu)
    assert simulate(tmp_path) == 1
    assert f"FIELD_TOO_WIDE a field of view of {field_mm} mm needs rays" in capsys.readouterr().out
    assert simulate(tmp_path, geometry="parallel") == 0


@pytest.mark.parametrize(
    ("device", "cores", "gigabytes", "workers"),
    [("cpu", 8, 64, 4), ("cpu", 8, 8, 2), ("cpu", 16, 16, 5), ("cpu", 1, 1, 1), ("cuda", 64, 512, 1)],
)
def test_workers_fit_cores_memory_and_device(device, cores, gigabytes, workers):
    assert dose.default_workers(device, cores=cores, memory_bytes=gigabytes * 10**9) == workers


def test_a_manifest_that_cannot_be_written_leaves_the_last_one_whole(tmp_path, monkeypatch, capsys):
    write_scan(tmp_path / "in" / "a", "a")
    simulate(tmp_path)
    manifest = tmp_path / "out" / "manifest"
    before = read_manifest(manifest)

    def fill_up(*_):
        raise OSError(28, "No space left on device")

    write_scan(tmp_path / "in" / "b", "b")
    monkeypatch.setattr(pairs, "write_split", fill_up)
    capsys.readouterr()
    assert simulate(tmp_path) == 3
    assert "VIEWS_NOT_WRITTEN" in capsys.readouterr().out
    assert read_manifest(manifest) == before
    assert read_split(manifest, "holdout", before)
    assert not list((tmp_path / "out").glob(".manifest*"))


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
        "DISK_FULL no space left for the results; free some and run again"
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
        ({"flux": "1e10"}, "--flux 1e10: must be image, tags or a number of .* at most 1e\\+09"),
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
