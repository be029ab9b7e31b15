import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.dicom import discover, read_series
from pipeline.dose.calibration import (
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
    found = calibrate_flux(hu, visible, regions, Acquisition(beam, flux, fit.kernel), exposure)
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
    assert measured_sd_hu(low_hu.numpy(), regions, acquisition) == pytest.approx(predicted, rel=0.03)
    assert predicted == pytest.approx(2 * measured_sd_hu(hu, regions, acquisition), rel=0.03)


def test_too_little_tissue_or_noise_is_an_error_with_a_way_out():
    hu = np.zeros((1, SIZE, SIZE), np.float32)
    visible, exposure = BEAM.inside().numpy()[None], torch.ones(1)
    acquisition = Acquisition(BEAM, UNKNOWN, Kernel(math.inf))
    regions = Regions(20, np.array([[0, 40 + 20 * k, 100] for k in range(6)]))
    with pytest.raises(DataError, match=r"3 regions .* --flux 2e5"):
        calibrate_flux(hu, visible, Regions(20, regions.corners[:3]), acquisition, exposure)
    with pytest.raises(DataError, match=r"no noise beside .* --flux 2e5"):
        calibrate_flux(hu, visible, regions, acquisition, exposure)
    with pytest.raises(ValueError, match="at least one region"):
        measured_sd_hu(hu, Regions(20, np.empty((0, 3), np.int64)), acquisition)


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("I30f", "SAFIRE"),
        ("I31s 3", "SAFIRE"),
        ("Br38f 3", "ADMIRE"),
        (r"Qr40d\4", "ADMIRE"),
        ("CHEST ASiR-V 50%", "ASiR"),
        ("AR40", "ASiR"),
        ("DLIR-H", "TrueFidelity"),
        ("AIDR 3D STD", "AIDR"),
        ("AiCE Body Sharp", "AiCE"),
        ("iDose (4)", "iDose"),
        ("IMR1", "IMR"),
    ],
)
def test_iterative_reconstruction_is_recognised_by_name(text, family):
    warning = iterative_kernel_warning(None, text)
    assert family in warning
    assert "--flux" in warning


@pytest.mark.parametrize(
    "text", ["B30f", "B40f", "Br38f", "Br40d 0", "H31s", "STANDARD", "LUNG", "FC18", "UB", "first pass", None]
)
def test_filtered_back_projection_is_not_warned_of(text):
    assert iterative_kernel_warning(text, "SIEMENS") is None


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
        sds.append(measured_sd_hu(series.hu, arguments[2], arguments[3]))
    assert sds[1] > 5 * sds[0]
    assert photons[0] == pytest.approx(photons[1], rel=0.25)
