"""Every recipe trains: a step on tiny cases, weights that load, a slice that is restored."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from pipeline.bundle import load_bundle, save_bundle
from pipeline.cli import main
from pipeline.config.layout import Layout
from pipeline.config.preset import model_names, preset_names, recipe_names, trainable_names
from pipeline.config.restoration import RestorationSettings
from pipeline.config.train import load_train_settings
from pipeline.models.apply import neighbours_of, restore_hu, takes_noise_map
from pipeline.stages import evaluate, train
from tests.ct_cases import write_cases
from tests.tiny_bundles import write_bundles

ROOT = Path(__file__).parents[1]
RECIPES = {path.stem: path for path in sorted((ROOT / "configs" / "recipes").glob("*.yaml"))}
ENCODER = Path("models/demo/unet/bundle.safetensors")
FEW = {"steps": 2, "batch_size": 4, "validate_every": 2, "checkpoint_every": 2, "log_every": 1}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project root with the smoke preset, all recipes, tiny cases and a tiny segmenter."""
    for folder in ("smoke", "recipes"):
        shutil.copytree(ROOT / "configs" / folder, tmp_path / "configs" / folder)
    for name in ("labels.yaml", "preset.yaml"):
        shutil.copy(ROOT / "configs" / name, tmp_path / "configs")
    cases = tmp_path / "data" / "smoke" / "cases"
    write_cases(cases, side=64)
    (cases / "fingerprint.json").write_text(
        f'{{"sha256": "{"d" * 64}", "roles": {{"train": {{"cases": 2}}}}}}'
    )
    _, segmenter = write_bundles(tmp_path / "tiny")
    bundle = load_bundle(segmenter)
    (tmp_path / ENCODER).parent.mkdir(parents=True)
    save_bundle(tmp_path / ENCODER, bundle)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LDCT_TRACKING", "off")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def shrink(project, name):
    """Make a recipe's network and patches tiny and its trainings short; what it is about stays."""
    path = project / "configs" / "recipes" / f"{name}.yaml"
    settings = YAML().load(path)
    settings.update(FEW)
    settings["data"] = {"patch_size": 32, "validation_slices": 3}
    arguments = settings["model"].get("arguments", {})
    if "features" in arguments:
        arguments["features"] = [3, 4] if isinstance(arguments["features"], list) else 3
    if "low_dose" in settings:
        settings["low_dose"].update(photons_per_ray=2e5, kernel_cutoff_per_mm=0.2)
    if "adversarial" in settings:
        settings["adversarial"].update(start_step=0, ramp_steps=2)
        settings["adversarial"]["discriminator"] = {"features": 2, "layers": 2}
    YAML().dump(settings, path)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete_and_opens_with_its_command(name):
    settings = load_train_settings(RECIPES[name])
    assert isinstance(settings, RestorationSettings)
    first, *others = RECIPES[name].read_text(encoding="utf-8").splitlines()
    assert first == f"# ldct train {name}   (then: ldct evaluate {name})"
    assert any(line.startswith("# Time: ") for line in others)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_its_bundle_restores(project, name):
    shrink(project, name)
    train.run(name, "smoke")
    folder = project / "models" / "smoke" / name
    bundle = load_bundle(folder / "bundle.safetensors", kind="denoiser")
    settings = load_train_settings(Layout("smoke").config(name))
    network = bundle.model()
    image = torch.full((1, 2 * neighbours_of(network) + 1, 40, 44), 40.0)
    level = torch.tensor([20.0]) if takes_noise_map(network) else None
    restored = restore_hu(network, image, bundle.scale, noise_sd_hu=level)
    assert restored.shape == (1, 1, 40, 44)
    assert torch.isfinite(restored).all()
    assert bundle.training["losses"] == settings.loss_terms()
    assert ("degradation" in bundle.training) == (settings.degradation is not None)
    assert ("low_dose" in bundle.training) == (settings.low_dose is not None)
    assert ("adversarial" in bundle.training) == (settings.adversarial is not None)
    with (folder / "curves.csv").open() as handle:
        curves = csv.DictReader(handle).fieldnames
    assert {f"loss_{term.kind}" for term in settings.losses} <= set(curves)


def test_a_recipe_is_evaluated_by_its_name(project):
    shrink(project, "redcnn_25d")
    train.run("redcnn_25d", "smoke")
    evaluate.run("redcnn_25d", "smoke")
    assert (project / "metrics" / "smoke" / "redcnn_25d.json").is_file()


def test_a_preset_s_own_settings_come_before_a_recipe(project):
    assert Layout("smoke").config("rednet10") == Path("configs/recipes/rednet10.yaml")
    shutil.copy(Path("configs/recipes/rednet10.yaml"), Path("configs/smoke/rednet10.yaml"))
    assert Layout("smoke").config("rednet10") == Path("configs/smoke/rednet10.yaml")
    assert trainable_names("smoke").count("rednet10") == 1
    assert Layout("smoke").config("unheard_of") == Path("configs/smoke/unheard_of.yaml")


def test_recipes_are_no_preset(project):
    assert preset_names() == ["smoke"]
    assert recipe_names() == sorted(RECIPES)
    assert model_names("smoke") == ["gan", "redcnn", "unet", "vae"]


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_the_help_lists_recipes_and_an_unknown_name_too(project, capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "smoke: gan, redcnn, unet, vae" in shown
    assert f"recipes, for every preset: {', '.join(sorted(RECIPES))}" in shown
    with pytest.raises(SystemExit) as ended:
        main([command, "rednet1", "--preset", "smoke"])
    assert ended.value.code == 2
    assert "'rednet1' is not one of gan, redcnn, unet, vae, cnn10, " in capsys.readouterr().err


def test_the_help_needs_no_project(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    assert ended.value.code in (0, None)
    assert "run this in the root of the project" in capsys.readouterr().out
