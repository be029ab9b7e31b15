"""What ships: the plain denoiser always, its texture variant only where no rule is broken."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import cli, weights
from pipeline.bundle import save_bundle
from pipeline.config.layout import Layout
from pipeline.errors import BundleError, ConfigError, DataError
from pipeline.report.card.gate import broken_rules
from pipeline.stages import publish
from tests.tiny_bundles import denoiser_bundle

LAYOUT = Layout("reference")
NAMES = ("denoiser", "denoiser_texture")
PLAIN_FILE, TEXTURE_FILE = (Path("pipeline/weights", f"{name}.safetensors") for name in NAMES)


def scores(*, l1_distance=0.5, **more):
    """Of `evaluate`, as far as the rules look: three doses, two of them with lesions, no lung."""
    at_a_dose = {
        "noise_texture": {"restored": {"l1_distance": l1_distance}},
        "bias_against_normal_dose_hu": {
            "body": {"restored": 0.0},
            "soft_tissue": {"restored": -0.4},
            "bone": {"restored": -2.5},
            "fat": {"restored": 0.3},
        },
    }
    verdicts = {observer: {"restored": {"verdict": "kept"}} for observer in ("npw", "cho")}
    return {
        "settings_sha256": "same",
        "doses": {f"dose_{dose:g}": copy.deepcopy(at_a_dose) for dose in (0.4, 0.25, 0.1)},
        "detectability": {"by_dose": {dose: copy.deepcopy(verdicts) for dose in ("0.25", "0.1")}},
        **more,
    }


PLAIN = scores()


def changed(value, *keys, base=None):
    """Good scores of a texture variant but for one value; `...` takes it out."""
    found = scores(l1_distance=0.2) if base is None else copy.deepcopy(base)
    below = found
    for key in keys[:-1]:
        below = below[key]
    if value is ...:
        del below[keys[-1]]
    else:
        below[keys[-1]] = value
    return found


def l1_distance(dose):
    return "doses", f"dose_{dose:g}", "noise_texture", "restored", "l1_distance"


def bias(dose, tissue):
    return "doses", f"dose_{dose:g}", "bias_against_normal_dose_hu", tissue, "restored"


def lesion(dose, observer):
    return "detectability", "by_dose", f"{dose:g}", observer, "restored", "verdict"


def test_scores_that_keep_every_rule_break_none():
    assert broken_rules(PLAIN, scores(l1_distance=0.2)) == []


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
        ("lost", lesion(0.1, "cho"), "10 % dose, detectability to CHO: lost, the plain variant's: kept"),
    ],
)
def test_each_rule_breaks_alone(value, keys, line):
    assert broken_rules(PLAIN, changed(value, *keys)) == [line]


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (1.0, bias(0.25, "soft_tissue")),
        (2.5, bias(0.25, "bone")),
        ("gained", lesion(0.1, "cho")),
        (0.499, l1_distance(0.1)),
    ],
)
def test_a_number_on_its_limit_or_better_breaks_no_rule(value, keys):
    assert broken_rules(PLAIN, changed(value, *keys)) == []


def test_a_verdict_that_the_plain_variant_has_too_is_no_worse():
    lost = changed("lost", *lesion(0.1, "cho"))
    assert broken_rules(changed("lost", *lesion(0.1, "cho"), base=PLAIN), lost) == []
    gained = changed("gained", *lesion(0.25, "npw"), base=PLAIN)
    (line,) = broken_rules(gained, scores(l1_distance=0.2))
    assert line == "25 % dose, detectability to NPW: kept, the plain variant's: gained"


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (l1_distance(0.1), "10 % dose, noise texture, L1 distance"),
        (bias(0.4, "bone"), "40 % dose, HU bias in bone"),
        (bias(0.4, "bone")[:-1], "40 % dose, HU bias in bone"),
        (lesion(0.25, "npw"), "25 % dose, detectability to NPW"),
        (lesion(0.25, "npw")[:-2], "25 % dose, detectability to NPW"),
    ],
)
@pytest.mark.parametrize("value", [..., None, math.nan])
def test_a_missing_number_breaks_the_gate_and_is_named(keys, what, value):
    texture = changed(value, *keys)
    assert broken_rules(PLAIN, texture) == [f"{what}: missing for the texture variant"]
    plain = changed(value, *keys, base=PLAIN)
    assert broken_rules(plain, scores(l1_distance=0.2)) == [f"{what}: missing for the plain variant"]


def test_only_doses_that_both_were_scored_at_count():
    texture = changed(..., "doses", "dose_0.1", base=scores(l1_distance=0.2))
    texture["detectability"]["by_dose"]["0.1"]["npw"]["restored"]["verdict"] = "lost"
    assert broken_rules(PLAIN, texture) == []
    assert broken_rules(PLAIN, {}) == ["doses: none that both variants were scored at"]


def test_what_was_measured_of_neither_is_not_taken_for_kept():
    plain, texture = ({**one, "detectability": {"not_measured": "why"}} for one in (PLAIN, scores()))
    for one in (plain, texture):
        one["doses"] = {"dose_0.25": {}}
    assert broken_rules(plain, texture) == [
        "25 % dose, noise texture, L1 distance: missing for the plain and the texture variant",
        "25 % dose, HU bias: no tissue was scored",
        "detectability: measured at no dose that both variants were scored at",
    ]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A checkout with two trained and scored variants, of which the one for texture keeps every rule."""
    monkeypatch.chdir(tmp_path)
    PLAIN_FILE.parent.mkdir(parents=True)
    Path("configs/reference").mkdir(parents=True)
    Path("configs/reference/simulate.yaml").touch()
    for name, own in zip(NAMES, (PLAIN, scores(l1_distance=0.2)), strict=True):
        LAYOUT.config(name).touch()
        save_bundle(LAYOUT.bundle(name), bundle(name))
        write_scores(name, own)
    return tmp_path


def bundle(name):
    return replace(denoiser_bundle(), name=name)


def write_scores(name, values):
    path = LAYOUT.metrics(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"model_hash": bundle(name).model_hash, **values}))


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
    write_scores("denoiser_texture", changed("lost", *lesion(0.1, "cho")))
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
    write_scores(name, {**scores(), "model_hash": "0123456789abcdef"})
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
