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
from pipeline.data.low_dose_slices import case_acquisition, low_dose_slice
from pipeline.data.noise_levels import normal_dose_noise_sd_hu
from pipeline.dose.flux import BODY, Flux
from pipeline.dose.insertion import Acquisition, added_sd_hu, insert_noise
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


def write_case(folder, number, *, slices=8, side=SIDE, noisy=True):
    """A water disc with the noise of a scan of `PHOTONS`, as the missing noise of a hundredfold dose."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    hu = torch.from_numpy(np.where(np.hypot(x, y) < 0.36 * side, 0, -1000).astype(np.float32))
    hu = hu.repeat(slices, 1, 1)
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
    return batches.on_device(batches[part], generator=torch.Generator().manual_seed(seed))


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
    assert all(torch.equal(torch.cat([half[name] for half in halves]), whole[name]) for name in whole)
    with pytest.raises(
        ValueError, match="4 parts of a batch of 8 have 2 samples each, no multiple of patches_p"
    ):
        batches[Part(2, 0, 4)]


def test_an_epoch_shows_every_slice_once(cases):
    batches = LowDoseBatches(cases, **{**PLAIN, "batch_size": 4})
    seen = [tuple(batches[Part(step)]["places"][0].tolist()) for step in range(11)]
    assert sorted(seen) == [(0, index) for index in range(8)] + [(1, index) for index in range(3)]


def test_dose_fractions_are_even_in_their_logarithm(cases):
    batches = LowDoseBatches(cases, **PLAIN)
    doses = torch.cat([batches[Part(step)]["dose_fractions"] for step in range(400)]).log()
    low, high = np.log(PLAIN["dose_fractions"])
    assert low <= float(doses.min()) < float(doses.max()) <= high
    assert float(doses.mean()) == pytest.approx((low + high) / 2, abs=0.05)
    assert float(doses.std()) == pytest.approx((high - low) / 12**0.5, rel=0.05)


def test_workers_make_the_same_batches_and_carry_no_statistics(cases):
    batches = LowDoseBatches(cases, **PLAIN)
    fresh = len(pickle.dumps(batches))
    drawn = made(batches, Part(0))
    assert len(pickle.dumps(batches)) < fresh + 1000
    copy = pickle.loads(pickle.dumps(batches))  # noqa: S301 (just dumped)
    assert torch.equal(made(copy, Part(0))["low_dose"], drawn["low_dose"])
    (loaded,) = DataLoader(batches, sampler=[Part(0)], batch_size=None, num_workers=1)
    again = batches.on_device(loaded, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again["low_dose"], drawn["low_dose"])


def test_statistics_are_kept(cases, monkeypatch):
    batches = LowDoseBatches(cases, **PLAIN)
    first = made(batches, Part(0))
    monkeypatch.setattr("pipeline.dose.realisations.project", None)
    assert torch.equal(made(batches, Part(0))["low_dose"], first["low_dose"])


def test_noise_levels_are_own_and_added_noise_of_the_slice(cases):
    batches = LowDoseBatches(cases[:1], **{**PLAIN, "dose_fractions": (0.25, 0.25)}, noise_levels=True)
    scan = case_acquisition(cases[0], **GIVEN, device=torch.device("cpu"))
    hu = torch.from_numpy(cases[0].normal_dose()[:1].astype(np.float32))
    added = added_sd_hu(hu, scan, dose_fraction=0.25)[0][hu[0] > -300].square().mean().sqrt()
    expected = (normal_dose_noise_sd_hu(cases[0], 1.0) ** 2 + float(added) ** 2) ** 0.5
    assert made(batches, Part(0))["noise_sd_hu"].tolist() == pytest.approx([expected] * 8, rel=0.06)


def test_zooms_change_pixels_and_noise_levels(cases):
    batches = LowDoseBatches(cases[:1], **PLAIN, noise_levels=True, zooms=(0.5,))
    batch = made(batches, Part(0))
    assert batch["low_dose"].shape == (8, 1, 24, 24)
    assert batch["pixel_mm"].tolist() == [2 * PIXEL_MM] * 8
    plain = made(LowDoseBatches(cases[:1], **PLAIN, noise_levels=True), Part(0))
    assert float(batch["noise_sd_hu"].mean() / plain["noise_sd_hu"].mean()) < 0.9


def test_padding_gets_no_noise(cases):
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
