import math

import numpy as np
import pytest
import torch
from skimage.transform import iradon, radon

from pipeline.projector import (
    Beam,
    FanBeam,
    Kernel,
    ParallelBeam,
    filtered_back_projection,
    project,
    propagate_variance,
)

RAM_LAK = Kernel(math.inf)
BEAMS = [
    ParallelBeam(32, 2.0, views=20),
    ParallelBeam(31, 2.0, views=20, cells=46),
    FanBeam(32, 8.0, views=40, source_mm=400),
    FanBeam(31, 8.0, views=40, cells=58, source_mm=400),
]


def hann(beam: Beam, boost: float = 0.0) -> Kernel:
    """A window that ends at the detector's Nyquist frequency."""
    return Kernel(0.5 / beam.pixel_mm, boost)


def ellipse(size: int, a: float, b: float, x0: float = 0.0, y0: float = 0.0) -> np.ndarray:
    """An ellipse of value 1, its edge averaged over 8 × 8 points a pixel."""
    axis = (np.arange(8 * size) + 0.5) / 8 - size / 2
    fine = (((axis[None, :] - x0) / a) ** 2 + ((axis[:, None] - y0) / b) ** 2 <= 1).astype(np.float32)
    return fine.reshape(size, 8, size, 8).mean(axis=(1, 3))


def chords(beam: Beam, a: float, b: float, x0: float, y0: float) -> np.ndarray:
    """Line integrals of that ellipse in pixels, by hand (Kak and Slaney 1988, eq. 3.7)."""
    t = beam.ray_offsets_mm().numpy() / beam.pixel_mm
    theta = beam.angles().numpy()[:, None]
    if isinstance(beam, FanBeam):
        theta = theta + np.arcsin(t * beam.pixel_mm / beam.source_mm)
    reach = (a * np.cos(theta)) ** 2 + (b * np.sin(theta)) ** 2
    offset = t - x0 * np.cos(theta) - y0 * np.sin(theta)
    return 2 * a * b * np.sqrt(np.clip(reach - offset**2, 0, None)) / reach


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float32))[None]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "beam",
    [
        ParallelBeam(128, pixel_mm=0.5, views=60),
        ParallelBeam(129, pixel_mm=0.5, views=60),
        ParallelBeam(129, pixel_mm=0.5, views=60, cells=184),
        FanBeam(128, pixel_mm=3.0, views=120),
        FanBeam(129, pixel_mm=3.0, views=120, cells=230),
        FanBeam(129, pixel_mm=5.0, views=120, cells=280),
    ],
)
def test_project_gives_the_chords_of_an_ellipse_in_every_view(beam: Beam) -> None:
    expected_mm = beam.pixel_mm * chords(beam, 40, 25, 6, -12)
    found_mm = project(as_batch(ellipse(beam.size, 40, 25, 6, -12)), beam)[0].numpy()
    error_mm = np.abs(found_mm - expected_mm)
    assert found_mm.shape == beam.sinogram_shape
    assert error_mm.mean() < 0.004 * expected_mm.max()
    assert error_mm[expected_mm > 20 * beam.pixel_mm].max() < 0.025 * expected_mm.max()


def test_project_agrees_with_scikit_image() -> None:
    beam = ParallelBeam(97, pixel_mm=1.0, views=36)
    image = ellipse(97, 30, 18, 5, 9) + 0.5 * ellipse(97, 8, 8, -10, 0)
    reference = radon(
        image, theta=-np.degrees(beam.angles().numpy()), circle=True
    ).T  # it turns the other way
    ours = project(as_batch(image), beam)[0].numpy()
    assert np.abs(ours - reference).mean() < 0.005 * ours.max()


@pytest.mark.parametrize(
    "beam",
    [
        ParallelBeam(192, 1.0, views=360),
        FanBeam(192, 2.0, views=576),
        FanBeam(191, 2.0, views=576, cells=282),
    ],
)
def test_fbp_of_a_water_disc_is_water_within_a_few_hu(beam: Beam) -> None:
    water = 0.0193
    scan = project(as_batch(ellipse(beam.size, 70, 70) * water), beam)
    image = filtered_back_projection(scan, beam, kernel=hann(beam))
    hu = (image[0].numpy() / water - 1) * 1000
    inside, outside = ellipse(beam.size, 64, 64) == 1, ellipse(beam.size, 76, 76) == 0
    assert abs(hu[inside].mean()) < 0.5
    assert np.abs(hu[inside]).max() < 5
    assert hu[outside].mean() == pytest.approx(-1000, abs=1)


def test_fbp_agrees_with_scikit_image_on_the_same_line_integrals() -> None:
    beam = ParallelBeam(129, pixel_mm=1.0, views=180)
    line_integrals = chords(beam, 40, 25, 6, -12)
    ours = filtered_back_projection(as_batch(line_integrals), beam, kernel=RAM_LAK)[0].numpy()
    reference = iradon(
        line_integrals.T, theta=-np.degrees(beam.angles().numpy()), filter_name="ramp", circle=True
    )
    flat = ellipse(129, 36, 21, 6, -12) == 1
    assert ours[flat].mean() == pytest.approx(1.0, abs=0.002)
    assert np.abs(ours - reference)[flat].max() < 0.02


def test_fan_and_parallel_beam_reconstruct_the_same_image() -> None:
    parallel, fan = ParallelBeam(128, 3.0, views=360), FanBeam(128, 3.0, views=720, source_mm=500)
    image = as_batch(ellipse(128, 44, 30, 5, -4) + 0.5 * ellipse(128, 9, 6, -20, 8))
    images = [
        filtered_back_projection(project(image, beam), beam, kernel=hann(beam)) for beam in (parallel, fan)
    ]
    seen = parallel.inside() & fan.inside()
    difference = (images[0] - images[1])[0][seen].abs()
    assert difference.mean() < 0.003
    assert difference.max() < 0.06  # on the edge of the ellipse


@pytest.mark.parametrize("beam", BEAMS)
def test_every_pixel_that_all_views_see_and_no_other_is_reconstructed(beam: Beam) -> None:
    image = filtered_back_projection(torch.ones(1, *beam.sinogram_shape), beam, kernel=RAM_LAK)[0]
    assert torch.equal(image != 0, beam.inside())


def test_more_cells_than_columns_see_the_corners() -> None:
    assert ParallelBeam(64, 1.0, views=8, cells=91).inside().all()
    assert FanBeam(64, 5.0, views=8, cells=96).inside().all()
    assert not FanBeam(64, 5.0, views=8, cells=91).inside().all()


def test_a_lower_cutoff_gives_a_smoother_image_and_a_boost_a_rougher_one() -> None:
    beam = ParallelBeam(96, pixel_mm=1.0, views=120)
    noise, inside = normal(1, 120, 96), beam.inside()
    kernels = [Kernel(0.25), Kernel(0.5), Kernel(0.5, boost=4.0)]
    images = [filtered_back_projection(noise, beam, kernel=kernel)[0] for kernel in kernels]
    smooth, plain, sharp = (float(image[inside].std()) for image in images)
    assert smooth < plain < sharp


def test_a_boost_raises_high_frequencies_and_leaves_low_ones() -> None:
    kernel = Kernel(0.8, boost=3.0)
    gain = kernel.gain(torch.tensor([0.0, 0.4, 0.8, 1.0], dtype=torch.float64))
    assert gain.tolist() == pytest.approx([1.0, (1 + 3 / 4) / 2, 0.0, 0.0])
    assert RAM_LAK.gain(torch.tensor([0.0, 5.0])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("beam", BEAMS)
def test_gradients_are_the_exact_transpose(beam: Beam) -> None:
    for work, shape in (
        (lambda image: project(image, beam), (beam.size, beam.size)),
        (lambda scan: filtered_back_projection(scan, beam, kernel=hann(beam)), beam.sinogram_shape),
    ):
        x = normal(2, *shape).double().requires_grad_()
        result = work(x)
        y = normal(*result.shape, seed=1).double()
        (transposed,) = torch.autograd.grad(result, x, y)
        assert torch.sum(result * y).item() == pytest.approx(torch.sum(x * transposed).item(), rel=1e-9)


@pytest.mark.parametrize("beam", [ParallelBeam(6, 1.0, 8), FanBeam(7, 1.0, 8, cells=8, source_mm=9)])
def test_gradients_agree_with_finite_differences(beam: Beam) -> None:
    image = normal(1, beam.size, beam.size).double().requires_grad_()
    scan = normal(1, *beam.sinogram_shape).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: project(x, beam), image)
    assert torch.autograd.gradcheck(lambda x: filtered_back_projection(x, beam, kernel=RAM_LAK), scan)


@pytest.mark.parametrize(
    ("beam", "boost"),
    [
        (ParallelBeam(48, 1.5, views=72), 0.0),
        (ParallelBeam(47, 1.5, views=72, cells=66), 4.0),
        (FanBeam(48, 6.0, views=96, source_mm=400), 0.0),
        (FanBeam(47, 6.0, views=96, cells=80, source_mm=400), 4.0),
    ],
)
def test_propagated_variance_is_that_of_many_noisy_reconstructions(beam: Beam, boost: float) -> None:
    views, cells = beam.sinogram_shape
    across = torch.linspace(-1, 1, cells) ** 2
    variances = 0.2 + (3 - 2 * across) * (1 + torch.cos(2 * beam.angles())[:, None] ** 2).float()
    noise = normal(1500, views, cells) * variances.sqrt()
    measured = filtered_back_projection(noise, beam, kernel=hann(beam, boost)).var(dim=0)
    predicted = propagate_variance(variances[None], beam, kernel=hann(beam, boost))[0]
    rings = (torch.arange(beam.size) - (beam.size - 1) / 2) ** 2
    radius = (rings[:, None] + rings[None, :]).sqrt()
    for inner in range(2, beam.size // 2 - 6, 4):
        ring = (radius >= inner) & (radius < inner + 4)
        assert float(predicted[ring].mean()) == pytest.approx(float(measured[ring].mean()), rel=0.03)


@pytest.mark.parametrize("beam", BEAMS)
def test_a_batch_equals_its_images_one_by_one(beam: Beam) -> None:
    images = torch.rand(3, beam.size, beam.size, generator=torch.Generator().manual_seed(0))
    scans = project(images, beam)
    assert torch.allclose(scans, torch.cat([project(image[None], beam) for image in images]), atol=1e-4)
    together = filtered_back_projection(scans, beam, kernel=RAM_LAK)
    apart = [filtered_back_projection(scan[None], beam, kernel=RAM_LAK) for scan in scans]
    assert torch.allclose(together, torch.cat(apart), atol=1e-5)


@pytest.mark.parametrize("beam", BEAMS)
def test_index_tables_lie_on_the_device_of_the_input(beam: Beam) -> None:
    scans = project(
        torch.empty(2, beam.size, beam.size, device="meta"), beam
    )  # refuses tensors from elsewhere
    assert scans.device.type == "meta"
    assert filtered_back_projection(scans, beam, kernel=hann(beam)).device.type == "meta"
    assert propagate_variance(scans, beam, kernel=hann(beam)).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("beam", BEAMS)
def test_cuda_gives_the_values_of_the_cpu(beam: Beam) -> None:
    images = torch.rand(3, beam.size, beam.size, generator=torch.Generator().manual_seed(0))
    scans = project(images, beam)
    assert torch.allclose(project(images.cuda(), beam).cpu(), scans, atol=1e-3)
    restored = filtered_back_projection(scans.cuda(), beam, kernel=RAM_LAK).cpu()
    assert torch.allclose(restored, filtered_back_projection(scans, beam, kernel=RAM_LAK), atol=1e-4)


def test_coarser_scans_cover_the_same_field_with_valid_numbers() -> None:
    assert ParallelBeam(512, 0.7, views=720).coarser(2) == ParallelBeam(256, 1.4, views=360, cells=256)
    assert ParallelBeam(513, 0.5, views=100, cells=727).coarser(2) == ParallelBeam(257, 1.0, 52, cells=364)
    assert FanBeam(512, 0.5, cells=736, source_mm=600).coarser(2) == FanBeam(256, 1.0, 576, 368, 600)
    assert FanBeam(512, 0.5, views=1160).coarser(4) == FanBeam(128, 2.0, 296, cells=128)


@pytest.mark.parametrize(
    ("size", "pixel_mm", "views", "cells"),
    [(1, 1.0, 8, None), (64, 0.0, 8, None), (64, 1.0, 10, None), (64, 1.0, 0, None), (64, 1.0, 8, 1)],
)
def test_impossible_scans_are_refused(size: int, pixel_mm: float, views: int, cells: int | None) -> None:
    with pytest.raises(ValueError, match="got"):
        ParallelBeam(size, pixel_mm, views, cells)
    with pytest.raises(ValueError, match="got"):
        FanBeam(size, pixel_mm, views, cells)


def test_a_fan_beam_refuses_a_source_inside_the_image_and_a_fan_too_wide() -> None:
    with pytest.raises(ValueError, match="source_mm must exceed half the image width"):
        FanBeam(512, 1.0, source_mm=200)
    with pytest.raises(ValueError, match="narrower than 150°, got 201°"):
        FanBeam(512, 1.0, cells=2000)


def test_wrong_shapes_and_kernels_are_refused() -> None:
    beam = ParallelBeam(16, 1.0, 8)
    with pytest.raises(ValueError, match=r"\(N, 16, 16\)"):
        project(torch.zeros(1, 8, 16), beam)
    with pytest.raises(ValueError, match=r"\(N, 8, 16\)"):
        filtered_back_projection(torch.zeros(1, 16, 16), beam, kernel=RAM_LAK)
    with pytest.raises(ValueError, match="cutoff_per_mm"):
        Kernel(0.0)
    with pytest.raises(ValueError, match="boost"):
        Kernel(1.0, boost=-1.5)
