import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.dose.field_of_view import (
    canvas_size,
    continued,
    covering,
    field_of_view,
    from_canvas,
    known,
    to_canvas,
)
from pipeline.dose.flux import BODY, Flux
from pipeline.dose.insertion import Acquisition, added_sd_hu, insert_noise, line_integrals
from pipeline.dose.photons import attenuation_per_mm
from pipeline.dose.scanner import Scanner
from pipeline.projector import Beam, FanBeam, Kernel, ParallelBeam, project

SIZE, PIXEL_MM = 96, 3.0
KERNEL = Kernel(cutoff_per_mm=1 / (2 * PIXEL_MM))
PARALLEL = ParallelBeam(SIZE, PIXEL_MM, views=120)
FAN = FanBeam(SIZE, PIXEL_MM, views=240)


def ellipse(a: float, b: float, x0: float = 0.0, size: int = SIZE) -> torch.Tensor:
    axis = torch.arange(size) - (size - 1) / 2
    return ((axis[None, :] - x0) / a) ** 2 + (axis[:, None] / b) ** 2 < 1


def body_hu(slices: int = 1, *, metal: bool = False) -> torch.Tensor:
    hu = torch.where(ellipse(40, 28), 40.0, -1000.0)
    if metal:
        hu = torch.where(ellipse(4, 4, 20) | ellipse(4, 4, -20), 4000.0, hu)
    return hu.expand(slices, -1, -1).clone()


def low_dose(
    hu: torch.Tensor, beam: Beam = PARALLEL, photons: float = 1e5, **changes: object
) -> torch.Tensor:
    options = {"dose_fractions": [0.25], "slice_index": 0, "seed": 0} | changes
    return insert_noise(hu, Acquisition(beam, Flux(photons), KERNEL), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("beam", [PARALLEL, FAN])
def test_added_sd_is_the_predicted_one_from_5_to_99_percent_dose(beam: Beam) -> None:
    hu, doses = body_hu(40), [0.05, 0.25, 0.99]
    acquisition = Acquisition(beam, Flux(2e6, bowtie=BODY), KERNEL)
    noise = insert_noise(hu, acquisition, dose_fractions=doses, slice_index=0, seed=1) - hu
    body = ellipse(38, 26)
    for dose, images in zip(doses, noise, strict=True):
        predicted = added_sd_hu(hu[:1], acquisition, dose_fraction=dose)[0][body].square().mean()
        assert float(images[:, body].square().mean() / predicted) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("views", [1000, 400, 8])
def test_added_sd_does_not_depend_on_what_the_views_divide_by(views: int) -> None:
    hu = body_hu()
    found, expected = (
        added_sd_hu(hu, Acquisition(FanBeam(SIZE, PIXEL_MM, views=n), flux, KERNEL), dose_fraction=0.25)
        for n, flux in ((views, Flux(1e5 * 1152 / views)), (1152, Flux(1e5)))
    )
    assert float(found.mean() / expected.mean()) == pytest.approx(1, abs=0.01 if views > 8 else 0.2)


def test_variance_equals_that_of_direct_simulation_at_the_lower_dose() -> None:
    scanner, rng, scans = Scanner(PARALLEL, photons_per_ray=1e5), np.random.default_rng(0), 80
    rays = scanner.measure(body_hu(scans).numpy())
    normal, direct = scanner.reconstruct([scanner.expose(rays, 1.0, rng), scanner.expose(rays, 0.1, rng)])
    (inserted,) = low_dose(torch.from_numpy(normal), dose_fractions=[0.1])
    body = ellipse(38, 26).numpy()
    ratio = inserted.numpy()[:, body].var(axis=0).mean() / direct[:, body].var(axis=0).mean()
    assert ratio == pytest.approx(1, abs=0.03)


def test_mean_equals_that_of_direct_simulation_where_metal_starves_rays() -> None:
    photons, dose, scans = 3e5, 0.05, 300
    scanner, rng = Scanner(PARALLEL, photons_per_ray=photons), np.random.default_rng(0)
    hu = body_hu(metal=True)
    rays = scanner.measure(hu.numpy())
    assert float(photons * dose * torch.exp(-rays).min()) < 5
    biases = [
        torch.stack([scanner.expose(rays, share, rng)[0] for _ in range(4 * scans)]).mean(0) - rays[0]
        for share in (dose, 1.0)
    ]
    at_dose, normal = scanner.reconstruct([biases[0][None], biases[1][None]])
    noise = low_dose(hu.expand(scans, -1, -1), photons=photons, dose_fractions=[dose])[0] - hu
    error = noise.mean(0) - torch.from_numpy(at_dose - normal)[0]
    assert abs(float(error[ellipse(38, 26)].mean())) < 0.5
    assert abs(float((torch.from_numpy(at_dose - normal)[0])[ellipse(14, 3)].mean())) > 20
    assert abs(float(error[ellipse(14, 3)].mean())) < 5


def test_ten_photons_a_ray_give_a_finite_image() -> None:
    for beam in (PARALLEL, FAN):
        assert bool(low_dose(body_hu(metal=True), beam, photons=10, dose_fractions=[0.01]).isfinite().all())


def test_noise_does_not_depend_on_chunks_or_on_other_doses() -> None:
    hu = body_hu(5)
    options = {"thickness_over_increment": 1.6, "photons": 2e4}
    together = low_dose(hu, dose_fractions=[0.5, 0.1], **options)
    apart = [
        low_dose(hu[part], dose_fractions=[0.1], slice_index=part.start, **options)
        for part in (slice(0, 2), slice(2, 5))
    ]
    assert torch.allclose(together[1], torch.cat(apart, dim=1)[0], atol=0.01)
    assert not torch.allclose(together[1], low_dose(hu, dose_fractions=[0.1], seed=1, **options)[0], atol=1)


def test_thick_slices_share_noise_with_their_neighbours() -> None:
    hu = body_hu(120)
    noise = (low_dose(hu, thickness_over_increment=2.0, photons=1e6)[0] - hu)[:, ellipse(38, 26)]
    correlations = [float((noise[lag:] * noise[: 120 - lag]).mean() / noise.var()) for lag in (1, 2)]
    assert correlations == pytest.approx([0.5, 0.0], abs=0.05)


def test_thick_slices_share_the_noise_of_starved_rays_too() -> None:
    hu = body_hu(120, metal=True)
    left = 3e5 * 0.05 * torch.exp(-line_integrals(hu[:1], PARALLEL))
    assert float(left.min()) < 5
    options = {"thickness_over_increment": 4.0, "photons": 3e5, "dose_fractions": [0.05]}
    noise = (low_dose(hu, **options)[0] - hu)[:, ellipse(14, 3)]
    noise = noise - noise.mean(dim=0)
    correlations = [float((noise[lag:] * noise[: 120 - lag]).mean() / noise.var()) for lag in (1, 2, 4)]
    assert correlations == pytest.approx([0.75, 0.5, 0.0], abs=0.08)


def test_exposure_of_each_slice_sets_its_noise() -> None:
    hu = body_hu(40)
    exposure = torch.tensor([1.0, 4.0]).repeat(20)
    noise = (low_dose(hu, exposure=exposure, photons=1e6)[0] - hu)[:, ellipse(38, 26)]
    assert float(noise[::2].std() / noise[1::2].std()) == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("geometry", [ParallelBeam, FanBeam])
@pytest.mark.parametrize(("rows", "columns"), [(96, 96), (71, 96), (96, 60)])
def test_every_shown_pixel_gets_noise_and_no_other_changes(geometry: type, rows: int, columns: int) -> None:
    hu = from_canvas(body_hu(12), rows, columns).clone()
    hu[:, :9] = -3024.25
    padding = hu < -2000
    visible = field_of_view(hu, padding)
    beam = covering(geometry(canvas_size(rows, columns), PIXEL_MM, views=120), visible)
    (result,) = low_dose(hu, beam, visible=visible)
    assert torch.equal(result[~visible], hu[~visible])
    assert bool(((result - hu)[visible].reshape(12, -1).std(dim=0) > 1).all())


@pytest.mark.parametrize("geometry", [ParallelBeam, FanBeam])
def test_noise_leaves_no_ring_at_the_edge_of_the_field_of_view(geometry: type) -> None:
    hu = torch.full((40, SIZE, SIZE), -1000.0)
    hu[:, ellipse(30, 30)] = 0.0
    visible = ellipse(SIZE / 2, SIZE / 2).expand_as(hu)
    beam = covering(geometry(SIZE, PIXEL_MM, views=240), visible)
    noise = (low_dose(hu, beam, visible=visible)[0] - hu).square().mean(0)
    edge = visible[0] & ~ellipse(SIZE / 2 - 2, SIZE / 2 - 2)
    before_it = ellipse(SIZE / 2 - 4, SIZE / 2 - 4) & ~ellipse(SIZE / 2 - 6, SIZE / 2 - 6)
    assert float(noise[edge].mean() / noise[before_it].mean()) == pytest.approx(1, abs=0.15)


def test_line_integrals_at_half_resolution_are_those_at_full() -> None:
    beam = ParallelBeam(192, 1.0, views=240)
    hu = torch.where(ellipse(80, 50, size=192), 0.0, -1000.0)[None]
    full = project(attenuation_per_mm(hu), beam)
    assert float((line_integrals(hu, beam) - full).abs().mean()) < 0.005 * float(full.max())


def test_body_beyond_the_field_of_view_is_continued_in_its_line_integrals() -> None:
    whole = torch.where(ellipse(44, 30, size=128), 0.0, -1000.0)[None]
    beam = ParallelBeam(128, 2.0, views=120)
    visible = ellipse(32, 32, size=128)[None]
    cut = torch.where(visible, whole, -1000.0)
    truth, naive = (project(attenuation_per_mm(hu), beam)[0, :, 32:96] for hu in (whole, cut))
    found = line_integrals(cut, beam, visible)[0, :, 32:96]
    assert float((found - truth).square().mean()) < 0.7 * float((naive - truth).square().mean())
    lengthwise = slice(59, 61), slice(28, 36)
    assert float((naive - truth)[lengthwise].mean()) < -0.8
    assert abs(float((found - truth)[lengthwise].mean())) < 0.3


@pytest.mark.parametrize("beam", [ParallelBeam(SIZE, 1.0, views=120), PARALLEL, FAN])
def test_air_masked_to_padding_does_not_change_line_integrals(beam: Beam) -> None:
    hu = body_hu(2)
    hu[1, ellipse(20, 12, 25)] = -2000.0  # a part that has been removed
    plain = torch.ones_like(hu, dtype=torch.bool)
    masked = hu > -900
    beam = covering(beam, plain)
    assert torch.equal(line_integrals(hu, beam, masked), line_integrals(hu, beam, plain))
    assert torch.equal(line_integrals(hu[1:], beam, masked[1:]), line_integrals(hu, beam, masked)[1:])


def test_a_field_of_view_with_the_table_removed_still_ends_at_its_circle() -> None:
    disc = ellipse(40, 40)
    without_table = disc.clone()
    without_table[75:] = False
    assert torch.equal(known(torch.stack([disc, without_table])), torch.stack([disc, disc]))
    assert bool(known(torch.stack([ellipse(40, 28), torch.zeros_like(disc)])).all())


def test_continuation_fades_to_air_over_50_mm() -> None:
    attenuation = torch.full((1, 20, 20), 0.02)
    larger = continued(attenuation, torch.ones(1, 20, 20, dtype=torch.bool), pixel_mm=10.0)
    assert larger.shape == (1, 30, 30)
    assert larger[0, 15, :7].tolist() == pytest.approx([0, 0.004, 0.008, 0.012, 0.016, 0.02, 0.02])


def test_air_filled_corners_are_outside_the_field_of_view_and_noisy_ones_are_not() -> None:
    hu = torch.full((2, 64, 64), -1000.0)
    hu[1] += torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    visible = field_of_view(hu, torch.zeros_like(hu, dtype=torch.bool))
    assert not visible[0, 0, 0]
    assert visible[0, 32, 0]
    assert bool(visible[1].all())


def test_the_canvas_gives_every_matrix_back() -> None:
    images = torch.rand(2, 3, 31, 46, generator=torch.Generator().manual_seed(0))
    canvas = to_canvas(images, canvas_size(31, 46), fill=-1.0)
    assert canvas.shape == (2, 3, 46, 46)
    assert torch.equal(from_canvas(canvas, 31, 46), images)


def test_pixels_that_no_view_sees_are_refused() -> None:
    hu = body_hu()
    with pytest.raises(ValueError, match="take the beam from `covering`"):
        low_dose(hu, visible=torch.ones_like(hu, dtype=torch.bool))
    with pytest.raises(ValueError, match="at most 96 pixels"):
        low_dose(torch.zeros(1, 128, 128))
    with pytest.raises(ValueError, match="visible must be"):
        low_dose(hu, visible=torch.ones(1, 2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one pixel"):
        covering(PARALLEL, torch.zeros(1, 96, 96, dtype=torch.bool))


@pytest.mark.parametrize("dose_fraction", [0.0, 1.0, math.nan])
def test_dose_fractions_outside_0_to_1_are_refused(dose_fraction: float) -> None:
    with pytest.raises(ValueError, match="dose_fraction must be between 0 and 1"):
        low_dose(body_hu(), dose_fractions=[0.5, dose_fraction])


def test_metal_beyond_12_bits_is_kept() -> None:
    hu = body_hu(metal=True)
    hu[:, 48, 48] = 20_000.0
    assert float(low_dose(hu, photons=1e9)[0, 0, 48, 48]) == pytest.approx(20_000, abs=100)


def test_the_same_flux_at_a_tenth_of_the_exposure_is_a_tenth_of_the_flux() -> None:
    hu = body_hu()
    acquisition = Acquisition(PARALLEL, Flux(1e5), KERNEL)
    tenth = replace(acquisition, flux=Flux(1e4))
    assert torch.allclose(
        added_sd_hu(hu, acquisition, dose_fraction=0.5, exposure=0.1),
        added_sd_hu(hu, tenth, dose_fraction=0.5),
        rtol=1e-4,
    )
