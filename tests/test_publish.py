"""What ships: the plain denoiser always, its texture variant only where no rule is broken."""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import cli, weights
from pipeline.bundle import save_bundle
from pipeline.config.layout import Layout
from pipeline.errors import BundleError, ConfigError, DataError
from pipeline.report.card.gate import broken_rules
from pipeline.report.card.scores import Scores
from pipeline.stages import publish
from tests import made_scores
from tests.conftest import CHECKOUT
from tests.tiny_bundles import denoiser_bundle

LAYOUT = Layout("reference")
NAMES = ("denoiser", "denoiser_texture")
PLAIN_FILE, TEXTURE_FILE = (Path("pipeline/weights", f"{name}.safetensors") for name in NAMES)


def scores(*, l1_distance=0.5, **more):
    """Three doses, two of them with lesions, no lung."""
    found = made_scores.scores(
        l1_distance=l1_distance, detectability=made_scores.lesions(), ttf=made_scores.edges(0.95), **more
    )
    for own in found["doses"].values():
        for tissue, bias_hu in {"body": 0.0, "soft_tissue": -0.4, "bone": -2.5, "fat": 0.3}.items():
            own["bias_against_normal_dose_hu"][tissue]["restored"] = bias_hu
    return found


PLAIN = scores()


def changed(value, *keys, base=None):
    """Good scores of a texture variant but for one value; `...` takes it out."""
    return made_scores.damaged(scores(l1_distance=0.2) if base is None else base, keys, value)


def seen(verdict, dose, observer, base=None):
    """Good scores of a texture variant but for one verdict on lesions."""
    found = scores(l1_distance=0.2) if base is None else copy.deepcopy(base)
    made_scores.with_verdict(found["detectability"], verdict, f"{dose:g}", observer)
    return found


def broken(plain, texture):
    """The rules that a texture variant of these scores breaks."""
    return broken_rules(Scores.model_validate(plain), Scores.model_validate(texture))


def l1_distance(dose):
    return "doses", f"dose_{dose:g}", "noise_texture", "restored", "l1_distance"


def bias(dose, tissue):
    return "doses", f"dose_{dose:g}", "bias_against_normal_dose_hu", tissue, "restored"


def test_scores_that_keep_every_rule_break_none():
    assert broken(PLAIN, scores(l1_distance=0.2)) == []


@pytest.mark.parametrize(
    ("value", "keys", "line"),
    [
        (
            0.6,
            l1_distance(0.1),
            "10 % dose, noise texture: L1 distance 0.6, not below the plain variant's 0.5",
        ),
        (
            0.5,
            l1_distance(0.4),
            "40 % dose, noise texture: L1 distance 0.5, not below the plain variant's 0.5",
        ),
        (
            -1.2,
            bias(0.25, "soft_tissue"),
            "25 % dose, HU bias in soft tissue: -1.20 HU, larger than 1 HU and the plain variant's -0.40 HU",
        ),
        (
            2.6,
            bias(0.25, "bone"),
            "25 % dose, HU bias in bone: +2.60 HU, larger than 1 HU and the plain variant's -2.50 HU",
        ),
    ],
)
def test_each_rule_breaks_alone(value, keys, line):
    assert broken(PLAIN, changed(value, *keys)) == [line]


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (1.0, bias(0.25, "soft_tissue")),
        (2.5, bias(0.25, "bone")),
        (0.499, l1_distance(0.1)),
    ],
)
def test_a_number_on_its_limit_or_better_breaks_no_rule(value, keys):
    assert broken(PLAIN, changed(value, *keys)) == []


def test_a_verdict_that_the_plain_variant_has_too_is_no_worse():
    lost = seen("lost", 0.1, "cho")
    assert broken(seen("lost", 0.1, "cho", base=PLAIN), lost) == []
    assert broken(PLAIN, seen("gained", 0.1, "cho")) == []
    assert broken(PLAIN, lost) == ["10 % dose, detectability to CHO: lost, the plain variant's: kept"]
    gained = seen("gained", 0.25, "npw", base=PLAIN)
    (line,) = broken(gained, scores(l1_distance=0.2))
    assert line == "25 % dose, detectability to NPW: kept, the plain variant's: gained"


@pytest.mark.parametrize(
    ("value", "keys", "what"),
    [
        (None, l1_distance(0.1), "10 % dose, noise texture, L1 distance"),
        (math.nan, l1_distance(0.1), "10 % dose, noise texture, L1 distance"),
        ({}, l1_distance(0.4)[:-2], "40 % dose, noise texture, L1 distance"),
        (..., bias(0.4, "bone")[:-1], "40 % dose, HU bias in bone"),
    ],
)
def test_a_missing_number_breaks_the_gate_and_is_named(value, keys, what):
    texture = changed(value, *keys)
    assert broken(PLAIN, texture) == [f"{what}: missing for the texture variant"]
    plain = changed(value, *keys, base=PLAIN)
    assert broken(plain, scores(l1_distance=0.2)) == [f"{what}: missing for the plain variant"]


def test_lesions_that_one_variant_was_not_scored_with_are_missing():
    unseen = scores(l1_distance=0.2) | {"detectability": {"not_measured": "why"}}
    assert broken(PLAIN, unseen) == [
        f"{dose} % dose, detectability to {observer}: missing for the texture variant"
        for dose in (25, 10)
        for observer in ("CHO", "NPW")
    ]


def test_what_was_measured_of_neither_is_not_taken_for_kept():
    plain, texture = (
        one | {"detectability": {"not_measured": "why"}}
        for one in (scores(doses=(0.25,)), scores(doses=(0.25,)))
    )
    for one in (plain, texture):
        one["doses"]["dose_0.25"] |= {"noise_texture": {}, "bias_against_normal_dose_hu": {}}
    assert broken(plain, texture) == [
        "25 % dose, noise texture, L1 distance: missing for the plain and the texture variant",
        "25 % dose, HU bias: no tissue was scored",
        "detectability: measured at no dose",
    ]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout with two trained and scored variants, of which the one for texture keeps every rule."""
    monkeypatch.chdir(tmp_path)
    PLAIN_FILE.parent.mkdir(parents=True)
    Path("configs/reference").mkdir(parents=True)
    Path("configs/reference/simulate.yaml").touch()
    shutil.copy(CHECKOUT / LAYOUT.config("evaluate"), LAYOUT.config("evaluate"))
    for name, own in zip(NAMES, (PLAIN, scores(l1_distance=0.2)), strict=True):
        LAYOUT.config(name).touch()
        save_bundle(LAYOUT.bundle(name), bundle(name))
        write_scores(name, own)
    return tmp_path


def bundle(name):
    return replace(denoiser_bundle(), name=name)


def write_scores(name, values, **changes):
    path = LAYOUT.metrics(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values | {"model_hash": bundle(name).model_hash} | changes))


def gate():
    return json.loads(LAYOUT.metrics("texture_gate").read_text())


def test_both_variants_ship_byte_for_byte_where_no_rule_is_broken(project, monkeypatch):
    publish.run("reference")
    for name, file in zip(NAMES, (PLAIN_FILE, TEXTURE_FILE), strict=True):
        assert file.read_bytes() == LAYOUT.bundle(name).read_bytes()
    hashes = {name: bundle(name).model_hash for name in NAMES}
    assert gate() == {"ships": True, "broken": [], "model_hash": hashes}
    monkeypatch.setattr(weights, "__file__", str(project / "pipeline" / "weights" / "__init__.py"))
    shipped = [weights.shipped(variant) for variant in weights.VARIANTS]
    assert shipped == [project / PLAIN_FILE, project / TEXTURE_FILE]


def test_a_broken_rule_takes_an_older_texture_variant_out(project, capsys):
    publish.run("reference")
    write_scores("denoiser_texture", seen("lost", 0.1, "cho"))
    publish.run("reference")
    assert PLAIN_FILE.is_file()
    assert not TEXTURE_FILE.exists()
    line = "10 % dose, detectability to CHO: lost, the plain variant's: kept"
    assert (gate()["ships"], gate()["broken"]) == (False, [line])
    assert f"does not ship; 1 broken:\n  {line}\n" in capsys.readouterr().out
    assert list(PLAIN_FILE.parent.iterdir()) == [PLAIN_FILE]


@pytest.mark.parametrize("name", NAMES)
def test_scores_that_are_missing_or_of_other_weights_write_nothing(project, name):
    way_out = f"run ldct evaluate {name} --preset reference"
    write_scores(name, scores(), model_hash="0123456789abcdef")
    with pytest.raises(DataError, match=f"{name}.json: scores of model 0123456789ab, .*; {way_out}"):
        publish.run("reference")
    LAYOUT.metrics(name).unlink()
    with pytest.raises(DataError, match=f"{name}.json: no such file; {way_out}"):
        publish.run("reference")
    assert not PLAIN_FILE.exists()
    assert not LAYOUT.metrics("texture_gate").exists()


def test_scores_under_different_settings_are_not_compared(project):
    write_scores("denoiser_texture", scores(l1_distance=0.2, settings_sha256="other"))
    with pytest.raises(DataError, match=r"denoiser_texture.json: scored with other settings than .*evaluate"):
        publish.run("reference")


def files():
    folders = (PLAIN_FILE.parent, LAYOUT.metrics("texture_gate").parent)
    return {path: path.read_bytes() for folder in folders for path in folder.iterdir()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("value", "keys", "fault"),
    [
        (..., ["doses"], "doses: missing"),
        (None, ["doses"], "doses: input should be a valid dictionary"),
        ({}, ["doses"], "doses: dictionary should have at least 1 item"),
        (..., ["doses", "dose_0.1"], "doses.dose_0.1: missing"),
        (..., l1_distance(0.1), r"doses.dose_0.1.noise_texture.restored.l1_distance: missing"),
        (..., bias(0.4, "bone"), r"bias_against_normal_dose_hu.bone.restored: missing"),
        (None, bias(0.4, "bone"), r"bias_against_normal_dose_hu.bone.restored: input should be a valid num"),
        (..., bias(0.4, "bone")[:-1], r"bias_against_normal_dose_hu.bone: missing"),
        (..., ["detectability"], "detectability: missing"),
        (..., ["detectability", "by_dose", "0.1"], "detectability.by_dose.0.1: missing"),
        (..., ["settings_sha256"], "settings_sha256: missing"),
        (..., ["model_hash"], "model_hash: missing"),
    ],
)
def test_damaged_scores_are_refused_and_change_nothing(project, name, value, keys, fault):
    publish.run("reference")
    path = LAYOUT.metrics(name)
    path.write_text(json.dumps(changed(value, *keys, base=json.loads(path.read_text()))))
    before = files()
    way_out = rf"\); run ldct evaluate {name} --preset reference again$"
    with pytest.raises(DataError, match=rf"^{path}: damaged \(.*{fault}.*{way_out}"):
        publish.run("reference")
    assert files() == before


def test_a_file_of_nothing_is_damaged_and_not_missing(project):
    LAYOUT.metrics("denoiser").write_text("null")
    with pytest.raises(DataError, match=r"denoiser.json: damaged \(no JSON object\); run ldct evaluate deno"):
        publish.run("reference")


def test_scores_at_different_doses_are_not_compared(project):
    """Of settings that are no longer these, so that only the other file tells."""
    publish.run("reference")
    write_scores("denoiser", scores(settings_sha256="older"))
    write_scores(
        "denoiser_texture",
        made_scores.scores(l1_distance=0.2, settings_sha256="older", doses=(0.4, 0.25)),
    )
    before = files()
    with pytest.raises(DataError, match=r"denoiser_texture.json: scored at other doses than .*evaluate"):
        publish.run("reference")
    assert files() == before


def test_what_cannot_ship_is_one_line(project):
    with pytest.raises(ConfigError, match=r"demo/denoiser.yaml: no such file; .* --preset reference"):
        publish.run("demo")
    LAYOUT.bundle("denoiser_texture").unlink()
    with pytest.raises(BundleError, match=r"denoiser_texture/bundle.safetensors: no such bundle"):
        publish.run("reference")
    PLAIN_FILE.parent.rmdir()
    with pytest.raises(ConfigError, match=r"pipeline/weights: no such folder here; run this in a checkout"):
        publish.run("reference")


def test_the_command_takes_the_preset(project, monkeypatch):
    seen = []
    monkeypatch.setattr(publish, "run", seen.append)
    with pytest.raises(SystemExit) as ended:
        cli.main(["publish", "--preset", "reference"])
    assert (ended.value.code, seen) == (0, ["reference"])
