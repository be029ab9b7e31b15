import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.hu import ABDOMEN, RED_CNN_PAPER, WATER_CENTRED
from pipeline.models import RedCNN, unet
from pipeline.models.apply import class_logits, restore_hu
from pipeline.models.tiles import apply_in_tiles


class Threshold(nn.Module):
    """Two classes split at the middle of the window; down-samples by 8 as far as `apply` can tell."""

    strides = (2, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[-1] % 8 == image.shape[-2] % 8 == 0
        return torch.cat([0.5 - image, image - 0.5], dim=1)


def half_and_half(height: int, width: int) -> Tensor:
    """Air on the left, 240 HU on the right."""
    image = torch.full((1, 1, height, width), -1000.0)
    image[..., width // 2 :] = 240
    return image


@pytest.mark.parametrize("bf16", [False, True])
def test_identity_net_passes_a_half_hu_ramp_and_metal(bf16):
    ramp = torch.arange(-1024, 8000, 0.5)[: 128 * 141].reshape(1, 1, 128, 141)
    restored = restore_hu(RedCNN(features=2).eval(), ramp, WATER_CENTRED, bf16=bf16)
    assert torch.allclose(restored, ramp, rtol=0, atol=0.001)


def test_published_scale_clips_only_below_its_zero():
    image = torch.tensor([-2000.0, -1024.0, 40.0, 5000.0]).repeat(441).reshape(1, 1, 42, 42)
    restored = restore_hu(RedCNN(features=2, final_relu=True).eval(), image, RED_CNN_PAPER)
    assert torch.allclose(restored, image.clip(min=-1024), atol=0.001)


def test_restoring_is_the_network_on_its_own_scale():
    torch.manual_seed(0)
    model = RedCNN(features=4).eval()
    nn.init.normal_(model.decoder[-1].weight, std=0.1)
    image = torch.randn(2, 1, 32, 40) * 100
    residual = 1000 * model.residual(image / 1000)
    assert torch.allclose(restore_hu(model, image, WATER_CENTRED), image + residual, atol=0.01)
    rounding = restore_hu(model, image, WATER_CENTRED, bf16=True) - image - residual
    assert rounding.norm() < 0.01 * residual.norm()


def trained(features: int = 3, **options: bool) -> RedCNN:
    """A RED-CNN whose correction is far from nothing."""
    torch.manual_seed(0)
    model = RedCNN(features=features, **options).eval()
    nn.init.normal_(model.decoder[-1].weight, std=0.05)
    return model


@settings(max_examples=20, deadline=None)
@given(height=st.integers(21, 120), width=st.integers(21, 120), side=st.integers(41, 70))
def test_tiles_give_what_the_whole_slice_gives(height, width, side):
    """In float64 the same sums in another order stay within 1e-12, wherever a pixel lies."""
    model = trained().double()
    image = torch.randn(1, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model.residual(image)
        tiled = apply_in_tiles(model.residual, image, side=side, receptive_radius=model.receptive_radius)
    assert whole.std() > 1e-3
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(512, 70), (101, 133), (65, 64)])
@pytest.mark.parametrize("scale", [WATER_CENTRED, RED_CNN_PAPER])
def test_tiles_in_hu_differ_by_rounding_only(height, width, scale):
    """Padding as air along two edges, metal, and the published scale with its clipping."""
    image_hu = torch.randn(2, 1, height, width, generator=torch.Generator().manual_seed(2)) * 100
    image_hu[..., :30, :] = image_hu[..., -25:] = -1000
    image_hu[..., 40:44, 40:44] = 8000
    model = trained(final_relu=scale is RED_CNN_PAPER)
    whole = restore_hu(model, image_hu, scale)
    assert (whole - image_hu).abs().max() > 20
    tiled = restore_hu(model, image_hu, scale, tile_pixels=64)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=0.01)


def test_the_halo_is_needed_to_the_last_pixel():
    model, image = trained(6).double(), torch.randn(1, 1, 120, 120, dtype=torch.float64)
    with torch.no_grad():
        whole = model.residual(image)
        tiled = apply_in_tiles(model.residual, image, side=60, receptive_radius=model.receptive_radius - 1)
    assert (tiled - whole).abs().max() > 1e-9


def test_no_tile_is_larger_than_asked_for():
    sizes = []

    def network(tile):
        sizes.append(tuple(tile.shape[-2:]))
        return tile

    image = torch.randn(1, 1, 200, 50)
    assert torch.equal(apply_in_tiles(network, image, side=64, receptive_radius=20), image)
    assert set(sizes) == {(64, 50)}
    assert len(sizes) == 7  # 44 pixels of the first tile, 24 of each further one, all of the last


def test_slices_that_fit_are_not_cut():
    seen = []
    model = trained()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    restore_hu(model, torch.zeros(2, 1, 64, 50), WATER_CENTRED, tile_pixels=64)
    assert seen == [(2, 1, 64, 50)]


def test_a_network_that_states_no_radius_takes_slices_whole():
    image = half_and_half(64, 48)
    whole = restore_hu(Threshold(), image, WATER_CENTRED)
    assert torch.equal(restore_hu(Threshold(), image, WATER_CENTRED, tile_pixels=24), whole)


def test_tiles_need_room_for_the_radius():
    with pytest.raises(ValueError, match="tiles of 40 pixels; a radius of 20 needs more than twice that"):
        restore_hu(trained(), torch.zeros(1, 1, 64, 50), WATER_CENTRED, tile_pixels=40)


@pytest.mark.parametrize("input_spacing_mm", [None, 0.7, 1.5, 3.1])
def test_logits_return_to_the_input_grid(input_spacing_mm):
    logits = class_logits(
        Threshold(),
        half_and_half(61, 90),
        window=ABDOMEN,
        spacing_mm=(0.7, 0.9),
        input_spacing_mm=input_spacing_mm,
    )
    assert logits.shape == (1, 2, 61, 90)
    labels = logits.argmax(dim=1)
    assert (labels[..., :43] == 0).all()
    assert (labels[..., 47:] == 1).all()


def test_unet_survives_odd_sizes():
    model = unet(classes=3, channels=(4, 8, 16, 16)).eval()
    image = half_and_half(53, 77)
    logits = class_logits(model, image, window=ABDOMEN, spacing_mm=(1, 1), input_spacing_mm=2.0, bf16=True)
    assert logits.shape == (1, 3, 53, 77)
    assert logits.dtype == torch.float32
