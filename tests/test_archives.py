"""Real pairs: each layout is recognised, ambiguity is refused, and a manifest is checked against files."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.data.archives import (
    Layout,
    check_manifest,
    make_splits,
    manifest_case,
    patients_in_both,
    scan_archive,
)
from pipeline.data.archives.identity import names_a_patient
from pipeline.data.pairs import read_pair
from pipeline.dicom import Derivation, deterministic_uid, simulated_dose, write_derived_series
from pipeline.manifest import ManifestCase, read_manifest, read_split, write_manifest, write_split
from tests.dicom_factory import NOON, make_slice, read_only_series, save, save_stack

POSITIONS = [(0.0, 0.0, 3.0 * index) for index in range(3)]
CHALLENGE = ("L067", "L096", "L109", "L143", "L192", "L286", "L291", "L310", "L333", "L506")


def pseudonym(kind: str, *parts: str) -> str:
    return f"{kind}-{deterministic_uid(*parts)[-12:]}"


def add_series(folder: Path, *, noise: int = 0, positions=POSITIONS, **attributes) -> Path:
    """A series of three 8x8 slices, named after its folder where the attributes do not say otherwise."""
    stored = np.full((8, 8), 40, np.int16)
    stored[2:6, 2:6] += noise
    defaults = {"series": folder.as_posix(), "SliceThickness": 3.0, "KVP": 120, "ConvolutionKernel": "B30f"}
    save_stack(folder, positions, stored=stored, **{**defaults, **attributes})
    return folder


def add_scan(root: Path, patient: str, *, mas: float, name: str, **attributes) -> Path:
    """One acquisition of a generic archive."""
    uids = {
        "StudyInstanceUID": deterministic_uid("study", patient),
        "FrameOfReferenceUID": deterministic_uid("frame", patient),
    }
    defaults = {"PatientID": patient, "BodyPartExamined": "CHEST", "Exposure": int(mas), **uids}
    return add_series(root / patient / name, noise=int(mas), **{**defaults, **attributes})


def scanned(root: Path):
    return scan_archive(root, pseudonym=pseudonym)


def summary(root: Path) -> dict[str, tuple]:
    return {
        pair.case_id: (pair.patient_id, pair.anatomy, pair.dose_fraction, pair.noise)
        for pair in scanned(root).pairs
    }


@pytest.mark.parametrize(
    "place",
    [
        "3mm B30/{dose}_3mm/{patient}/{dose}_3mm",
        "Training Cases/{patient}/{dose}_3mm",
        "{dose}_3mm/{patient}",
        "{patient}/{dose}_3mm",
    ],
)
def test_the_challenge_is_recognised_by_its_folders_where_everyone_is_anonymous(tmp_path, place):
    for patient in ("L067", "L506"):
        for dose in ("full", "quarter"):
            add_series(tmp_path / place.format(dose=dose, patient=patient), PatientID="Anonymous")
    assert summary(tmp_path) == {
        f"{patient}-3mm-B30": (patient, "abdomen", 0.25, "shared") for patient in ("L067", "L506")
    }


def test_thickness_and_kernel_of_the_challenge_make_separate_cases_of_one_patient(tmp_path):
    for top, suffix in (("1mm B30", "1mm"), ("1mm D45", "1mm_sharp"), ("3mm D45", "3mm_sharp")):
        for dose in ("full", "quarter"):
            add_series(tmp_path / top / f"{dose}_{suffix}" / "L067" / f"{dose}_{suffix}")
    found = summary(tmp_path)
    assert sorted(found) == ["L067-1mm-B30", "L067-1mm-D45", "L067-3mm-D45"]
    assert {patient for patient, *_ in found.values()} == {"L067"}


def test_the_tcia_collection_has_its_own_dose_for_each_exam_and_pairs_across_studies(tmp_path):
    for patient in ("C111", "L006", "N005"):
        for day, dose in (("01-13-2022", "Full"), ("01-19-2022", "Low")):
            folder = tmp_path / patient / f"{day}-NA-NA-73373" / f"1.000000-{dose} Dose Images-62126"
            add_series(folder, StudyInstanceUID=deterministic_uid(patient, dose), PatientID=patient)
    add_series(tmp_path / "C300" / "01-13-2022-NA-NA-1" / "1.000000-Full dose images-2")
    assert summary(tmp_path) == {
        "C111": ("C111", "chest", 0.1, "shared"),
        "L006": ("L006", "abdomen", 0.25, "shared"),
        "N005": ("N005", "head", 0.25, "shared"),
    }
    assert [series.folder.parts[0] for series in scanned(tmp_path).unpaired] == ["C300"]


def test_projection_data_are_no_images(tmp_path):
    for place in ("C002/1-2-3/1.0-Full dose projections-1", "Training Cases/L067/full_DICOM-CT-PD"):
        add_series(tmp_path / place, ImageOrientationPatient=None, positions=[(0.0, 0.0, 0.0)])
    scan = scanned(tmp_path)
    assert (scan.refused, scan.unpaired, scan.skipped) == ((), (), 2)


def test_anonymous_studies_of_a_generic_archive_count_as_patients_and_are_flagged(tmp_path):
    for study in ("1.2.1", "1.2.2"):
        for name, mas in (("a", 200), ("b", 50)):
            uids = {"StudyInstanceUID": study, "FrameOfReferenceUID": f"{study}.5"}
            add_scan(tmp_path, study, mas=mas, name=name, PatientID="Anonymous", **uids)
    scan = scanned(tmp_path)
    assert {pair.patient_id for pair in scan.pairs} == {
        pseudonym("patient", "study", study) for study in ("1.2.1", "1.2.2")
    }
    assert scan.nameless


def test_a_tcia_download_without_descriptive_names_is_told_by_series_descriptions(tmp_path):
    for dose in ("Full", "Low"):
        add_series(tmp_path / "N012" / "1.2.3" / dose[0], SeriesDescription=f"{dose} Dose Images")
    assert sorted(summary(tmp_path)) == ["N012"]


def test_a_phantom_brings_its_mask_and_truth_and_its_dose_from_the_exposure(tmp_path):
    folder = tmp_path / "phantom-chest-001"
    add_series(folder / "normal_dose", Exposure=101)
    add_series(folder / "low_dose", Exposure=25)
    (folder / "labels.nii").write_bytes(b"labels")
    (folder / "truth.nii").write_bytes(b"truth")
    (pair,) = scanned(tmp_path).pairs
    case = manifest_case(pair, tmp_path)
    assert (case.case_id, case.anatomy, case.dose_fraction) == ("phantom-chest-001", "chest", 0.25)
    assert (case.noise, case.mask) == ("independent", "phantom-chest-001/labels.nii")
    assert case.truth == "phantom-chest-001/truth.nii"


def test_simulated_doses_are_cases_of_one_patient_named_by_pseudonyms(tmp_path):
    folder = tmp_path / "study-0123456789ab" / "series-ba9876543210"
    add_series(folder / "normal_dose", BodyPartExamined="HEAD")
    for dose in ("dose_0.25", "dose_0.1"):
        add_series(folder / dose)
    patient = pseudonym("patient", "id", "SECRET-ID")
    assert summary(tmp_path) == {
        "series-ba9876543210-d10": (patient, "head", 0.1, "shared"),
        "series-ba9876543210-d25": (patient, "head", 0.25, "shared"),
    }


def test_a_generic_archive_is_paired_by_headers_and_named_by_pseudonyms(tmp_path):
    normal_dose = add_scan(tmp_path, "MUELLER", mas=200, name="a")
    add_scan(tmp_path, "MUELLER", mas=51, name="b")
    add_scan(tmp_path, "SCHMIDT", mas=200, name="c")
    scan = scanned(tmp_path)
    (pair,) = scan.pairs
    assert (pair.layout, pair.dose_fraction, pair.noise) == (Layout.GENERIC, 0.26, "independent")
    assert (tmp_path / pair.normal_dose.folder, pair.anatomy) == (normal_dose, "chest")
    assert "MUELLER" not in pair.case_id + pair.patient_id
    assert [str(series.folder) for series in scan.unpaired] == ["SCHMIDT/c"]


def test_a_simulated_series_shares_the_noise_of_its_source(tmp_path):
    source = read_only_series(add_scan(tmp_path, "P", mas=200, name="a", SeriesDescription="T" * 64))
    physics = Derivation("noise insertion", "", "", {"seed": 0}, "0.1.0")
    write_derived_series(
        source,
        source.hu,
        tmp_path / "P" / "b",
        derivation=physics,
        purpose=simulated_dose(0.025),
        now=NOON,
    )
    (pair,) = scanned(tmp_path).pairs
    assert (pair.dose_fraction, pair.noise, str(pair.low_dose.folder)) == (0.025, "shared", "P/b")


def test_denoised_copies_of_either_dose_are_no_partners(tmp_path):
    def derive(series, place, **purpose):
        arguments = {"derivation": Derivation("method", "", "", {}, "0.1.0"), "now": NOON, **purpose}
        write_derived_series(series, series.hu, tmp_path / place, **arguments)
        return read_only_series(tmp_path / place)

    measured, simulated = (
        read_only_series(add_scan(tmp_path, patient, mas=200, name="normal")) for patient in "PQ"
    )
    add_scan(tmp_path, "P", mas=50, name="low")
    derive(measured, "P/normal denoised")
    derive(derive(simulated, "Q/low", purpose=simulated_dose(0.1)), "Q/low denoised")
    scan = scanned(tmp_path)
    pairs = {(str(pair.normal_dose.folder), str(pair.low_dose.folder)) for pair in scan.pairs}
    assert pairs == {("P/normal", "P/low"), ("Q/normal", "Q/low")}
    assert {refusal.places for refusal in scan.refused} == {("P/normal denoised",), ("Q/low denoised",)}
    assert all(refusal.reason.startswith("DENOISED") for refusal in scan.refused)


def test_a_body_part_that_names_a_person_reaches_no_manifest(tmp_path):
    for name, mas in (("a", 200), ("b", 50)):
        add_scan(tmp_path, "P", mas=mas, name=name, BodyPartExamined="DOE JOHN 1950")
    assert [pair.anatomy for pair in scanned(tmp_path).pairs] == ["unknown"]


@pytest.mark.parametrize(
    "change",
    [
        {"ConvolutionKernel": "B70f"},
        {"KVP": 100},
        {"SliceThickness": 5.0},
        {"FrameOfReferenceUID": "1.2.3"},
        {"FrameOfReferenceUID": None},
        {"PixelSpacing": [0.5, 0.5]},
        {"positions": [(0.0, 0.0, 3.0 * index + 1) for index in range(3)]},
        {"StudyInstanceUID": "1.2.4", "PatientID": "Q"},
        {"mas": 180},
    ],
)
def test_other_protocols_grids_patients_or_phases_are_no_partners(tmp_path, change):
    add_scan(tmp_path, "P", mas=200, name="a")
    add_scan(tmp_path, "P", **{"mas": 50, "name": "b", **change})
    scan = scanned(tmp_path)
    assert (scan.pairs, scan.refused, len(scan.unpaired)) == ((), (), 2)


def test_where_two_partners_fit_the_series_is_refused_and_both_are_named(tmp_path):
    for name, mas in (("a", 200), ("b", 190), ("low", 50)):
        add_scan(tmp_path, "P", mas=mas, name=name)
    (refusal,) = scanned(tmp_path).refused
    assert refusal.places == ("P/low", "P/a", "P/b")
    assert "2 normal-dose series fit" in refusal.reason


def test_without_exposure_tags_the_dose_cannot_be_told(tmp_path):
    add_scan(tmp_path, "P", mas=200, name="a")
    add_scan(tmp_path, "P", mas=50, name="b", Exposure="")
    assert [refusal.places[0] for refusal in scanned(tmp_path).refused] == ["P/a", "P/b"]


def test_two_normal_doses_of_one_challenge_case_are_refused(tmp_path):
    for place in ("one/full_3mm/L067", "two/full_3mm/L067", "one/quarter_3mm/L067"):
        add_series(tmp_path / place)
    scan = scanned(tmp_path)
    assert not scan.pairs
    assert [len(refusal.places) for refusal in scan.refused] == [3]


def test_a_known_pair_on_two_grids_is_refused_with_both_counts(tmp_path):
    add_series(tmp_path / "L067" / "full_3mm")
    add_series(tmp_path / "L067" / "quarter_3mm", positions=[*POSITIONS, (0.0, 0.0, 9.0)])
    (refusal,) = scanned(tmp_path).refused
    assert "normal_dose has 3 slices, low_dose has 4" in refusal.reason


def test_series_that_a_manifest_cannot_name_are_refused_with_the_way_out(tmp_path):
    flat = tmp_path / "flat"
    for number, series in enumerate(("one", "two")):
        for position in POSITIONS:
            name = f"{number}-{position[2]:.0f}"
            save(make_slice(np.zeros((8, 8), np.int16), position=position, series=series), flat / name)
    add_series(tmp_path / "gap", positions=[POSITIONS[0], POSITIONS[1], (0.0, 0.0, 12.0)])
    torn = add_series(tmp_path / "torn")
    (torn / "004.dcm").write_bytes(b"")
    reasons = {refusal.places[0]: refusal.reason for refusal in scanned(tmp_path).refused}
    assert reasons["flat"] == "2 CT series in one folder; sort them into one folder per series"
    assert reasons["gap"].startswith("MISSING_SLICE")
    assert reasons["torn"].startswith("shares its folder with a damaged file")
    assert reasons["torn/004.dcm"] == "004.dcm: 0 bytes; copy the file again"
    shutil.move(flat, tmp_path.with_name("alone"))
    assert "scanned folder itself" in scanned(torn).refused[-1].reason


def row(case_id: str, patient_id: str, **changes) -> ManifestCase:
    return ManifestCase(case_id, patient_id, "abdomen", 0.25, "shared", f"{case_id}/n", f"{case_id}/l")


def test_the_challenge_leaves_out_each_patient_and_holds_out_l506():
    cases = [row(f"{patient}-{mm}", patient) for patient in CHALLENGE for mm in ("1mm", "3mm")]
    splits = make_splits(cases, dict.fromkeys([case.case_id for case in cases], Layout.MAYO_2016))
    assert sorted(splits) == ["holdout", *(f"leave-out-{patient}" for patient in CHALLENGE)]
    assert splits["holdout"] == splits["leave-out-L506"]
    assert splits["holdout"] == {
        case.case_id: {"L506": "test", "L067": "validation"}.get(case.patient_id, "train") for case in cases
    }


def test_the_tcia_collection_has_the_split_of_the_published_benchmark():
    patients = ["C121", "L006", "N090", "C202", "N252", "C095", "L299"]
    cases = [row(patient, patient) for patient in patients]
    splits = make_splits(cases, dict.fromkeys(patients, Layout.TCIA))
    roles = ["test"] * 3 + ["validation"] * 2 + ["train"] * 2
    assert splits == {name: dict(zip(patients, roles, strict=True)) for name in ("benchmark", "holdout")}


def test_a_part_of_a_collection_that_leaves_a_published_role_empty_gets_a_seeded_split():
    cases = [row(patient, patient) for patient in ("C095", "C261", "C296")]
    splits = make_splits(cases, dict.fromkeys(["C095", "C261", "C296"], Layout.TCIA))
    assert list(splits) == ["holdout"]
    assert sorted(splits["holdout"].values()) == ["test", "train", "validation"]


def test_patients_in_challenge_and_tcia_are_flagged_and_share_a_role():
    cases = [row("L071-3mm-B30", "L071"), row("L071", "L071"), row("C002", "C002"), row("N005", "N005")]
    layouts = {case.case_id: Layout.TCIA for case in cases} | {"L071-3mm-B30": Layout.MAYO_2016}
    assert patients_in_both(cases, layouts) == ("L071",)
    holdout = make_splits(cases, layouts)["holdout"]
    assert holdout["L071-3mm-B30"] == holdout["L071"]
    assert patients_in_both(cases[1:], layouts) is None


@pytest.mark.parametrize(
    "nobody",
    ["", "Anonymous", "anon", "ANON^YMOUS", "0", "000-000", "N/A", "xxxx", "De-Identified", " unknown "],
)
def test_placeholders_name_nobody(nobody):
    assert not names_a_patient(nobody)


@pytest.mark.parametrize("patient_id", ["L067", "LIDC-IDRI-0314", "10", "Annon", "anon-17", "TCGA-34-7107"])
def test_other_patient_ids_name_somebody(patient_id):
    assert names_a_patient(patient_id)


@pytest.fixture
def archive(tmp_path) -> tuple[Path, Path]:
    """A manifest of three generic patients, and its root."""
    root, manifest = tmp_path / "root", tmp_path / "manifest"
    for patient in ("P1", "P2", "P3"):
        add_scan(root, patient, mas=200, name="normal")
        add_scan(root, patient, mas=50, name="low")
    cases = [manifest_case(pair, root) for pair in scanned(root).pairs]
    write_manifest(manifest, cases)
    write_split(
        manifest,
        "holdout",
        make_splits(cases, dict.fromkeys([c.case_id for c in cases], Layout.GENERIC))["holdout"],
    )
    return manifest, root


def faults(archive) -> list[str]:
    return [remark.message for remark in check_manifest(*archive) if remark.is_fault]


def test_a_scanned_manifest_passes_the_check_and_its_pairs_are_read(archive):
    manifest, root = archive
    assert list(check_manifest(manifest, root)) == []
    normal_dose, low_dose = read_pair(read_manifest(manifest)[0], root)
    assert normal_dose.hu.std() > low_dose.hu.std()


def test_changed_missing_and_mismatched_files_are_named(archive):
    manifest, root = archive
    first, second, third = read_manifest(manifest)
    next((root / first.normal_dose).iterdir()).unlink()
    shutil.rmtree(root / second.low_dose)
    shutil.rmtree(root / third.low_dose)
    add_series(root / third.low_dose, positions=POSITIONS[:2])
    write_manifest(manifest, [first, replace(second, mask="m.nii"), replace(third, low_dose_sha256=None)])
    messages = faults(archive)
    assert len(messages) == 4
    assert "its files differ from the manifest" in messages[0]
    assert messages[1] == "mask m.nii: no such file; restore it, or empty the cell"
    assert "no such folder" in messages[2]
    assert "normal_dose has 3 slices, low_dose has 2" in messages[3]


def test_a_series_under_two_patients_in_two_roles_is_a_leak(archive):
    manifest, root = archive
    cases = list(read_manifest(manifest))
    roles = read_split(manifest, "holdout", cases)
    stolen = replace(cases[0], case_id="again", patient_id="other")
    write_manifest(manifest, [*cases, stolen])
    different = next(role for role in ("train", "test") if role != roles[cases[0].case_id])
    write_split(manifest, "holdout", {**roles, "again": different})
    (leak,) = faults(archive)
    assert "two roles in split holdout" in leak
    write_split(manifest, "holdout", {**roles, "again": roles[cases[0].case_id]})
    (warning,) = check_manifest(manifest, root)
    assert not warning.is_fault


def test_a_pair_listed_twice_is_a_warning_and_a_second_dose_of_one_series_is_none(archive):
    manifest, root = archive
    cases = list(read_manifest(manifest))
    roles = read_split(manifest, "holdout", cases)
    again = replace(cases[0], case_id="again")
    write_manifest(manifest, [*cases, again])
    write_split(manifest, "holdout", {**roles, "again": roles[cases[0].case_id]})
    (warning,) = check_manifest(manifest, root)
    assert (warning.message, warning.is_fault) == ("the same pair as again; remove one of them", False)
    add_series(root / "dose_0.1", series="tenth")
    write_manifest(manifest, [*cases, replace(again, low_dose="dose_0.1", low_dose_sha256=None)])
    assert list(check_manifest(manifest, root)) == []


def test_one_series_at_both_doses_a_case_without_low_dose_and_a_split_with_holes_are_faults(archive):
    manifest, _ = archive
    first, second, _ = read_manifest(manifest)
    write_manifest(
        manifest,
        [
            replace(first, low_dose=first.normal_dose, low_dose_sha256=None),
            replace(second, low_dose=None, low_dose_sha256=None),
        ],
    )
    messages = faults(archive)
    assert messages[0].startswith("normal_dose and low_dose are the same series")
    assert messages[1].startswith("no low_dose series")
    assert "not in cases.csv" in messages[2]
    shutil.rmtree(manifest / "splits")
    assert "holds no split" in faults(archive)[-1]


def test_normal_doses_alone_are_sound_and_one_listed_twice_is_a_warning(archive):
    manifest, root = archive
    cases = [replace(case, low_dose=None, low_dose_sha256=None) for case in read_manifest(manifest)[:1]]
    shutil.rmtree(manifest / "splits")
    write_split(manifest, "holdout", {cases[0].case_id: "train", "again": "train"})
    write_manifest(manifest, [*cases, replace(cases[0], case_id="again")])
    (warning,) = check_manifest(manifest, root)
    assert (warning.message, warning.is_fault) == ("the same series as again; remove one of them", False)


def test_a_simulated_dose_as_normal_dose_is_a_fault(archive):
    manifest, root = archive
    add_series(root / "dose_0.25", series="quarter", SeriesDescription="Thorax SIMULATED 25% dose")
    first, *others = read_manifest(manifest)
    swapped = replace(first, normal_dose="dose_0.25", normal_dose_sha256=None)
    write_manifest(manifest, [swapped, *others])
    (message,) = faults(archive)
    assert message.startswith("normal_dose is a simulated low dose")


def test_copies_of_a_series_are_named_as_copies(tmp_path):
    normal = add_scan(tmp_path, "P1", mas=200, name="normal")
    shutil.copytree(normal, tmp_path / "P1" / "copy")
    add_scan(tmp_path, "P1", mas=50, name="low")
    reasons = [refusal.reason for refusal in scanned(tmp_path).refused]
    assert reasons == ["copies of one series in P1/copy, P1/normal; keep one"]


def ldct(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_commands_write_and_check_a_manifest_without_an_identity(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    root, manifest = tmp_path / "root", tmp_path / "manifest"
    for name, mas in (("normal", 200), ("low", 50)):
        add_scan(root, "x", mas=mas, name=name, PatientID="MUELLER-1")
    done = ldct("manifest", "scan", root, manifest)
    assert done.exit_code == 0, done.output
    assert "25 % dose, independent noise" in done.output
    assert "keep it out of git" in done.output
    assert "MUELLER" not in done.output + (manifest / "cases.csv").read_text()
    assert ldct("manifest", "check", manifest, root).exit_code == 0
    again = ldct("manifest", "scan", root, manifest)
    assert "a manifest already" in str(again.exception)
    shutil.rmtree(root / "x" / "low")
    assert ldct("manifest", "check", manifest, root).exit_code == 1


def test_exit_codes_tell_some_refused_from_nothing_found(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    add_scan(root, "P", mas=200, name="a")
    nothing = ldct("manifest", "scan", root, tmp_path / "none")
    assert (nothing.exit_code, (tmp_path / "none").exists()) == (1, False)
    assert "unpaired  P/a" in nothing.output
    add_scan(root, "P", mas=50, name="b")
    add_scan(root, "Q", mas=50, name="gap", positions=[POSITIONS[0], POSITIONS[1], (0.0, 0.0, 12.0)])
    some = ldct("manifest", "scan", root, tmp_path / "some")
    assert some.exit_code == 3
    assert "1 pairs, 1 refused, 0 unpaired" in some.output


@pytest.mark.real
def test_real_series_without_partners_are_unpaired_and_crowded_folders_refused(real_data):
    scan = scanned(real_data / "ct")
    assert not scan.pairs
    assert {refusal.places[0] for refusal in scan.refused} == {
        "covid_sbu_single_slices",
        "tcga_single_slices",
    }
    assert len(scan.unpaired) == 5  # among them two kernels of one raw scan: no dose pair
