import numpy as np
import pytest
import torch

from pipeline.hu import AIR_HU
from pipeline.transforms import (
    centred_view,
    generative_slices,
    labelled_slices,
    resample_image,
    resample_labels,
    seeded,
)

SEGMENTATION = labelled_slices(48, rotation_degrees=10, scale=0.1, shift_hu=10, noise_hu=5)


def test_a_sample_depends_on_seed_and_index_alone():
    image = torch.from_numpy(np.random.default_rng(0).normal(0, 300, (1, 60, 60)).astype(np.float32))

    def sample(seed, index):
        whole = {"image": image, "classes": (image > 0).to(torch.uint8)}
        return seeded(SEGMENTATION, whole, seed=seed, index=index)["image"]

    first = [sample(1, index) for index in range(6)]
    again = [sample(1, index) for index in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(sample(1, 0), sample(2, 0))


def test_image_and_classes_move_together():
    disc = (torch.cartesian_prod(torch.arange(60.0), torch.arange(60.0)) - 25).norm(dim=1).reshape(
        1, 60, 60
    ) < 15
    sample = {"image": torch.where(disc, 40.0, AIR_HU), "classes": disc.to(torch.uint8)}
    for index in range(10):
        made = seeded(SEGMENTATION, sample, seed=0, index=index)
        assert made["image"].shape == made["classes"].shape == (1, 48, 48)
        assert made["classes"].dtype == torch.int64
        agreement = ((made["image"] > -480) == (made["classes"] == 1)).float().mean()
        assert agreement > 0.97


def test_small_slices_are_padded_with_air_and_background():
    sample = {"image": torch.full((1, 20, 20), 40.0), "classes": torch.ones(1, 20, 20, dtype=torch.uint8)}
    still = labelled_slices(48, rotation_degrees=0, scale=0, shift_hu=0, noise_hu=0)
    made = seeded(still, sample, seed=0, index=0)
    assert made["classes"].sum() == pytest.approx(400, abs=20)
    assert made["image"][0, 0, 0] == AIR_HU


def test_generative_slices_stay_in_range():
    image = torch.full((1, 16, 16), AIR_HU)
    image[:, 4:12, 4:12] = 40
    made = seeded(generative_slices(shift_pixels=2, scale=0.1), {"image": image}, seed=0, index=0)["image"]
    assert made.shape == (1, 16, 16)
    assert made.min() >= AIR_HU
    assert made.max() <= 40


def test_resampling_keeps_the_mean_and_the_labels_in_place():
    image = torch.arange(8.0).expand(1, 8, 8)
    assert resample_image(image, (4, 4)).mean() == pytest.approx(3.5, abs=0.01)
    labels = (torch.arange(8) >= 4).to(torch.uint8).expand(1, 8, 8)
    assert resample_labels(labels, (4, 4))[0, 0].tolist() == [0, 0, 1, 1]


def test_the_centred_view_puts_the_body_in_the_middle():
    image = torch.full((1, 60, 80), AIR_HU)
    image[:, 10:30, 50:70] = 40
    view = centred_view(image, (1.0, 1.0), field_of_view_mm=40, image_size=20)
    body = view[0] > -400
    assert view.shape == (1, 20, 20)
    assert body.nonzero().float().mean(dim=0).tolist() == pytest.approx([9.5, 9.5], abs=0.6)
    assert body.sum() == pytest.approx(100, abs=25)


def test_the_centred_view_is_air_where_it_leaves_the_slice():
    view = centred_view(torch.full((1, 10, 10), 40.0), (1.0, 1.0), field_of_view_mm=20, image_size=20)
    assert view[0, 0, 0] == AIR_HU
    assert (view > -400).sum() == 100
