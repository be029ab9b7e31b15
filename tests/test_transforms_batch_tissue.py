"""CT numbers that vary from sample to sample: both doses alike, noise too, nothing by default."""

import numpy as np
import pytest
import torch

from pipeline.transforms import patch_batches
from pipeline.transforms.batch import AS_SCANNED, TissueBatchd, TissueVariety

KEYS = ("low_dose", "normal_dose")
ALL = slice(None)


def philox(step=0):
    return np.random.Generator(np.random.Philox(key=[7, step]))


def sample(low, normal, *, shift, contrast, level):
    return {
        "low_dose": torch.full((1, 1, 2, 2), low),
        "normal_dose": torch.full((1, 1, 2, 2), normal),
        "noise_sd_hu": torch.tensor([level]),
        "shift_hu": torch.tensor([shift]),
        "contrast": torch.tensor([contrast]),
    }


def test_attenuation_is_multiplied_then_shifted_and_the_noise_with_it():
    moved = TissueBatchd(KEYS)(sample(30.0, 0.0, shift=10.0, contrast=1.2, level=25.0))
    assert set(moved) == {"low_dose", "normal_dose", "noise_sd_hu"}
    assert moved["normal_dose"][0, 0, 0, 0].item() == pytest.approx(210)  # 1.2 · 1000 − 1000 + 10
    assert (moved["low_dose"] - moved["normal_dose"])[0, 0, 0, 0].item() == pytest.approx(36)
    assert moved["noise_sd_hu"].item() == pytest.approx(30)


def test_air_stays_air_bit_for_bit_under_contrast():
    moved = TissueBatchd(KEYS)(sample(-1000.0, -1000.0, shift=0.0, contrast=1.2345, level=1.0))
    assert bool((moved["low_dose"] == -1000).all())


def test_contrast_about_water_would_be_no_news_to_a_bias_free_network():
    """Why it is about air: a network whose answer scales with its input knows the scaled sample already."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, bias=False), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 3, bias=False)
    )
    image = torch.randn(1, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(1.25 * image), 1.25 * network(image))


def test_each_sample_has_its_own_and_gradients_pass():
    image = torch.zeros(2, 1, 3, 3, requires_grad=True)
    batch = {"image": image, "shift_hu": torch.tensor([5.0, -5.0]), "contrast": torch.tensor([1.0, 2.0])}
    moved = TissueBatchd(("image",))(batch)["image"]
    assert moved[:, 0, 0, 0].tolist() == [5.0, 995.0]
    moved.sum().backward()
    assert image.grad[:, 0, 0, 0].tolist() == [1.0, 2.0]


def test_by_default_nothing_is_drawn_and_nothing_is_done():
    draws = philox()
    assert AS_SCANNED.draw(draws, ALL, count=4) == {}
    assert draws.random() == philox().random()
    assert len(patch_batches(KEYS, 7).transforms) == 2
    assert len(patch_batches(KEYS, 7, tissue=TissueVariety(20.0)).transforms) == 3


def test_shifts_are_even_about_zero_and_contrasts_in_their_logarithm():
    drawn = TissueVariety(30.0, (0.8, 1.25)).draw(philox(), ALL, count=4000)
    shift, contrast = drawn["shift_hu"].numpy(), np.log(drawn["contrast"].numpy())
    assert -30 <= shift.min() < shift.max() <= 30
    assert shift.mean() == pytest.approx(0, abs=1.5)
    assert shift.std() == pytest.approx(30 / 3**0.5, rel=0.05)
    assert np.log(0.8) - 1e-6 <= contrast.min() < contrast.max() <= np.log(1.25) + 1e-6
    assert contrast.mean() == pytest.approx(0, abs=0.01)


def test_parts_are_shares_of_the_batch():
    variety = TissueVariety(30.0, (0.8, 1.25))
    whole = variety.draw(philox(), ALL, count=8)
    second = variety.draw(philox(), slice(4, 8), count=8)
    assert all(torch.equal(whole[name][4:], second[name]) for name in whole)


@pytest.mark.parametrize(
    "wrong", [(-1.0, (1.0, 1.0)), (0.0, (0.0, 1.0)), (0.0, (1.2, 1.1)), (float("nan"), (1.0, 1.0))]
)
def test_a_variety_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="shift_hu must be 0 or more and contrast two positive factors"):
        TissueVariety(*wrong)
