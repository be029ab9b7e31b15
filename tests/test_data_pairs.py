"""Two grids are a pair, or the first thing that differs is named with both values."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.pairs import (
    anatomy_correlation,
    check_ct_numbers,
    check_not_swapped,
    check_pair,
    check_same_anatomy,
    grid_distance_mm,
)
from pipeline.dicom import Geometry
from pipeline.errors import DataError

GRID = Geometry((-10.0, -20.0, 5.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (2.0, 0.5, 0.5), (12, 64, 64))


def test_equal_grids_and_rounded_headers_are_a_pair():
    check_pair(GRID, GRID)
    check_pair(GRID, replace(GRID, origin_mm=(-10.0, -20.0, 5.02), spacing_mm=(2.0005, 0.5, 0.5)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"shape": (11, 64, 64)}, "normal_dose has 12 slices, low_dose has 11; a pair needs equal counts"),
        (
            {"shape": (12, 64, 32)},
            "normal_dose has slices of 64x64, low_dose of 64x32; a pair needs one matrix",
        ),
        (
            {"spacing_mm": (2.0, 0.5, 0.7)},
            "normal_dose has steps of (2, 0.5, 0.5) mm (slice, row, column), low_dose of (2, 0.5, 0.7) mm",
        ),
        ({"origin_mm": (-10.0, -20.0, 7.0)}, "the two grids are up to 2.00 mm apart"),
        ({"row_cosines": (-1.0, 0.0, 0.0), "column_cosines": (0.0, -1.0, 0.0)}, "mm apart"),
    ],
)
def test_what_differs_is_named_with_both_values(change, complaint):
    with pytest.raises(DataError) as error:
        check_pair(GRID, replace(GRID, **change))
    assert complaint in str(error.value)
    assert "repair the series, or remove the case from cases.csv" in str(error.value)


def test_the_distance_of_two_grids_is_that_of_the_worst_corner():
    # A quarter turn about voxel (0, 0) moves the far corner of a slice from (3, 3) to (-3, 3) mm.
    turn = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float64)
    assert grid_distance_mm(np.eye(4), turn, (2, 4, 4)) == pytest.approx(6.0)


def body_hu(organ_column: float, noise_sd_hu: float, seed: int) -> np.ndarray:
    """A cylinder of water with an organ, in air."""
    rows, columns = np.mgrid[:96, :96] - 47.5
    hu = np.where(np.hypot(rows, columns) < 42, 0.0, -1000.0)
    hu[np.hypot(rows, columns - organ_column) < 14] = 150
    return hu + np.random.default_rng(seed).normal(0, noise_sd_hu, (6, 96, 96))


def test_one_body_at_two_doses_is_a_pair_however_noisy():
    assert anatomy_correlation(body_hu(15, 20, seed=1), body_hu(15, 100, seed=2)) > 0.95


def test_another_body_on_the_same_grid_is_no_pair():
    with pytest.raises(
        DataError,
        match=r"normal_dose and low_dose do not show the same anatomy \(correlation -?0\.\d\d, at least 0\.9 "
        r"expected\); check the paths in cases\.csv",
    ):
        check_same_anatomy(
            "low_dose", normal_dose_hu=body_hu(15, 20, seed=1), other_hu=body_hu(-15, 40, seed=2)
        )


def test_uniform_volumes_are_alike_and_unlike_a_body():
    air, water = (np.full((6, 96, 96), hu) for hu in (-1000.0, 0.0))
    assert anatomy_correlation(air, air) == anatomy_correlation(water, water) == 1.0
    assert anatomy_correlation(water, body_hu(15, 20, seed=1)) == 0.0


def test_swapped_doses_are_refused_with_both_noises():
    normal, low = body_hu(15, 10, seed=1), body_hu(15, 20, seed=2)
    check_not_swapped(normal, low)
    check_not_swapped(normal, body_hu(15, 10, seed=3))
    with pytest.raises(DataError, match=r"less noise than normal_dose \(SD \d+\.\d and \d+\.\d HU\)"):
        check_not_swapped(low, normal)


def test_a_mask_is_no_ct_and_its_values_are_named():
    rows = np.arange(64).reshape(1, 8, 8)
    for values, shown in ((rows % 2, "0, 1:"), (rows, r"0, 1, 2, 3, 4, 5, … \(64 of them\):")):
        with pytest.raises(DataError, match=f"truth holds only the values {shown} a mask, not CT numbers"):
            check_ct_numbers("truth", values.astype(np.float32))


def test_air_water_noise_and_many_values_are_ct():
    for hu in (
        body_hu(15, 0, seed=0),  # three values, one of them air
        np.zeros((2, 8, 8)),  # a phantom of water alone
        np.where(np.arange(64).reshape(1, 8, 8) % 9, 40, 240),  # tissue and an insert, without noise
        np.abs(np.random.default_rng(0).normal(300, 100, (2, 64, 64)).round()),
    ):
        check_ct_numbers("normal_dose", hu)
