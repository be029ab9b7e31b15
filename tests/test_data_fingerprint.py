"""The fingerprint of a data set, against numpy and by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import Case, data_digest, read_fingerprint
from pipeline.data.fingerprint import (
    CaseStatistics,
    count_hu,
    describe,
    write_fingerprint,
    write_statistics,
)
from pipeline.errors import DataError


def one(case_id: str, patient_id: str, volume: np.ndarray, **changes) -> tuple[Case, CaseStatistics]:
    known = {"spacing_mm": (2.5, 0.7, 0.7), "noise": "shared", "dose_fraction": 0.25, "anatomy": "chest"}
    case = Case(
        case_id=case_id,
        patient_id=patient_id,
        role="train",
        shape=volume.shape,
        folder=Path(case_id),
        has_mask=False,
        has_truth=False,
        **{**known, **changes},
    )
    noise = {"normal_dose": 10.0, "low_dose": 20.0 + len(case_id)}
    return case, CaseStatistics(("SOFT", "SOFT"), 3.0, noise, count_hu(volume))


def test_ranges_and_counts_by_hand():
    volume = np.zeros((2, 4, 4), np.int16)
    found = describe(
        [one("a", "p1", volume), one("bb", "p1", volume[:1], spacing_mm=(5.0, 0.8, 0.9), anatomy="head")]
    )
    assert found["cases"] == 2
    assert found["patients"] == 1
    assert found["slices"] == 3
    assert found["anatomies"] == {"chest": 1, "head": 1}
    assert found["kernels"] == {"SOFT": 2}
    assert found["slice_spacing_mm"] == [2.5, 5.0]
    assert found["column_spacing_mm"] == [0.7, 0.9]
    assert found["slice_thickness_mm"] == [3.0, 3.0]
    assert found["noise_sd_hu"] == {"normal_dose": [10.0, 10.0], "low_dose": [21.0, 22.0]}


def test_percentiles_of_pooled_cases_equal_those_of_all_voxels():
    volumes = [np.random.default_rng(seed).normal(40, 300, (3, 20, 20)).astype(np.int16) for seed in (1, 2)]
    found = describe([one(str(index), "p", volume) for index, volume in enumerate(volumes)])
    expected = np.percentile(np.concatenate(volumes), [0.5, 5, 25, 50, 75, 95, 99.5], method="inverted_cdf")
    assert list(found["normal_dose_hu_percentiles"].values()) == expected.tolist()


def test_hu_beyond_the_bins_are_counted_at_the_ends():
    counts = count_hu(np.array([[[-32768, -1024, 3071, 32767]]], np.int16))
    assert (counts[0], counts[-1], counts.sum()) == (2, 2, 4)


def test_nothing_known_is_none_and_not_an_error():
    case, statistics = one("a", "p", np.zeros((1, 2, 2), np.int16))
    unknown = CaseStatistics((), None, {"normal_dose": None, "low_dose": None}, statistics.hu_counts)
    found = describe([(case, unknown)])
    assert found["slice_thickness_mm"] is None
    assert found["noise_sd_hu"] == {"normal_dose": None, "low_dose": None}


def test_any_choice_of_ingested_cases_is_described_from_what_was_kept_of_each(tmp_path):
    shapes = ((2, 4, 4), (1, 8, 8), (3, 4, 4))
    kept = []
    for number, shape in enumerate(shapes):
        volume = np.random.default_rng(number).normal(0, 300, shape).astype(np.int16)
        case, statistics = one(str(number), "p", volume)
        case = replace(case, folder=tmp_path / case.case_id)
        case.folder.mkdir()
        write_statistics(case, statistics)
        kept.append((case, statistics))
    for chosen in (kept, kept[1:], kept[:1]):
        assert read_fingerprint([case for case, _ in chosen]) == describe(chosen)


def test_a_case_without_statistics_says_what_to_run(tmp_path):
    case = replace(one("a", "p", np.zeros((1, 2, 2), np.int16))[0], folder=tmp_path)
    with pytest.raises(DataError, match=r"statistics\.json: no such file; run `ldct ingest` first"):
        read_fingerprint([case])
    (tmp_path / "statistics.json").write_text('{"kernels": []}')
    with pytest.raises(DataError, match=r"statistics\.json: not what ingest writes; run `ldct ingest` again"):
        read_fingerprint([case])


def test_the_digest_is_read_back(tmp_path):
    write_fingerprint(tmp_path, "d" * 64, {"train": {"cases": 3}})
    assert data_digest(tmp_path) == "d" * 64


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_or_missing_file_says_what_to_run(tmp_path, text):
    with pytest.raises(DataError, match=r"fingerprint\.json: no such file; run `ldct ingest`"):
        data_digest(tmp_path)
    (tmp_path / "fingerprint.json").write_text(text)
    with pytest.raises(DataError, match=r"fingerprint\.json: not what ingest writes; run `ldct"):
        data_digest(tmp_path)
