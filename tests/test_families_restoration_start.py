"""First weights from another denoiser's bundle: taken, written down, refused where they do not fit."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from pipeline.bundle import load_bundle, save_bundle, tensors_sha256
from pipeline.config.restoration import RestorationSettings
from pipeline.data.batches import Part
from pipeline.errors import BundleError, ConfigError
from pipeline.hu import HUScale
from pipeline.models import build_model
from pipeline.objectives import DISCRIMINATOR
from pipeline.stages.families import build_training
from pipeline.stages.families.restoration.encoders import load_encoders
from pipeline.stages.families.restoration.start import load_start
from tests.ct_cases import write_cases
from tests.tiny_bundles import denoiser_bundle, write_bundles

START = "models/tiny/denoiser/bundle.safetensors"
SETTINGS = {
    "family": "restoration",
    "steps": 4,
    "batch_size": 2,
    "model": {"architecture": "redcnn", "arguments": {"features": 3}},
    "optim": {"lr": 1e-4},
    "data": {"patch_size": 32, "validation_slices": 1},
    "start_from": START,
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cases(tmp_path / "cases")
    (tmp_path / "cases" / "fingerprint.json").write_text(
        f'{{"sha256": "{"d" * 64}", "roles": {{"train": {{"cases": 2}}}}}}'
    )
    save_bundle(tmp_path / START, denoiser_bundle(weights_sd=0.05))
    return tmp_path


def build(project, **changes):
    return build_training(RestorationSettings.model_validate({**SETTINGS, **changes}), project / "cases")


def test_a_training_starts_from_the_weights_and_says_so(project):
    start = load_bundle(project / START)
    training = build(project)
    assert tensors_sha256(training.networks["denoiser"].state_dict()) == tensors_sha256(start.tensors)
    assert training.networks["denoiser"].training
    assert all(parameter.requires_grad for parameter in training.networks["denoiser"].parameters())
    assert training.bundle.training["start_from"] == start.model_hash
    afresh = build(project, start_from=None)
    assert "start_from" not in afresh.bundle.training
    assert tensors_sha256(afresh.networks["denoiser"].state_dict()) != tensors_sha256(start.tensors)


def test_other_weights_under_the_same_path_are_another_training(project):
    """The training record decides the resume key."""
    first = build(project).bundle.training
    save_bundle(project / START, denoiser_bundle(weights_sd=0.1))
    assert build(project).bundle.training != first


def test_a_game_on_made_low_doses_with_all_variety_goes_on_from_there(project):
    settings = {
        "batch_size": 4,
        "model": {"architecture": "redcnn", "arguments": {"features": 3, "noise_map": True}},
        "data": {**SETTINGS["data"], "zooms": [0.75, 1.0], "shift_hu": 50, "contrast": [0.9, 1.1]},
        "low_dose": {
            "dose_fractions": [0.1, 0.4],
            "patches_per_slice": 2,
            "photons_per_ray": 1e5,
            "kernel_cutoff_per_mm": 0.2,
            "kernels": "varied",
        },
        "adversarial": {
            "game": "non_saturating",
            "weight": 1e-3,
            "keep": "last",
            "discriminator": {"features": 2, "layers": 2},
            "optim": {"lr": 1e-4},
        },
    }
    save_bundle(project / START, denoiser_bundle(noise_map=True, weights_sd=0.05))
    write_cases(project / "cases", side=96)
    training = build(project, **settings)
    part, generator = Part(0), torch.Generator().manual_seed(0)
    batch = training.batches.on_device(training.batches[part], part, generator=generator)
    turns = []
    for turn in training.objective.turns(training.networks, batch, step=0, generator=torch.Generator()):
        turn.loss.backward()
        turns.append((turn.network, bool(torch.isfinite(turn.loss))))
    assert turns == [(DISCRIMINATOR, True), ("denoiser", True)]
    kept = training.bundle.training
    assert (kept["low_dose"]["kernels"], kept["adversarial"]["keep"]) == ("varied", "last")
    assert len(kept["start_from"]) == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"start_from": "models/none.safetensors"},
            "start_from: models/none.safetensors is not there; train",
        ),
        (
            {"model": {"architecture": "redcnn", "arguments": {"features": 4}}},
            r"holds redcnn \{'features': 3\} at .*, the settings ask for redcnn \{'features': 4\}",
        ),
        (
            {"data": {**SETTINGS["data"], "scale": {"zero_hu": -1024, "unit_hu": 4096}}},
            r"the settings ask for .*unit_hu=4096.*; make model and data\.scale those of the bundle",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(project, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        build(project, **changes)
    assert "\n" not in str(error.value)


def test_a_left_out_source_must_not_come_in_by_the_weights(project):
    bundle = load_bundle(project / START)
    settings = RestorationSettings.model_validate({**SETTINGS, "leave_out": ["elsewhere"]})
    network, scale = build_model("redcnn", features=3), HUScale(0.0, 1000.0)
    with pytest.raises(ConfigError, match=r"was trained on elsewhere, which leave_out names; name a"):
        load_start(network, settings, scale)
    save_bundle(project / START, replace(bundle, training={"left_out": ["elsewhere", "other"]}))
    assert load_start(network, settings, scale) == load_bundle(project / START).model_hash


def test_nor_by_the_eye_of_a_loss(project):
    _, segmenter = write_bundles(project / "tiny")
    path, scale = segmenter.relative_to(project).as_posix(), HUScale(0.0, 1000.0)
    features = [{"kind": "features", "encoder": path}]
    settings = RestorationSettings.model_validate(
        {**SETTINGS, "losses": features, "leave_out": ["elsewhere"]}
    )
    with pytest.raises(
        ConfigError,
        match=rf"^losses: the encoder {path} was trained on elsewhere, which leave_out names; name",
    ):
        load_encoders(settings, scale, torch.device("cpu"))
    save_bundle(segmenter, replace(load_bundle(segmenter), training={"left_out": ["elsewhere"]}))
    assert set(load_encoders(settings, scale, torch.device("cpu"))) == {path}


def test_a_segmenter_is_no_start(project):
    _, segmenter = write_bundles(project / "tiny")
    save_bundle(project / START, load_bundle(segmenter))
    with pytest.raises(BundleError, match="holds a segmenter, a denoiser is needed"):
        build(project)


@pytest.mark.parametrize("path", ["/models/bundle.safetensors", "../bundle.safetensors"])
def test_a_start_outside_the_project_is_refused(path):
    with pytest.raises(ValidationError, match="a bundle lies below the project root"):
        RestorationSettings.model_validate({**SETTINGS, "start_from": path})


def test_contrasts_that_do_not_rise_are_turned_round():
    with pytest.raises(ValidationError, match=r"so write \[0\.8, 1\.2\]"):
        RestorationSettings.model_validate({**SETTINGS, "data": {"contrast": [1.2, 0.8]}})
