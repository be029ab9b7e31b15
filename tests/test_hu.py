import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.hu import (
    ABDOMEN,
    HEAD,
    LUNG,
    RED_CNN_PAPER,
    WATER_CENTRED,
    HUScale,
    HUWindow,
    body_region,
    display_window,
)


def test_windows_are_the_ones_a_radiologist_names() -> None:
    assert (ABDOMEN.low, ABDOMEN.high) == (-160, 240)
    assert (LUNG.low, LUNG.high) == (-1350, 150)
    assert (HEAD.low, HEAD.high) == (0, 80)


def test_window_to_unit_clips_and_returns() -> None:
    hu = np.array([-1000, -160, 40, 240, 3000], dtype=np.float32)
    np.testing.assert_array_equal(ABDOMEN.to_unit(hu), np.array([0, 0, 0.5, 1, 1], dtype=np.float32))
    np.testing.assert_array_equal(ABDOMEN.from_unit(ABDOMEN.to_unit(hu)), ABDOMEN.clip(hu))


def test_water_is_zero_and_air_minus_one_on_the_network_scale() -> None:
    np.testing.assert_array_equal(
        WATER_CENTRED.to_network(np.array([0, -1000], dtype=np.float32)), [0.0, -1.0]
    )


def test_paper_scale_spans_zero_to_one() -> None:
    np.testing.assert_array_equal(
        RED_CNN_PAPER.to_network(np.array([-1024, 3072], dtype=np.float32)), [0.0, 1.0]
    )


@given(st.integers(min_value=-32768, max_value=32767))
def test_every_int16_hu_survives_the_network_scale(hu: int) -> None:
    stored = np.array([hu], dtype=np.float32)
    for scale in (WATER_CENTRED, RED_CNN_PAPER):
        assert np.rint(scale.to_hu(scale.to_network(stored)))[0] == hu


@pytest.mark.parametrize("wrong", [lambda: HUWindow(low=240, high=-160), lambda: HUScale(0, 0)])
def test_impossible_windows_and_scales_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"low < high|positive"):
        wrong()


@pytest.mark.parametrize(
    ("region", "body_parts"),
    [
        (
            "head",
            ["HEAD", "Brain", "HEADNECK", "SKULL", "TEMPORAL BONE", "INNER EAR", "TMJ", "IAC", "MAXILLA"],
        ),
        ("neck", ["NECK", "CSPINE", "C-SPINE", "CERVICAL SPINE", "CERVICAL_SPINE"]),
        ("chest", ["CHEST", "THORAX^LUNG", "HEART", "CHEST_TO_PELVIS", "HEAD_NECK_CHEST"]),
        ("abdomen", ["ABDOMEN_PELVIS", "LIVER", "ABD"]),
        ("pelvis", ["PELVIS", "HIP", "BLADDER"]),
        ("spine", ["TSPINE", "SPINE", "LUMBAR SPINE", "SSPINE", "CTSPINE"]),
        (
            "extremity",
            ["KNEE", "LEG", "ARM_LEFT", "FOREARM", "FEMUR", "HUMERUS", "TIBIA", "SKULL BASE TO THIGH"],
        ),
        ("unknown", ["DOE JOHN 1950", "CHARMING", "DIAGNOSED", "PHANTOM", "?", "", None]),
    ],
)
def test_body_parts_become_regions_of_a_closed_list(region: str, body_parts: list[str | None]) -> None:
    assert {body_region(part) for part in body_parts} == {region}


@pytest.mark.parametrize("body_part", ["head", "BRAIN", "ORBIT"])
def test_a_head_is_drawn_in_its_own_window(body_part: str) -> None:
    assert display_window(body_part) == HEAD


@pytest.mark.parametrize("body_part", ["chest", "abdomen", "HEAD_NECK_CHEST", "", None])
def test_everything_else_is_drawn_in_the_window_of_the_abdomen(body_part: str | None) -> None:
    assert display_window(body_part) == ABDOMEN
