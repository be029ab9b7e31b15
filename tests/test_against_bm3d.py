"""The comparison with BM3D: which cases it is tuned on, and that nothing is computed twice."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    """`benchmarks/against_bm3d.py` as a module."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return import_module("against_bm3d")


def case(case_id, source="", normal_hu=0):
    normal = np.full((3, 8, 8), normal_hu, np.int16)
    return SimpleNamespace(
        case_id=case_id, source=source, anatomy="chest", shape=normal.shape, normal_dose=lambda: normal
    )


def scan(case_id):
    """Of a case of 0 HU, with 5 HU more than its dose in % at a low dose; its noise level is 10 HU."""
    return SimpleNamespace(
        case=case(case_id),
        low_dose=lambda _, dose, __: np.full((8, 8), 5 + 100 * dose, np.float32),
        noise_sd_hu=lambda _: 10.0,
    )


def test_sources_are_tuned_on_in_turns(script):
    cases = [case("a1", "a"), case("a2", "a"), case("a3", "a"), case("b1", "b"), case("c1", "c")]
    assert [one.case_id for one in script.sources_in_turns(cases)] == ["a1", "b1", "c1", "a2", "a3"]


def test_the_best_share_is_chosen_at_each_dose_and_no_trial_runs_twice(script, monkeypatch):
    told = []

    def shifts(image_hu, noise_sd_hu):
        told.append(noise_sd_hu)
        return image_hu - noise_sd_hu

    monkeypatch.setattr(script, "block_matching", shifts)
    places = script.places_of([case("x")], {"x": scan("x")}, 1)
    assert [(place.index, place.dose_fraction) for place in places] == [(1, 0.25), (1, 0.1)]
    trials = script.Trials()
    for _ in range(2):
        trials.run([(place, share) for place in places for share in script.SHARES], "twice")
    assert told == 2 * [10 * share for share in script.SHARES]
    # 30 HU less 30 HU and 15 HU less 15 HU: nothing is left.
    assert script.chosen_shares(places, trials) == {0.25: 3.0, 0.1: 1.5}
