import math

import numpy as np
import pytest
import torch

from pipeline.dose.field_of_view import covering, field_of_view
from pipeline.dose.flux import BODY, Flux
from pipeline.dose.insertion import Acquisition, added_sd_hu, insert_noise, line_integrals
from pipeline.dose.realisations import NoiseRealisations, with_fewer_views
from pipeline.metrics.nps import radial_average
from pipeline.projector import Beam, FanBeam, Kernel, ParallelBeam, filtered_back_projection
from pipeline.projector.patches import FilteredViews

SIZE, PIXEL_MM, SIDE = 128, 2.0, 32
SHARP = Kernel(0.25, boost=4.0)
FAN, PARALLEL = FanBeam(SIZE, PIXEL_MM), ParallelBeam(SIZE, PIXEL_MM)
CORNERS = torch.tensor([[48, 48], [48, 14], [30, 70]])


def slice_hu(bone_hu: float = 40.0) -> torch.Tensor:
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    y, x = axis[:, None], axis[None, :]
    hu = torch.where((x / 58) ** 2 + (y / 40) ** 2 < 1, 40.0, -1000.0)
    return torch.where((x.abs() - 40) ** 2 + y**2 < 36, bone_hu, hu)[None]


def scan_of(beam: Beam, hu: torch.Tensor, photons: float = 2e5, kernel: Kernel = SHARP) -> Acquisition:
    return Acquisition(covering(beam, field_of_view(hu, hu < -1024)), Flux(photons, BODY), kernel)


def realised_hu(
    noise: NoiseRealisations, hu: torch.Tensor, doses: list[float], seed: int = 0
) -> torch.Tensor:
    """(patches, draws, SIDE, SIDE)."""
    rays = noise.line_integrals(hu, field_of_view(hu, hu < -1024))
    drawn = noise.draw(rays.expand(len(doses), -1, -1), doses, generator=torch.Generator().manual_seed(seed))
    patches = [noise.patches_hu(noise.filtered(one), CORNERS, SIDE, (SIZE, SIZE)) for one in drawn]
    return torch.stack(patches, dim=1)


def in_patches(images: torch.Tensor) -> torch.Tensor:
    cuts = [images[:, row : row + SIDE, column : column + SIDE] for row, column in CORNERS.tolist()]
    return torch.stack(cuts)


def inserted_hu(hu: torch.Tensor, scan: Acquisition, dose: float, count: int) -> torch.Tensor:
    visible = field_of_view(hu, hu < -1024)
    parts = [
        insert_noise(
            hu.expand(25, -1, -1),
            scan,
            dose_fractions=[dose],
            slice_index=first,
            seed=1,
            visible=visible.expand(25, -1, -1),
        )[0]
        - hu
        for first in range(0, count, 25)
    ]
    return in_patches(torch.cat(parts))


def texture(patches: torch.Tensor) -> np.ndarray:
    """Normalised radial spectrum of (draws, SIDE, SIDE)."""
    power = torch.fft.fft2(patches.double()).abs().square().mean(dim=0)
    radial = radial_average(power.numpy(), 1.0).power_hu2_mm2[1:]
    return radial / radial.sum()


@pytest.mark.parametrize("beam", [FAN, PARALLEL])
@pytest.mark.parametrize("kernel", [Kernel(0.25), SHARP, Kernel(math.inf)])
def test_patches_are_those_of_the_whole_reconstruction(beam: Beam, kernel: Kernel) -> None:
    sinogram = torch.randn(beam.sinogram_shape, generator=torch.Generator().manual_seed(0))
    whole = in_patches(filtered_back_projection(sinogram[None], beam, kernel=kernel))[:, 0]
    patches = FilteredViews.of(sinogram, beam, kernel=kernel).patches(CORNERS, SIDE)
    error = (patches - whole).std() / whole.std()
    assert float(error) < (0.15 if kernel.cutoff_per_mm == 0.25 else 0.25)  # white rays: the hardest
    assert float(patches.std() / whole.std()) == pytest.approx(1, abs=0.01)


def test_patches_of_a_smooth_sinogram_are_exact() -> None:
    hu = slice_hu()
    beam = scan_of(FAN, hu).beam
    sinogram = line_integrals(hu, beam)
    whole = in_patches(filtered_back_projection(sinogram, beam, kernel=Kernel(0.25)))[:, 0]
    patches = FilteredViews.of(sinogram[0], beam, kernel=Kernel(0.25)).patches(CORNERS, SIDE)
    assert float((patches - whole).abs().max() / 0.0193 * 1000) < 5  # HU, at the edges of the body


def test_a_patch_does_not_depend_on_the_patches_beside_it() -> None:
    views = FilteredViews.of(torch.randn(FAN.sinogram_shape), FAN, kernel=SHARP)
    together = views.patches(CORNERS, SIDE)
    alone = torch.cat([views.patches(corner[None], SIDE) for corner in CORNERS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("beam", "side", "views"),
    [(FAN, 64, 192), (FAN, 96, 288), (FAN, 512, 1152), (PARALLEL, 64, 120), (PARALLEL, 512, 720)],
)
def test_views_are_a_whole_share_of_the_scan_s_and_enough_for_the_patch(
    beam: Beam, side: int, views: int
) -> None:
    assert with_fewer_views(beam, side).views == views
    assert beam.views % views == 0


@pytest.mark.slow
@pytest.mark.parametrize("beam", [FAN, PARALLEL])
@pytest.mark.parametrize("kernel", [Kernel(0.25), SHARP])
def test_level_mean_and_texture_are_those_of_insertion(beam: Beam, kernel: Kernel) -> None:
    hu, dose, count = slice_hu(), 0.25, 400
    scan = scan_of(beam, hu, kernel=kernel)
    noise = NoiseRealisations(scan, side=SIDE)
    assert scan.beam.views / noise.beam.views >= 6
    realised, inserted = realised_hu(noise, hu, [dose] * count), inserted_hu(hu, scan, dose, count)
    predicted = in_patches(added_sd_hu(hu, scan, dose_fraction=dose))[:, 0]
    for one, other, sd in zip(realised, inserted, predicted, strict=True):
        assert float(one.square().mean().sqrt() / sd.square().mean().sqrt()) == pytest.approx(1, abs=0.03)
        assert np.abs(texture(one) - texture(other)).sum() < 0.05
        assert float(one.mean()) == pytest.approx(float(other.mean()), abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("beam", [FAN, PARALLEL])
@pytest.mark.parametrize("drawn_everywhere", [("cuda",), ("cpu",)], ids=["gathered", "as on a GPU"])
def test_starved_rays_get_the_level_and_bias_of_insertion(
    beam: Beam, drawn_everywhere: tuple[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dose.realisations._DRAWN_EVERYWHERE", drawn_everywhere)
    hu, dose, count = slice_hu(bone_hu=1500.0), 0.1, 200
    scan = scan_of(beam, hu, photons=5e4, kernel=Kernel(0.25))
    visible = field_of_view(hu, hu < -1024)
    counts = scan.flux.expected_counts(line_integrals(hu, scan.beam, visible), scan.beam)
    assert 1 < float(counts.amin()) * dose < 40
    realised = realised_hu(NoiseRealisations(scan, side=SIDE), hu, [dose] * count)
    inserted = inserted_hu(hu, scan, dose, count)
    for one, other in zip(realised, inserted, strict=True):
        assert float(one.std() / other.std()) == pytest.approx(1, abs=0.03)
        assert float((one.mean() - other.mean()) / other.std()) == pytest.approx(0, abs=0.03)


def test_each_slice_has_its_own_dose() -> None:
    hu = slice_hu()
    noise = NoiseRealisations(scan_of(FAN, hu, photons=1e7), side=SIDE)
    high, low = realised_hu(noise, hu, [0.5, 0.1]).std(dim=(0, 2, 3))
    assert float(low / high) == pytest.approx(3.0, rel=0.05)  # (1/0.1 − 1) / (1/0.5 − 1) = 9


def test_the_same_state_gives_the_same_bits_and_another_independent_noise() -> None:
    hu = slice_hu()
    noise = NoiseRealisations(scan_of(FAN, hu), side=SIDE)
    one, same, other = (realised_hu(noise, hu, [0.25, 0.25], seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    for first, second in ((one, other), (one[:, 0], one[:, 1])):
        correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.1


def test_whole_slices_are_drawn_from_all_views() -> None:
    hu = slice_hu()
    scan = scan_of(FAN, hu)
    noise = NoiseRealisations(scan, side=FAN.views)
    assert noise.beam == scan.beam
    rays = noise.line_integrals(hu, field_of_view(hu, hu < -1024)).expand(20, -1, -1)
    images = noise.slices_hu(
        noise.draw(rays, [0.25] * 20, generator=torch.Generator().manual_seed(0)), (SIZE, SIZE)
    )
    body = hu[0] > 0
    predicted = added_sd_hu(hu, scan, dose_fraction=0.25)[0][body].square().mean().sqrt()
    assert float(images[:, body].std() / predicted) == pytest.approx(1, abs=0.03)


def test_kept_line_integrals_are_half_the_cells_of_fine_rays_in_two_bytes() -> None:
    hu = torch.nn.functional.interpolate(slice_hu()[None], scale_factor=2)[0]
    noise = NoiseRealisations(Acquisition(FanBeam(2 * SIZE, 0.8), Flux(1e5), SHARP), side=64)
    kept = noise.line_integrals(hu, torch.ones_like(hu, dtype=torch.bool))
    assert kept.shape == (1, 192, SIZE)
    assert kept.element_size() == 2


def test_what_does_not_fit_is_refused() -> None:
    hu = slice_hu()
    noise = NoiseRealisations(scan_of(FAN, hu), side=SIDE)
    rays = noise.line_integrals(hu, torch.ones_like(hu, dtype=torch.bool))
    generator = torch.Generator()
    with pytest.raises(ValueError, match="images and what is visible must be"):
        noise.line_integrals(hu, torch.ones(1, 3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="dose_fraction must be between 0 and 1"):
        noise.draw(rays, [1.0], generator=generator)
    with pytest.raises(ValueError, match="zip"):
        noise.draw(rays, [0.5, 0.5], generator=generator)
    (drawn,) = noise.draw(rays, [0.5], generator=generator)
    with pytest.raises(ValueError, match="patches of at most 32 pixels, got 64"):
        noise.patches_hu(noise.filtered(drawn), CORNERS, 64, (SIZE, SIZE))
    with pytest.raises(ValueError, match="sinogram must be"):
        FilteredViews.of(drawn[:8], noise.beam, kernel=SHARP)
