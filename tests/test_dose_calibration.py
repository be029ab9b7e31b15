import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.dicom import discover, read_series
from pipeline.dose import calibration
from pipeline.dose.calibration import (
    NoNoiseError,
    calibrate_flux,
    iterative_kernel_warning,
    measured_sd_hu,
    predicted_sd_hu,
)
from pipeline.dose.flux import HEAD, Flux
from pipeline.dose.insertion import Acquisition, insert_noise
from pipeline.dose.regions import Regions, uniform_regions
from pipeline.dose.scanner import Scanner
from pipeline.dose.texture import estimate_kernel
from pipeline.errors import DataError
from pipeline.metrics.nps import radial_nps, texture_distance
from pipeline.projector import FanBeam, Kernel, ParallelBeam

REAL = os.environ.get("LDCT_REAL_DATA")
SIZE, PIXEL_MM = 256, 0.8
BEAM = ParallelBeam(SIZE, PIXEL_MM, views=360)
UNKNOWN = Flux(1e6)
"""Where the search begins."""


def scans_hu(photons, *, hann_cutoff=1.0, doses=(1.0,), seed=0):
    """Scans of a water disc, one slice at each dose."""
    y, x = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) * PIXEL_MM
    disc = np.where(np.hypot(x, y) < 85, 0, -1000).astype(np.float32)[None]
    scanner = Scanner(BEAM, photons, hann_cutoff)
    rays, rng = scanner.measure(disc), np.random.default_rng(seed)
    return np.concatenate(scanner.reconstruct([scanner.expose(rays, dose, rng) for dose in doses]))


def model_of(hu, beam=BEAM, *, exposure=None, flux=UNKNOWN):
    """Everything read off the images: arguments for `predicted_sd_hu`, and the fit of the kernel."""
    visible = np.broadcast_to(beam.inside().numpy(), hu.shape).copy()
    regions = uniform_regions(hu, ~visible, beam.pixel_mm)
    fit = estimate_kernel(hu, regions, beam)
    exposure = torch.ones(len(hu)) if exposure is None else torch.tensor(exposure, dtype=torch.float32)
    scan = Acquisition(beam, flux, fit.kernel)
    found = calibrate_flux(hu, visible, regions, scan, exposure, texture=fit, step_hu=1)
    acquisition = Acquisition(beam, Flux(found, flux.bowtie), fit.kernel)
    return (hu, visible, regions, acquisition, exposure), fit


@pytest.mark.parametrize(("photons", "hann_cutoff"), [(1e6, 1.0), (1e5, 0.7), (1e4, 1.5)])
def test_photons_and_kernel_of_a_scan_are_recovered_from_its_noise(photons, hann_cutoff):
    (hu, _, regions, acquisition, _), fit = model_of(
        scans_hu(photons, hann_cutoff=hann_cutoff, doses=(1,) * 6)
    )
    assert acquisition.flux.photons_per_ray == pytest.approx(photons, rel=0.1)
    assert fit.kernel.cutoff_per_mm == pytest.approx(hann_cutoff / (2 * PIXEL_MM), rel=0.1)
    added_hu = insert_noise(torch.from_numpy(hu), acquisition, dose_fractions=[0.25], slice_index=0, seed=1)[
        0
    ] - torch.from_numpy(hu)
    textures = [radial_nps(regions.cut(images), PIXEL_MM) for images in (hu, added_hu.numpy())]
    assert texture_distance(*textures) < 0.1


def test_each_slice_counts_with_its_own_exposure():
    (_, _, _, acquisition, _), _ = model_of(scans_hu(2e5, doses=(1, 0.25) * 3), exposure=[1, 0.25] * 3)
    assert acquisition.flux.photons_per_ray == pytest.approx(2e5, rel=0.1)


def test_the_search_does_not_depend_on_where_it_begins():
    hu = scans_hu(3e4)
    found = [model_of(hu, flux=Flux(start))[0][3].flux.photons_per_ray for start in (1e3, 1e7)]
    assert found[0] == pytest.approx(found[1], rel=0.01)


def test_predicted_noise_is_what_a_lower_dose_shows():
    arguments, _ = model_of(scans_hu(2e5, doses=(1, 1, 1)))
    hu, _, regions, acquisition, _ = arguments
    predicted = predicted_sd_hu(*arguments, dose_fraction=0.25)
    low_hu = insert_noise(torch.from_numpy(hu), acquisition, dose_fractions=[0.25], slice_index=0, seed=3)[0]
    assert measured_sd_hu(low_hu.numpy(), regions) == pytest.approx(predicted, rel=0.03)
    assert predicted == pytest.approx(2 * measured_sd_hu(hu, regions), rel=0.03)


@pytest.mark.parametrize("kernel", [Kernel(math.inf), Kernel(0.4)])
def test_a_named_kernel_gets_as_much_noise_as_the_images_have(kernel):
    """Their own noise, of a Hann window up to 0.625 /mm, is measured by its own texture.

    The smooth kernel has a tenth of its variance in what detrending takes.
    """
    (hu, visible, regions, acquisition, exposure), fit = model_of(scans_hu(2e5, doses=(1,) * 4))
    named = replace(acquisition, kernel=kernel)
    photons = calibrate_flux(hu, visible, regions, named, exposure, texture=fit, step_hu=1)
    named = replace(named, flux=Flux(photons))
    predicted = predicted_sd_hu(hu, visible, regions, named, exposure, dose_fraction=0.25)
    assert predicted == pytest.approx(2 * measured_sd_hu(hu, regions), rel=0.03)
    low_hu = insert_noise(torch.from_numpy(hu), named, dose_fractions=[0.25], slice_index=0, seed=3)[0]
    assert measured_sd_hu(low_hu.numpy(), regions) == pytest.approx(predicted, rel=0.05)


def test_sd_is_plain_and_its_squares_add_up():
    """By hand: a checkerboard of ±3 HU on a slope has an SD of 3; with ±4 HU of twice the period on it, 5."""
    y, x = np.mgrid[:20, :20]
    board = (3.0 * (-1) ** (x + y) + 0.5 * x)[None].astype(np.float32)
    coarse = (4.0 * (-1) ** (x // 2 + y // 2))[None].astype(np.float32)
    region = Regions(20, np.zeros((1, 3), np.int64))
    assert measured_sd_hu(board, region) == pytest.approx(3, rel=0.01)
    assert measured_sd_hu(board + coarse, region) == pytest.approx(5, rel=0.01)


def test_photons_are_not_read_off_anatomy():
    (hu, visible, regions, acquisition, exposure), fit = model_of(scans_hu(2e5))
    hidden = replace(fit, distance=None, warning="more anatomy than noise")
    with pytest.raises(
        DataError, match=r"more anatomy than noise; give the photons per ray, e\.g\. --flux 2e5"
    ):
        calibrate_flux(hu, visible, regions, acquisition, exposure, texture=hidden, step_hu=1)


def test_too_little_tissue_or_noise_is_an_error_with_a_way_out():
    hu = np.zeros((1, SIZE, SIZE), np.float32)
    visible, exposure = BEAM.inside().numpy()[None], torch.ones(1)
    acquisition = Acquisition(BEAM, UNKNOWN, Kernel(math.inf))
    regions = Regions(20, np.array([[0, 40 + 20 * k, 100] for k in range(6)]))
    texture = estimate_kernel(hu, regions, BEAM)
    few = Regions(20, regions.corners[:3])
    with pytest.raises(DataError, match=r"3 regions .* --flux 2e5"):
        calibrate_flux(hu, visible, few, acquisition, exposure, texture=texture, step_hu=1)
    with pytest.raises(NoNoiseError, match=r"less noise than rounding to 1 HU .* --flux 2e5"):
        calibrate_flux(hu, visible, regions, acquisition, exposure, texture=texture, step_hu=1)
    with pytest.raises(ValueError, match="at least one region"):
        measured_sd_hu(hu, Regions(20, np.empty((0, 3), np.int64)))


def test_noise_below_the_step_of_the_stored_values_is_none():
    """Of a CT stored in steps of 100 HU: its own 10 HU are lost in 100 / √12 of rounding."""
    (hu, visible, regions, acquisition, exposure), fit = model_of(scans_hu(2e5))
    with pytest.raises(NoNoiseError, match="rounding to 100 HU"):
        calibrate_flux(hu, visible, regions, acquisition, exposure, texture=fit, step_hu=100)


def test_photons_of_a_starved_scan_are_found_and_a_search_without_an_end_is_an_error(monkeypatch):
    """Read-out noise counts, and each step of the search overshoots."""
    (hu, visible, regions, acquisition, exposure), fit = model_of(scans_hu(1e3))
    assert acquisition.flux.photons_per_ray == pytest.approx(1e3, rel=0.3)
    far = replace(acquisition, flux=Flux(1e7))
    monkeypatch.setattr(calibration, "_STEPS", 2)
    with pytest.raises(DataError, match=r"no number of photons explains the noise .* --flux 2e5"):
        calibrate_flux(hu, visible, regions, far, exposure, texture=fit, step_hu=1)


@pytest.mark.parametrize(
    ("kernel", "description", "family"),
    [
        ("I30f", None, "SAFIRE"),
        ("I31s 3", None, "SAFIRE"),
        ("Br38f 3", None, "ADMIRE"),
        (r"Qr40d\4", None, "ADMIRE"),
        ("AR40", None, "ASiR"),
        ("STANDARD", "CHEST ASiR-V 50%", "ASiR"),
        (None, "Abdomen ADMIRE 3", "ADMIRE"),
        (None, "DLIR-H", "TrueFidelity"),
        (None, "AIDR 3D STD", "AIDR"),
        ("AiCE Body Sharp", None, "AiCE"),
        (None, "iDose (4)", "iDose"),
        ("UB", "STD BRAIN 1MM, iDose", "iDose"),
        ("IMR1", None, "IMR"),
    ],
)
def test_iterative_reconstruction_is_recognised_by_name(kernel, description, family):
    warning = iterative_kernel_warning(kernel, description, photons_of_noise=True)
    assert family in warning
    assert "--flux" in warning


def test_the_way_out_of_an_iterative_reconstruction_is_not_what_was_done_already():
    warning = iterative_kernel_warning("I30f", photons_of_noise=False)
    assert "SAFIRE" in warning
    assert "texture" in warning
    assert "--flux" not in warning


@pytest.mark.parametrize(
    "kernel",
    ["B30f", "B40f", "Br38f", "Br40d 0", "H31s", "I26", "STANDARD", "LUNG", "FC18", "UB", "first pass", None],
)
def test_filtered_back_projection_is_not_warned_of(kernel):
    assert iterative_kernel_warning(kernel, "SIEMENS", photons_of_noise=True) is None


@pytest.mark.parametrize(
    "description",
    ["Abd Br40 3.0mm", "Bl57 1.0", "HEAD Hr40 4 mm", "AR40 head", "I26", "I30f", "Br40 3", "Abd  3.0  Br40"],
)
def test_numbers_in_a_description_are_no_strength_of_a_reconstruction(description):
    assert iterative_kernel_warning("Br40f", description, photons_of_noise=True) is None


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="LDCT_REAL_DATA is not set")
def test_two_kernels_of_one_raw_scan_tell_of_the_same_photons():
    photons, sds = [], []
    for name in ("UB_1mm", "YA_1mm"):
        (entry,) = discover(Path(REAL) / "ct/philips_head_phantom_kernel_pairs" / name).series
        series = read_series(entry)
        beam = FanBeam(512, float(series.headers[0].PixelSpacing[0]))
        arguments, _ = model_of(series.hu, beam, flux=Flux(2e5, HEAD))
        photons.append(arguments[3].flux.photons_per_ray)
        sds.append(measured_sd_hu(series.hu, arguments[2]))
    assert sds[1] > 5 * sds[0]
    assert photons[0] == pytest.approx(photons[1], rel=0.25)
