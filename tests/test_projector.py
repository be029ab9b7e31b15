import math

import numpy as np
import pytest
import torch
from skimage.transform import iradon, radon

from pipeline.projector import ParallelBeam, filtered_back_projection, project


def ellipse(size: int, a: float, b: float, x0: float = 0.0, y0: float = 0.0) -> np.ndarray:
    """An ellipse of value 1, its edge averaged over 8 × 8 points a pixel."""
    axis = (np.arange(8 * size) + 0.5) / 8 - size / 2
    fine = (((axis[None, :] - x0) / a) ** 2 + ((axis[:, None] - y0) / b) ** 2 <= 1).astype(np.float32)
    return fine.reshape(size, 8, size, 8).mean(axis=(1, 3))


def chords(beam: ParallelBeam, a: float, b: float, x0: float, y0: float) -> np.ndarray:
    """Line integrals of that ellipse in pixels, by hand (Kak and Slaney 1988, eq. 3.7)."""
    theta, t = beam.angles().numpy()[:, None], beam.centred().numpy()[None, :]
    reach = (a * np.cos(theta)) ** 2 + (b * np.sin(theta)) ** 2
    offset = t - x0 * np.cos(theta) - y0 * np.sin(theta)
    return 2 * a * b * np.sqrt(np.clip(reach - offset**2, 0, None)) / reach


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float32))[None]


@pytest.mark.parametrize("size", [128, 129])
def test_project_gives_the_chords_of_an_ellipse_in_every_view(size: int) -> None:
    beam = ParallelBeam(size, pixel_mm=0.5, views=60)
    expected_mm = 0.5 * chords(beam, 40, 25, 6, -12)
    found_mm = project(as_batch(ellipse(size, 40, 25, 6, -12)), beam)[0].numpy()
    assert np.abs(found_mm - expected_mm).mean() < 0.004 * expected_mm.max()
    assert np.abs(found_mm - expected_mm)[expected_mm > 10].max() < 0.02 * expected_mm.max()


def test_project_agrees_with_scikit_image() -> None:
    beam = ParallelBeam(97, pixel_mm=1.0, views=36)
    image = ellipse(97, 30, 18, 5, 9) + 0.5 * ellipse(97, 8, 8, -10, 0)
    reference = radon(
        image, theta=-np.degrees(beam.angles().numpy()), circle=True
    ).T  # it turns the other way
    ours = project(as_batch(image), beam)[0].numpy()
    assert np.abs(ours - reference).mean() < 0.005 * ours.max()


def test_fbp_of_a_water_disc_is_water_within_a_few_hu() -> None:
    beam = ParallelBeam(192, pixel_mm=1.0, views=360)
    water = 0.0193
    image = filtered_back_projection(
        project(as_batch(ellipse(192, 70, 70) * water), beam), beam, hann_cutoff=1.0
    )
    hu = (image[0].numpy() / water - 1) * 1000
    inside, outside = ellipse(192, 64, 64) == 1, ellipse(192, 76, 76) == 0
    assert abs(hu[inside].mean()) < 0.5
    assert np.abs(hu[inside]).max() < 5
    assert hu[outside].mean() == pytest.approx(-1000, abs=1)


def test_fbp_agrees_with_scikit_image_on_the_same_line_integrals() -> None:
    beam = ParallelBeam(129, pixel_mm=1.0, views=180)
    line_integrals = chords(beam, 40, 25, 6, -12)
    ours = filtered_back_projection(as_batch(line_integrals), beam, hann_cutoff=math.inf)[0].numpy()
    reference = iradon(
        line_integrals.T, theta=-np.degrees(beam.angles().numpy()), filter_name="ramp", circle=True
    )
    flat = ellipse(129, 36, 21, 6, -12) == 1
    assert ours[flat].mean() == pytest.approx(1.0, abs=0.002)
    assert np.abs(ours - reference)[flat].max() < 0.02


def test_a_lower_hann_cutoff_gives_a_smoother_image() -> None:
    beam = ParallelBeam(96, pixel_mm=1.0, views=120)
    noise = torch.randn(1, 120, 96, generator=torch.Generator().manual_seed(0))
    inside = beam.inside()
    spread = [
        float(filtered_back_projection(noise, beam, hann_cutoff=cutoff)[0][inside].std())
        for cutoff in (0.5, 1.0, math.inf)
    ]
    assert spread[0] < spread[1] < spread[2]


def test_a_batch_equals_its_images_one_by_one() -> None:
    beam = ParallelBeam(33, pixel_mm=2.0, views=12)
    images = torch.rand(3, 33, 33, generator=torch.Generator().manual_seed(0))
    together = project(images, beam)
    assert torch.allclose(together, torch.cat([project(image[None], beam) for image in images]), atol=1e-4)


@pytest.mark.parametrize(
    ("size", "pixel_mm", "views"), [(1, 1.0, 8), (64, 0.0, 8), (64, 1.0, 10), (64, 1.0, 0)]
)
def test_parallel_beam_refuses_impossible_scans(size: int, pixel_mm: float, views: int) -> None:
    with pytest.raises(ValueError, match="got"):
        ParallelBeam(size, pixel_mm, views)


def test_wrong_shapes_and_cutoffs_are_refused() -> None:
    beam = ParallelBeam(16, 1.0, 8)
    with pytest.raises(ValueError, match=r"\(N, 16, 16\)"):
        project(torch.zeros(1, 8, 16), beam)
    with pytest.raises(ValueError, match=r"\(N, 8, 16\)"):
        filtered_back_projection(torch.zeros(1, 16, 16), beam, hann_cutoff=1.0)
    with pytest.raises(ValueError, match="hann_cutoff"):
        filtered_back_projection(torch.zeros(1, 8, 16), beam, hann_cutoff=0.0)
