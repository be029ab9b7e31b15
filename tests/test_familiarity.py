"""Inputs unlike the training: by hand, and between real scans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from pipeline.data import Case
from pipeline.data.fingerprint import CaseStatistics, count_hu, describe
from pipeline.dicom import SeriesEntry, discover
from pipeline.hu import AIR_HU
from pipeline.inference.restoration import familiarity
from pipeline.inference.restoration.body import cross_section_cm2, skull_share
from pipeline.inference.restoration.facts import SeriesFacts, facts_of
from pipeline.inference.restoration.familiarity import BOTH_DOSES, MANY_KERNELS
from pipeline.inference.survey import survey_series
from pipeline.metrics.noise import global_noise_sd_hu
from pipeline.simulate.phantom import make_phantom
from tests.batch_cases import bundle_of
from tests.predict_cases import write_source

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
        "region": "unknown",
        "description": None,
        "metal_mm2": 0.0,
        "visible": np.ones(hu.shape, np.bool_),
    }
    return SeriesFacts(hu=hu, **{**known, **changes})


def unfamiliar(*arguments: Any, **options: Any) -> tuple[str, ...]:
    """The phrases alone."""
    return tuple(fact.phrase for fact in familiarity.unfamiliar(*arguments, **options))


def codes(*arguments: Any) -> list[str]:
    return [fact.code for fact in familiarity.unfamiliar(*arguments)]


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


def test_each_fact_has_its_code():
    strange = facts(
        PATIENT + 1024,
        noise_sd_hu=50.0,
        kernels=("B70f", "I30f"),
        slice_thicknesses_mm=(9.0,),
        pixel_spacing_mm=(2.0, 2.0),
        region="extremity",
        metal_mm2=400.0,
    )
    found = codes(TRAINED | {"anatomies": {"chest": 1}}, strange)
    assert set(found) == set(familiarity.FACT_CODES)
    assert found.count(familiarity.UNFAMILIAR_KERNEL) == 2


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


def test_a_training_on_many_kernels_minds_no_further_name():
    many = {f"K{number}": 1 for number in range(MANY_KERNELS)}
    assert unfamiliar(TRAINED | {"kernels": many}, facts(kernels=("X",))) == ()


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


def real_facts(entry: SeriesEntry) -> SeriesFacts:
    survey = survey_series(entry)
    return facts_of(entry, survey, global_noise_sd_hu(survey.hu, survey.hu))


def fingerprint_of(entry: SeriesEntry) -> dict[str, Any]:
    """What ingest would write of this series, taken as both doses."""
    found = real_facts(entry)
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
    trained, found = fingerprint_of(entry), real_facts(entry)
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
        told = unfamiliar(fingerprint_of(training), real_facts(other))
        assert not [phrase for phrase in told if "voxels" in phrase]


@pytest.mark.real
def test_a_head_and_a_sharp_kernel_are_told_to_a_chest_network(real_data):
    trained = fingerprint_of(entry_of(real_data / "ct" / "lungdx_a0002_chest_8mm"))
    smooth, sharp = sorted(
        discover(real_data / "ct" / "philips_head_phantom_kernel_pairs").series,
        key=lambda entry: str(entry.kernel),
    )
    head = unfamiliar(trained, real_facts(smooth))
    assert [phrase.split()[1] for phrase in head] == ["of", "already:", "4.1", "spacing", "thickness", "UB"]
    told = unfamiliar(fingerprint_of(smooth), real_facts(sharp))
    assert [phrase.split()[0] for phrase in told] == ["noise", "kernel"]


TRUNK: dict[str, Any] = {"anatomies": {"chest": 7, "abdomen": 2, "unknown": 3}}


def disc(
    radius_mm: float, hu: float = 40.0, *, into: np.ndarray | None = None, at: float = 100.0
) -> np.ndarray:
    """A disc in air: 2 slices of 200 x 200 pixels of 1 mm."""
    images = np.full((2, 200, 200), AIR_HU, np.float32) if into is None else into
    y, x = np.ogrid[:200, :200]
    images[:, np.hypot(y - 100, x - at) < radius_mm] = hu
    return images


def skull(thickness_mm: float = 6.0) -> np.ndarray:
    return disc(80 - thickness_mm, 35, into=disc(80, 900, into=disc(86)))


def millimetres(hu: np.ndarray, **changes: Any) -> SeriesFacts:
    return facts(hu, pixel_spacing_mm=(1.0, 1.0), **changes)


def test_a_head_is_told_by_its_header_or_by_its_skull():
    assert unfamiliar(TRUNK, facts(region="head")) == ("head by its header (trained on abdomen, chest)",)
    (told,) = unfamiliar(TRUNK, millimetres(skull()))
    assert told == "a skull around 100% of the slices (trained on abdomen, chest)"
    assert codes(TRUNK, millimetres(skull())) == ["UNFAMILIAR_ANATOMY"]
    assert unfamiliar({"anatomies": {"head": 1}}, millimetres(skull(), region="head")) == ()
    assert unfamiliar({"anatomies": {"unknown": 4}}, millimetres(skull(), region="head")) == ()


def test_a_trunk_is_one_region_and_its_ribs_and_spine_are_no_skull():
    assert unfamiliar(TRUNK, facts(region="pelvis")) == ()
    assert unfamiliar(TRUNK, facts(region="neck")) != ()
    ribs = disc(90)
    for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        row, column = (round(100 + 80 * turn(angle)) for turn in (np.sin, np.cos))
        ribs[:, row - 5 : row + 5, column - 5 : column + 5] = 600
    ribs[:, 150:175, 85:115] = 500
    assert skull_share(ribs, np.ones(ribs.shape, np.bool_), (1.0, 1.0)) == 0


def test_a_ring_of_bone_around_air_is_no_skull():
    assert skull_share(disc(70, -800, into=skull()), np.ones((2, 200, 200), np.bool_), (1.0, 1.0)) == 0


@pytest.mark.parametrize("region", ["head", "chest", "abdomen"])
def test_a_phantom_s_head_alone_has_a_skull(region):
    spacing_mm = (40.0, 2.5, 2.5)
    phantom = make_phantom(region, np.random.default_rng(0), shape=(2, 200, 200), spacing_mm=spacing_mm)
    hu = phantom.hu + np.random.default_rng(1).normal(0, 40, phantom.hu.shape)
    told = unfamiliar(TRUNK, facts(hu.astype(np.float32), pixel_spacing_mm=spacing_mm[1:]))
    assert ["skull" in phrase for phrase in told] == ([True] if region == "head" else [])


def test_an_extremity_is_told_by_its_cross_section_where_all_of_it_is_seen():
    leg = disc(15, 900, into=disc(60))
    (told,) = unfamiliar(TRUNK, millimetres(leg))
    assert told.startswith("at most 11")
    assert "cm² of body in a slice: an extremity, a neck or a child (trained on" in told
    assert unfamiliar(TRUNK, facts(leg, pixel_spacing_mm=(2.0, 2.0))) == ()
    assert unfamiliar(TRUNK, facts(leg, pixel_spacing_mm=None)) == ()


def test_a_cross_section_is_that_of_the_body_without_its_couch_and_with_its_lungs():
    everywhere = np.ones((2, 200, 200), np.bool_)
    body = disc(30, -850, into=disc(60))
    body[:, 175:178, 20:180] = 0
    assert cross_section_cm2(body, everywhere, (1.0, 1.0)) == pytest.approx(np.pi * 6**2, rel=0.03)
    assert cross_section_cm2(disc(99), everywhere, (1.0, 1.0)) is None
    assert cross_section_cm2(disc(60), everywhere & (np.arange(200) < 150), (1.0, 1.0)) is None
    assert cross_section_cm2(disc(0), everywhere, (1.0, 1.0)) is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 100), (2, 7, 5)])
def test_the_smallest_images_are_no_body_part(shape):
    hu, everywhere = np.full(shape, 40, np.float32), np.ones(shape, np.bool_)
    assert skull_share(hu, everywhere, (0.7, 0.7)) == 0
    assert cross_section_cm2(hu, everywhere, (0.7, 0.7)) is None


@pytest.mark.parametrize(("area_mm2", "told"), [(24.0, ()), (26.0, ("METAL",)), (None, ())])
def test_metal_is_told_from_a_wire_by_its_area(area_mm2, told):
    assert tuple(codes(TRAINED, facts(metal_mm2=area_mm2))) == told
    assert unfamiliar({}, facts(metal_mm2=area_mm2)) == ()


def test_the_metal_of_a_series_is_that_of_its_worst_slice(tmp_path):
    path = write_source(tmp_path, slices=12)[7]
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array.copy()
    pixels[10:15, 10:20] = 3071 - int(dataset.RescaleIntercept)
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path)
    found = real_facts(entry_of(tmp_path))
    assert found.metal_mm2 == pytest.approx(50 * 0.8 * 0.7)
    (told,) = unfamiliar({"normal_dose_hu_percentiles": TRAINED["normal_dose_hu_percentiles"]}, found)
    assert told == "metal: 28 mm² of a slice at 2500 HU and above"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kernels": ("I30f",)}, "SAFIRE"),
        ({"kernels": ("Br40d 3",)}, "ADMIRE or QIR"),
        ({"kernels": ("B30f",), "description": "CHEST 1.0 ASiR 40%"}, "ASiR or Veo"),
        ({"kernels": ("B30f",), "description": "ABD TrueFidelity"}, "TrueFidelity"),
        ({"description": "THORAX ClariCT.AI"}, "ClariCT, PixelShine, SafeCT or SubtleCT"),
        ({"description": "lung, denoised"}, "noise-reducing"),
        ({"kernels": ("B30f",), "description": "THORAX 1.0 B30f"}, None),
        ({"description": "Thorax_iDose_3"}, "iDose or IMR"),
        ({"description": "Abd_ASiR_40"}, "ASiR or Veo"),
        ({"description": "CHEST_AIDR3D_1mm"}, "AIDR or FIRST"),
        ({"description": "LUNG_DLIR_H"}, "TrueFidelity"),
        ({"description": "Recon2_AiCE"}, "AiCE or PIQE"),
        ({"description": "CHEST SS40"}, "ASiR or Veo"),
        ({"description": "CHEST ASiR-V 10%"}, "ASiR or Veo"),
        ({"description": "LUNG FIRST Lung 1.0"}, "AIDR or FIRST"),
        ({"description": "FIRST BODY STD"}, "AIDR or FIRST"),
        ({"description": "Thorax KARL 3D"}, "iterative or learned"),
        ({"description": "First lung cancer screening"}, None),
        ({"description": "Non-iterative FBP"}, None),
        ({"description": "undenoised"}, None),
        ({"description": "CHEST not denoised"}, None),
        ({"description": "ASIR 0%"}, None),
        ({"description": "ASiR-V 0 %"}, None),
        ({"description": "SS0"}, None),
        ({"description": "Thorax Karl"}, None),
    ],
)
def test_an_iterative_or_learned_reconstruction_counts_as_denoised(changes, told):
    found = [
        fact.phrase
        for fact in familiarity.unfamiliar(TRAINED, facts(**changes))
        if fact.code == "ALREADY_DENOISED"
    ]
    expected = f"denoised already: {told} reconstruction"
    assert found == ([] if told is None else [expected])


def test_an_iterative_kernel_of_the_training_is_familiar():
    assert unfamiliar(TRAINED | {"kernels": {"Br38f 3": 1}}, facts(kernels=("Br38f 3",))) == ()


@pytest.mark.real
def test_of_the_real_scans_the_heads_alone_are_told_by_their_pixels(real_data):
    """Headers that name no body part leave it to the pixels."""
    told = {}
    folders = (
        "tcga_single_slices",
        "covid_sbu_single_slices",
        "lungdx_a0002_chest_8mm",
        "totalseg_dicom_j2k",
    )
    for folder in (*(f"ct/{name}" for name in folders), "ct/lidc_0314_chest_1mm", "nasty/odd_headers"):
        for entry in discover(real_data / folder).series:
            nameless = replace(real_facts(entry), region="unknown")
            told[entry.files[0].name] = unfamiliar(TRUNK | {"kernels": None}, nameless)
    for entry in discover(real_data / "ct" / "philips_head_phantom_kernel_pairs").series:
        assert codes(TRUNK, replace(real_facts(entry), region="unknown")) == ["UNFAMILIAR_ANATOMY"]
    assert {name for name, phrases in told.items() if phrases} == {"J2K_pixelrep_mismatch.dcm"}


def test_a_bundle_tells_the_noise_of_the_low_doses_that_were_made():
    made = {"dose_fractions": [0.1, 0.6], "noise_sd_hu": [9.0, 40.0]}
    assert bundle_of("denoiser", training={"low_dose": made}).made_noise_sd_hu == (9.0, 40.0)
    assert bundle_of("denoiser").made_noise_sd_hu is None
