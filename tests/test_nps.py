import numpy as np
import pytest

from pipeline.metrics.nps import (
    RadialNPS,
    detrended,
    noise_power_spectrum,
    radial_average,
    radial_nps,
    texture_distance,
)

PIXEL_MM = 0.7
SD_HU = 12.0


@pytest.fixture(scope="module")
def white_hu():
    return np.random.default_rng(0).normal(40, SD_HU, (400, 32, 32))


def test_integral_of_the_spectrum_is_the_variance(white_hu):
    spectrum = noise_power_spectrum(white_hu, PIXEL_MM)
    integral = spectrum.sum() / (32 * PIXEL_MM) ** 2
    assert integral == pytest.approx((detrended(white_hu) ** 2).mean(), rel=1e-12)
    assert integral == pytest.approx(SD_HU**2, rel=0.02)


def test_white_noise_has_pixel_area_times_variance_at_every_frequency(white_hu):
    power = radial_nps(white_hu, PIXEL_MM).power_hu2_mm2
    assert power[2:] == pytest.approx(SD_HU**2 * PIXEL_MM**2, rel=0.06)


def test_filtered_noise_has_the_filters_spectrum():
    sd_mm = 1.0
    rng = np.random.default_rng(1)
    frequency = np.fft.fftfreq(1024, PIXEL_MM)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    gain = radius * np.exp(-2 * (np.pi * sd_mm * radius) ** 2)
    image = np.fft.ifft2(np.fft.fft2(rng.normal(0, 100, (1024, 1024))) * gain).real
    regions = image.reshape(16, 64, 16, 64).swapaxes(1, 2).reshape(256, 64, 64)
    measured = radial_nps(regions, PIXEL_MM)
    f = measured.frequency_per_mm
    expected = (100 * PIXEL_MM * f * np.exp(-2 * (np.pi * sd_mm * f) ** 2)) ** 2
    top = expected.max()
    assert np.abs(measured.power_hu2_mm2 - expected).max() < 0.06 * top
    assert measured.peak_per_mm == pytest.approx(1 / (2 * np.pi * sd_mm), rel=0.03)


def test_a_quadratic_background_is_no_noise():
    y, x = np.mgrid[:16, :16].astype(float)
    background = 40 + 3 * x - y + 0.2 * x * y + 0.1 * x**2 - 0.3 * y**2
    assert noise_power_spectrum(background[None], PIXEL_MM).max() < 1e-15


def test_normalised_spectrum_integrates_to_one_and_forgets_the_amount(white_hu):
    one, other = radial_nps(white_hu, PIXEL_MM), radial_nps(3 * white_hu, PIXEL_MM)
    assert one.normalised_mm.sum() * one.step_per_mm == pytest.approx(1)
    assert one.normalised_mm == pytest.approx(other.normalised_mm)


def test_a_wave_shows_up_at_its_frequency():
    wave = np.cos(2 * np.pi * 4 * np.arange(32) / 32)
    spectrum = radial_average(noise_power_spectrum(np.tile(wave, (1, 32, 1)), PIXEL_MM), PIXEL_MM)
    assert spectrum.frequency_per_mm[spectrum.power_hu2_mm2.argmax()] == pytest.approx(4 / (32 * PIXEL_MM))


def test_peak_lies_between_bins():
    f = np.arange(11) * 0.1
    parabola = RadialNPS(f, np.maximum(1 - 4 * (f - 0.43) ** 2, 0))
    assert parabola.peak_per_mm == pytest.approx(0.43)


def test_distance_is_0_for_one_texture_and_2_without_common_frequencies():
    f = np.arange(5) * 0.1
    low, high = RadialNPS(f, np.array([0, 4.0, 0, 0, 0])), RadialNPS(f, np.array([0, 0, 0, 1.0, 1.0]))
    assert texture_distance(low, RadialNPS(f, 7 * low.power_hu2_mm2)) == pytest.approx(0)
    assert texture_distance(low, high) == pytest.approx(2)


def test_what_cannot_be_compared_or_measured_is_refused():
    f = np.arange(5) * 0.1
    flat = RadialNPS(f, np.ones(5))
    with pytest.raises(ValueError, match="same bins"):
        texture_distance(flat, RadialNPS(2 * f, np.ones(5)))
    with pytest.raises(ValueError, match="without noise"):
        _ = RadialNPS(f, np.zeros(5)).normalised_mm
    with pytest.raises(ValueError, match=r"\(3, 16, 8\)"):
        noise_power_spectrum(np.zeros((3, 16, 8)), PIXEL_MM)
    with pytest.raises(ValueError, match="pixel_mm"):
        noise_power_spectrum(np.zeros((3, 16, 16)), 0.0)
