"""The table of the head phantom's kernel pairs: its parts by hand, and on the real scan."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr

from pipeline.bundle import load_bundle
from pipeline.dicom import discover, read_series
from pipeline.metrics.nps import RadialNPS
from pipeline.weights import shipped
from tests.predict_cases import write_source

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    """`benchmarks/kernel_pairs.py` as a module."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return import_module("kernel_pairs")


def test_white_noise_has_its_standard_deviation_and_half_the_highest_frequency(script):
    squares = np.random.default_rng(0).normal(40, 12, (400, 32, 32))
    assert script.uniform_sd_hu(squares) == pytest.approx(12, rel=0.01)
    assert script.mean_per_mm(RadialNPS(np.linspace(0, 1, 17), np.full(17, 36.0))) == pytest.approx(0.5)


def test_the_steepest_pixels_are_those_of_the_edge_and_blur_flattens_them(script):
    hu = np.zeros((1, 200, 200), np.float32)
    hu[:, :, 100:] = 1000
    edges = script.steepest(script.smoothed(hu, 0.5))
    assert {*zip(*edges[0].nonzero(), strict=True)} == {
        (row, edge) for row in range(200) for edge in (99, 100)
    }
    assert script.steepness(hu)[edges].mean() == 500
    blurred = 500 * (ndtr(0.5 / 2) - ndtr(-1.5 / 2))
    assert script.steepness(script.smoothed(hu, 2))[edges].mean() == pytest.approx(blurred, rel=0.02)


def test_no_zero_is_written_as_negative(script):
    assert str(script.rounded(-0.001, 2)) == "0.0"


def test_series_of_other_places_or_another_scan_are_no_pair(script, tmp_path):
    write_source(tmp_path)
    (entry,) = discover(tmp_path).series
    series = read_series(entry)
    script.check_paired(series, series)
    moved = replace(entry.geometry, origin_mm=tuple(one + 1 for one in entry.geometry.origin_mm))
    for other, message in (
        (replace(entry, geometry=moved), "differ in geometry"),
        (replace(entry, geometry=None), "differ in geometry"),
        (replace(entry, frame_of_reference_uid="1.2.3"), "frame of reference"),
    ):
        with pytest.raises(SystemExit, match=message):
            script.check_paired(series, replace(series, entry=other))


def test_the_table_kept_is_that_of_the_shipped_weights(script):
    kept, bundle = CHECKOUT / script.WRITTEN, shipped("plain")
    if not kept.exists() or bundle is None:
        pytest.skip("no table or no weights in this checkout")
    found = json.loads(kept.read_text(encoding="utf-8"))
    assert found["model_hash"] == load_bundle(bundle, "denoiser").model_hash, (
        "other weights ship now: run benchmarks/kernel_pairs.py again"
    )
    assert found["columns"] == list(script.COLUMNS)


@pytest.mark.real
def test_noise_of_both_kernels_falls_and_edges_and_ct_numbers_stay(script, real_data):
    bundle = shipped("plain")
    if bundle is None:
        pytest.skip("this copy came without weights")
    found = script.measure(real_data / "ct" / "philips_head_phantom_kernel_pairs", bundle)
    assert all(len(row) == len(found["columns"]) for row in found["rows"])
    assert found["model_hash"] == load_bundle(bundle, "denoiser").model_hash
    assert found["model_hash"][:12] in found["text"]
    for codes in found["reason_codes"].values():
        assert "UNFAMILIAR_ANATOMY" in codes
    sharp, sharp_restored, blurred, smooth, smooth_restored = (row[1:] for row in found["rows"])
    for (sd_hu, *_), (restored_sd_hu, _, body_hu, soft_tissue_hu, edges, *_) in (
        (sharp, sharp_restored),
        (smooth, smooth_restored),
    ):
        assert restored_sd_hu < 0.7 * sd_hu
        assert max(abs(body_hu), abs(soft_tissue_hu)) < 1
        assert edges == pytest.approx(1, abs=0.02)
    assert blurred[4] < 0.9
    assert smooth[-2:] == [0, 0]
