"""The benchmark of a GPU: what it says without one, and that its way through the product is the product's."""

import importlib
import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from pipeline.bundle import load_bundle
from pipeline.models.precision import ieee_float32
from pipeline.weights import shipped
from tests.conftest import CHECKOUT

CPU = torch.device("cpu")
REHEARSAL = ["--device", "cpu", "--pixels", "64", "--features", "8", "--rounds", "1"]


@pytest.fixture
def benchmark(monkeypatch) -> ModuleType:
    """`benchmarks/gpu.py` as a module."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("gpu")


def test_without_a_gpu_it_ends_with_one_line(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.err.startswith("gpu.py: needs a CUDA device; ")
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_a_rehearsal_goes_through_every_network_and_way(benchmark, monkeypatch, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", *REHEARSAL, "--out", str(out)])
    benchmark.main()
    assert capsys.readouterr().out == out.read_text()
    redcnn, denoiser = json.loads(out.read_text())["networks"].values()
    for facts in (redcnn, denoiser):
        alone = facts["ways"][benchmark.NETWORK]
        assert set(facts["ways"]) == {*benchmark.BASELINES, benchmark.NETWORK, benchmark.WHOLE}
        assert alone["slices_per_s"] > 0
        assert alone[f"times {benchmark.TF32_OFF}"] > 0
        assert facts["of_matrices"] > 0
        assert facts["difference_percent_of_correction"] < 5
    # Per pixel of its output a layer has 2 · 5² · inputs · outputs operations: one channel in and out, eight
    # between, on sides of 60, 56, …, 44; the transposed ones count the pixels that they start from.
    assert redcnn["gflop_per_slice"] == pytest.approx(redcnn_gflop(64, 8), abs=5e-4)


def redcnn_gflop(pixels, features):
    sides = [pixels - 4 * layer for layer in range(1, 6)]
    channels = [1, *5 * [features]]
    return (
        sum(2 * 2 * 25 * channels[layer] * channels[layer + 1] * side**2 for layer, side in enumerate(sides))
        / 1e9
    )


def test_a_rehearsal_does_not_overwrite_a_measurement(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "CHECKOUT", tmp_path)
    monkeypatch.setattr(benchmark, "measure", lambda *_: {})
    monkeypatch.setattr(sys, "argv", ["gpu.py", *REHEARSAL])
    benchmark.main()
    assert not list(tmp_path.iterdir())


def test_both_figures_of_predict_are_of_the_same_slices(benchmark):
    network = benchmark.as_predicted(load_bundle(shipped("plain"), "denoiser"), CPU)
    hu = benchmark.noisy_slices(2, 64)
    images_hu = torch.from_numpy(hu)[:, None]
    image = benchmark.eager_input(network, images_hu)
    with torch.no_grad():
        runs = benchmark.ways(network, network.bundle.model(), hu, images_hu, image)
        np.testing.assert_allclose(runs[benchmark.NETWORK]()[:, 0], runs[benchmark.WHOLE](), atol=1e-3)


def test_tf32_is_allowed_for_its_baseline_alone(benchmark):
    def switches():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = switches()
    with benchmark.tf32():
        assert switches() == ("high", True)
        with ieee_float32():
            assert switches() == ("highest", False)
        assert switches() == ("high", True)
    assert switches() == before


def test_the_share_of_the_card_is_that_of_operations_in_the_same_time(benchmark):
    times = {benchmark.NETWORK: [2.0, 2.0, 4.0], benchmark.MATRICES: [1.0, 1.0, 1.0]}
    # As many operations as the matrices, in twice their time.
    used = benchmark.use_of_card(times, 2 * 10_000**3, 10_000)
    assert used == {"tflops": 1.0, "tflops_of_matrices": 2.0, "of_matrices": 0.5}
