"""Validation slices whose low dose is made, and what a training says of the scans behind them."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.config.restoration import LowDoseSettings
from pipeline.data.fingerprint import read_statistics, write_statistics
from pipeline.degradations import WhiteNoise
from pipeline.stages.families.restoration.scans import scan_remarks
from pipeline.stages.families.restoration.validation import degraded_pairs, made_pairs
from tests.ct_cases import write_cases

GIVEN = {"photons_per_ray": 1e5, "kernel_cutoff_per_mm": 0.2}


@pytest.fixture
def cases(tmp_path):
    return write_cases(tmp_path, side=64)


def reconstructed(case, *kernels):
    write_statistics(case, replace(read_statistics(case), kernels=kernels))


def test_a_case_left_out_changes_the_noise_of_no_other(cases):
    settings = LowDoseSettings(**GIVEN)
    noise = [WhiteNoise(20.0)]
    for pairs_of in (
        lambda some: made_pairs(some, 2, settings, noise_levels=False)[0],
        lambda some: degraded_pairs(some, 2, noise),
    ):
        with_all, without_first = pairs_of(cases[:2]), pairs_of(cases[1:2])
        assert [pair.patient for pair in with_all] == ["patient0"] * 2 + ["patient1"] * 2
        for pair, same in zip(with_all[2:], without_first, strict=True):
            np.testing.assert_array_equal(pair.degraded, same.degraded)


def test_two_cases_draw_different_noise(cases):
    twins = [replace(cases[0], case_id=name) for name in ("one", "two")]
    (first, second), _ = made_pairs(twins, 1, LowDoseSettings(**GIVEN), noise_levels=False)
    assert not np.array_equal(first.degraded, second.degraded)


def test_cases_whose_noise_is_assumed_are_counted_and_named(cases):
    assert scan_remarks(cases, cases[1:3], LowDoseSettings(assumed_cutoff_per_mm=0.3)) == (
        "low_dose: the own noise of 2 of 4 cases cannot be read, so a kernel is assumed where none is given, "
        "and photons follow from the noise level: case1, case2",
    )


def test_photons_read_from_lowered_noise_are_warned_of(cases):
    reconstructed(cases[0], "Br38f 3")
    reconstructed(cases[1], "Br38f 3")
    reconstructed(cases[2], "B40f")
    _, *warnings = scan_remarks(cases, cases[1:2], LowDoseSettings(assumed_cutoff_per_mm=0.3))
    assert warnings == [
        f"low_dose: {name} was reconstructed with less noise (ADMIRE or QIR), so its photons are overstated "
        "and its low dose holds too little noise; set low_dose.photons_per_ray, or leave it out"
        for name in ("case0", "case1")
    ]


def test_nothing_is_said_where_photons_are_given_and_nothing_is_assumed(cases):
    reconstructed(cases[0], "Br38f 3")
    assert scan_remarks(cases, (), LowDoseSettings(**GIVEN)) == ()
