"""The interval of f50: it holds the value, and narrows with the number of images."""

import numpy as np
import pytest

from pipeline.dose.lesions import disc_hu
from pipeline.metrics import disc_ttf, f50_interval
from pipeline.projector import Kernel

WHERE = {"centre_pixels": (40, 40), "radius_mm": 16.0, "reach_mm": 9.0, "pixel_mm": 0.8}


def noisy(count, seed=0):
    disc = disc_hu(contrast_hu=100.0, diameter_mm=32.0, side=81, pixel_mm=0.8, kernel=Kernel(0.6))
    return disc, disc + np.random.default_rng(seed).normal(0, 30, (count, *disc.shape))


def interval(images):
    return f50_interval(images, np.random.default_rng(3), **WHERE)


def test_the_interval_holds_the_f50_of_the_disc_without_noise():
    disc, images = noisy(40)
    low, high = interval(images)
    assert low < disc_ttf(disc[None], **WHERE).f50_per_mm < high
    assert interval(images) == (low, high)


def test_four_times_the_images_halve_it():
    few, many = (np.ptp(interval(noisy(count)[1])) for count in (30, 120))
    assert many == pytest.approx(few / 2, rel=0.35)


def test_images_without_noise_have_one_f50():
    disc, _ = noisy(1)
    expected = disc_ttf(disc[None], **WHERE).f50_per_mm
    assert interval(np.stack([disc, disc])) == pytest.approx((expected, expected))


def test_one_image_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 images"):
        interval(noisy(1)[1])
