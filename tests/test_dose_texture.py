import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.dicom import discover, read_series
from pipeline.dose.regions import FEWEST_REGIONS, Regions, uniform_regions
from pipeline.dose.spectrum import kernel_gain, measured_power, region_spectrum
from pipeline.dose.texture import estimate_kernel, noise_variance_hu2, parse_kernel
from pipeline.errors import ConfigError
from pipeline.metrics.nps import detrended
from pipeline.projector import FanBeam, Kernel, ParallelBeam, filtered_back_projection

REAL = os.environ.get("LDCT_REAL_DATA")
SIZE, PIXEL_MM, RADIUS_MM = 256, 0.8, 90.0
PARALLEL = ParallelBeam(SIZE, PIXEL_MM, views=360)
FAN = FanBeam(SIZE, PIXEL_MM, views=576, cells=264)
SMOOTH = Kernel(0.5)
SHARP = Kernel(0.8, boost=5.0)


def from_centre_mm():
    y, x = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) * PIXEL_MM
    return np.hypot(x, y)


def fbp_noise_hu(beam, kernel, *, slices=3, sd_hu=20.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn((slices, *beam.sinogram_shape), generator=generator)
    images = filtered_back_projection(white, beam, kernel=kernel).numpy()
    return images * (sd_hu / images[:, from_centre_mm() < 40].std())


def disc_of(noise_hu):
    return np.where(from_centre_mm() < RADIUS_MM, noise_hu, -1000).astype(np.float32)


def regions_of(hu):
    return uniform_regions(hu, np.zeros(hu.shape, bool), PIXEL_MM)


def anatomy_hu(slices, sd_hu, seed=5):
    """Random structure with a power of 1/f³."""
    frequency = np.fft.fftfreq(SIZE, PIXEL_MM)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    radius[0, 0] = np.inf
    white = np.random.default_rng(seed).normal(size=(slices, SIZE, SIZE))
    field = np.fft.ifft2(np.fft.fft2(white) * radius**-1.5).real
    return field * (sd_hu / field.std())


def test_regions_keep_away_from_edges_padding_and_bone_and_do_not_overlap():
    hu = disc_of(np.random.default_rng(0).normal(40, 10, (2, SIZE, SIZE)))
    hu[:, 120:140, 90:110] = 900
    padding = np.zeros(hu.shape, bool)
    padding[1, :, :128] = True
    regions = uniform_regions(hu, padding, PIXEL_MM)
    covered = np.zeros(hu.shape, int)
    for z, row, column in regions.corners:
        covered[z, row : row + regions.side, column : column + regions.side] += 1
    assert covered.max() == 1
    assert regions.side * PIXEL_MM == pytest.approx(16, abs=PIXEL_MM)
    forbidden = padding | (hu > 500) | (from_centre_mm() > RADIUS_MM - 2)
    assert not covered[forbidden].any()
    assert {0, 1} == set(regions.corners[:, 0])
    assert regions.cut(hu).shape == (len(regions), regions.side, regions.side)


def test_regions_are_not_the_quietest_ones():
    noise_hu = fbp_noise_hu(PARALLEL, SMOOTH, slices=6)
    hu = disc_of(noise_hu)
    everywhere = noise_hu[:, from_centre_mm() < 80]
    regions = regions_of(hu)
    assert regions.cut(hu).var(axis=(1, 2)).mean() == pytest.approx(everywhere.var(), rel=0.05)


def test_regions_avoid_structure_where_there_is_uniform_tissue():
    hu = disc_of(np.random.default_rng(0).normal(40, 5, (1, SIZE, SIZE)))
    columns = np.arange(SIZE)
    hu[:, :, :128] += np.where(from_centre_mm() < RADIUS_MM, 40 * np.sin(columns / 4), 0)[None, :, :128]
    regions = regions_of(hu)
    assert len(regions) > 10
    assert (regions.corners[:, 2] > 128 - regions.side).all()


def test_regions_hold_no_pin_that_a_low_pass_would_hide():
    hu = disc_of(np.random.default_rng(0).normal(40, 5, (1, SIZE, SIZE)))
    hu[0, 128, 128] += 60
    regions = regions_of(hu)
    assert len(regions) > 10
    assert regions.cut(hu).max() < 80


def test_an_image_without_tissue_has_no_regions():
    assert len(regions_of(np.full((2, 64, 64), -1000, np.float32))) == 0


@pytest.mark.parametrize("kernel", [SMOOTH, SHARP, Kernel(math.inf)])
def test_the_model_is_what_regions_measure_of_back_projected_noise(kernel):
    hu = disc_of(fbp_noise_hu(PARALLEL, kernel, slices=8))
    regions = regions_of(hu)
    measured = measured_power(regions.cut(hu)).mean(axis=0)
    model = region_spectrum(regions.side).of_kernels(kernel_gain(kernel, PIXEL_MM)[None])[0]
    assert np.abs(measured / measured.sum() - model / model.sum()).sum() < 0.03
    assert measured.sum() == pytest.approx(20**2 * model.sum(), rel=0.05)


@pytest.mark.parametrize("beam", [PARALLEL, FAN])
@pytest.mark.parametrize("kernel", [SMOOTH, SHARP])
def test_estimate_kernel_finds_the_kernel(beam, kernel):
    hu = disc_of(fbp_noise_hu(beam, kernel))
    fit = estimate_kernel(hu, regions_of(hu), beam)
    assert fit.kernel.cutoff_per_mm == pytest.approx(kernel.cutoff_per_mm, rel=0.06)
    assert fit.distance < 0.05
    assert fit.warning is None


def test_anatomy_is_told_from_noise():
    noise_hu = fbp_noise_hu(PARALLEL, SMOOTH, slices=4)
    hu = disc_of(noise_hu + anatomy_hu(4, sd_hu=60))
    regions = regions_of(hu)
    fit = estimate_kernel(hu, regions, PARALLEL)
    assert fit.kernel.cutoff_per_mm == pytest.approx(SMOOTH.cutoff_per_mm, rel=0.1)
    told = noise_variance_hu2(hu, regions, PARALLEL, fit.kernel).mean()
    assert told == pytest.approx(20**2, rel=0.1)
    assert fit.warning is None
    assert detrended(regions.cut(hu)).var() > 1.1 * told


def test_more_anatomy_than_noise_is_flagged():
    hu = disc_of(fbp_noise_hu(PARALLEL, SMOOTH, slices=2, sd_hu=3) + anatomy_hu(2, sd_hu=100))
    fit = estimate_kernel(hu, regions_of(hu), PARALLEL)
    assert "more anatomy than noise" in fit.warning
    assert (fit.kernel, fit.distance) == (Kernel(1 / (2 * PIXEL_MM)), None)


def test_too_few_regions_give_a_hann_kernel_and_say_so():
    hu = disc_of(fbp_noise_hu(PARALLEL, SHARP, slices=1))
    few = Regions(20, regions_of(hu).corners[: FEWEST_REGIONS - 1])
    fit = estimate_kernel(hu, few, PARALLEL)
    assert fit.kernel == Kernel(1 / (2 * PIXEL_MM))
    assert fit.distance is None
    assert "3 uniform regions are too few" in fit.warning


def test_an_image_without_noise_gives_a_hann_kernel_and_says_so():
    hu = disc_of(np.zeros((1, SIZE, SIZE)))
    assert estimate_kernel(hu, regions_of(hu), PARALLEL).warning is not None


def test_a_texture_that_is_no_back_projection_is_flagged():
    frequency = np.fft.fftfreq(SIZE, PIXEL_MM)
    ring = np.exp(-((np.hypot(frequency[:, None], frequency[None, :]) - 0.35) ** 2) / (2 * 0.02**2))
    white = np.random.default_rng(0).normal(size=(2, SIZE, SIZE))
    noise = np.fft.ifft2(np.fft.fft2(white) * ring).real
    hu = disc_of(noise * (20 / noise.std()))
    fit = estimate_kernel(hu, regions_of(hu), PARALLEL)
    assert "not that of filtered back-projection" in fit.warning


def test_kernels_have_names():
    assert parse_kernel("ramp", 0.5) == Kernel(math.inf)
    assert parse_kernel("hann", 0.5) == Kernel(1.0)
    assert parse_kernel(" Hann:0.6 ", 0.5) == Kernel(0.6)
    assert parse_kernel("hann:2", 0.5) == Kernel(2.0)


@pytest.mark.parametrize(
    "name", ["", "B30f", "hann:", "hann:0", "hann:-1", "hann:inf", "hann:x", "hann:4.1", "ramp:2"]
)
def test_an_unknown_kernel_name_lists_the_known_ones(name):
    with pytest.raises(ConfigError, match=r"ramp, hann, or hann:0"):
        parse_kernel(name, 0.5)


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="LDCT_REAL_DATA is not set")
def test_the_sharp_and_the_smooth_kernel_of_one_scan_are_told_apart():
    fits = {}
    for name in ("UB_1mm", "YA_1mm"):
        (entry,) = discover(Path(REAL) / "ct/philips_head_phantom_kernel_pairs" / name).series
        series = read_series(entry)
        pixel_mm = float(series.headers[0].PixelSpacing[0])
        regions = uniform_regions(series.hu, series.padding, pixel_mm)
        fits[name] = estimate_kernel(series.hu, regions, FanBeam(512, pixel_mm))
    assert fits["UB_1mm"].kernel.cutoff_per_mm < 0.9 < 1.0 < fits["YA_1mm"].kernel.cutoff_per_mm
    assert max(fit.distance for fit in fits.values()) < 0.15
