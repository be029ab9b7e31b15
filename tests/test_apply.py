import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.hu import ABDOMEN, RED_CNN_PAPER, WATER_CENTRED
from pipeline.models import CNN10, RedCNN, RedNet, ResidualCNN, unet
from pipeline.models.apply import (
    class_logits,
    neighbours_of,
    network_input,
    restore_hu,
    takes_noise_map,
    with_neighbours,
)
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


@pytest.mark.parametrize("tile_pixels", [None, 80])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("network", [RedCNN, RedNet, ResidualCNN])
def test_identity_net_passes_a_half_hu_ramp_and_metal(network, bf16, tile_pixels):
    ramp = torch.arange(-1024, 8000, 0.5)[: 128 * 141].reshape(1, 1, 128, 141)
    model = network(features=2).eval()
    restored = restore_hu(model, ramp, WATER_CENTRED, bf16=bf16, tile_pixels=tile_pixels)
    assert torch.allclose(restored, ramp, rtol=0, atol=0.001)


@pytest.mark.parametrize("bf16", [False, True])
def test_identity_net_returns_the_slice_and_neither_neighbours_nor_noise_map(bf16):
    ramp = torch.arange(-1024, 8000, 0.5)[: 128 * 140].reshape(5, 1, 64, 56)
    volume = torch.cat([torch.full((5, 1, 64, 56), 77.7), ramp, -ramp], dim=1)
    for network in (RedCNN, RedNet, ResidualCNN):
        model = network(features=2, neighbours=1, noise_map=True).eval()
        sd_hu = torch.full((5,), 20.0)
        restored = restore_hu(model, volume, WATER_CENTRED, noise_sd_hu=sd_hu, bf16=bf16, tile_pixels=62)
        assert torch.allclose(restored, ramp, rtol=0, atol=0.001)


def test_published_scale_clips_only_below_its_zero():
    image = torch.tensor([-2000.0, -1024.0, 40.0, 5000.0]).repeat(441).reshape(1, 1, 42, 42)
    restored = restore_hu(RedCNN(features=2, final_relu=True).eval(), image, RED_CNN_PAPER)
    assert torch.allclose(restored, image.clip(min=-1024), atol=0.001)


def test_restoring_is_the_network_on_its_own_scale():
    torch.manual_seed(0)
    model = trained(RedCNN(features=4))
    image = torch.randn(2, 1, 32, 40) * 100
    with torch.no_grad():
        correction = 1000 * (model(image / 1000) - image / 1000)
    assert torch.allclose(restore_hu(model, image, WATER_CENTRED), image + correction, atol=0.01)
    rounding = restore_hu(model, image, WATER_CENTRED, bf16=True) - image - correction
    assert rounding.norm() < 0.02 * correction.norm()


def test_network_input_is_slices_on_the_scale_and_noise_in_its_units():
    model = RedCNN(features=1, neighbours=1, noise_map=True)
    slices = torch.randn(2, 3, 24, 25) * 100
    image = network_input(model, slices, RED_CNN_PAPER, noise_sd_hu=torch.tensor([20.48, 4.096]))
    assert image.shape == (2, 4, 24, 25)
    assert torch.equal(image[:, :3], (slices + 1024) / 4096)
    assert torch.allclose(image[:, 3], torch.tensor([0.005, 0.001]).reshape(2, 1, 1).expand(2, 24, 25))


def test_noise_level_is_left_aside_by_a_network_without_a_map():
    model, image = RedCNN(features=1), torch.randn(2, 1, 24, 25)
    given = network_input(model, image, WATER_CENTRED, noise_sd_hu=torch.tensor([20.0, 5.0]))
    assert torch.equal(given, network_input(model, image, WATER_CENTRED, noise_sd_hu=None))


@pytest.mark.parametrize(
    ("options", "slices", "noise_sd_hu", "message"),
    [
        ({}, 3, None, r"shape \(2, 3, 24, 24\): this network takes \(N, 1, H, W\)"),
        ({"neighbours": 1}, 1, None, r"this network takes \(N, 3, H, W\), a slice with 1 neighbours"),
        ({"noise_map": True}, 1, None, r"takes a noise map: noise_sd_hu must be \(2,\), got none"),
        ({"noise_map": True}, 1, torch.ones(1), r"noise_sd_hu must be \(2,\), got shape \(1,\)"),
    ],
)
def test_an_input_that_is_not_the_networks_is_named(options, slices, noise_sd_hu, message):
    model, image = RedCNN(features=1, **options), torch.zeros(2, slices, 24, 24)
    with pytest.raises(ValueError, match=message):
        restore_hu(model, image, WATER_CENTRED, noise_sd_hu=noise_sd_hu)


def test_a_foreign_network_takes_one_slice():
    assert neighbours_of(nn.Identity()) == 0
    assert not takes_noise_map(nn.Identity())
    image = torch.randn(1, 1, 8, 8)
    assert torch.allclose(restore_hu(nn.Identity(), image, WATER_CENTRED), image)
    model = RedNet(depth=4, features=1, neighbours=2, noise_map=True)
    assert (neighbours_of(model), takes_noise_map(model)) == (2, True)


def test_neighbours_repeat_at_the_ends_of_a_volume():
    volume = torch.arange(5.0)[:, None, None].expand(5, 2, 3)
    stacks = with_neighbours(volume, 2)
    assert stacks.shape == (5, 5, 2, 3)
    expected = [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 4], [2, 3, 4, 4, 4]]
    assert stacks[:, :, 1, 2].tolist() == expected
    assert torch.equal(with_neighbours(volume, 0), volume[:, None])


def test_neighbours_of_a_single_slice_are_itself():
    volume = torch.randn(1, 4, 4)
    assert torch.equal(with_neighbours(volume, 1), volume[None].expand(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"a volume is \(slices, rows, columns\), got shape \(1, 1, 4, 4\)"):
        with_neighbours(volume[None], 1)


def test_noise_level_reaches_the_network():
    model = trained(RedNet(depth=4, features=4, noise_map=True))
    image = torch.randn(1, 1, 24, 24).expand(2, 1, 24, 24)
    restored = restore_hu(model, image, WATER_CENTRED, noise_sd_hu=torch.tensor([5.0, 50.0]))
    assert (restored[0] - restored[1]).abs().max() > 0.1


def trained(model: nn.Module) -> nn.Module:
    """The network with a correction far from nothing."""
    torch.manual_seed(0)
    *_, last = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d))
    nn.init.normal_(last.weight, std=0.05)
    return model.eval()


NETWORKS = {
    "redcnn": lambda **options: RedCNN(features=3, **options),
    "redcnn-direct": lambda **options: RedCNN(features=3, residual=False, **options),
    "rednet": lambda **options: RedNet(depth=20, features=3, **options),
    "rednet-direct": lambda **options: RedNet(depth=10, features=3, residual=False, **options),
    "residual-cnn": lambda **options: ResidualCNN(features=3, **options),
    "cnn10": CNN10,
}


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(list(NETWORKS)),
    height=st.integers(21, 120),
    width=st.integers(21, 120),
    side=st.integers(41, 70),
    neighbours=st.integers(0, 1),
    noise_map=st.booleans(),
)
def test_tiles_give_what_the_whole_slice_gives(name, height, width, side, neighbours, noise_map):
    """In float64 the same sums in another order stay within 1e-12, wherever a pixel lies."""
    model = trained(NETWORKS[name](neighbours=neighbours, noise_map=noise_map)).double()
    shape = (1, 2 * neighbours + 1 + noise_map, height, width)
    image = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(image)
        tiled = apply_in_tiles(model, image, side=side, receptive_radius=model.receptive_radius)
    assert (whole - image[:, neighbours : neighbours + 1]).std() > 1e-3
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(512, 70), (101, 133), (65, 64)])
@pytest.mark.parametrize("scale", [WATER_CENTRED, RED_CNN_PAPER])
def test_tiles_in_hu_differ_by_rounding_only(height, width, scale):
    """Padding as air along two edges, metal, and the published scale with its clipping."""
    image_hu = torch.randn(2, 1, height, width, generator=torch.Generator().manual_seed(2)) * 100
    image_hu[..., :30, :] = image_hu[..., -25:] = -1000
    image_hu[..., 40:44, 40:44] = 8000
    model = trained(RedCNN(features=3, final_relu=scale is RED_CNN_PAPER))
    whole = restore_hu(model, image_hu, scale)
    assert (whole - image_hu).abs().max() > 20
    tiled = restore_hu(model, image_hu, scale, tile_pixels=64)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=0.01)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_halo_is_needed_to_the_last_pixel(name):
    """Weights of one sign, so that the rim of the receptive field counts."""
    model = trained(NETWORKS[name]()).double()
    for parameter in model.parameters():
        parameter.data.abs_()
    image = torch.rand(1, 1, 120, 120, dtype=torch.float64)
    radius = model.receptive_radius
    with torch.no_grad():
        whole = model(image)
        short = apply_in_tiles(model, image, side=60, receptive_radius=radius - 1)
        full = apply_in_tiles(model, image, side=60, receptive_radius=radius)
    assert (short - whole).abs().max() > 100 * (full - whole).abs().max()


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
    model = trained(RedCNN(features=3))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    restore_hu(model, torch.zeros(2, 1, 64, 50), WATER_CENTRED, tile_pixels=64)
    assert seen == [(2, 1, 64, 50)]


def test_a_network_that_states_no_radius_takes_slices_whole():
    image = half_and_half(64, 48)
    whole = restore_hu(Threshold(), image, WATER_CENTRED)
    assert torch.equal(restore_hu(Threshold(), image, WATER_CENTRED, tile_pixels=24), whole)


def test_tiles_need_room_for_the_radius():
    with pytest.raises(ValueError, match="tiles of 40 pixels; a radius of 20 needs more than twice that"):
        restore_hu(trained(RedCNN(features=3)), torch.zeros(1, 1, 64, 50), WATER_CENTRED, tile_pixels=40)


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
