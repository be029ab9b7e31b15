from pathlib import Path
from typing import get_args

import pytest

from pipeline.config.base import Settings, load_settings
from pipeline.config.predict import PredictSettings
from pipeline.config.preset import choose_preset, names_in_words, preset_names
from pipeline.config.restoration import FeaturesTerm, LossTerm, NonSaturatingGame, RestorationSettings
from pipeline.errors import ConfigError
from pipeline.losses import LOSSES


class Optim(Settings):
    lr: float
    steps: int = 10


class Example(Settings):
    name: str
    optim: Optim


def read(folder: Path, text: str) -> Example:
    path = folder / "unet.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, Example)


def test_scientific_notation_without_a_dot_is_a_number(tmp_path: Path) -> None:
    assert read(tmp_path, "name: off\noptim: {lr: 1e-4}\n") == Example(name="off", optim=Optim(lr=1e-4))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "name: a\noptim: {lrr: 1}\n",
            r"unet.yaml: optim.lr: required key is missing; optim.lrr: unknown key, did you mean optim.lr\?",
        ),
        ("name: a\noptim: {lr: fast}\n", "unet.yaml: optim.lr: .* got 'fast'"),
        ("name: [\n", "unet.yaml: not valid YAML"),
        ("- 1\n", "unet.yaml: expected `key: value` lines, got list"),
        ("", "unet.yaml: name: required key is missing; optim: required key is missing"),
        ("!!python/object/apply:os.system ['true']\n", "unet.yaml: not valid YAML"),
    ],
)
def test_bad_settings_are_named_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as refusal:
        read(tmp_path, text)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 2


TRAINING = """
family: restoration
steps: 10
batch_size: 4
model: {architecture: redcnn}
optim: {lr: 1e-3}
"""
GAME = "weight: 1, optim: {lr: 1}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            f"adversarial: {{game: wasserstein, {GAME}, r1_gamma: 1}}",
            "adversarial.wasserstein.r1_gamma: unknown key, not a key of this game but of non_saturating",
        ),
        (
            f"adversarial: {{game: wasserstein, {GAME}, critic_step: 1}}",
            "adversarial.wasserstein.critic_step: unknown key, did you mean "
            "adversarial.wasserstein.critic_steps?",
        ),
        (
            "losses: [{kind: mse}, {kind: charbonnier}]\nerror_unit: noise_sd",
            "error_unit: losses charbonnier have lengths in HU of their own; use gradient, l1, mse, "
            "or error_unit: hu, got 'noise_sd'",
        ),
        (
            "losses: [{kind: mse, epsilon_hu: 1}]",
            "losses.0.mse.epsilon_hu: unknown key, not a key of this kind but of charbonnier",
        ),
        ("data: {eps: 1}", "data.eps: unknown key"),
        (
            "data: {scale: {units_hu: 1}}",
            "data.scale.units_hu: unknown key, did you mean data.scale.unit_hu?",
        ),
        ("optm: {}", "optm: unknown key, did you mean optim?"),
        ("data: {zooms: [0]}", "data.zooms.0: input should be greater than 0, got 0"),
        ("data: {zooms: 1}", "data.zooms: input should be a list, got 1"),
        ("data:", "data: input should be a mapping, `key: value`, got nothing"),
        ("losses: [3]", "losses.0: input should be a mapping, `key: value`, got 3"),
        ("losses: []", "losses: list should have at least 1 item, got []"),
        ("losses: [{weight: 1}]", "losses.0.kind: required key is missing"),
        (
            "losses: [{kind: mae}]",
            "losses.0: unknown kind 'mae', known are 'mse', 'l1', 'charbonnier', 'gradient', 'ssim', "
            "'features'",
        ),
        ("low_dose: {dose_fractions: [0.5]}", "low_dose.dose_fractions.1: required item is missing"),
        (
            "low_dose: {dose_fractions: [0.5, 0.1]}",
            "low_dose.dose_fractions: the lower dose comes first, so write [0.1, 0.5], got [0.5, 0.1]",
        ),
        ("workers: 1.5", "workers: input should be a whole number, got 1.5"),
        (f"seed: {2**63}", f"seed: input should be less than or equal to {2**63 - 1}, got {2**63}"),
    ],
)
def test_a_fault_is_one_complaint_in_the_words_of_yaml(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "redcnn.yaml"
    path.write_text(f"{TRAINING}{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refusal:
        load_settings(path, RestorationSettings)
    assert str(refusal.value) == f"{path}: {complaint}"


def test_a_preset_makes_pairs_or_reads_them_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own/ingest", "demo/simulate", "demo/ingest", "recipes/cnn10", "lab/restoration"):
        path = Path("configs", f"{name}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert preset_names() == ["demo", "own"]
    assert choose_preset("own") == "own"
    assert names_in_words().startswith("demo: ")


def test_missing_file_says_where_presets_live(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such settings file; presets live in configs/<preset>/"):
        load_settings(tmp_path / "absent.yaml", Example)


@pytest.mark.parametrize("text", ["", "# lr: 1e-4\n", "---\n"])
def test_settings_without_a_key_are_the_defaults(tmp_path: Path, text: str) -> None:
    (tmp_path / "predict.yaml").write_text(text, encoding="utf-8")
    assert load_settings(tmp_path / "predict.yaml", PredictSettings) == PredictSettings()


def test_a_folder_as_settings_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\); name a readable YAML file"):
        load_settings(tmp_path, Example)


def test_settings_and_registry_have_the_same_losses() -> None:
    union, _ = get_args(LossTerm)
    kinds = [get_args(term.model_fields["kind"].annotation) for term in get_args(union)]
    assert [kind for (kind,) in kinds] == list(LOSSES)


@pytest.mark.parametrize(
    "encoder", ["/srv/models/unet/bundle.safetensors", "../other/bundle.safetensors", "models/../../b"]
)
def test_an_encoder_outside_the_project_is_refused(tmp_path: Path, encoder: str) -> None:
    path = tmp_path / "redcnn.yaml"
    path.write_text(f"kind: features\nencoder: {encoder}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"encoder: .*below the project root.* got '.*b") as refusal:
        load_settings(path, FeaturesTerm)
    assert "\n" not in str(refusal.value)


def test_the_penalties_of_both_games_are_on_and_suit_1000_hu(tmp_path: Path) -> None:
    path = tmp_path / "game.yaml"
    path.write_text("game: non_saturating\nweight: 1e-4\noptim: {lr: 1e-3}\n", encoding="utf-8")
    assert load_settings(path, NonSaturatingGame).r1_gamma == 1e-3
    path.write_text(path.read_text(encoding="utf-8") + "r1_gamma: 0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"r1_gamma: .*greater than 0"):
        load_settings(path, NonSaturatingGame)
