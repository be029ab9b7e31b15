"""From DICOM pairs and a manifest to cases on disk, and how each bad case ends."""

import shutil
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from pipeline.data import data_digest, read_cases, read_fingerprint, write_volume
from pipeline.dicom import Geometry, discover, read_series, write_ct_series
from pipeline.errors import ConfigError, DataError
from pipeline.manifest import ManifestCase, file_sha256, folder_sha256, write_manifest, write_split
from pipeline.stages import ingest

LABELS = Path(__file__).parents[1] / "configs" / "labels.yaml"
SHAPE = (5, 64, 64)
ORIGIN_MM = (-20.0, -30.0, 100.0)
GRID = Geometry(ORIGIN_MM, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (3.0, 0.8, 0.7), SHAPE)


def phantom_hu(noise_sd_hu: float, seed: int) -> np.ndarray:
    """A water cylinder in air with white noise."""
    rows, columns = np.mgrid[:64, :64] - 31.5
    water = np.where(np.hypot(rows, columns) < 28, 0.0, -1000.0)
    return np.rint(water + np.random.default_rng(seed).normal(0, noise_sd_hu, SHAPE)).clip(-1024, None)


def write_series(hu: np.ndarray, grid: Geometry, folder: Path) -> None:
    write_ct_series(
        hu,
        grid,
        folder,
        patient_id="P1",
        study_uid="1.2.3",
        series_uid=f"1.2.3.{len(folder.name)}",
        frame_of_reference_uid="1.2.4",
        uid_seed=folder.name,
        series_number=1,
        series_description="test",
        study_datetime=datetime(2020, 1, 1),
        body_part="ABDOMEN",
        kernel="SOFT",
        kvp=120,
        tube_current_ma=100,
        exposure_mas=50,
        slice_thickness_mm=3.0,
        comment="",
    )


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """One case with everything: `c1/{normal_dose,low_dose,labels.nii,truth.nii}`."""
    folder = tmp_path_factory.mktemp("images") / "c1"
    folder.mkdir()
    write_series(phantom_hu(10, seed=1), GRID, folder / "normal_dose")
    write_series(phantom_hu(20, seed=2), GRID, folder / "low_dose")
    write_volume(folder / "labels.nii", phantom_hu(0, seed=0) > -500, GRID.affine_ras, np.uint8)
    write_volume(folder / "truth.nii", phantom_hu(0, seed=0), GRID.affine_ras, np.int16)
    return folder.parent


class Project:
    """A working directory with the preset `tiny`, its manifest and images."""

    def __init__(self, root: Path, images: Path) -> None:
        self.root = root
        self.images = root / "images"
        shutil.copytree(images, self.images)
        (root / "configs" / "tiny").mkdir(parents=True)
        shutil.copy(LABELS, root / "configs")
        self.configure()
        self.cases = [
            ManifestCase(
                "c1",
                "p1",
                "abdomen",
                0.25,
                "shared",
                "c1/normal_dose",
                "c1/low_dose",
                "c1/labels.nii",
                "c1/truth.nii",
            )
        ]

    def configure(
        self, root: str = "images", workers: int = 1, manifests: tuple[str, ...] = ("manifest",)
    ) -> None:
        sources = ", ".join(f"{{manifest: {one}, split: holdout, root: {root}}}" for one in manifests)
        text = f"sources: [{sources}]\nworkers: {workers}\n"
        (self.root / "configs" / "tiny" / "ingest.yaml").write_text(text)

    def add_case(self, case_id: str, **changes: object) -> Path:
        """Another case; its own copy of the images."""
        shutil.copytree(self.images / "c1", self.images / case_id)
        paths = {"normal_dose": f"{case_id}/normal_dose", "low_dose": f"{case_id}/low_dose"}
        self.cases.append(ManifestCase(case_id, case_id, "head", 0.5, "independent", **{**paths, **changes}))
        return self.images / case_id

    def list_cases(self, manifest: str, cases: list[ManifestCase], role: str = "train") -> None:
        write_manifest(self.root / manifest, cases)
        write_split(self.root / manifest, "holdout", {case.case_id: role for case in cases})

    def run(self) -> Path:
        self.list_cases("manifest", self.cases)
        ingest.run("tiny")
        return self.root / "data" / "tiny" / "cases"


@pytest.fixture
def project(tmp_path, images, monkeypatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, images)


def test_a_pair_is_stored_in_hu_with_the_geometry_of_its_dicom(project, images):
    folder = project.run()
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(images / "c1" / "low_dose")))
    source = reader.Execute()
    stored = SimpleITK.ReadImage(str(folder / "c1" / "low_dose.nii"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(stored), SimpleITK.GetArrayFromImage(source))
    np.testing.assert_allclose(stored.GetOrigin(), source.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(stored.GetSpacing(), source.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(stored.GetDirection(), source.GetDirection(), atol=1e-6)


def test_the_index_the_pictures_and_the_companions_are_there(project):
    folder = project.run()
    (case,) = read_cases(folder, "train")
    assert (case.case_id, case.patient_id, case.anatomy, case.dose_fraction) == ("c1", "p1", "abdomen", 0.25)
    assert (case.shape, case.spacing_mm, case.noise) == (SHAPE, GRID.spacing_mm, "shared")
    np.testing.assert_array_equal(case.normal_dose(), phantom_hu(10, seed=1))
    np.testing.assert_array_equal(case.truth(), phantom_hu(0, seed=0))
    assert case.mask().dtype == np.uint8
    assert (folder / "qc" / "c1.png").read_bytes().startswith(b"\x89PNG")


def test_the_fingerprint_knows_kernel_and_noise(project):
    found = read_fingerprint(read_cases(project.run()))
    assert found["kernels"] == {"SOFT": 1}
    assert found["slice_thickness_mm"] == [3.0, 3.0]
    assert found["noise_sd_hu"]["normal_dose"][0] == pytest.approx(10, rel=0.1)
    assert found["noise_sd_hu"]["low_dose"][0] == pytest.approx(20, rel=0.1)


def test_running_again_gives_the_same_digest_and_other_pixels_another(project):
    first = data_digest(project.run())
    assert data_digest(project.run()) == first
    shutil.rmtree(project.images / "c1" / "low_dose")
    write_series(phantom_hu(20, seed=3), GRID, project.images / "c1" / "low_dose")
    assert data_digest(project.run()) != first


def test_a_normal_dose_alone_is_a_case(project, images):
    shutil.rmtree(project.add_case("c2", low_dose=None, mask="c1/labels.nii") / "low_dose")
    folder = project.run()
    paired, alone = read_cases(folder)
    assert (paired.has_low_dose, alone.has_low_dose) == (True, False)
    assert sorted(path.name for path in alone.folder.glob("*.nii")) == ["mask.nii", "normal_dose.nii"]
    np.testing.assert_array_equal(alone.normal_dose(), phantom_hu(10, seed=1))
    with pytest.raises(DataError, match="case c2 has no low dose"):
        alone.low_dose()
    assert (folder / "qc" / "c2.png").read_bytes().startswith(b"\x89PNG")
    found = read_fingerprint((paired, alone))
    assert (found["cases"], found["dose_fractions"], found["noise"]) == (2, {"0.25": 1}, {"shared": 1})
    assert found["noise_sd_hu"]["low_dose"][0] == pytest.approx(20, rel=0.1)


def test_normal_doses_alone_have_no_range_of_low_dose_noise(project):
    project.cases.clear()
    project.add_case("c2", low_dose=None)
    found = read_fingerprint(read_cases(project.run()))
    assert found["noise_sd_hu"]["low_dose"] is None
    assert found["noise_sd_hu"]["normal_dose"][0] == pytest.approx(10, rel=0.1)
    assert found["dose_fractions"] == {}


def test_a_normal_dose_alone_is_checked_too(project, capsys):
    swap_in_a_mask("normal_dose")(project.add_case("c2", low_dose=None))
    with pytest.raises(DataError, match="1 of 2 cases"):
        project.run()
    assert "c2: normal_dose holds only the values 0, 1, 2, 5: a mask" in capsys.readouterr().err


def test_several_manifests_become_one_data_set_and_each_case_knows_its_own(project):
    project.add_case("c2", low_dose=None)
    first, second = project.cases
    project.list_cases("here/one", [first])
    project.list_cases("there/two", [second], role="validation")
    project.configure(manifests=("here/one", "there/two"))
    ingest.run("tiny")
    cases = read_cases(project.root / "data" / "tiny" / "cases")
    assert [(case.case_id, case.source, case.role) for case in cases] == [
        ("c1", "one", "train"),
        ("c2", "two", "validation"),
    ]


@pytest.mark.parametrize(
    ("manifests", "case_id", "complaint"),
    [
        (("one", "two"), "C1", "case C1 is in one and in two; give it another case_id in one of them"),
        (("one", "deep/one"), "c2", "one and deep/one are both called one; name each once, or copy"),
        (("one", "one"), "c2", "one and one are both called one"),
    ],
)
def test_sources_and_cases_that_cannot_be_told_apart_are_named(project, manifests, case_id, complaint):
    (first,) = project.cases
    project.list_cases(manifests[0], [first])
    project.list_cases(manifests[1], [replace(first, case_id=case_id)])
    project.configure(manifests=manifests)
    with pytest.raises((ConfigError, DataError)) as error:
        ingest.run("tiny")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("role", ["train", "test"])
def test_a_patient_of_two_sources_is_refused_with_the_way_out(project, role):
    (first,) = project.cases
    project.list_cases("one", [first])
    project.list_cases("two", [replace(first, case_id="c2")], role=role)
    project.configure(manifests=("one", "two"))
    with pytest.raises(DataError) as error:
        ingest.run("tiny")
    assert str(error.value) == (
        f"patient p1 is in one (train) and in two ({role}); if they are different people, rename one "
        "(patient_id), else list all cases of the patient in one manifest, with one role"
    )


def test_a_bad_case_of_one_source_names_its_manifest(project, capsys):
    empty_low_dose(project.add_case("c2"))
    first, second = project.cases
    project.list_cases("one", [first])
    project.list_cases("two", [second])
    project.configure(manifests=("one", "two"))
    with pytest.raises(DataError, match=r"^two/cases\.csv: 1 of 2 cases cannot be used"):
        ingest.run("tiny")


def scattered_slices(folder: Path) -> list[Path]:
    """Slices of three series in one folder, a file each."""
    folder.mkdir()
    files = []
    for number in range(3):
        write_series(phantom_hu(10, seed=number), GRID, folder.parent / f"{'s' * (number + 1)}")
        source = sorted((folder.parent / f"{'s' * (number + 1)}").iterdir())[number]
        files.append(shutil.copy(source, folder / f"slice{number}.dcm"))
    return files


def test_a_file_is_a_volume_one_slice_thick_at_its_own_place(project):
    scattered_slices(project.images / "mixed")
    path = project.images / "mixed" / "slice2.dcm"
    project.cases = [
        ManifestCase(
            "one", "p1", "chest", 1, "shared", "mixed/slice2.dcm", None, None, None, file_sha256(path)
        )
    ]
    folder = project.run()
    (case,) = read_cases(folder)
    assert (case.shape, case.spacing_mm) == ((1, 64, 64), (3.0, 0.8, 0.7))  # SliceThickness is the step
    np.testing.assert_array_equal(case.normal_dose(), phantom_hu(10, seed=2)[2:3])
    stored = SimpleITK.ReadImage(str(folder / "one" / "normal_dose.nii"))
    source = SimpleITK.ReadImage(str(path))
    np.testing.assert_allclose(stored.GetOrigin(), source.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(stored.GetDirection(), source.GetDirection(), atol=1e-6)
    assert read_fingerprint([case])["kernels"] == {"SOFT": 1}


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("mixed/gone.dcm", "mixed/gone.dcm: no such folder or file"),
        ("mixed/notes.txt", "mixed/notes.txt: "),
        ("mixed/thin.dcm", "thin.dcm: no valid position, orientation, pixel spacing or SliceThickness"),
        ("mixed/cut.dcm", "CORRUPT_PIXEL_DATA"),
        ("mixed/mr.dcm", "mixed/mr.dcm: modality MR, not CT"),
        ("c1/normal_dose/SLICE", "one of 5 slices of its series; name a folder of its own"),
        ("mixed", "mixed: 5 CT series; a manifest path needs exactly one"),
    ],
)
def test_a_file_that_is_no_slice_by_itself_is_named(project, capsys, path, complaint):
    _, cut, thin = scattered_slices(project.images / "mixed")
    (project.images / "mixed" / "notes.txt").write_text("notes")
    (project.images / "mixed" / "mr.dcm").write_bytes(edited(cut, SeriesInstanceUID="1.2.9", Modality="MR"))
    (project.images / "mixed" / "thin.dcm").write_bytes(
        edited(thin, SeriesInstanceUID="1.2.10", SliceThickness=0)
    )
    whole = edited(cut, SeriesInstanceUID="1.2.11")
    (project.images / "mixed" / "cut.dcm").write_bytes(whole[:-100])
    first = min((project.images / "c1" / "normal_dose").iterdir()).name
    listed = path.replace("SLICE", first)
    project.cases = [ManifestCase("bad", "p1", "chest", 1, "shared", listed)]
    with pytest.raises(DataError, match="1 of 1 cases"):
        project.run()
    assert complaint in capsys.readouterr().err


def edited(path: Path, **values: object) -> bytes:
    image = pydicom.dcmread(path)
    for keyword, value in values.items():
        setattr(image, keyword, value)
    stream = BytesIO()
    image.save_as(stream)
    return stream.getvalue()


def test_a_file_that_changed_is_refused(project, capsys):
    scattered_slices(project.images / "mixed")
    digest = "0" * 64
    project.cases = [
        ManifestCase("bad", "p1", "chest", 1, "shared", "mixed/slice1.dcm", normal_dose_sha256=digest)
    ]
    with pytest.raises(DataError, match="1 of 1 cases"):
        project.run()
    assert "mixed/slice1.dcm: its files differ from the manifest" in capsys.readouterr().err


def drop_last_slice(folder: Path) -> None:
    max((folder / "low_dose").iterdir()).unlink()


def cut_one_file_short(folder: Path) -> None:
    path = min((folder / "low_dose").iterdir())
    path.write_bytes(path.read_bytes()[:-100])


def shift_low_dose(folder: Path) -> None:
    shutil.rmtree(folder / "low_dose")
    moved = Geometry((-20.0, -30.0, 103.0), GRID.row_cosines, GRID.column_cosines, GRID.spacing_mm, SHAPE)
    write_series(phantom_hu(20, seed=2), moved, folder / "low_dose")


def show_another_patient(folder: Path) -> None:
    shutil.rmtree(folder / "low_dose")
    write_series(np.roll(phantom_hu(20, seed=2), 16, axis=2), GRID, folder / "low_dose")


def copy_the_normal_dose(folder: Path) -> None:
    shutil.rmtree(folder / "low_dose")
    shutil.copytree(folder / "normal_dose", folder / "low_dose")


def mix_two_series(folder: Path) -> None:
    write_series(phantom_hu(20, seed=2), GRID, folder / "low_dose" / "second")


def empty_low_dose(folder: Path) -> None:
    shutil.rmtree(folder / "low_dose")
    (folder / "low_dose").mkdir()


def swap_in_a_mask(name: str):
    def damage(folder: Path) -> None:
        shutil.rmtree(folder / name)
        labels = np.where(phantom_hu(0, seed=0) > -500, 5, 0)
        labels[:, :9], labels[:, 9:12] = 1, 2
        write_series(labels, GRID, folder / name)

    return damage


def leave_out_a_slice(folder: Path) -> None:
    sorted((folder / "low_dose").iterdir())[1].unlink()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (drop_last_slice, "c2: normal_dose has 5 slices, low_dose has 4; a pair needs equal counts"),
        (leave_out_a_slice, "1 of 5 slices missing"),
        (cut_one_file_short, "CORRUPT_PIXEL_DATA"),
        (shift_low_dose, "c2: the two grids are up to 3.00 mm apart"),
        (show_another_patient, "c2: normal_dose and low_dose do not show the same anatomy (correlation "),
        (copy_the_normal_dose, "c2: normal_dose and low_dose are the same images; check the paths"),
        (mix_two_series, "c2/low_dose: 2 CT series; a manifest path needs exactly one"),
        (empty_low_dose, "c2/low_dose: 0 CT series"),
        (swap_in_a_mask("normal_dose"), "c2: normal_dose holds only the values 0, 1, 2, 5: a mask, not CT"),
        (swap_in_a_mask("low_dose"), "c2: low_dose holds only the values 0, 1, 2, 5: a mask, not CT numbers"),
    ],
)
def test_a_bad_case_is_named_and_nothing_is_left(project, capsys, damage, complaint):
    damage(project.add_case("c2"))
    with pytest.raises(
        DataError, match=r"manifest/cases\.csv: 1 of 2 cases cannot be used, each named above"
    ):
        project.run()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("c2:")]
    assert complaint in line
    assert list((project.root / "data" / "tiny").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"low_dose": "gone"}, "images/gone: no such folder"),
        ({"normal_dose_sha256": "0" * 64}, "c2/normal_dose: its files differ from the manifest"),
        ({"mask": "c1/gone.nii"}, "c1/gone.nii: no such file"),
        ({"mask": "small.nii"}, "small.nii: shape (5, 64, 63), but the series has (5, 64, 64); resample it"),
        ({"mask": "unlisted.nii"}, "unlisted.nii: mask values 99, 200 are not in configs/labels.yaml"),
        ({"truth": "another.nii"}, "normal_dose and truth do not show the same anatomy (correlation "),
        ({"truth": "c1/labels.nii"}, "c2: truth holds only the values 0, 1: a mask, not CT numbers; check"),
        ({"truth": "moved.nii"}, "moved.nii: up to 1.00 mm off the grid of the series; resample it"),
        ({"mask": "negative.nii"}, "negative.nii: values are not whole numbers within uint8"),
    ],
)
def test_a_bad_manifest_entry_is_named(project, capsys, changes, complaint):
    moved = GRID.affine_ras.copy()
    moved[2, 3] += 1.0
    labels = np.zeros(SHAPE)
    write_volume(project.images / "small.nii", labels[:, :, :-1], GRID.affine_ras, np.uint8)
    unlisted = np.zeros(SHAPE)
    unlisted[0, 0, :2] = 99, 200
    write_volume(project.images / "unlisted.nii", unlisted, GRID.affine_ras, np.uint8)
    another = np.roll(phantom_hu(0, seed=0), 16, axis=2)
    write_volume(project.images / "another.nii", another, GRID.affine_ras, np.int16)
    write_volume(project.images / "moved.nii", labels, moved, np.int16)
    write_volume(project.images / "negative.nii", labels - 1, GRID.affine_ras, np.int16)
    project.add_case("c2", **changes)
    with pytest.raises(DataError, match="1 of 2 cases"):
        project.run()
    assert complaint in capsys.readouterr().err


def test_a_failed_run_keeps_what_was_there(project):
    before = data_digest(project.run())
    empty_low_dose(project.add_case("c2"))
    with pytest.raises(DataError, match="nothing was written"):
        project.run()
    assert data_digest(project.root / "data" / "tiny" / "cases") == before


def test_a_true_digest_is_accepted(project):
    digest = folder_sha256(project.images / "c1" / "normal_dose")
    project.add_case("c2", normal_dose_sha256=digest)
    assert len(read_cases(project.run())) == 2


def test_the_root_may_come_from_the_environment(project, monkeypatch):
    project.configure(root="$LDCT_TEST_IMAGES")
    monkeypatch.delenv("LDCT_TEST_IMAGES", raising=False)
    with pytest.raises(ConfigError, match=r"root: \$LDCT_TEST_IMAGES is not set; export LDCT_TEST_IMAGES="):
        project.run()
    monkeypatch.setenv("LDCT_TEST_IMAGES", "nowhere")
    with pytest.raises(ConfigError, match="root: nowhere is no folder"):
        project.run()
    monkeypatch.setenv("LDCT_TEST_IMAGES", str(project.images))
    assert read_cases(project.run())


@pytest.mark.slow
def test_several_processes_give_what_one_gives(project, capsys):
    project.add_case("c2")
    alone = data_digest(project.run())
    project.configure(workers=2)
    assert data_digest(project.run()) == alone
    cut_one_file_short(project.add_case("c3"))
    with pytest.raises(DataError, match="1 of 3 cases"):
        project.run()
    assert "c3: " in capsys.readouterr().err


@pytest.mark.real
def test_a_real_chest_keeps_its_noise_and_its_slice_order(tmp_path, monkeypatch, real_data):
    monkeypatch.chdir(tmp_path)
    folder = real_data / "ct" / "lidc_0314_chest_1mm"  # noise 24 HU, files unordered
    shutil.copytree(folder, tmp_path / "images" / "normal_dose")
    (entry,) = discover(folder).series
    noisier = read_series(entry).hu + np.random.default_rng(0).normal(0, 30, entry.geometry.shape)
    write_series(noisier, entry.geometry, tmp_path / "images" / "low_dose")
    (tmp_path / "configs" / "real").mkdir(parents=True)
    shutil.copy(LABELS, tmp_path / "configs")
    (tmp_path / "configs" / "real" / "ingest.yaml").write_text(
        "sources: [{manifest: manifest, split: all, root: images}]\nworkers: 1\n"
    )
    case = ManifestCase("a", "a", "chest", 0.4, "shared", "normal_dose", "low_dose")
    write_manifest(tmp_path / "manifest", [case])
    write_split(tmp_path / "manifest", "all", {"a": "test"})
    ingest.run("real")
    (case,) = read_cases(tmp_path / "data" / "real" / "cases")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    source = SimpleITK.GetArrayFromImage(reader.Execute())
    inside = source >= -1024
    np.testing.assert_array_equal(case.normal_dose()[inside], source[inside])
    noise = read_fingerprint([case])["noise_sd_hu"]
    assert noise["normal_dose"][0] == pytest.approx(24, abs=2)
