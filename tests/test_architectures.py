"""The benchmark of networks at equal time: what it trains and how it tells of it."""

import importlib
from types import ModuleType

import pytest

from pipeline.config.base import load_settings
from pipeline.config.evaluate import EvaluateSettings
from pipeline.config.train import load_train_settings
from tests.conftest import CHECKOUT


@pytest.fixture
def benchmark(monkeypatch) -> ModuleType:
    """`benchmarks/architectures.py` as a module."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("architectures")


def test_both_networks_train_alike_but_for_their_steps(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "ldct", lambda *_: "")
    project = benchmark.new_project(tmp_path, tmp_path / "cases")
    reference = load_train_settings(CHECKOUT / "configs" / "reference" / "denoiser.yaml")
    for name, steps in (("drunet", 2400), ("redcnn", 2000)):
        benchmark.train(project, name, steps)
        told = load_train_settings(project / "configs" / "reference" / f"{name}.yaml")
        assert told.model.architecture == name
        assert told.model.arguments["noise_map"]
        cut = {"model", "steps", "validate_every", "checkpoint_every"}
        assert told.model_dump(exclude=cut) == reference.model_dump(exclude=cut)
        assert told.steps == told.validate_every == steps
    assert told.model.arguments["features"] == 32
    restoration = load_settings(project / "configs/reference/evaluate.yaml", EvaluateSettings).restoration
    assert restoration.detectability is None
    assert restoration.sharpness is None


def test_the_speed_is_the_last_that_each_training_tells_and_its_median(benchmark, tmp_path, monkeypatch):
    said = iter(
        f"x: step 100 of 200, 1 samples/s, lr 0.001\nx: step 200 of 200, {speed} samples/s, done"
        for speed in (80, 40, 100, 60)
    )
    monkeypatch.setattr(benchmark, "train", lambda *_: next(said))
    assert benchmark.samples_per_second(tmp_path, 2) == {"drunet": 90, "redcnn": 50}


def test_the_table_has_a_row_for_each_network(benchmark):
    facts = {
        "parameters": 260528,
        "steps": 2400,
        "gain_db": {"dose_0.4": {"redcnn": 2.0, "full": -0.126}},
    }
    assert benchmark.table({"drunet": facts}) == [
        "| network | parameters | steps | 40 %, `redcnn` / `full` [dB] |",
        "|---|---|---|---|",
        "| drunet | 260,528 | 2,400 | +2.00 / -0.13 |",
    ]
