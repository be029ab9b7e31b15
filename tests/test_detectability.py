"""Lesions and edges in low-dose windows of a case: what methods see, what is counted, what is left out."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq

from pipeline.config.evaluate import DetectabilitySettings, SharpnessSettings
from pipeline.data import Case, write_volume
from pipeline.data.low_dose_slices import normal_dose_hu
from pipeline.data.scans import case_acquisition
from pipeline.dose.flux import BODY, Flux
from pipeline.dose.insertion import Acquisition, added_sd_hu, insert_noise
from pipeline.dose.lesions import disc_hu
from pipeline.errors import DataError
from pipeline.projector import FanBeam, Kernel
from pipeline.stages.evaluation.restoration import detectability as detectability_stage
from pipeline.stages.evaluation.restoration import scenes as scenes_stage
from pipeline.stages.evaluation.restoration import sharpness
from pipeline.stages.evaluation.restoration.detectability import detectability
from pipeline.stages.evaluation.restoration.low_doses import READ, Scan
from pipeline.stages.evaluation.restoration.scenes import SceneNoise, find_scenes
from pipeline.stages.evaluation.restoration.sharpness import ttf_of

CPU = torch.device("cpu")
SIDE, PIXEL_MM = 128, 1.5
SCAN = Acquisition(FanBeam(SIDE, PIXEL_MM), Flux(3e5, BODY), Kernel(0.31))
SD_HU = 8.0
LESION = {"contrast_hu": 10.0, "diameter_mm": 9.0}


def known_scan(case, seed=5):
    return Scan(case, SCAN, READ, None, seed)


def observed(case, restore, *others, baselines=None, **settings):
    """`detectability` of cases whose scan is known."""
    methods = {"input": unchanged, "restored": restore, **(baselines or {})}
    asked = DetectabilitySettings(**({"dose_fractions": (0.25,), **LESION} | settings))
    return detectability([known_scan(one) for one in (case, *others)], methods, asked, seed=5)


def edges(case, restore, *, baselines=None, **settings):
    """`ttf_of` of a case whose scan is known, at a fifth of the dose."""
    methods = {"input": unchanged, "restored": restore, **(baselines or {})}
    asked = SharpnessSettings(**({"realisations": 20} | settings))
    return ttf_of([known_scan(case, seed=0)], methods, asked, dose_fractions=(0.2,), seed=0)


def body_hu(radius_pixels):
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    return torch.from_numpy(np.where(np.hypot(x, y) < radius_pixels, 0.0, -1000.0).astype(np.float32))


def write_case(folder, name, *, radius_pixels=46):
    """Three slices of water with the noise of `SCAN`, as the missing noise of a hundredfold dose."""
    endless = replace(SCAN, flux=Flux(100 * 3e5, BODY))
    hu = body_hu(radius_pixels).repeat(3, 1, 1)
    (hu,) = insert_noise(hu, endless, dose_fractions=[0.01], slice_index=0, seed=len(name))
    (folder / name).mkdir()
    write_volume(folder / name / "normal_dose.nii", hu.round().clip(-1024).numpy(), np.eye(4), np.int16)
    return Case(
        case_id=name,
        patient_id=name,
        role="test",
        anatomy="abdomen",
        dose_fraction=1.0,
        noise="shared",
        spacing_mm=(3.0, PIXEL_MM, PIXEL_MM),
        shape=(3, SIDE, SIDE),
        folder=folder / name,
        has_mask=False,
        has_truth=False,
        has_low_dose=False,
        source="water",
    )


class WhiteNoise:
    """In place of `SceneNoise`."""

    def __init__(self, scenes):
        self._shape = scenes.normal_dose_hu.shape
        self._rng = np.random.default_rng(scenes.scan.seed)

    def missing_hu(self, _dose_fraction):
        return lambda: self._rng.normal(0, SD_HU, self._shape).astype(np.float32)

    all_hu = missing_hu


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return write_case(tmp_path_factory.mktemp("water"), "water")


@pytest.fixture
def white_noise(monkeypatch):
    monkeypatch.setattr(detectability_stage, "SceneNoise", WhiteNoise)
    monkeypatch.setattr(sharpness, "SceneNoise", WhiteNoise)


def unchanged(window_hu, scan, dose_fraction):
    return window_hu


def nothing_left(window_hu, scan, dose_fraction):
    return np.zeros_like(window_hu)


def test_an_unchanged_input_keeps_the_analytic_detectability(case, white_noise):
    report = observed(case, unchanged)
    disc = disc_hu(**LESION, side=64, pixel_mm=PIXEL_MM, kernel=SCAN.kernel)
    by_hand = np.linalg.norm(disc) / SD_HU
    npw = report["by_dose"]["0.25"]["npw"]
    assert npw["input"]["d_prime_95_low"] < by_hand < npw["input"]["d_prime_95_high"]
    assert report["by_dose"]["0.25"]["cho"]["input"]["d_prime"] == pytest.approx(by_hand, rel=0.15)
    kept = {"change": 0, "change_95_low": 0, "change_95_high": 0, "verdict": "kept"}
    assert npw["restored"] == npw["input"] | kept
    assert report["verdict"] == {"0.25": {"npw": "kept", "cho": "kept"}}


def test_a_denoiser_that_wipes_lesions_out_has_lost_them(case, white_noise):
    report = observed(case, nothing_left, baselines={"none": unchanged})
    assert report["verdict"]["0.25"] == {"npw": "lost", "cho": "lost"}
    restored = report["by_dose"]["0.25"]["cho"]["restored"]
    assert (restored["d_prime"], restored["auc"]) == (0, 0.5)
    assert restored["change"] == -report["by_dose"]["0.25"]["cho"]["input"]["d_prime"]
    assert report["by_dose"]["0.25"]["npw"]["none"]["verdict"] == "kept"


def test_smoothing_away_uncorrelated_noise_costs_the_hotelling_observer_little(case, white_noise):
    def smoothed(window_hu, scan, dose_fraction):
        return gaussian_filter(window_hu, 1.0)

    report = observed(case, smoothed)
    found = report["by_dose"]["0.25"]["cho"]
    assert abs(found["restored"]["change"]) < 0.1 * found["input"]["d_prime"]


def test_the_report_says_where_and_is_plain_json(case, white_noise):
    report = observed(case, unchanged)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["lesion"] == {**LESION, "blurred_by": "the scan's kernel"}
    of_case = report["by_case"]["water"]
    assert report["places"] == len(of_case["places"]) == 4
    assert (of_case["source"], of_case["kernel_cutoff_per_mm"]) == ("water", 0.31)
    assert of_case["by_dose"] == report["by_dose"]
    assert observed(case, unchanged) == report


def test_every_window_goes_to_the_denoiser_with_its_dose(case, white_noise):
    told = []

    def restore(window_hu, scan, dose_fraction):
        told.append((dose_fraction, scan.case.case_id, window_hu.shape, window_hu.dtype))
        return window_hu

    observed(case, restore, dose_fractions=(0.4, 0.1))
    windows = ("water", (96, 96), np.dtype(np.float32))
    assert told == 800 * [(0.4, *windows)] + 800 * [(0.1, *windows)]


def test_the_disc_lies_at_the_place_in_the_windows_with_it(case, white_noise, monkeypatch):
    monkeypatch.setattr(scenes_stage, "WINDOW_PIXELS", 80)
    scenes = find_scenes(known_scan(case), 4)
    image = case.normal_dose()[scenes.index]
    for place, (row, column) in enumerate(scenes.places):
        around = image[row - 32 : row + 32, column - 32 : column + 32]
        np.testing.assert_array_equal(scenes.normal_dose_hu[place][scenes.roi(place)], around)
    windows = []

    def restore(window_hu, scan, dose_fraction):
        windows.append(window_hu.copy())
        return window_hu

    observed(case, restore, contrast_hu=300.0)
    without, with_disc = np.array(windows).reshape(100, 2, 4, 80, 80).mean(axis=0)
    for place, difference in enumerate(with_disc - without):
        peak = np.unravel_index(gaussian_filter(difference, 2).argmax(), difference.shape)
        np.testing.assert_allclose(peak, scenes.places[place] - scenes.corners[place], atol=1)


def test_a_case_without_uniform_tissue_is_left_out_and_named(case, white_noise, tmp_path):
    air = write_case(tmp_path, "air", radius_pixels=5)
    report = observed(air, unchanged, case, cases=1)
    assert list(report["by_case"]) == ["water"]
    assert "air: no uniform tissue" in report["left_out"]["air"]
    with pytest.raises(DataError, match="looking for lesions: no case can be used: case air"):
        observed(air, unchanged)
    with pytest.raises(DataError, match="measuring edges: no case can be used: case air"):
        edges(air, unchanged)


def test_no_more_cases_and_places_are_looked_at_than_asked_for(case, white_noise):
    report = observed(case, unchanged, replace(case, case_id="second"), cases=1, places_per_case=2)
    assert list(report["by_case"]) == ["water"]
    assert report["places"] == 2
    assert report["left_out"] == {}


def test_what_makes_no_sense_is_refused(case, white_noise):
    with pytest.raises(ValueError, match="greater than or equal to 100"):
        observed(case, unchanged, realisations=99)
    with pytest.raises(DataError, match="case water: a disc of 1 mm must be at least one pixel"):
        observed(case, unchanged, diameter_mm=1)


def test_noise_is_what_the_dose_lacks_or_all_of_it_and_repeats_with_the_seed(case):
    scenes = find_scenes(known_scan(case), 2)
    noise = SceneNoise(scenes)
    missing, everything = (
        np.stack([draw() for _ in range(16)]) for draw in (noise.missing_hu(0.25), noise.all_hu(0.25))
    )
    assert everything.std() == pytest.approx(missing.std() / math.sqrt(1 - 0.25), rel=0.05)
    hu = normal_dose_hu(case, slice(scenes.index, scenes.index + 1), CPU)
    (expected,) = added_sd_hu(hu, SCAN, dose_fraction=0.25).numpy()
    row, column = scenes.places[0]
    near = slice(row - 8, row + 8), slice(column - 8, column + 8)
    inside = tuple(slice(one.start + 24, one.stop - 24) for one in scenes.roi(0))
    assert missing[:, 0, *inside].std() == pytest.approx(expected[near].mean(), rel=0.1)
    again = SceneNoise(scenes).missing_hu(0.25)()
    np.testing.assert_array_equal(again, missing[0])
    reseeded = replace(scenes, scan=replace(scenes.scan, seed=6))
    assert not np.array_equal(SceneNoise(reseeded).missing_hu(0.25)(), missing[0])


def test_an_unchanged_edge_keeps_its_f50_and_a_lost_disc_has_none(case, white_noise):
    report = edges(case, unchanged, baselines={"none": nothing_left}, contrasts_hu=(100.0,), realisations=40)
    at_100 = report["by_case"]["water"]["0.2"]["100"]
    assert at_100["input"]["f50_per_mm"] == pytest.approx(0.155, rel=0.05)  # half of the Hann window
    restored = at_100["restored"]
    assert restored["f50_95_low"] < at_100["input"]["f50_per_mm"] < restored["f50_95_high"]
    assert restored["contrast_hu"] == pytest.approx(100, abs=2)
    assert at_100["none"] == {"f50_per_mm": None, "contrast_hu": 0.0}
    assert report["by_dose"]["0.2"]["100"]["none"] == {"f50_share": 0, "contrast_share": 0}
    assert report["by_dose"]["0.2"]["100"]["restored"]["f50_share"] == pytest.approx(1, abs=0.05)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_blur_multiplies_its_transfer(case, white_noise):
    sigma_mm = 1.2

    def blurred(window_hu, scan, dose_fraction):
        return gaussian_filter(window_hu, sigma_mm / PIXEL_MM)

    report = edges(case, blurred)

    def transfer(f):
        return 0.5 * (1 + math.cos(math.pi * f / 0.31)) * math.exp(-2 * (math.pi * sigma_mm * f) ** 2)

    f50 = brentq(lambda f: transfer(f) - 0.5, 0.01, 0.3)
    for contrast in ("100", "300"):
        found = report["by_case"]["water"]["0.2"][contrast]["restored"]
        assert found["f50_per_mm"] == pytest.approx(f50, rel=0.06)


@pytest.mark.slow
def test_the_whole_way_with_a_scan_read_from_its_own_noise(case):
    """The noise of filtered back-projection is weak at low frequencies: who can prewhiten finds more."""
    read = case_acquisition(case, photons_per_ray=None, kernel_cutoff_per_mm=None, device=CPU)
    settings = DetectabilitySettings(
        dose_fractions=(0.25,), contrast_hu=3.0, diameter_mm=LESION["diameter_mm"], places_per_case=1
    )
    methods = {"input": unchanged, "restored": unchanged}
    report = detectability([Scan(case, read, READ, None, seed=5)], methods, settings, seed=5)
    found = report["by_dose"]["0.25"]
    assert 0.5 < found["npw"]["input"]["d_prime"] < found["cho"]["input"]["d_prime_95_high"]
    assert report["verdict"] == {"0.25": {"npw": "kept", "cho": "kept"}}


def test_a_slice_of_pixels_too_wide_for_an_edge_is_left_out(case):
    wide = replace(case, spacing_mm=(3.0, 2.1, 2.1))
    with pytest.raises(DataError, match=r"pixels of 2\.1 mm are too wide to measure an edge, 2 mm at most"):
        edges(wide, unchanged, realisations=2)


def test_windows_that_are_not_finite_have_no_verdict(case, white_noise):
    def broken(window_hu, scan, dose_fraction):
        return np.full_like(window_hu, np.nan)

    for look in (observed, edges):
        with pytest.raises(DataError, match=r"case water, dose 0\.2.*: windows of restored are not finite"):
            look(case, broken)


def test_a_slice_too_narrow_for_the_disc_is_left_out(case):
    narrow = replace(case, spacing_mm=(3.0, 0.3, 0.3))
    with pytest.raises(DataError, match="96 pixels are less than 32 mm"):
        edges(narrow, unchanged, realisations=2)
