from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import gaussian_filter

from pipeline.config.degradations import Step, Steps
from pipeline.degradations import (
    DEGRADATIONS,
    Downsample,
    GaussianBlur,
    Holes,
    Identity,
    LowDose,
    Metal,
    Strokes,
    WhiteNoise,
    build_degradations,
    degrade,
)
from pipeline.errors import ConfigError

STEPS = [
    {"kind": "identity"},
    {"kind": "blur", "sigma_mm": 1.2},
    {"kind": "downsample", "factor": 2, "interpolation": "linear"},
    {"kind": "downsample", "factor": 3, "interpolation": "cubic"},
    {"kind": "holes", "shape": "rectangle", "count": 2, "smallest_mm": 3, "largest_mm": 9, "fill_hu": 0},
    {"kind": "holes", "shape": "ellipse", "count": 2, "smallest_mm": 3, "largest_mm": 9, "fill_hu": 0},
    {"kind": "strokes", "count": 2, "width_mm": 3, "length_mm": 30, "fill_hu": 0},
    {"kind": "metal", "count": 2, "smallest_mm": 3, "largest_mm": 9, "metal_hu": 0},
    {"kind": "white_noise", "sd_hu": 20},
]
LOW_DOSE = {"kind": "low_dose", "dose_fraction": 0.25, "photons_per_ray": 1e5, "kernel_cutoff_per_mm": 0.25}
SQUARE_MM = 0.5
LINEAR = [step for step in STEPS if step["kind"] != "white_noise"]


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def slices(*shape, seed=9):
    """Whole numbers of HU, as stored slices have."""
    return torch.randint(-1024, 3000, shape, generator=draws(seed)).float()


def applied(hu, *steps, pixel_mm=SQUARE_MM, seed=0):
    return degrade(hu, steps, pixel_mm=torch.full((len(hu),), pixel_mm), generator=draws(seed))


def kinds(step):
    return "-".join(str(value) for value in step.values() if isinstance(value, str))


@pytest.mark.parametrize("step", STEPS, ids=kinds)
def test_the_same_seed_gives_the_same_image_of_any_shape_and_leaves_the_input_alone(step):
    hu = slices(3, 1, 37, 50)
    before = hu.clone()
    first, again, other = (applied(hu, *build_degradations([step]), seed=seed) for seed in (4, 4, 5))
    assert first.hu.shape == first.unknown.shape == hu.shape
    assert first.hu.dtype == torch.float32
    assert torch.equal(first.hu, again.hu)
    assert torch.equal(first.unknown, again.unknown)
    assert torch.equal(hu, before)
    random = step["kind"] not in ("identity", "blur", "downsample")
    assert torch.equal(first.hu, other.hu) is not random


@pytest.mark.parametrize("step", LINEAR, ids=kinds)
def test_h_is_linear(step):
    h = build_degradations([step])
    a, b = (100 * torch.rand(2, 1, 40, 40, generator=draws(seed)) for seed in (1, 2))  # all body, for metal
    combined = applied(2 * a + 3 * b, *h).hu
    torch.testing.assert_close(combined, 2 * applied(a, *h).hu + 3 * applied(b, *h).hu, atol=1e-3, rtol=0)


def test_identity_and_noise_is_denoising_y_minus_x_is_n_exactly():
    x = slices(4, 1, 64, 64)
    n = applied(torch.zeros_like(x), WhiteNoise(25.0)).hu
    y = applied(x, Identity(), WhiteNoise(25.0)).hu
    assert torch.equal(y - x, n)


def test_white_noise_has_its_sd_no_mean_and_no_correlation():
    n = applied(torch.zeros(1, 1, 512, 512), WhiteNoise(25.0)).hu[0, 0]
    assert n.std().item() == pytest.approx(25, rel=0.01)
    assert n.mean().item() == pytest.approx(0, abs=0.2)  # 4 standard errors
    assert (n[:, 1:] * n[:, :-1]).mean().item() == pytest.approx(0, abs=5)


def test_a_blur_equals_scipys_away_from_the_edge_in_millimetres():
    hu = slices(2, 1, 64, 48)
    pixel_mm = torch.tensor([0.5, 0.8])
    blurred = degrade(hu, [GaussianBlur(1.2)], pixel_mm=pixel_mm, generator=draws()).hu
    for image, result, side in zip(hu, blurred, pixel_mm.tolist(), strict=True):
        expected = gaussian_filter(image[0].double().numpy(), 1.2 / side, truncate=8)
        np.testing.assert_allclose(result[0, 16:-16, 16:-16], expected[16:-16, 16:-16], atol=0.01)


@pytest.mark.parametrize("step", [GaussianBlur(3.0), Downsample(2, "linear"), Downsample(4, "cubic")])
def test_a_constant_stays_constant_up_to_the_edge(step):
    hu = torch.full((1, 1, 31, 46), -1000.0)
    torch.testing.assert_close(applied(hu, step).hu, hu, atol=1e-3, rtol=0)


def test_down_sampling_by_hand():
    hu = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8]])[None, None]
    expected = torch.tensor([0.0, 2, 6, 8]).expand(1, 1, 2, 4)  # ¼ and ¾ of the way between block centres
    assert torch.equal(applied(hu, Downsample(2, "linear")).hu, expected)


def test_down_sampling_does_not_move_the_image():
    columns = torch.arange(64.0).expand(1, 1, 64, 64)
    for way in ("linear", "cubic"):
        moved = applied(columns, Downsample(4, way)).hu - columns
        assert moved[..., 16:-16].abs().max() < 1e-3


def area_mm2(image, pixel_mm=SQUARE_MM):
    return image.unknown.sum(dim=(1, 2, 3)) * pixel_mm**2


@pytest.mark.parametrize("pixel_mm", [0.5, 0.7])
def test_holes_have_their_size_in_millimetres(pixel_mm):
    hu = torch.zeros(400, 1, 128, 128)
    ellipse = applied(hu, Holes("ellipse", 1, 10.0, 10.0, -500.0), pixel_mm=pixel_mm)
    rectangle = applied(hu, Holes("rectangle", 1, 10.0, 10.0, -500.0), pixel_mm=pixel_mm)
    assert area_mm2(ellipse, pixel_mm).median().item() == pytest.approx(np.pi * 25, rel=0.03)
    assert area_mm2(rectangle, pixel_mm).median().item() == pytest.approx(100, rel=0.03)


def test_a_stroke_is_as_wide_as_its_brush():
    image = applied(torch.zeros(100, 1, 256, 256), Strokes(1, 4.0, 40.0, 0.0))
    straight = 4 * 40 + np.pi * 4  # the area of one that does not turn; turns overlap
    assert straight * 0.8 < area_mm2(image).max().item() < straight * 1.02


@pytest.mark.parametrize(
    "step", [Holes("ellipse", 2, 4.0, 9.0, -77.0), Strokes(2, 3.0, 20.0, -77.0), Metal(2, 4.0, 9.0, -77.0)]
)
def test_the_mask_is_where_values_are_unknown_and_all_else_is_untouched(step):
    hu = slices(8, 1, 48, 48)
    image = applied(hu, step)
    assert image.unknown.any(dim=(1, 2, 3)).any()
    assert torch.equal(image.hu, torch.where(image.unknown, torch.tensor(-77.0), hu))
    assert not torch.equal(image.unknown[0], image.unknown[1])


def test_metal_sits_in_the_body():
    hu = torch.full((50, 1, 64, 64), -1000.0)
    hu[..., 40:50, 10:20] = 40.0
    centres = applied(hu, Metal(1, 0.6, 0.6, 3000.0)).unknown
    assert centres.sum() == 50
    assert centres[..., 40:50, 10:20].sum() == 50


def test_metal_in_an_image_of_air_is_anywhere():
    assert applied(torch.full((2, 1, 32, 32), -1000.0), Metal(1, 4.0, 4.0, 3000.0)).unknown.any()


def water_discs(count=1, size=96):
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = (size - 1) / 2
    disc = (rows - centre) ** 2 + (columns - centre) ** 2 < (0.35 * size) ** 2
    return torch.where(disc, 0.0, -1000.0).expand(count, 1, size, size)


def test_low_dose_noise_is_that_of_ray_sums():
    x = water_discs(8)
    low_dose = LowDose(0.25, photons_per_ray=1e5, kernel_cutoff_per_mm=0.25)
    y = applied(x, low_dose, pixel_mm=2.0)
    again, other = (applied(x, low_dose, pixel_mm=2.0, seed=seed) for seed in (0, 1))
    assert torch.equal(y.hu, again.hu)
    assert not torch.equal(y.hu, other.hu)
    noise = (y.hu - x)[:, 0, 40:56, 40:56]
    quarter = noise.std().item()
    neighbours = (noise[:, 1:] * noise[:, :-1]).mean().item() / quarter**2
    assert abs(neighbours) > 0.1  # white noise has none
    tenth = (applied(x, LowDose(0.1, 1e5, 0.25), pixel_mm=2.0).hu - x)[:, 0, 40:56, 40:56].std().item()
    assert tenth / quarter == pytest.approx(np.sqrt(9 / 3), rel=0.1)  # the missing variance is 1/a − 1


def test_low_dose_refuses_a_batch_of_two_pixel_sizes():
    with pytest.raises(ValueError, match=r"one pixel size per batch, got \[0.5, 2.0\] mm"):
        degrade(
            water_discs(2),
            build_degradations([LOW_DOSE]),
            pixel_mm=torch.tensor([0.5, 2.0]),
            generator=draws(),
        )


def test_masks_add_up_and_noise_comes_after_h():
    hu = torch.full((1, 1, 64, 64), 40.0)
    holes, strokes = Holes("ellipse", 1, 10.0, 20.0, 0.0), Strokes(1, 4.0, 30.0, 0.0)
    both = applied(hu, holes, strokes, WhiteNoise(5.0))
    clean = applied(hu, holes, strokes)
    assert (both.unknown >= applied(hu, holes).unknown).all()
    assert torch.equal(both.unknown, clean.unknown)
    assert (both.hu - clean.hu).std().item() == pytest.approx(5, rel=0.1)


def test_a_gradient_reaches_the_image():
    hu = slices(1, 1, 32, 32).requires_grad_()
    steps = build_degradations(STEPS)
    applied(hu, *steps).hu.sum().backward()
    assert hu.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("hu", "pixel_mm", "complaint"),
    [
        (torch.zeros(4, 4), torch.ones(1), "hu must be"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.float64), torch.ones(2), "float64"),
        (torch.zeros(2, 1, 4, 4), torch.ones(1), r"pixel_mm must be \(2,\), got \(1,\)"),
    ],
)
def test_other_shapes_and_types_are_refused(hu, pixel_mm, complaint):
    with pytest.raises(ValueError, match=complaint):
        degrade(hu, [], pixel_mm=pixel_mm, generator=draws())


@pytest.mark.parametrize("step", [*STEPS, LOW_DOSE], ids=kinds)
def test_settings_are_the_arguments_of_a_degradation(step):
    (settings,) = TypeAdapter(Steps).validate_python([step])
    assert build_degradations([settings.model_dump()]) == build_degradations([step])


def test_settings_and_registry_have_the_same_kinds():
    in_settings = {
        get_args(model.model_fields["kind"].annotation)[0] for model in get_args(get_args(Step)[0])
    }
    assert in_settings == set(DEGRADATIONS)


@pytest.mark.parametrize(
    "step",
    [
        {"kind": "sharpen"},
        {"kind": "blur"},
        {"kind": "blur", "sigma_mm": 0},
        {"kind": "blur", "sigma_pixels": 1},
        {"kind": "downsample", "factor": 1},
        {"kind": "white_noise", "sd_hu": -1},
        {**LOW_DOSE, "dose_fraction": 1},
        {**LOW_DOSE, "photons_per_ray": 0},
        {"kind": "metal", "count": 1, "smallest_mm": 5, "largest_mm": 4, "metal_hu": 3000},
        {"kind": "strokes", "count": 0, "width_mm": 1, "length_mm": 1, "fill_hu": 0},
    ],
)
def test_what_settings_refuse_the_constructor_refuses(step):
    with pytest.raises(ValidationError):
        TypeAdapter(Steps).validate_python([step])
    with pytest.raises(ConfigError, match=step["kind"]):
        build_degradations([step])
