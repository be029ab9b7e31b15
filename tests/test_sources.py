"""The manifests kept in data_manifests/, and trainings that leave a source out."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config.train import load_train_settings
from pipeline.data import read_cases, read_fingerprint
from pipeline.data.archives import check_manifest
from pipeline.errors import ConfigError
from pipeline.manifest import ROLES, read_manifest, read_split
from pipeline.stages import ingest
from pipeline.stages.families import build_training, building
from tests.ct_cases import write_cases

ROOT = Path(__file__).parents[1]
SOURCES = {
    "lidc_0314": (1, 0, 0),
    "lung_pet_ct_dx": (1, 0, 0),
    "tcga_lung": (14, 4, 4),
    "covid_ny_sbu": (3, 1, 1),
    "totalsegmentator": (1, 0, 0),
}
"""How many patients of each manifest train, validate and test."""


def training_without(cases, *left_out, family="redcnn"):
    settings = load_train_settings(ROOT / "configs" / "smoke" / f"{family}.yaml")
    return build_training(settings.model_copy(update={"leave_out": left_out}), cases)


@pytest.fixture
def cases(tmp_path, monkeypatch):
    """Two cases to train on and one to validate on, of three sources."""
    monkeypatch.chdir(ROOT)
    write_cases(tmp_path, sources=("one", "two", "one", "three"))
    return tmp_path


@pytest.mark.parametrize("family", ["redcnn", "unet", "vae", "gan"])
def test_a_source_left_out_is_neither_trained_on_nor_described_and_the_bundle_says_so(cases, family):
    kept, _ = read_cases(cases, "train")
    bundle = training_without(cases, "two", "three", family=family).bundle
    assert bundle.training["left_out"] == ["three", "two"]
    assert bundle.fingerprint == read_fingerprint([kept])
    assert "left_out" not in training_without(cases, family=family).bundle.training


def test_what_validates_is_left_out_too(cases, monkeypatch):
    write_cases(cases, roles=("train", "validation", "validation"), sources=("one", "one", "two"))
    handed_over = []
    monkeypatch.setattr(building, "build_vae", lambda *given: handed_over.append(given))
    training_without(cases, "two", family="vae")
    ((_, training, validation, _),) = handed_over
    assert [case.case_id for case in (*training, *validation)] == ["case0", "case1"]


@pytest.mark.parametrize(
    ("left_out", "complaint"),
    [
        (("lidc",), r"leave_out: no case is of the source lidc; \S+ has one, three, two$"),
        (("one", "two"), r"leave_out: no train case is left; those of \S+ are of one, two$"),
        (("one",), r"leave_out: no validation case is left; those of \S+ are of one$"),
    ],
)
def test_an_unknown_source_and_nothing_left_to_learn_from_are_named(cases, left_out, complaint):
    with pytest.raises(ConfigError, match=complaint):
        training_without(cases, *left_out)


def test_the_kept_manifests_share_no_case_and_no_patient_and_give_their_roles():
    cases = {name: read_manifest(ROOT / "data_manifests" / name) for name in SOURCES}
    everything = [case for some in cases.values() for case in some]
    assert len({case.case_id for case in everything}) == len(everything) == 30
    assert len({case.patient_id for case in everything}) == len(everything)
    for name, expected in SOURCES.items():
        roles = Counter(read_split(ROOT / "data_manifests" / name, "reference", cases[name]).values())
        assert tuple(roles[role] for role in ROLES) == expected


@pytest.mark.real
@pytest.mark.parametrize("name", SOURCES)
def test_a_kept_manifest_names_the_data_that_it_was_made_of(real_data, name):
    manifest = ROOT / "data_manifests" / name
    assert list(check_manifest(manifest, real_data)) == []
    assert all(case.normal_dose_sha256 for case in read_manifest(manifest))


@pytest.mark.real
@pytest.mark.slow
def test_the_kept_manifests_ingest_as_one_data_set(tmp_path, monkeypatch, real_data):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDCT_REAL_DATA", str(real_data.resolve()))
    (tmp_path / "configs" / "real").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "labels.yaml", "configs")
    listed = ", ".join(
        f"{{manifest: {ROOT / 'data_manifests' / name}, split: reference, root: $LDCT_REAL_DATA}}"
        for name in SOURCES
    )
    Path("configs/real/ingest.yaml").write_text(f"sources: [{listed}]\nworkers: 2\n")
    ingest.run("real")
    cases = read_cases(Path("data/real/cases"))
    assert Counter(case.source for case in cases) == {name: sum(roles) for name, roles in SOURCES.items()}
    assert {case.shape[0] for case in cases} == {1, 10, 16, 20}
    found = read_fingerprint(cases)
    assert found["anatomies"] == {"abdomen": 2, "chest": 28}
    assert found["slice_thickness_mm"] == [1.0, 10.0]
    assert found["slice_spacing_mm"] == [1.0, 10.0]
