"""Batches of patches: the same from disk and from the device, whole and in parts, in every process."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from pipeline.data import patch_batches, write_volume
from pipeline.data.batches import Part
from pipeline.data.noise_levels import low_dose_noise_sd_hu
from pipeline.data.patch_batches import PatchBatches
from pipeline.errors import DataError
from tests.ct_cases import write_cases

PLAIN = {"patch_size": 24, "batch_size": 6, "seed": 7}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Four cases of two matrices; a voxel's normal dose says where it is, its low dose is one more."""
    folder = tmp_path_factory.mktemp("patches")
    found = write_cases(folder / "a", slices=3, side=48, roles=("train", "train"))
    found += write_cases(folder / "b", slices=2, side=57, roles=("train", "train"))
    for case in found:
        slices, rows, columns = case.shape
        normal = np.arange(slices * rows * columns).reshape(case.shape) - 1024
        write_volume(case.folder / "normal_dose.nii", normal, np.eye(4), np.int16)
        write_volume(case.folder / "low_dose.nii", normal + 1, np.eye(4), np.int16)
    return found


def made(batches, part):
    return batches.on_device(batches[part], part, generator=torch.Generator())


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_batch_is_float32_hu_and_its_pairs_belong_together(cases):
    batch = made(PatchBatches(cases, **PLAIN), Part(0))
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "low_dose": (6, 1, 24, 24),
        "normal_dose": (6, 1, 24, 24),
        "pixel_mm": (6,),
    }
    assert batch["low_dose"].dtype == batch["normal_dose"].dtype == torch.float32
    assert torch.equal(batch["low_dose"], batch["normal_dose"] + 1)
    assert batch["pixel_mm"].tolist() == [2.0] * 6


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    step=st.integers(0, 10**6),
    count=st.sampled_from([1, 2, 3, 6]),
    seed=st.integers(0, 2**63 - 1),
    neighbours=st.integers(0, 1),
    zooms=st.sampled_from([(1.0,), (0.8, 1.0, 1.25)]),
    resident=st.booleans(),
)
def test_the_parts_of_a_batch_are_the_batch(
    cases, monkeypatch, step, count, seed, neighbours, zooms, resident
):
    monkeypatch.setattr(patch_batches, "fits", lambda *_: resident)
    batches = PatchBatches(cases, **PLAIN | {"seed": seed}, neighbours=neighbours, zooms=zooms)
    parts = [made(batches, Part(step, index, count)) for index in range(count)]
    whole = made(batches, Part(step))
    assert_same(whole, {name: torch.cat([part[name] for part in parts]) for name in whole})


@pytest.mark.parametrize("options", [{}, {"neighbours": 1, "zooms": (0.8, 1.0)}, {"with_low_dose": False}])
def test_volumes_in_the_devices_memory_give_the_same_batches(cases, monkeypatch, options):
    from_disk = PatchBatches(cases, **PLAIN, **options)
    monkeypatch.setattr(patch_batches, "fits", lambda *_: True)
    resident = PatchBatches(cases, **PLAIN, **options)
    assert (from_disk.resident, resident.resident) == (False, True)
    for step in range(5):
        assert_same(made(from_disk, Part(step)), made(resident, Part(step)))


def test_volumes_move_in_where_they_take_no_more_than_half_of_a_gpus_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 4000))
    assert patch_batches.fits(500, torch.device("cuda", 0))
    assert not patch_batches.fits(501, torch.device("cuda", 0))
    assert not patch_batches.fits(1, torch.device("cpu"))


def test_an_epoch_shows_every_slice_once(tmp_path):
    cases = write_cases(tmp_path, slices=3, roles=("train", "train"))
    for number, case in enumerate(cases):
        values = 10 * number + np.arange(3)[:, None, None].repeat(48, 1).repeat(48, 2)
        write_volume(case.folder / "normal_dose.nii", values, np.eye(4), np.int16)
    batches = PatchBatches(cases, **PLAIN | {"batch_size": 4})
    seen = torch.cat([made(batches, Part(step))["normal_dose"] for step in range(3)])[:, 0, 0, 0].tolist()
    assert sorted(seen[:6]) == sorted(seen[6:]) == [0, 1, 2, 10, 11, 12]
    assert seen[:6] != seen[6:]


def test_neighbours_are_channels_and_the_ends_repeat(cases):
    batches = PatchBatches(cases[2:], **PLAIN | {"batch_size": 16}, neighbours=1)
    batch = made(batches, Part(0))
    assert batch["low_dose"].shape == (16, 3, 24, 24)
    assert torch.equal(batch["low_dose"][:, 1:2], batch["normal_dose"] + 1)
    steps = {tuple(step.tolist()) for step in batch["low_dose"].diff(dim=1)[:, :, 0, 0]}
    assert steps == {(0.0, 57.0 * 57.0), (57.0 * 57.0, 0.0)}  # two slices: the first, and the last


def test_all_orientations_and_places_occur(cases):
    batches = PatchBatches(cases, **PLAIN | {"batch_size": 64})
    patches = torch.cat([made(batches, Part(step))["normal_dose"] for step in range(4)])
    along_rows = patches[:, 0, 1, 0] - patches[:, 0, 0, 0]
    along_columns = patches[:, 0, 0, 1] - patches[:, 0, 0, 0]
    small = {
        pair
        for pair in zip(along_rows.tolist(), along_columns.tolist(), strict=True)
        if 57 not in map(abs, pair)
    }
    assert small == {(a, b) for s in (1, -1) for t in (48, -48) for a, b in ((s, t), (t, s))}
    tops = {int(patch.min() + 1024) % (48 * 48) // 48 for patch in patches if patch.abs().max() < 48 * 48 * 3}
    assert max(tops) > 20
    assert min(tops) < 4


def test_zoomed_pixels_are_smaller_and_windows_larger(cases):
    batches = PatchBatches(cases, **PLAIN | {"batch_size": 32}, zooms=(0.5, 1.0, 2.0))
    assert batches[Part(0)]["windows"].shape[-1] == 48
    batch = made(batches, Part(0))
    assert batch["low_dose"].shape[-1] == 24
    assert set(batch["pixel_mm"].tolist()) == {1.0, 2.0, 4.0}


def test_a_normal_dose_alone_is_enough_where_the_low_dose_is_made_from_it(cases):
    alone = [replace(case, has_low_dose=False) for case in cases]
    batch = made(PatchBatches(alone, **PLAIN, with_low_dose=False), Part(0))
    assert set(batch) == {"normal_dose", "pixel_mm"}
    paired = made(PatchBatches(cases, **PLAIN), Part(0))
    assert torch.equal(batch["normal_dose"], paired["normal_dose"])
    with pytest.raises(DataError, match="case0 has no low dose; train with `low_dose` or `degradation`"):
        PatchBatches(alone, **PLAIN)


def test_loading_processes_open_the_files_themselves(cases, monkeypatch):
    monkeypatch.setattr(patch_batches, "fits", lambda *_: True)
    resident = PatchBatches(cases, **PLAIN)
    made(resident, Part(0))
    stored_bytes = sum(2 * np.prod(case.shape) * 2 for case in cases)
    assert len(pickle.dumps(resident)) < 20_000 < stored_bytes
    monkeypatch.undo()
    batches = PatchBatches(cases, **PLAIN, neighbours=1)
    assert_same(made(pickle.loads(pickle.dumps(batches)), Part(3)), made(batches, Part(3)))  # noqa: S301
    parts = [Part(step) for step in range(3)]
    loaded = list(
        DataLoader(batches, sampler=parts, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    )
    assert all(
        torch.equal(batch["windows"], batches[part]["windows"])
        for batch, part in zip(loaded, parts, strict=True)
    )


def test_each_sample_knows_the_noise_of_its_case(tmp_path):
    cases = write_cases(tmp_path / "a", side=96, roles=("train",), noise_hu=20.0)
    cases += write_cases(tmp_path / "b", side=96, roles=("train",), noise_hu=60.0)
    batch = made(PatchBatches(cases, **PLAIN | {"batch_size": 12}, noise_levels=True), Part(0))
    expected = {low_dose_noise_sd_hu(case): noise for case, noise in zip(cases, (20, 60), strict=True)}
    assert set(batch["noise_sd_hu"].tolist()) == set(expected)
    assert all(found == pytest.approx(noise, rel=0.1) for found, noise in expected.items())
    # Halved with a triangle two pixels wide: the noise keeps the root of the sum of its squared weights.
    weights = np.outer(*[np.array([1, 3, 3, 1]) / 8] * 2)
    halved = low_dose_noise_sd_hu(cases[1], zoom=0.5)
    assert halved == pytest.approx(60 * np.sqrt((weights**2).sum()), rel=0.1)


def test_noise_that_cannot_be_measured_names_the_case(tmp_path):
    cases = write_cases(tmp_path, side=48, slices=1, roles=("train",))
    write_volume(cases[0].folder / "low_dose.nii", np.full((1, 48, 48), -1000), np.eye(4), np.int16)
    with pytest.raises(
        DataError, match=r"case case0: too little soft tissue .* do without what is told the level"
    ):
        PatchBatches(cases, **PLAIN, noise_levels=True)
    with pytest.raises(ValueError, match="with_low_dose is False"):
        PatchBatches(cases, **PLAIN, noise_levels=True, with_low_dose=False)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"patch_size": 64},
            r"case case0: slices of 48x48 pixels are smaller than data.patch_size 64; lower",
        ),
        (
            {"zooms": (0.4, 1.0)},
            r"smaller than the 60x60 that data.patch_size 24 needs at data.zooms 0.4; lower data.patch",
        ),
        (
            {"neighbours": 3},
            r"case case0: 3 slices are too few for model.arguments.neighbours 3; lower it to 2",
        ),
    ],
)
def test_cases_too_small_are_named_with_the_setting_to_change(cases, changes, complaint):
    with pytest.raises(DataError, match=complaint):
        PatchBatches(cases, **PLAIN | changes)
    with pytest.raises(ValueError, match="neighbours must be 0 or more, got -1"):
        PatchBatches(cases, **PLAIN, neighbours=-1)
