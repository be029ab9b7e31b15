import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ive

from pipeline.metrics import disc_ttf

PIXEL_MM = 0.8
RADIUS_MM = 16.0
CENTRE = (39.7, 40.2)


def blurred_disc(sigma_mm, contrast_hu=100.0, side=81):
    """A disc convolved with a Gaussian: an integral of Rice's density, from SciPy's Bessel function."""
    distances = np.linspace(0, 60, 1201)

    def inside(distance):
        def density(r):
            exponent = -((r - distance) ** 2) / (2 * sigma_mm**2)
            return r / sigma_mm**2 * math.exp(exponent) * ive(0, r * distance / sigma_mm**2)

        low, high = max(0.0, distance - 9 * sigma_mm), min(RADIUS_MM, distance + 9 * sigma_mm)
        return quad(density, low, high)[0] if high > low else 0.0

    profile = np.array([inside(d) for d in distances])
    rows, columns = np.indices((side, side))
    mm = PIXEL_MM * np.hypot(rows - CENTRE[0], columns - CENTRE[1])
    return 40 + contrast_hu * np.interp(mm, distances, profile)


def ttf_of(images, reach_mm=9.0):
    return disc_ttf(images, centre_pixels=CENTRE, radius_mm=RADIUS_MM, reach_mm=reach_mm, pixel_mm=PIXEL_MM)


@pytest.mark.parametrize("sigma_mm", [0.8, 1.2, 2.0])
@pytest.mark.parametrize("contrast_hu", [100.0, -30.0])
def test_a_gaussian_blur_gives_its_own_transfer(sigma_mm, contrast_hu):
    ttf = ttf_of(blurred_disc(sigma_mm, contrast_hu)[None])
    by_hand = math.sqrt(math.log(2) / 2) / (math.pi * sigma_mm)  # exp(-2 (pi sigma f)^2) = 1/2
    assert ttf.f50_per_mm == pytest.approx(by_hand, rel=0.03)
    assert ttf.amplitude[0] == 1
    expected = np.exp(-2 * (math.pi * sigma_mm * ttf.frequency_per_mm) ** 2)
    np.testing.assert_allclose(ttf.amplitude, expected, atol=0.03)


def test_the_contrast_is_read_off_the_image():
    assert ttf_of(blurred_disc(0.8, -55.0)[None]).contrast_hu == pytest.approx(-55, abs=0.1)


def test_noise_moves_f50_little_once_realisations_are_averaged():
    clean = blurred_disc(1.2)
    noise = np.random.default_rng(0).normal(0, 30, (24, *clean.shape))
    assert ttf_of(clean + noise).f50_per_mm == pytest.approx(ttf_of(clean[None]).f50_per_mm, rel=0.05)


def test_a_disc_of_whole_pixels_is_as_sharp_as_the_grid_allows():
    rows, columns = np.indices((81, 81))
    sharp = 50.0 * (PIXEL_MM * np.hypot(rows - CENTRE[0], columns - CENTRE[1]) < RADIUS_MM)
    assert ttf_of(sharp[None]).f50_per_mm == pytest.approx(1 / (2 * PIXEL_MM), rel=0.05)


@pytest.mark.parametrize(
    ("images", "reach_mm", "message"),
    [
        (np.zeros((81, 81)), 9.0, "N, H, W"),
        (np.zeros((1, 81, 81)), 9.0, "no contrast"),
        (np.zeros((1, 81, 81)), 2.0, "at least 3"),
        (np.zeros((1, 81, 81)), 16.5, "below the radius"),
        (np.zeros((1, 60, 60)), 9.0, "border"),
    ],
)
def test_what_cannot_be_measured_is_refused(images, reach_mm, message):
    with pytest.raises(ValueError, match=message):
        ttf_of(images, reach_mm)
