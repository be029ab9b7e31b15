"""Inputs unlike the training: by hand, and between real scans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data import Case
from pipeline.data.fingerprint import CaseStatistics, count_hu, describe
from pipeline.dicom import SeriesEntry, discover
from pipeline.hu import AIR_HU
from pipeline.inference.familiarity import BOTH_DOSES, SeriesFacts, unfamiliar
from pipeline.inference.survey import survey_series
from pipeline.metrics.noise import global_noise_sd_hu
from tests.batch_cases import bundle_of

TRAINED: dict[str, Any] = {
    "kernels": {"B30f": 4, "B40f": 9},
    "row_spacing_mm": [0.6, 0.8],
    "column_spacing_mm": [0.6, 0.9],
    "slice_thickness_mm": [1.0, 3.0],
    "noise_sd_hu": {"normal_dose": [4.0, 8.0], "low_dose": [8.0, 16.0]},
    "normal_dose_hu_percentiles": {"0.5": -1010, "5": -1000, "50": -90, "95": 120, "99.5": 500},
}


def image(**shares: float) -> np.ndarray:
    """One row of a hundred pixels: whole percents of HU, e.g. `{"-1000": 0.5}`, the rest soft tissue."""
    hu = np.full(100, 40, np.float32)
    start = 0
    for value, share in shares.items():
        stop = start + round(100 * share)
        hu[start:stop], start = float(value), stop
    return hu.reshape(1, 1, 100)


PATIENT = image(**{"-1000": 0.4, "-100": 0.2, "400": 0.02})


def facts(hu: np.ndarray = PATIENT, **changes: Any) -> SeriesFacts:
    known: dict[str, Any] = {
        "pixel_spacing_mm": (0.7, 0.7),
        "slice_thicknesses_mm": (2.0,),
        "kernels": ("B30f",),
        "noise_sd_hu": 10.0,
        "visible": np.ones(hu.shape, np.bool_),
    }
    return SeriesFacts(hu=hu, **{**known, **changes})


def test_a_series_like_the_training_is_familiar():
    assert unfamiliar(TRAINED, facts()) == ()


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"noise_sd_hu": 24.6}, "noise 24.6 HU (trained on 8.0 to 16.0)"),
        ({"noise_sd_hu": 3.0}, "noise 3.0 HU (trained on 8.0 to 16.0)"),
        ({"pixel_spacing_mm": (0.7, 1.2)}, "pixel spacing 0.7 x 1.2 mm (trained on 0.6 to 0.9)"),
        ({"pixel_spacing_mm": (0.4, 0.7)}, "pixel spacing 0.4 x 0.7 mm (trained on 0.6 to 0.9)"),
        ({"slice_thicknesses_mm": (5.0,)}, "slice thickness 5 mm (trained on 1 to 3)"),
        ({"slice_thicknesses_mm": (2.0, 0.5)}, "slice thickness 0.5 mm (trained on 1 to 3)"),
        ({"kernels": ("B30f", "B70f")}, "kernel B70f (trained on B40f, B30f)"),
    ],
)
def test_each_fact_beyond_its_margin_is_a_phrase_with_both_values(changes, phrase):
    assert unfamiliar(TRAINED, facts(**changes)) == (phrase,)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("noise_sd_hu", (6.4, 20.0), (6.39, 20.01)),
        ("slice_thicknesses_mm", ((0.667,), (4.5,)), ((0.66,), (4.51,))),
        ("pixel_spacing_mm", ((0.48, 0.48), (1.125, 1.125)), ((0.479, 0.7), (0.7, 1.126))),
    ],
)
def test_margins_divide_below_and_multiply_above(name, inside, outside):
    assert all(unfamiliar(TRAINED, facts(**{name: value})) == () for value in inside)
    assert all(len(unfamiliar(TRAINED, facts(**{name: value}))) == 1 for value in outside)


def test_every_unfamiliar_fact_is_told():
    told = unfamiliar(
        TRAINED, facts(PATIENT + 1024, noise_sd_hu=50.0, kernels=("B70f",), slice_thicknesses_mm=(9.0,))
    )
    assert [phrase.split()[1] for phrase in told] == ["of", "50.0", "thickness", "B70f"]


def test_a_single_training_value_is_shown_once():
    trained = TRAINED | {"slice_thickness_mm": [2.0, 2.0]}
    (phrase,) = unfamiliar(trained, facts(slice_thicknesses_mm=(8.0,)))
    assert phrase == "slice thickness 8 mm (trained on 2)"


def test_a_segmenter_has_met_the_noise_of_both_doses():
    assert unfamiliar(TRAINED, facts(noise_sd_hu=4.0), noise_of=BOTH_DOSES) == ()
    told = unfamiliar(TRAINED, facts(noise_sd_hu=2.0), noise_of=BOTH_DOSES)
    assert told == ("noise 2.0 HU (trained on 4.0 to 16.0)",)
    assert unfamiliar(TRAINED, facts(noise_sd_hu=2.0), noise_of=()) == ()


def test_a_low_dose_made_while_training_is_the_noise_met_instead_of_the_stored_one():
    made = {"made_noise_sd_hu": (9.0, 40.0)}
    assert unfamiliar(TRAINED, facts(noise_sd_hu=45.0), **made) == ()
    normal_only = {"noise_sd_hu": {"normal_dose": [4.0, 8.0], "low_dose": None}}
    for fingerprint in (TRAINED, normal_only):
        told = unfamiliar(fingerprint, facts(noise_sd_hu=60.0, kernels=()), **made)
        assert told == ("noise 60.0 HU (trained on 9.0 to 40.0)",)


def test_at_most_three_kernels_are_named_the_commonest_first():
    trained = TRAINED | {"kernels": {"A": 1, "B": 5, "C": 2, "D": 7, "E": 1}}
    assert unfamiliar(trained, facts(kernels=("X",))) == ("kernel X (trained on D, B, C, …)",)


def test_kernels_are_compared_without_case_but_otherwise_in_full():
    trained = TRAINED | {"kernels": {"STANDARD": 1}}
    assert unfamiliar(trained, facts(kernels=("Standard",))) == ()
    assert unfamiliar(trained, facts(kernels=("STAND",))) == ("kernel STAND (trained on STANDARD)",)


def test_what_either_side_does_not_know_says_nothing():
    unknown = {"pixel_spacing_mm": None, "slice_thicknesses_mm": (), "kernels": (), "noise_sd_hu": None}
    assert unfamiliar(TRAINED, facts(**unknown)) == ()
    wild = {"slice_thicknesses_mm": (99.0,), "kernels": ("X",), "noise_sd_hu": 999.0}
    assert unfamiliar({}, facts(PATIENT + 2000, pixel_spacing_mm=(9.0, 9.0), **wild)) == ()
    statistics = CaseStatistics((), None, {"normal_dose": None, "low_dose": None}, count_hu(PATIENT))
    assert unfamiliar(describe([(case(PATIENT.shape, (0.7, 0.7)), statistics)]), facts(**wild)) == ()


@pytest.mark.parametrize(
    ("hu", "familiar"),
    [
        (image(**{"-1000": 0.5, "549": 0.2}), True),  # 500 and the margin of 50
        (image(**{"-1000": 0.5, "551": 0.05}), True),  # 5 %: at the limit
        (image(**{"-1000": 0.5, "551": 0.06}), False),
        (image(**{"-1000": 0.5, "1400": 0.15}), False),  # a skull
        (image(**{"-1024": 0.5}), True),  # air where the training's lies at -1010
        (image(**{"-1000": 0.4, "-850": 0.3}), True),  # lungs, where the training has none
        (image(**{"-1000": 0.02, "-90": 0.08, "300": 0.04}), True),  # hardly any air, much contrast medium
    ],
)
def test_hu_alarm_by_their_share_outside_the_training(hu, familiar):
    told = unfamiliar(TRAINED, facts(hu))
    assert (told == ()) == familiar
    assert familiar or "outside -1010 to 500 HU" in told[0]


def test_the_share_is_that_of_visible_voxels():
    hu = image(**{"-1000": 0.5, "2000": 0.1})
    assert unfamiliar(TRAINED, facts(hu)) == (
        "10% of voxels outside -1010 to 500 HU (99 % of the training lay within)",
    )
    assert unfamiliar(TRAINED, facts(hu, visible=hu < 2000)) == ()
    assert unfamiliar(TRAINED, facts(hu, visible=np.zeros(hu.shape, np.bool_))) == ()


@pytest.mark.parametrize("highest", [500, 1500])
def test_a_lost_intercept_alarms_even_where_the_training_holds_skulls(highest):
    percentiles = TRAINED["normal_dose_hu_percentiles"] | {"99.5": highest}
    trained = TRAINED | {"normal_dose_hu_percentiles": percentiles}
    assert unfamiliar(trained, facts()) == ()
    (told,) = unfamiliar(trained, facts(PATIENT + 1024))
    assert "voxels above 24 HU (trained with air at -1000 HU)" in told or "60% of voxels outside" in told


def test_an_intercept_taken_off_twice_alarms():
    hu = image(**{"-1000": 0.4, "-100": 0.2}) - 1024
    (told,) = unfamiliar(TRAINED, facts(hu, visible=hu >= -1024))
    assert told == "95 % of voxels below -984 HU (trained on tissue to 120 HU)"  # 40 - 1024


def test_scans_without_air_are_no_alarm_to_a_training_without_air():
    percentiles = {"0.5": -150, "5": -110, "95": 120, "99.5": 500}
    trained = TRAINED | {"normal_dose_hu_percentiles": percentiles}
    assert unfamiliar(trained, facts(image(**{"60": 0.5}))) == ()


def entry_of(folder: Path) -> SeriesEntry:
    (entry,) = discover(folder).series
    return entry


def facts_of(entry: SeriesEntry) -> SeriesFacts:
    survey = survey_series(entry)
    return SeriesFacts(
        pixel_spacing_mm=entry.pixel_spacing_mm,
        slice_thicknesses_mm=survey.slice_thicknesses_mm,
        kernels=survey.kernels,
        noise_sd_hu=global_noise_sd_hu(survey.hu, survey.hu),
        hu=survey.hu,
        visible=survey.visible,
    )


def fingerprint_of(entry: SeriesEntry) -> dict[str, Any]:
    """What ingest would write of this series, taken as both doses."""
    found = facts_of(entry)
    hu = np.rint(np.where(found.visible, found.hu, AIR_HU))
    noise = {"normal_dose": found.noise_sd_hu, "low_dose": found.noise_sd_hu}
    kernels = (entry.kernel,) if entry.kernel else ()
    assert entry.pixel_spacing_mm is not None
    statistics = CaseStatistics(kernels, entry.slice_thickness_mm, noise, count_hu(hu))
    return describe([(case(hu.shape, entry.pixel_spacing_mm), statistics)])


def case(shape: tuple[int, ...], pixel_spacing_mm: tuple[float, float]) -> Case:
    return Case(
        case_id="case",
        patient_id="patient",
        role="train",
        anatomy="unknown",
        dose_fraction=0.25,
        noise="shared",
        spacing_mm=(1.0, *pixel_spacing_mm),
        shape=(shape[0], shape[1], shape[2]),
        folder=Path("case"),
        has_mask=False,
        has_truth=False,
    )


@pytest.mark.real
def test_a_real_chest_is_familiar_to_itself_and_shifted_it_is_not(real_data):
    entry = entry_of(real_data / "ct" / "lidc_0314_chest_1mm")
    trained, found = fingerprint_of(entry), facts_of(entry)
    assert unfamiliar(trained, found) == ()
    (shifted,) = unfamiliar(trained, replace(found, hu=found.hu + 1024))
    assert "of voxels outside" in shifted
    low = found.hu - 1024
    (shifted,) = unfamiliar(trained, replace(found, hu=low, visible=found.visible & (low >= -1024)))
    assert "95 % of voxels below" in shifted


@pytest.mark.real
def test_chest_and_abdomen_do_not_alarm_each_other_by_their_hu(real_data):
    chest, abdomen = (
        entry_of(real_data / "ct" / name) for name in ("lidc_0314_chest_1mm", "totalseg_dicom_j2k")
    )
    for training, other in ((chest, abdomen), (abdomen, chest)):
        told = unfamiliar(fingerprint_of(training), facts_of(other))
        assert not [phrase for phrase in told if "voxels" in phrase]


@pytest.mark.real
def test_a_head_and_a_sharp_kernel_are_told_to_a_chest_network(real_data):
    trained = fingerprint_of(entry_of(real_data / "ct" / "lungdx_a0002_chest_8mm"))
    smooth, sharp = sorted(
        discover(real_data / "ct" / "philips_head_phantom_kernel_pairs").series,
        key=lambda entry: str(entry.kernel),
    )
    head = unfamiliar(trained, facts_of(smooth))
    assert [phrase.split()[1] for phrase in head] == ["of", "4.1", "spacing", "thickness", "UB"]
    told = unfamiliar(fingerprint_of(smooth), facts_of(sharp))
    assert [phrase.split()[0] for phrase in told] == ["noise", "kernel"]


def test_a_bundle_tells_the_noise_of_the_low_doses_that_were_made():
    made = {"dose_fractions": [0.1, 0.6], "noise_sd_hu": [9.0, 40.0]}
    assert bundle_of("denoiser", training={"low_dose": made}).made_noise_sd_hu == (9.0, 40.0)
    assert bundle_of("denoiser").made_noise_sd_hu is None
