import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from pipeline.config.base import load_settings
from pipeline.config.lab import Phantoms, RestorationLab
from pipeline.data.batches import Part
from pipeline.errors import ConfigError
from pipeline.lab import removal
from pipeline.lab.claims import EXPERIMENTS, total_cost
from pipeline.lab.phantoms import MemoryBatches, disc, unscanned
from pipeline.lab.restoring import first_step
from pipeline.lab.verdict import Judgement, Verdict, judge, overall
from pipeline.stages import lab as stage

SHIPPED = Path(__file__).parents[1] / "configs" / "lab" / "restoration.yaml"
TINY_TRAINING = {"steps": 4, "batch_size": 2, "patch_size": 24, "warmup_steps": 1, "log_every": 2}
TINY_NETS = TINY_TRAINING | {"features": 2}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The shipped settings, shrunk: a file, and the working directory of the run."""
    values = YAML(typ="safe").load(SHIPPED.read_text(encoding="utf-8"))
    values["phantoms"] |= {
        "regions": ["abdomen"],
        "train_patients": 1,
        "test_patients": 1,
        "slices": 1,
        "matrix": 128,
        "pixel_mm": 3.0,
        "side": 96,
    }
    values["depth"] |= TINY_NETS | {"depths": [4, 6]}
    values["detail"] |= {"radius_mm": 60, "reach_mm": 24, "realisations": 2}
    values["ease"]["gradient_steps"] = 2
    values["residual"] |= TINY_NETS | {"depth": 4}
    grids = {"gaussian": [0.5, 1.0], "nlm": [10], "tv": [10]}
    values["removal"] |= TINY_NETS | {"views": 180, "realisations": 3, "region_side": 8, "grids": grids}
    return write(tmp_path / "lab.yaml", values, monkeypatch)


def write(path, values, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.chdir(path.parent)
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(values, file)
    return path


def changed(path, change):
    values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    change(values)
    return write(path, values)


def results(folder):
    return json.loads((folder / "restoration.json").read_text(encoding="utf-8"))["claims"]


@pytest.mark.parametrize(
    ("effects", "least", "verdict"),
    [
        ([1.0, 1.1, 1.2], 1.0, Verdict.HOLDS),
        ([1.0, 1.0, 1.0], 1.0, Verdict.HOLDS),
        ([0.5, 0.5, 0.6], 1.0, Verdict.FAILS),  # it is there, but smaller than stated
        ([-1.0, -1.2, -1.1], 0.5, Verdict.FAILS),
        ([0.1, 3.0, 3.0], 1.0, Verdict.UNDECIDED),  # the mean does not exceed twice its SD
        ([-0.1, 2.0, 2.1], 1.0, Verdict.UNDECIDED),  # one seed disagrees
    ],
)
def test_the_verdict_follows_the_rule(effects, least, verdict):
    assert judge(effects, least=least).verdict is verdict


def test_lower_bounds_make_a_measure_hold_but_not_fail():
    assert judge([0.5, 0.5, 0.6], least=1.0, lower_bounds=True).verdict is Verdict.UNDECIDED
    assert judge([1.5, 1.5, 1.6], least=1.0, lower_bounds=True).verdict is Verdict.HOLDS


def test_two_seeds_make_no_verdict():
    with pytest.raises(ValueError, match="three seeds"):
        judge([1.0, 1.0], least=0)


def test_one_measure_that_fails_makes_the_claim_fail():
    holds, fails, undecided = (Judgement(0, 0, verdict, "") for verdict in Verdict)
    assert overall({"a": holds, "b": holds}) is Verdict.HOLDS
    assert overall({"a": holds, "b": undecided}) is Verdict.UNDECIDED
    assert overall({"a": fails, "b": undecided, "c": holds}) is Verdict.FAILS


def test_the_shipped_settings_state_rule_and_effect_before_the_run():
    lab = load_settings(SHIPPED, RestorationLab)
    assert SHIPPED.read_text(encoding="utf-8").startswith("# ldct lab restoration")
    assert [one.claim(lab).number for one in EXPERIMENTS.values()] == list(EXPERIMENTS) == [2, 3, 4, 6, 9, 29]
    assert len(set(lab.seeds)) >= 3
    assert all(one.claim(lab).measures for one in EXPERIMENTS.values())


def test_trainings_that_claims_share_are_counted_once():
    lab = load_settings(SHIPPED, RestorationLab)
    both, one = ([EXPERIMENTS[number] for number in numbers] for numbers in ((3, 4), (4,)))
    assert total_cost(both, lab) == total_cost(one, lab) > 0


def test_patches_of_all_keys_come_from_one_place_and_parts_make_up_the_batch():
    images = np.arange(2 * 30 * 40, dtype=np.float32).reshape(2, 30, 40)
    batches = MemoryBatches(
        {"low_dose": images, "normal_dose": -images}, pixel_mm=1.5, patch_size=8, batch_size=4, seed=5
    )
    whole = batches[Part(3)]
    halves = [batches[Part(3, index, 2)] for index in (0, 1)]
    assert whole["low_dose"].shape == (4, 1, 8, 8)
    assert torch.equal(whole["low_dose"], -whole["normal_dose"])
    assert torch.equal(torch.cat([half["low_dose"] for half in halves]), whole["low_dose"])
    assert not torch.equal(whole["low_dose"], batches[Part(4)]["low_dose"])


def test_patients_differ_between_seeds_and_roles_and_are_whole_hu():
    phantoms = Phantoms(
        regions=("abdomen",),
        train_patients=1,
        validation_patients=1,
        test_patients=1,
        slices=1,
        slice_increment_mm=10,
        matrix=64,
        pixel_mm=6,
        side=48,
    )
    slices = [
        unscanned(phantoms, role, seed).truth for role, seed in (("train", 1), ("test", 1), ("train", 2))
    ]
    assert slices[0].shape == (1, 48, 48)
    assert np.array_equal(slices[0], np.rint(slices[0]))
    assert not np.array_equal(slices[0], slices[1])
    assert not np.array_equal(slices[0], slices[2])


def test_the_disc_has_the_stated_contrast_and_area():
    claim = load_settings(SHIPPED, RestorationLab).detail
    image = disc(claim, 1.5)
    assert (image.min(), image.max()) == (claim.background_hu, claim.background_hu + claim.contrast_hu)
    area_mm2 = (image - claim.background_hu).sum() / claim.contrast_hu * 1.5**2
    assert area_mm2 == pytest.approx(math.pi * claim.radius_mm**2, rel=0.005)


def test_the_first_step_at_a_value_is_found():
    rows = [{"step": 10, "loss": 3.0}, {"step": 20}, {"step": 30, "loss": 1.0}, {"step": 40, "loss": 2.0}]
    assert first_step(rows, "loss", below=1.0) == 30
    assert first_step(rows, "loss", below=0.5) is None


def test_noise_of_repeats_is_what_they_do_not_share():
    noise = np.random.default_rng(0).normal(0, 7, (40, 32, 32))
    found = removal._noise_regions((100 * np.eye(32) + noise).astype(np.float32), 8)
    assert found.shape == (160, 8, 8)
    assert found.std() == pytest.approx(7, rel=0.03)


def test_exact_claims_hold_and_the_page_says_so(tiny, tmp_path, capsys):
    stage.run(tmp_path / "out", claims=[2, 29], settings=tiny)
    found = results(tmp_path / "out")
    assert {number: one["verdict"] for number, one in found.items()} == {"2": "holds", "29": "holds"}
    assert found["2"]["effects"]["equal"] == [1.0, 1.0, 1.0]
    page = (tmp_path / "out" / "restoration.md").read_text(encoding="utf-8")
    assert "**Verdict: the claim holds.**" in page
    assert "| 3 | Deeper nets lose image detail. | not run |" in page
    assert (tmp_path / "out" / "identity.png").stat().st_size > 10_000
    assert "claim 29  holds" in capsys.readouterr().out


def test_trainings_are_shared_between_claims_and_kept_between_runs(tiny, tmp_path, monkeypatch):
    out, trained = tmp_path / "out", []
    train = stage.Bench._train
    monkeypatch.setattr(
        stage.Bench, "_train", lambda self, run, *a: trained.append(run) or train(self, run, *a)
    )
    stage.run(out, claims=[3], settings=tiny)
    first = results(out)
    assert len(trained) == 2 * 2 * 3
    stage.run(out, claims=[3, 4], settings=tiny)
    assert len(trained) == 2 * 2 * 3  # claim 4 used them, claim 3 was finished
    assert results(out)["3"] == first["3"]
    assert len(results(out)["4"]["effects"]["gradient"]) == 3
    stage.run(out, claims=[3], fresh=True, settings=tiny)
    assert len(trained) == 2 * 2 * 2 * 3
    assert results(out)["3"] == first["3"]  # the same seeds, the same numbers


def test_only_settings_that_decide_a_result_make_it_run_again(tiny, tmp_path, monkeypatch):
    out, runs = tmp_path / "out", []
    run = stage.EXPERIMENTS[29].run
    monkeypatch.setitem(
        stage.EXPERIMENTS,
        29,
        stage.Experiment("footprint", lambda *a: runs.append(1) or run(*a), reads=("seeds",)),
    )
    stage.run(out, claims=[29], settings=tiny)
    stage.run(
        out, claims=[29], settings=changed(tiny, lambda v: v["footprint"].update(did="In other words."))
    )
    assert len(runs) == 1
    assert "In other words." in (out / "restoration.md").read_text(encoding="utf-8")
    stage.run(out, claims=[29], settings=changed(tiny, lambda v: v["footprint"].update(kernels=[3])))
    assert len(runs) == 2


@pytest.mark.slow
def test_the_other_claims_run_through(tiny, tmp_path):
    stage.run(tmp_path / "out", claims=[6, 9], settings=tiny)
    found = results(tmp_path / "out")
    assert {len(values) for values in found["6"]["effects"].values()} == {3}
    assert all(
        math.isfinite(v) for one in found.values() for values in one["effects"].values() for v in values
    )
    methods = {row[0] for row in found["9"]["table"]["rows"]}
    assert methods == {"low dose", "gaussian", "nlm", "tv", "RED-CNN"}


def test_a_claim_of_another_lab_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="claim 7: the restoration lab has the claims 2, 3, 4, 6, 9, 29"):
        stage.run(tmp_path / "out", claims=[7], settings=tiny)
