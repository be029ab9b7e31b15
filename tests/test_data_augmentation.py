"""Turns and zooms of whole batches, against numpy and by hand."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from pipeline.transforms import TurnBatchd, ZoomBatchd, patch_batches
from pipeline.transforms.batch import window_side


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(-1024, 3000, shape).astype(np.int16))


@pytest.mark.parametrize("code", range(8))
def test_each_code_is_a_turn_and_a_mirror_of_numpy(code):
    image = noise(1, 3, 5, 5)
    turned = TurnBatchd("image")({"image": image, "turn": torch.tensor([code])})
    expected = np.rot90(image[0].numpy(), code % 4, axes=(1, 2))
    if code >= 4:
        expected = expected[..., ::-1]
    np.testing.assert_array_equal(turned["image"][0], expected)
    assert set(turned) == {"image"}


def test_a_batch_holds_all_eight_orientations_and_pairs_stay_together():
    image = noise(1, 1, 6, 6).expand(8, 1, 6, 6)
    batch = {"low_dose": image + 1, "normal_dose": image, "turn": torch.arange(8)}
    turned = TurnBatchd(("low_dose", "normal_dose"))(batch)
    assert torch.equal(turned["low_dose"], turned["normal_dose"] + 1)
    assert len({sample.numpy().tobytes() for sample in turned["normal_dose"]}) == 8


def test_zoom_one_is_the_centre_bit_for_bit():
    windows = noise(2, 1, 10, 10).float()
    zoomed = ZoomBatchd("image", 6, (0.8, 1.0))({"image": windows, "zoom": torch.ones(2)})
    assert torch.equal(zoomed["image"], windows[..., 2:8, 2:8])


def test_each_sample_has_its_own_zoom_and_the_pixels_shrink_with_it():
    windows = noise(4, 2, 12, 12).float()
    zooms = torch.tensor([2.0, 0.5, 1.0, 2.0])
    zoomed = ZoomBatchd("image", 6, (0.5, 1.0, 2.0))(
        {"image": windows, "zoom": zooms, "pixel_mm": torch.full((4,), 0.8)}
    )
    for index, side in enumerate((3, 12, 6, 3)):
        first = (12 - side) // 2
        centre = windows[index : index + 1, :, first : first + side, first : first + side]
        expected = interpolate(centre, (6, 6), mode="bilinear", antialias=True)
        torch.testing.assert_close(zoomed["image"][index : index + 1], expected)
    torch.testing.assert_close(zoomed["pixel_mm"], torch.tensor([0.4, 1.6, 0.8, 0.4]))


def test_a_zoomed_ramp_keeps_its_value_per_mm():
    ramp = torch.arange(24.0).expand(1, 1, 24, 24)
    for zoom in (0.5, 0.8, 1.5):
        made = ZoomBatchd("image", 12, (0.5, 0.8, 1.5))(
            {"image": ramp, "zoom": torch.tensor([zoom]), "pixel_mm": torch.tensor([1.0])}
        )
        slope = made["image"][0, 0].diff(dim=1)[:, 2:-2].mean()
        assert slope == pytest.approx(made["pixel_mm"].item(), rel=0.02)


def test_the_window_holds_the_patch_at_every_zoom_also_after_float32():
    assert window_side(64, (1.0,)) == 64
    assert window_side(64, (0.75, 1.0, 1.25)) == 86
    for patch_size in range(8, 80):
        for zoom in (0.7, 0.8, 0.9, 1.1, 1.2):
            rounded = torch.tensor([zoom], dtype=torch.float32).tolist()
            assert window_side(patch_size, rounded) == window_side(patch_size, [zoom])
    for bad in ((), (0.0,), (-1.0,), (float("nan"),)):
        with pytest.raises(ValueError, match="zooms must be positive, at least one of them"):
            window_side(64, bad)


def test_patch_batches_are_float32_hu_with_gradients():
    keys = ("low_dose", "normal_dose")
    windows = noise(3, 1, 9, 9)
    batch = {
        "low_dose": windows + 1,
        "normal_dose": windows,
        "turn": torch.tensor([1, 6, 3]),
        "zoom": torch.tensor([1.0, 0.8, 1.3]),
    }
    zooms = (0.8, 1.0, 1.3)
    made = patch_batches(keys, 7, zooms)(batch)
    assert {made[key].dtype for key in keys} == {torch.float32}
    assert made["low_dose"].shape == (3, 1, 7, 7)
    torch.testing.assert_close(made["low_dose"], made["normal_dose"] + 1, rtol=0, atol=1e-3)
    image = windows.float().requires_grad_()
    patch_batches(("image",), 7, zooms)({**batch, "image": image})["image"].sum().backward()
    assert image.grad[0].sum() == pytest.approx(49)


def test_windows_too_small_for_the_zooms_are_refused():
    with pytest.raises(ValueError, match=r"windows \(1, 1, 9, 9\) are smaller than 12 pixels per side"):
        ZoomBatchd("image", 6, (0.5,))({"image": torch.zeros(1, 1, 9, 9), "zoom": torch.tensor([0.5])})
