"""Batches whose low dose is drawn: repeatable choices, new noise at every step, and its level."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.data import Case, write_volume
from pipeline.data.batches import Part
from pipeline.data.low_dose_batches import LowDoseBatches
from pipeline.data.low_dose_slices import low_dose_slice, visible_pixels
from pipeline.data.scans import case_acquisition, read_or_assumed
from pipeline.dose.flux import BODY, Flux
from pipeline.dose.insertion import Acquisition, insert_noise
from pipeline.errors import ConfigError, DataError
from pipeline.metrics.noise import global_noise_sd_hu
from pipeline.projector import FanBeam, Kernel

SIDE, PIXEL_MM, PHOTONS, CUTOFF = 128, 1.5, 3e5, 0.3
GIVEN = {"photons_per_ray": PHOTONS, "kernel_cutoff_per_mm": CUTOFF}
PLAIN = {
    "patch_size": 24,
    "batch_size": 8,
    "seed": 7,
    "patches_per_slice": 4,
    "dose_fractions": (0.2, 0.5),
    **GIVEN,
}


def water(side, slices):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    hu = torch.from_numpy(np.where(np.hypot(x, y) < 0.36 * side, 0, -1000).astype(np.float32))
    return hu.repeat(slices, 1, 1)


def lungs_and_hips(slices):
    """Half of the slices with two lungs, half of them with two heads of bone in a wide body."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    chest, hips = (np.where(np.hypot(x / width, y / 38) < 1, 40, -1000) for width in (50, 58))
    chest = np.where(np.hypot((abs(x) - 24) / 18, y / 26) < 1, -850, chest)
    hips = np.where(np.hypot(abs(x) - 36, y) < 12, 800, hips)
    parts = [chest] * (slices // 2) + [hips] * (slices - slices // 2)
    return torch.from_numpy(np.stack(parts).astype(np.float32))


def write_case(folder, number, *, slices=8, side=SIDE, noisy=True, hu=None):
    """A body with the noise of a scan of `PHOTONS`, as the missing noise of a hundredfold dose."""
    hu = water(side, slices) if hu is None else hu
    if noisy:
        endless = Acquisition(FanBeam(side, PIXEL_MM), Flux(100 * PHOTONS, BODY), Kernel(CUTOFF))
        (hu,) = insert_noise(hu, endless, dose_fractions=[0.01], slice_index=0, seed=number)
    (folder / f"case{number}").mkdir(parents=True)
    write_volume(
        folder / f"case{number}" / "normal_dose.nii", hu.round().clip(-1024).numpy(), np.eye(4), np.int16
    )
    return Case(
        case_id=f"case{number}",
        patient_id=f"patient{number}",
        role="train",
        anatomy="abdomen",
        dose_fraction=1.0,
        noise="shared",
        spacing_mm=(3.0, PIXEL_MM, PIXEL_MM),
        shape=(slices, side, side),
        folder=folder / f"case{number}",
        has_mask=False,
        has_truth=False,
        has_low_dose=False,
    )


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("low_dose")
    return [write_case(folder, 0), write_case(folder, 1, slices=3, side=99)]


def made(batches, part, seed=0):
    return batches.on_device(batches[part], part, generator=torch.Generator().manual_seed(seed))


def test_a_batch_is_float32_hu_of_both_doses(cases):
    batch = made(LowDoseBatches(cases, **PLAIN), Part(0))
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "low_dose": ((8, 1, 24, 24), torch.float32),
        "normal_dose": ((8, 1, 24, 24), torch.float32),
        "pixel_mm": ((8,), torch.float32),
    }
    noise = batch["low_dose"] - batch["normal_dose"]
    assert 1 < float(noise.std()) < 200
    assert abs(float(noise.mean())) < 2


def test_choices_are_those_of_the_step_and_the_noise_is_the_generator_s(cases):
    batches = LowDoseBatches(cases, **PLAIN)
    one, again, other = (made(batches, Part(3), seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert torch.equal(one["normal_dose"], other["normal_dose"])
    first, second = ((batch["low_dose"] - batch["normal_dose"]).flatten() for batch in (one, other))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1
    assert not torch.equal(made(batches, Part(4))["normal_dose"], one["normal_dose"])


def test_parts_are_shares_of_the_batch_on_slice_boundaries(cases):
    batches = LowDoseBatches(cases, **PLAIN)
    whole, halves = batches[Part(2)], [batches[Part(2, index, 2)] for index in range(2)]
    assert all(
        torch.equal(torch.cat([half[name] for half in halves]), whole[name])
        for name in whole.keys() - {"part"}
    )
    with pytest.raises(
        ValueError, match="4 parts of a batch of 8 have 2 samples each, no multiple of patches_p"
    ):
        batches[Part(2, 0, 4)]


def test_an_epoch_shows_every_slice_once(cases):
    batches = LowDoseBatches(cases, **{**PLAIN, "batch_size": 4})
    seen = [tuple(batches.choices(Part(step)).places[0].tolist()) for step in range(11)]
    assert sorted(seen) == [(0, index) for index in range(8)] + [(1, index) for index in range(3)]


def test_dose_fractions_are_drawn_evenly(cases):
    batches = LowDoseBatches(cases, **PLAIN)
    doses = np.concatenate([batches.choices(Part(step)).doses for step in range(400)])
    low, high = PLAIN["dose_fractions"]
    assert low <= float(doses.min()) < float(doses.max()) <= high
    assert float(doses.mean()) == pytest.approx((low + high) / 2, abs=0.01)
    assert float(doses.std()) == pytest.approx((high - low) / 12**0.5, rel=0.05)


def test_workers_make_the_same_batches_and_carry_no_statistics(cases):
    batches = LowDoseBatches(cases, **PLAIN)
    fresh = len(pickle.dumps(batches))
    drawn = made(batches, Part(0))
    assert len(pickle.dumps(batches)) < fresh + 1000
    copy = pickle.loads(pickle.dumps(batches))  # noqa: S301 (just dumped)
    assert torch.equal(made(copy, Part(0))["low_dose"], drawn["low_dose"])
    (loaded,) = DataLoader(
        batches, sampler=[Part(0)], batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    again = batches.on_device(loaded, Part(0), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again["low_dose"], drawn["low_dose"])


def test_statistics_are_kept(cases, monkeypatch):
    batches = LowDoseBatches(cases, **PLAIN)
    first = made(batches, Part(0))
    monkeypatch.setattr("pipeline.dose.realisations.project", None)
    assert torch.equal(made(batches, Part(0))["low_dose"], first["low_dose"])


def drawn_series(case, dose_fraction, seed):
    """All slices by the full insertion."""
    scan = case_acquisition(case, **GIVEN, device=torch.device("cpu"))
    hu = torch.from_numpy(case.normal_dose().astype(np.float32))
    (low_dose,) = insert_noise(
        hu, scan, dose_fractions=[dose_fraction], slice_index=0, seed=seed, visible=visible_pixels(hu)
    )
    return low_dose.numpy()


@pytest.mark.slow
def test_the_level_told_is_that_found_in_a_series_of_lungs_and_hips(tmp_path):
    case = write_case(tmp_path, 0, slices=12, hu=lungs_and_hips(12))
    batches = LowDoseBatches([case], **{**PLAIN, "dose_fractions": (0.1, 0.6)}, noise_levels=True)
    (table,) = batches._levels
    for dose in (0.1, 0.17, 0.6):
        many = [drawn_series(case, dose, seed) for seed in range(9)]  # so small, one draw is 10 % off
        found = np.mean([global_noise_sd_hu(series, series) for series in many])
        assert table.at(dose, 0) == pytest.approx(found, rel=0.1)
        series = many[3]
        chest, hips = (global_noise_sd_hu(part, part) for part in (series[:6], series[6:]))
        assert max(chest, hips) / min(chest, hips) > 1.2  # a level per slice would be another


def test_every_sample_is_told_the_level_of_its_case_and_dose(cases):
    batches = LowDoseBatches(cases, **PLAIN, noise_levels=True)
    chosen, told = batches.choices(Part(5)), made(batches, Part(5))["noise_sd_hu"]
    expected = [
        batches._levels[case].at(dose, 0)
        for (case, _), dose in zip(chosen.places, chosen.doses, strict=True)
        for _ in range(4)
    ]
    assert told.tolist() == pytest.approx(expected)
    low, high = batches.noise_sd_hu
    assert low <= float(told.min()) <= float(told.max()) <= high
    assert LowDoseBatches(cases, **PLAIN).noise_sd_hu == (low, high)
    assert high / low > (0.5 / 0.2) ** 0.5 * 0.9


def test_cases_without_soft_tissue_have_no_level(tmp_path):
    air = write_case(tmp_path, 0, slices=3, noisy=False, hu=torch.full((3, SIDE, SIDE), -1000.0))
    assert LowDoseBatches([air], **PLAIN).noise_sd_hu is None
    with pytest.raises(
        DataError, match="case case0: too little soft tissue to measure the noise of its made"
    ):
        LowDoseBatches([air], **PLAIN, noise_levels=True)


def test_statistics_that_do_not_fit_the_device_stay_on_the_host(cases, monkeypatch):
    asked = []

    class Cuda:
        type = "cuda"

    monkeypatch.setattr("pipeline.data.low_dose_batches.fits", lambda size, _: asked.append(size) or False)
    batches = LowDoseBatches(cases, **PLAIN)
    drawn = made(batches, Part(0))["low_dose"]
    assert asked == []
    assert all(noise.resident for noise in batches._noise)
    batches._keep_where_it_fits(Cuda)
    assert not any(noise.resident for noise in batches._noise)
    kept = [next(iter(noise._kept.values())).rays for noise in batches._noise if noise._kept]
    assert kept[0].element_size() * kept[0].numel() * 8 == batches._noise[0].bytes_kept
    assert asked == [sum(noise.bytes_kept for noise in batches._noise)]
    for noise in batches._noise:
        noise._kept.clear()
    assert torch.equal(made(batches, Part(0))["low_dose"], drawn)


def test_cases_pass_through_the_progress_once_each(cases):
    passed = []

    def progress(some):
        for case in some:
            passed.append(case.case_id)
            yield case

    LowDoseBatches(cases, **PLAIN, progress=progress)
    assert passed == ["case0", "case1"]


def test_zooms_change_pixels_and_noise_levels(cases):
    batches = LowDoseBatches(cases[:1], **PLAIN, noise_levels=True, zooms=(0.5,))
    batch = made(batches, Part(0))
    assert batch["low_dose"].shape == (8, 1, 24, 24)
    assert batch["pixel_mm"].tolist() == [2 * PIXEL_MM] * 8
    plain = made(LowDoseBatches(cases[:1], **PLAIN, noise_levels=True), Part(0))
    assert float(batch["noise_sd_hu"].mean() / plain["noise_sd_hu"].mean()) < 0.9


def test_padding_in_the_corners_gets_no_noise(cases):
    batches = LowDoseBatches(
        cases[:1], **{**PLAIN, "patch_size": SIDE, "patches_per_slice": 1, "batch_size": 1}
    )
    batch = made(batches, Part(0))
    corners = batch["normal_dose"][0, 0, :10, :10]
    assert torch.equal(batch["low_dose"][0, 0, :10, :10], corners)
    assert bool((corners == -1000).all())


def test_scans_are_read_from_the_images_own_noise(cases):
    nothing = {"photons_per_ray": None, "kernel_cutoff_per_mm": None}
    scan = case_acquisition(cases[0], **nothing, device=torch.device("cpu"))
    assert scan.flux.photons_per_ray == pytest.approx(PHOTONS, rel=0.2)
    assert scan.flux.bowtie == BODY
    assert scan.kernel.cutoff_per_mm == pytest.approx(CUTOFF, rel=0.1)
    given = case_acquisition(cases[0], **{**nothing, "kernel_cutoff_per_mm": 0.4}, device=torch.device("cpu"))
    assert given.kernel == Kernel(0.4)


def test_noise_that_cannot_be_read_is_an_error_with_a_way_out(tmp_path):
    silent = write_case(tmp_path, 0, noisy=False)
    with pytest.raises(
        DataError, match=r"^case case0: its own noise cannot be read \(.*photons_per_ray"
    ) as error:
        LowDoseBatches([silent], **{**PLAIN, "photons_per_ray": None, "kernel_cutoff_per_mm": None})
    assert "\n" not in str(error.value)
    LowDoseBatches([silent], **PLAIN)


READ = {"photons_per_ray": None, "kernel_cutoff_per_mm": None, "device": torch.device("cpu")}


def test_what_is_given_stands_where_the_kernel_is_assumed(tmp_path):
    silent, read = write_case(tmp_path, 0, noisy=False), {**READ, "assumed_cutoff_per_mm": 0.8}
    scan, is_assumed = read_or_assumed(silent, **{**read, "photons_per_ray": PHOTONS})
    assert (scan.flux.photons_per_ray, scan.kernel, is_assumed) == (PHOTONS, Kernel(0.8), True)
    scan, is_assumed = read_or_assumed(silent, **{**read, **GIVEN})
    assert (scan.flux.photons_per_ray, scan.kernel, is_assumed) == (PHOTONS, Kernel(CUTOFF), False)
    with pytest.raises(DataError, match=r"^case case0: shows no noise in soft tissue"):
        read_or_assumed(silent, **read)


def fat(folder, number):
    """A case whose kernel cannot be read: patients' fat is uneven; here it holds nothing but noise."""
    body = water(SIDE, 8)
    return write_case(folder, number, hu=body.where(body < 0, -100))


def test_where_the_kernel_cannot_be_read_the_photons_follow_from_the_noise_level(tmp_path):
    case = fat(tmp_path, 0)
    with pytest.raises(DataError, match="its own noise cannot be read"):
        case_acquisition(case, **READ)
    scan, is_assumed = read_or_assumed(case, **READ, assumed_cutoff_per_mm=CUTOFF)
    assert is_assumed
    assert scan.kernel == Kernel(CUTOFF)
    assert scan.flux.photons_per_ray == pytest.approx(PHOTONS, rel=0.1)
    given = {**READ, "kernel_cutoff_per_mm": CUTOFF}  # nothing is assumed of the kernel, whatever is said
    for assumed in (None, 0.8):
        assert read_or_assumed(case, **given, assumed_cutoff_per_mm=assumed) == (scan, True)


def test_too_little_soft_tissue_is_not_called_silent(tmp_path):
    body = water(SIDE, 8)
    lung = write_case(tmp_path, 0, hu=body.where(body < 0, -700))
    with pytest.raises(DataError, match=r"^case case0: shows too little soft tissue"):
        read_or_assumed(lung, **READ, assumed_cutoff_per_mm=CUTOFF)


def test_batches_tell_whose_kernel_is_assumed(tmp_path):
    told, hidden = write_case(tmp_path, 0), fat(tmp_path, 1)
    read = {**PLAIN, "photons_per_ray": None, "kernel_cutoff_per_mm": None}
    batches = LowDoseBatches([told, hidden], **read, assumed_cutoff_per_mm=CUTOFF)
    assert batches.assumed == (hidden,)
    assert LowDoseBatches([told, hidden], **PLAIN).assumed == ()


def test_a_field_of_view_too_wide_for_a_fan_is_scanned_in_parallel(cases):
    wide = replace(cases[0], spacing_mm=(3.0, 8.0, 8.0))
    scan = case_acquisition(wide, **GIVEN, device=torch.device("cpu"))
    assert not isinstance(scan.beam, FanBeam)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 6}, "batch_size 6 is no multiple of low_dose.patches_per_slice 4"),
        ({"dose_fractions": (0.5, 0.2)}, "dose_fractions must rise"),
        ({"dose_fractions": (0.5, 1.0)}, "both excluded, got 0.5 and 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(cases, changes, message):
    with pytest.raises(ConfigError, match=message):
        LowDoseBatches(cases, **{**PLAIN, **changes})


def test_a_patch_larger_than_the_slices_is_refused(cases):
    with pytest.raises(DataError, match="case case1: slices of 99x99 pixels are smaller"):
        LowDoseBatches(cases, **{**PLAIN, "patch_size": 100})


def test_a_slice_at_a_lower_dose_repeats_and_is_as_noisy_as_predicted(cases):
    scan = case_acquisition(cases[0], **GIVEN, device=torch.device("cpu"))
    one, same, other = (
        low_dose_slice(cases[0], 2, scan, dose_fraction=0.25, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    normal = cases[0].normal_dose()[2].astype(np.float32)
    ratio = global_noise_sd_hu(normal[None], one[None]) / global_noise_sd_hu(normal[None], normal[None])
    assert ratio == pytest.approx(2, rel=0.15)
