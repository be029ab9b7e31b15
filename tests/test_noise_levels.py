"""One noise level for a series: training, evaluation and `ldct predict` measure it in the same slices."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.data import noise_levels
from pipeline.data.noise_levels import low_dose_noise_sd_hu
from pipeline.inference.survey import survey_series
from pipeline.metrics.noise import slices_looked_at
from tests.ct_cases import write_cases
from tests.test_restoration import HEAD_FIRST_GRID, only_entry, write_phantom


@pytest.mark.parametrize("slices", [1, 5, 8, 9, 21])
def test_a_network_is_told_the_noise_of_the_slices_that_predict_measures(tmp_path, monkeypatch, slices):
    volume = np.arange(slices, dtype=np.int16)[:, None, None] + np.zeros((slices, 16, 16), np.int16)
    grid = replace(HEAD_FIRST_GRID, shape=volume.shape)
    write_phantom(volume, tmp_path / "in", grid)
    (case,) = write_cases(tmp_path / "cases", slices=slices, side=16, roles=("train",))
    looked_at = []
    monkeypatch.setattr(type(case), "low_dose", lambda _: volume)
    monkeypatch.setattr(
        noise_levels, "global_noise_sd_hu", lambda hu, _: looked_at.append(hu[:, 0, 0].tolist()) or 1.0
    )
    low_dose_noise_sd_hu(case)
    survey = survey_series(only_entry(tmp_path / "in"))
    assert looked_at == [list(survey.indices)] == [slices_looked_at(slices).tolist()]
    assert len(survey.indices) == min(slices, 8)
