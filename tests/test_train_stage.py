import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from pipeline.bundle import load_bundle
from pipeline.config.train import load_train_settings
from pipeline.degradations import build_degradations
from pipeline.engine import OptimizerPlan, ResumeStore
from pipeline.errors import BundleError, ConfigError, DataError, PipelineError
from pipeline.hu import WATER_CENTRED
from pipeline.models import MODELS, RedCNN
from pipeline.objectives import Restoration, RestorationPair
from pipeline.stages import evaluate, train
from pipeline.stages.families import ARCHITECTURES
from tests import training_setup
from tests.ct_cases import write_cases

ROOT = Path(__file__).parents[1]
ORGANS = ("liver", "spleen")
KINDS = {"redcnn": "denoiser", "unet": "segmenter", "vae": "vae", "gan": "gan"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project root with the smoke settings, tiny cases, and no tracking."""
    shutil.copytree(ROOT / "configs" / "smoke", tmp_path / "configs" / "smoke")
    shutil.copy(ROOT / "configs" / "labels.yaml", tmp_path / "configs")
    for name in KINDS:
        edit(tmp_path, name, steps=4, validate_every=2, checkpoint_every=2, log_every=2, batch_size=2)
    cases = tmp_path / "data" / "smoke" / "cases"
    write_cases(cases)
    (cases / "fingerprint.json").write_text(
        f'{{"sha256": "{"d" * 64}", "roles": {{"train": {{"cases": 2}}}}}}'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDCT_TRACKING", "off")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def edit(project, name, **values):
    path = project / "configs" / "smoke" / f"{name}.yaml"
    settings = YAML().load(path)
    settings.update(values)
    YAML().dump(settings, path)


@pytest.mark.parametrize(
    ("sources", "left_out", "phantoms_alone"),
    [
        (["phantom_demo"] * 4, [], True),
        (["phantom_demo", "phantom_demo", "phantom_demo", "mayo"], [], False),
        (["phantom_demo", "phantom_demo", "phantom_demo", "mayo"], ["mayo"], True),
    ],
)
def test_the_registry_is_told_whether_a_model_saw_phantoms_alone(
    project, monkeypatch, sources, left_out, phantoms_alone
):
    write_cases(project / "data" / "smoke" / "cases", sources=sources)
    edit(project, "redcnn", leave_out=left_out)
    told = {}
    monkeypatch.setattr(train, "register_bundle", lambda *_, **facts: told.update(facts))
    train.run("redcnn", "smoke")
    assert told["phantoms_alone"] is phantoms_alone


@pytest.mark.parametrize("name", KINDS)
def test_every_family_leaves_a_bundle_curves_a_picture_and_no_resume_state(project, name):
    train.run(name, "smoke")
    folder = project / "models" / "smoke" / name
    assert sorted(file.name for file in folder.iterdir()) == [
        "bundle.safetensors",
        "curves.csv",
        "last.safetensors",
        "run.json",
        "samples.png",
    ]
    bundle = load_bundle(folder / "bundle.safetensors", kind=KINDS[name])
    assert bundle.fingerprint["cases"] == 2
    assert len(bundle.config_digest) == len(bundle.data_digest) == 64
    assert not bundle.model().training
    with (folder / "curves.csv").open() as handle:
        assert [row["step"] for row in csv.DictReader(handle)] == ["2", "4"]
    assert load_bundle(folder / "last.safetensors").kind == bundle.kind
    assert list((project / ".ldct" / "resume").iterdir()) == []


def test_the_segmenter_knows_its_classes_in_order(project):
    train.run("unet", "smoke")
    bundle = load_bundle(project / "models" / "smoke" / "unet" / "bundle.safetensors")
    listed = load_train_settings(project / "configs" / "smoke" / "unet.yaml").data.classes
    assert [label["name"] for label in bundle.labels] == ["body", *listed]
    assert [label["value"] for label in bundle.labels] == list(range(1, len(listed) + 2))
    assert bundle.arguments["classes"] == len(listed) + 2


def test_the_gan_keeps_its_generator_only(project):
    train.run("gan", "smoke")
    bundle = load_bundle(project / "models" / "smoke" / "gan" / "bundle.safetensors")
    assert bundle.architecture == "dcgan"
    assert bundle.score["metric"] == "mmd"


def test_the_same_settings_give_the_same_bundle(project):
    path = project / "models" / "smoke" / "redcnn" / "bundle.safetensors"
    train.run("redcnn", "smoke")
    first = path.read_bytes()
    train.run("redcnn", "smoke")
    assert path.read_bytes() == first


MSE = {"losses": [{"kind": "mse", "weight": 1.0}]}
DEGRADATION = [
    {"kind": "blur", "sigma_mm": 1.5},
    {"kind": "holes", "shape": "ellipse", "count": 1, "smallest_mm": 4.0, "largest_mm": 8.0, "fill_hu": 0.0},
    {"kind": "white_noise", "sd_hu": 20.0},
]


SIMULATED = {
    "dose_fractions": [0.1, 0.4],
    "patches_per_slice": 2,
    "photons_per_ray": 1e5,
    "kernel_cutoff_per_mm": 0.2,
}
LOW_DOSE = {
    "kind": "low_dose",
    "dose_fraction": 0.25,
    "photons_per_ray": 1e5,
    "kernel_cutoff_per_mm": 0.7,
}


def test_a_degraded_training_records_what_it_restores(project):
    train.run("redcnn", "smoke")
    path = project / "models" / "smoke" / "redcnn" / "bundle.safetensors"
    of_low_dose = load_bundle(path)
    edit(project, "redcnn", degradation=DEGRADATION)
    train.run("redcnn", "smoke")
    bundle, first = load_bundle(path), path.read_bytes()
    assert bundle.training == {"degradation": DEGRADATION, **MSE}
    assert of_low_dose.training == MSE
    assert "normal dose after GaussianBlur(sigma_mm=1.5), Holes(" in bundle.score["convention"]
    assert bundle.score["input_psnr_db"] != of_low_dose.score["input_psnr_db"]
    train.run("redcnn", "smoke")
    assert path.read_bytes() == first


GAME = {"game": "non_saturating", "weight": 1e-3, "optim": {"lr": 1e-3}}


class StoppedError(Exception):
    pass


class Stopper(training_setup.Recorder):
    def log_metrics(self, values, step=None):
        super().log_metrics(values, step)
        if step >= 13:
            raise StoppedError


class Flat(torch.utils.data.Dataset):
    """Soft tissue without a low dose."""

    def __getitem__(self, index):
        return {"normal_dose": torch.full((1, 24, 24), 10.0 * (index % 7)), "pixel_mm": torch.tensor(2.0)}


def degraded_training():
    torch.manual_seed(0)
    steps = build_degradations(DEGRADATION)
    slices = Flat()[3]["normal_dose"][0].short().numpy()
    pair = RestorationPair.from_normal_dose(slices, steps, pixel_mm=2.0, generator=torch.Generator())
    return (
        Restoration(WATER_CENTRED, [pair], degradation=steps),
        {"denoiser": RedCNN(features=4)},
        Flat(),
        {"denoiser": OptimizerPlan(1e-3)},
    )


def test_an_interrupted_degraded_training_ends_with_the_same_weights(tmp_path):
    straight = training_setup.run(degraded_training(), ResumeStore(tmp_path / "a", "key"))
    store = ResumeStore(tmp_path / "b", "key")
    with pytest.raises(StoppedError):
        training_setup.run(degraded_training(), store, log=Stopper())
    assert store.load() is not None
    resumed = training_setup.run(degraded_training(), store)
    assert training_setup.digest(resumed) == training_setup.digest(straight)
    assert resumed.rows == straight.rows


def test_a_stopped_training_keeps_its_state_and_its_run(project, monkeypatch):
    def stop(*_, **__):
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(train, "write_curves", stop)
        with pytest.raises(OSError, match="no space"):
            train.run("redcnn", "smoke")
    (state,) = (project / ".ldct" / "resume").iterdir()
    assert re.fullmatch(r"smoke-redcnn-[0-9a-f]{16}", state.name)
    assert json.loads((state / "run.json").read_text()) == {"run_id": None}
    assert not (project / "models" / "smoke" / "redcnn" / "bundle.safetensors").exists()
    train.run("redcnn", "smoke")
    assert not state.exists()


def test_a_training_that_fails_before_its_first_state_leaves_no_folder(project, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(train, "_train", fail)
    with pytest.raises(OSError, match="no space"):
        train.run("redcnn", "smoke")
    assert list((project / ".ldct" / "resume").iterdir()) == []


def test_the_same_training_does_not_run_twice_at_once(project, monkeypatch):
    def again(*_, **__):
        with pytest.raises(PipelineError, match="already running here") as error:
            train.run("redcnn", "smoke")
        assert "\n" not in str(error.value)
        (folder,) = (project / ".ldct" / "resume").iterdir()
        assert sorted(file.name for file in folder.iterdir()) == ["lock", "run.json"]
        kill()

    monkeypatch.setattr(train, "_train", again)
    with pytest.raises(SystemExit):
        train.run("redcnn", "smoke")


def key_of(project, name):
    """Name of the folder where a training of these settings looks for a state of its own."""
    keys = []
    with pytest.MonkeyPatch.context() as stopped:
        stopped.setattr(train, "ResumeStore", lambda _, key: keys.append(key) or kill())
        with pytest.raises(SystemExit):
            train.run(name, "smoke")
    return keys[0]


def test_a_state_of_other_defaults_labels_or_libraries_is_not_continued(project, monkeypatch):
    """The YAML stays the same."""
    keys = {name: key_of(project, name) for name in ("redcnn", "unet")}
    assert key_of(project, "redcnn") == keys["redcnn"]
    field = load_train_settings(project / "configs" / "smoke" / "redcnn.yaml").optim.__class__
    with monkeypatch.context() as changed:
        changed.setattr(
            train,
            "load_train_settings",
            lambda path: (settings := load_train_settings(path)).model_copy(
                update={"optim": field.model_validate({**settings.optim.model_dump(), "weight_decay": 0.5})}
            ),
        )
        assert key_of(project, "redcnn") != keys["redcnn"]
    with monkeypatch.context() as changed:
        changed.setattr(train, "version", lambda library: f"{library} of another release")
        assert key_of(project, "redcnn") != keys["redcnn"]
    labels = project / "configs" / "labels.yaml"
    table = YAML().load(labels)
    liver, spleen = (next(row for row in table["labels"] if row["name"] == name) for name in ORGANS)
    liver["value"], spleen["value"] = spleen["value"], liver["value"]
    YAML().dump(table, labels)
    assert key_of(project, "unet") != keys["unet"]
    assert key_of(project, "redcnn") == keys["redcnn"]


def test_all_that_a_gpu_computes_is_computed_by_deterministic_kernels(project, monkeypatch):
    """CuBLAS reads its setting at its first product, which may be one for the batches."""

    def build(*_, **__):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
        kill()

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(train, "build_training", build)
    with pytest.raises(SystemExit):
        train.run("redcnn", "smoke")
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_training_killed_while_it_writes_leaves_no_old_weights_beside_the_new_run(project, monkeypatch):
    train.run("redcnn", "smoke")
    monkeypatch.setattr(train, "write_curves", kill)
    with pytest.raises(SystemExit):
        train.run("redcnn", "smoke")
    folder = project / "models" / "smoke" / "redcnn"
    assert (folder / "run.json").exists()
    assert list(folder.glob("*.safetensors")) == []


def kill(*_, **__):
    raise SystemExit(143)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_bundle_says_in_which_arithmetic_it_was_trained(project, precision):
    edit(project, "redcnn", precision=precision)
    train.run("redcnn", "smoke")
    assert load_bundle(project / "models" / "smoke" / "redcnn" / "bundle.safetensors").precision == precision


def test_a_window_upside_down_is_named_in_one_line(project):
    path = project / "configs" / "smoke" / "vae.yaml"
    settings = YAML().load(path)
    settings["data"]["window"] = {"low": 240, "high": -160}
    YAML().dump(settings, path)
    with pytest.raises(ConfigError, match=r"data\.window: .*low 240 and high -160") as error:
        train.run("vae", "smoke")
    assert "\n" not in str(error.value)


def test_families_name_models_that_exist():
    assert {name for names in ARCHITECTURES.values() for name in names} == set(MODELS)


@pytest.mark.parametrize("preset", ["demo", "smoke", "paper"])
@pytest.mark.parametrize("name", KINDS)
def test_shipped_settings_are_valid(preset, name):
    path = ROOT / "configs" / preset / f"{name}.yaml"
    load_train_settings(path)
    assert f"ldct train {name}" in path.read_text().splitlines()[0]


def test_the_paper_preset_is_the_published_red_cnn():
    settings = load_train_settings(ROOT / "configs" / "paper" / "redcnn.yaml")
    assert settings.model.arguments == {"features": 96, "final_relu": True}
    assert (settings.data.scale.zero_hu, settings.data.scale.unit_hu) == (-1024, 4096)
    assert (settings.data.patch_size, settings.precision) == (55, "fp32")
    assert settings.data.zooms == (0.5, 1.0, 2.0)
    assert settings.loss_terms() == MSE["losses"]
    assert (settings.optim.lr, settings.optim.lr * settings.optim.final_fraction) == pytest.approx(
        (1e-4, 1e-5)
    )


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("redcnn", {"optim": {"lrr": 1e-3}}, "optim.lrr: unknown key, did you mean optim.lr"),
        ("redcnn", {"family": "diffusion"}, "family"),
        (
            "redcnn",
            {"model": {"architecture": "resnet"}},
            "'resnet' is no model of the family restoration; it has redcnn, rednet, drunet, residual_cnn",
        ),
        ("vae", {"model": {"architecture": "redcnn"}}, "redcnn"),
        ("gan", {"model": {"architecture": "vae"}}, "'vae' is no model of the family gan"),
        ("redcnn", {"model": {"architecture": "unet"}}, "'unet' is no model of the family restoration"),
        ("redcnn", {"optim": {"lr": float("inf")}}, r"optim\.lr: input should be a finite number"),
        ("redcnn", {"clip_norm": float("nan")}, "clip_norm: input should be"),
        (
            "redcnn",
            {"degradation": [{"kind": "blur", "sigma_pixels": 1}]},
            "sigma_pixels: unknown key",
        ),
        ("redcnn", {"degradation": []}, "degradation: list should have at least 1 item"),
        (
            "redcnn",
            {"degradation": [LOW_DOSE]},
            "degradation: .*low_dose needs the ray sums of a whole slice",
        ),
        ("vae", {"degradation": DEGRADATION}, "degradation: unknown key"),
        ("redcnn", {"accumulate": 3}, "accumulate: .*must divide batch_size 2, got 3"),
        ("unet", {"accumulate": 3}, "accumulate: .*must divide batch_size 2, got 3"),
        ("redcnn", {"losses": []}, "losses: list should have at least 1 item"),
        ("redcnn", {"losses": [{"kind": "mae"}]}, r"losses\.0: .*'mse', 'l1', 'charbonnier'"),
        ("redcnn", {"losses": [{"kind": "l1", "weight": 0}]}, r"losses\.0\.l1\.weight: .*greater than 0"),
        ("redcnn", {"losses": [{"kind": "mse"}, {"kind": "mse"}]}, "losses name mse more than once"),
        (
            "redcnn",
            {"losses": [{"kind": "features", "encoder": "models/none.safetensors"}]},
            "losses: the encoder models/none.safetensors is not there; train that segmenter first",
        ),
        (
            "redcnn",
            {"degradation": DEGRADATION, "low_dose": {"patches_per_slice": 1}},
            "low_dose: .*degradation makes the network's input already",
        ),
        (
            "redcnn",
            {"low_dose": {"patches_per_slice": 4}},
            r"low_dose: .*patches_per_slice 4 must divide batch_size / accumulate = 2",
        ),
        ("redcnn", {"low_dose": {"dose_fractions": [0.6, 0.1]}}, r"dose_fractions: .*write \[0\.1, 0\.6\]"),
        ("redcnn", {"adversarial": {**GAME, "start_step": 4}}, "start_step 4 is not below steps 4"),
        ("redcnn", {"adversarial": {**GAME, "critic_steps": 2}}, "critic_steps: unknown key"),
        (
            "redcnn",
            {"adversarial": {**GAME, "discriminator": {"layers": 4}}},
            "data.patch_size 32 is too small for adversarial.discriminator, which needs 48 pixels or more",
        ),
        (
            "redcnn",
            {"model": {"architecture": "redcnn", "arguments": {"features": 4, "final_relu": True}}},
            r"final_relu clips what is below data\.scale\.zero_hu 0 HU, air \(-1000 HU\) too",
        ),
        (
            "redcnn",
            {"data": {"patch_size": 20}},
            r"data\.patch_size 20 is too small for model, which needs 21 pixels or more",
        ),
        (
            "redcnn",
            {"degradation": DEGRADATION, "model": {"architecture": "redcnn", "arguments": {"neighbours": 1}}},
            "neighbours 1 needs stored neighbouring slices, but degradation makes single ones",
        ),
        (
            "redcnn",
            {
                "low_dose": {"patches_per_slice": 1},
                "model": {"architecture": "redcnn", "arguments": {"neighbours": 1}},
            },
            "neighbours 1 needs stored neighbouring slices, but low_dose makes single ones",
        ),
        (
            "redcnn",
            {
                "degradation": DEGRADATION,
                "model": {"architecture": "redcnn", "arguments": {"noise_map": True}},
            },
            "noise_map needs the noise of the input, which is not known after a degradation",
        ),
        (
            "redcnn",
            {"error_unit": "noise_sd"},
            "error_unit noise_sd needs the noise level, which only a network with a noise map is told",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_named_in_one_line(project, name, change, message):
    edit(project, name, **change)
    with pytest.raises(ConfigError, match=message) as error:
        train.run(name, "smoke")
    assert "\n" not in str(error.value)


def test_an_unknown_class_is_named(project):
    path = project / "configs" / "smoke" / "unet.yaml"
    path.write_text(path.read_text().replace("liver", "gills"))
    with pytest.raises(ConfigError, match=r"data\.classes: unknown label gills"):
        train.run("unet", "smoke")


@pytest.mark.parametrize("how", [{"degradation": DEGRADATION}, {"low_dose": SIMULATED}])
def test_cases_of_a_normal_dose_alone_can_be_trained_on(project, how):
    write_cases(project / "data" / "smoke" / "cases", low_dose=False)
    with pytest.raises(
        DataError, match=r"2 of 2 train cases have no low dose \(case0, case1\); give"
    ) as error:
        train.run("redcnn", "smoke")
    assert "\n" not in str(error.value)
    edit(project, "redcnn", **how)
    train.run("redcnn", "smoke")
    bundle = load_bundle(project / "models" / "smoke" / "redcnn" / "bundle.safetensors")
    kept = {**bundle.training}
    if "low_dose" in how:
        kept["low_dose"] = {name: kept["low_dose"][name] for name in SIMULATED}  # and the noise
    assert kept == {**how, **MSE}


def test_a_training_on_made_low_dose_says_so_beside_its_score(project):
    edit(project, "redcnn", low_dose=SIMULATED)
    train.run("redcnn", "smoke")
    path = project / "models" / "smoke" / "redcnn" / "bundle.safetensors"
    bundle, first = load_bundle(path), path.read_bytes()
    assert bundle.score["convention"] == "redcnn, input: low dose made at 20 % of the normal dose"
    assert bundle.trained_on == "low dose"
    train.run("redcnn", "smoke")
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    "game",
    [{"game": "non_saturating", "r1_gamma": 1.0}, {"game": "wasserstein", "critic_steps": 2}],
    ids=lambda game: game["game"],
)
def test_an_adversarial_denoiser_leaves_its_discriminator_behind(project, game):
    settings = {
        **GAME,
        **game,
        "start_step": 1,
        "ramp_steps": 2,
        "discriminator": {"features": 2, "layers": 2},
    }
    edit(project, "redcnn", adversarial=settings)
    train.run("redcnn", "smoke")
    folder = project / "models" / "smoke" / "redcnn"
    bundle = load_bundle(folder / "bundle.safetensors", kind="denoiser")
    assert not bundle.model().training
    kept = bundle.training["adversarial"]
    assert {name: kept[name] for name in settings if name != "optim"} | {"optim": GAME["optim"]} == settings
    with (folder / "curves.csv").open() as handle:
        assert "logit_gap" in csv.DictReader(handle).fieldnames


def test_a_feature_loss_keeps_the_hash_of_its_encoder(project):
    train.run("unet", "smoke")
    encoder = "models/smoke/unet/bundle.safetensors"
    edit(project, "redcnn", losses=[{"kind": "mse"}, {"kind": "features", "weight": 0.1, "encoder": encoder}])
    train.run("redcnn", "smoke")
    bundle = load_bundle(project / "models" / "smoke" / "redcnn" / "bundle.safetensors")
    assert bundle.training["encoders"] == {encoder: load_bundle(project / encoder).model_hash}
    edit(
        project, "redcnn", losses=[{"kind": "features", "encoder": "models/smoke/redcnn/bundle.safetensors"}]
    )
    with pytest.raises(BundleError, match="holds a denoiser, a segmenter is needed"):
        train.run("redcnn", "smoke")


def test_micro_batches_change_the_weights_by_rounding_only(project):
    path = project / "models" / "smoke" / "redcnn" / "bundle.safetensors"
    edit(project, "redcnn", precision="fp32")
    train.run("redcnn", "smoke")
    whole = load_bundle(path).tensors
    edit(project, "redcnn", accumulate=2)
    train.run("redcnn", "smoke")
    for name, tensor in load_bundle(path).tensors.items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-3, atol=2e-5)


def test_missing_cases_are_named(project):
    shutil.rmtree(project / "data")
    with pytest.raises(DataError, match=r"index\.csv"):
        train.run("redcnn", "smoke")


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_a_bundle_of_slices_is_scored_as_it_was_trained_whatever_its_yaml_says_now(project, name):
    train.run(name, "smoke")
    settings = load_train_settings(project / "configs" / "smoke" / f"{name}.yaml")
    (project / "configs" / "smoke" / f"{name}.yaml").unlink()
    evaluate.run(name, "smoke")
    bundle = load_bundle(project / "models" / "smoke" / name / "bundle.safetensors")
    assert bundle.training["field_of_view_mm"] == settings.data.field_of_view_mm
    assert bundle.training.get("noise_sd") == getattr(settings, "noise_sd", None)
    assert (project / "metrics" / "smoke" / f"{name}.json").exists()
