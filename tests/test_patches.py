import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.data.patches import (
    CentredSlices,
    LabelledSlices,
    SliceOrder,
    class_lookup,
    spread_slices,
)
from pipeline.transforms import generative_slices, labelled_slices
from tests.ct_cases import ORGAN, write_cases


@pytest.fixture
def cases(tmp_path):
    return write_cases(tmp_path)


def test_every_epoch_shows_every_slice_once_in_another_order():
    order = SliceOrder([2, 3, 1], seed=0)
    first, second = ([order[index] for index in range(start, start + 6)] for start in (0, 6))
    everything = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert sorted(first) == sorted(second) == everything
    assert first != second
    assert [SliceOrder([2, 3, 1], seed=0)[index] for index in range(6)] == first


def test_sample_i_is_the_same_whatever_the_order_and_the_number_of_workers(cases):
    def batches(workers, indices):
        moved = generative_slices(shift_pixels=2, scale=0.1)
        samples = CentredSlices(cases, moved, image_size=16, field_of_view_mm=96, seed=7)
        context = "spawn" if workers else None
        return list(
            DataLoader(samples, batch_sampler=indices, num_workers=workers, multiprocessing_context=context)
        )

    straight = batches(0, [[0, 1], [2, 3], [4, 5]])
    resumed = batches(0, [[4, 5]])
    parallel = batches(1, [[0, 1], [2, 3], [4, 5]])
    assert torch.equal(straight[2]["image"], resumed[0]["image"])
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(straight, parallel, strict=True))


def test_labelled_slices_are_resampled_and_classed(cases):
    lookup = class_lookup(["liver"], {"liver": ORGAN}, outside=[0, 15])
    still = labelled_slices(24, rotation_degrees=0, scale=0, shift_hu=0, noise_hu=0)
    samples = LabelledSlices(cases, still, input_spacing_mm=4.0, class_of_label=lookup, seed=0)
    sample = samples[0]
    assert sample["image"].shape == (1, 24, 24)
    assert sample["classes"].unique().tolist() == [0, 1, 2]
    assert sample["image"][sample["classes"] == 2].mean() == pytest.approx(120, abs=15)


def test_centred_slices_have_their_size(cases):
    samples = CentredSlices(
        cases, generative_slices(shift_pixels=1, scale=0.05), image_size=16, field_of_view_mm=96, seed=0
    )
    assert samples[11]["image"].shape == (1, 16, 16)


def test_class_lookup_by_hand():
    lookup = class_lookup(["lungs", "liver"], {"fat": 1, "lungs": 3, "liver": 5}, outside=[0, 15])
    assert [lookup[value] for value in (0, 1, 3, 5, 15)] == [0, 1, 2, 3, 0]
    with pytest.raises(ValueError, match="unknown label gills"):
        class_lookup(["gills"], {"fat": 1}, outside=[0])
    with pytest.raises(ValueError, match="twice"):
        class_lookup(["fat", "fat"], {"fat": 1}, outside=[0])


def test_spread_slices_are_even_and_never_too_many():
    assert spread_slices(12, 3) == [2, 6, 10]
    assert spread_slices(2, 5) == [0, 1]
