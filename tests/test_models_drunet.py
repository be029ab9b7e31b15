import io
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate

from pipeline.config.train import load_train_settings
from pipeline.errors import ConfigError
from pipeline.hu import WATER_CENTRED
from pipeline.models import DRUNet, build_model
from pipeline.models.apply import receptive_radius, restore_hu, total_stride
from pipeline.models.drunet import ResidualBlock
from pipeline.models.tiles import apply_in_tiles

RECIPE = Path(__file__).parents[1] / "configs" / "recipes" / "drunet.yaml"
SCALES = [(2, 3), (2, 3, 4), (2, 2, 3, 3)]
SHIPPED_BYTES = 2_000_000


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def trained(model: DRUNet) -> DRUNet:
    """The network with a last layer that is not zero."""
    nn.init.normal_(model.tail.weight, std=0.1)
    return model.eval()


def opened(model: DRUNet) -> DRUNet:
    """The network with positive weights only: no ReLU closes for a positive image, every path counts."""
    for parameter in trained(model).parameters():
        parameter.data.abs_()
    return model


def ramp_hu(rows: int, columns: int) -> Tensor:
    """From air to metal in steps of 0.5 HU, which bfloat16 does not hold."""
    return (torch.arange(rows * columns) / 2 - 1024).reshape(1, 1, rows, columns)


def test_the_published_network_has_as_many_parameters_as_the_released_weights():
    published = DRUNet(features=(64, 128, 256, 512), blocks=4)
    blocks = 9 * (16 * 64**2 + 16 * 128**2 + 16 * 256**2 + 8 * 512**2)
    steps = 2 * 4 * (64 * 128 + 128 * 256 + 256 * 512)
    assert parameters(published) == blocks + steps + 9 * 64 * 2 + 9 * 64 == 32_638_656


def test_the_default_is_small_enough_to_be_shipped_and_has_no_biases():
    model = DRUNet()
    weights = save({name: values.contiguous() for name, values in model.state_dict().items()})
    assert len(io.BytesIO(weights).getbuffer()) < SHIPPED_BYTES
    assert all(name.endswith(".weight") for name in model.state_dict())
    assert any(name.endswith(".bias") for name in DRUNet(bias=True).state_dict())


def by_hand(weights: dict[str, Tensor], image: Tensor) -> Tensor:
    """Three scales with one block each, written out with functional calls."""

    def block(name: str, x: Tensor) -> Tensor:
        inner = conv2d(x, weights[f"{name}.first.weight"], padding=1).clamp(min=0)
        return x + conv2d(inner, weights[f"{name}.second.weight"], padding=1)

    x1 = conv2d(image, weights["head.weight"], padding=1)
    x2 = conv2d(block("down.0.0", x1), weights["down.0.1.weight"], stride=2)
    x3 = conv2d(block("down.1.0", x2), weights["down.1.1.weight"], stride=2)
    x = block("body.0", x3)
    x = block("up.0.1", conv_transpose2d(x + x3, weights["up.0.0.weight"], stride=2))
    x = block("up.1.1", conv_transpose2d(x + x2, weights["up.1.0.weight"], stride=2))
    return image[:, :1] + conv2d(x + x1, weights["tail.weight"], padding=1)


def test_drunet_is_wired_as_published():
    model, image = trained(DRUNet((3, 4, 5), blocks=1)), torch.randn(2, 2, 12, 20)
    assert torch.allclose(model(image), by_hand(model.state_dict(), image), atol=1e-5)
    assert not torch.allclose(model(image), image[:, :1], atol=0.01)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("factor", [0.125, 2.0, 64.0])
def test_without_biases_the_network_scales_with_image_and_noise(factor, bf16):
    """Powers of two scale floating-point numbers without rounding, so the result is the same to the bit."""
    model, image = trained(DRUNet((4, 8, 8))), torch.randn(1, 2, 19, 26)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        assert torch.equal(model(factor * image), factor * model(image))


@given(factor=st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_scaling_about_water_is_scaling_of_hu_and_noise_level(factor):
    """f(a x, a σ) = a f(x, σ) in HU, where 0 HU is water; a bias or a shift of the HU ends it."""
    model = trained(DRUNet((4, 8))).double()
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(1, 2, 16, 16, dtype=torch.float64, generator=generator)
    scaled, shifted = model(factor * image), model(image + torch.tensor([0.06, 0]).reshape(1, 2, 1, 1))
    torch.testing.assert_close(scaled, factor * model(image), rtol=1e-9, atol=1e-12 * factor)
    assert (shifted - model(image) - 0.06).abs().max() > 1e-4


def test_with_biases_the_network_does_not_scale():
    model, image = trained(DRUNet((4, 8), bias=True)), torch.randn(1, 2, 16, 16)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    assert not torch.allclose(model(2 * image), 2 * model(image), atol=1e-2)


def test_water_without_noise_stays_water():
    assert torch.equal(trained(DRUNet())(torch.zeros(1, 2, 24, 24)), torch.zeros(1, 1, 24, 24))


@pytest.mark.parametrize("tile_pixels", [None, 100])
@pytest.mark.parametrize("bf16", [False, True])
def test_an_untrained_network_passes_a_half_hu_ramp_and_metal(bf16, tile_pixels):
    ramp = ramp_hu(125, 141)
    model, noise = DRUNet((4, 4, 4)).eval(), torch.tensor([20.0])
    restored = restore_hu(model, ramp, WATER_CENTRED, noise_sd_hu=noise, bf16=bf16, tile_pixels=tile_pixels)
    assert torch.allclose(restored, ramp, rtol=0, atol=0.001)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        image = torch.cat(
            [torch.randn(1, 2, 33, 42), ramp[..., :33, :42] / 1000, torch.ones(1, 3, 33, 42)], 1
        )
        exact = DRUNet((4, 4), neighbours=2)(image)
    assert exact.dtype == torch.float32
    assert torch.equal(exact, image[:, 2:3])


def test_bfloat16_rounds_the_correction_and_not_the_slice():
    model, image = trained(DRUNet((8, 8, 8))), torch.rand(1, 2, 40, 36) + 4
    nn.init.normal_(model.tail.weight, std=0.002)
    exact = model(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounding = model(image) - exact
    assert 0 < rounding.norm() < 0.02 * (exact - image[:, :1]).norm()
    assert rounding.norm() < 0.5 * (image[:, :1].bfloat16().float() - image[:, :1]).norm()


@pytest.mark.parametrize("features", SCALES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 2), (16, 24), (33, 31)])
def test_any_size_passes(features, shape):
    image = torch.randn(2, 4, *shape)
    restored = trained(DRUNet(features, blocks=1, neighbours=1))(image)
    assert restored.shape == (2, 1, *shape)
    assert torch.isfinite(restored).all()
    assert not torch.equal(restored, image[:, 1:2])


def test_padding_repeats_the_last_pixel_below_and_on_the_right():
    model, image = trained(DRUNet((3, 4, 5))), torch.randn(1, 2, 13, 22)
    padded = torch.cat([image, image[..., -1:, :].expand(-1, -1, 3, -1)], dim=-2)
    padded = torch.cat([padded, padded[..., -1:].expand(-1, -1, -1, 2)], dim=-1)
    assert padded.shape == (1, 2, 16, 24)
    assert torch.allclose(model(image), model(padded)[..., :13, :22], atol=1e-6)


@pytest.mark.parametrize("features", SCALES)
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_network_sees_as_far_as_it_says_and_no_farther(features, blocks):
    """The farthest that any pixel of a cell of the coarsest raster sees, by the gradients of its pixels."""
    model = opened(DRUNet(features, blocks, neighbours=1)).double()
    stride, radius = total_stride(model), receptive_radius(model)
    centre = -(-radius // stride) * stride
    image = torch.rand(1, 4, 2 * centre + stride, 1, dtype=torch.float64, requires_grad=True)
    column = model(image)[0, 0, :, 0]
    reach = []
    for at in range(centre, centre + stride):
        (slope,) = torch.autograd.grad(column[at], image, retain_graph=True)
        for channel in slope[0, :, :, 0]:
            seen = channel.nonzero()
            reach += [at - seen.min().item(), seen.max().item() - at]
    assert max(reach) == radius


def test_the_default_sees_45_pixels():
    assert (receptive_radius(DRUNet()), total_stride(DRUNet())) == (45, 4)
    assert DRUNet().smallest_side == 1


@settings(max_examples=20, deadline=None)
@given(
    features=st.sampled_from(SCALES),
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    wider=st.integers(0, 20),
)
def test_tiles_give_what_the_whole_slice_gives(features, height, width, wider):
    """In float64 the same sums in another order stay within 1e-12, wherever the tiles have to begin."""
    model = trained(DRUNet(features, blocks=1)).double()
    image = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(1)).double()
    radius, stride = model.receptive_radius, total_stride(model)
    sizes = []

    def network(tile: Tensor) -> Tensor:
        sizes.extend(tile.shape[-2:])
        return model(tile)

    side = 2 * radius + stride + wider
    with torch.no_grad():
        tiled = apply_in_tiles(network, image, side=side, receptive_radius=radius, total_stride=stride)
        torch.testing.assert_close(tiled, model(image), rtol=0, atol=1e-12)
    assert max(sizes) <= side


@pytest.mark.parametrize(("wider", "wrong"), [(1, {"total_stride": 1}), (0, {"receptive_radius": 24})])
def test_tiles_off_the_raster_or_with_less_overlap_give_something_else(wider, wrong):
    """One pixel of overlap less shows where a tile ends at the pixel of its cell that sees farthest."""
    model = opened(DRUNet((2, 3, 4), blocks=1)).double()
    right = {"receptive_radius": model.receptive_radius, "total_stride": total_stride(model)}
    assert right == {"receptive_radius": 25, "total_stride": 4}
    image, side = torch.rand(1, 2, 90, 90, dtype=torch.float64), 54 + wider
    with torch.no_grad():
        whole = model(image)
        exact = apply_in_tiles(model, image, side=side, **right)
        other = apply_in_tiles(model, image, side=side, **{**right, **wrong})
    assert (other - whole).abs().max() > 100 * (exact - whole).abs().max()


def test_tiles_need_room_for_radius_and_stride():
    message = (
        "tiles of 93 pixels; a radius of 45 needs more than twice that: 94 or more, at a total stride of 4"
    )
    image, noise = torch.zeros(1, 1, 100, 100), torch.ones(1)
    with pytest.raises(ValueError, match=message):
        restore_hu(DRUNet(), image, WATER_CENTRED, noise_sd_hu=noise, tile_pixels=93)


def test_with_symmetric_weights_the_network_keeps_flips_and_transposition():
    """No step down, step up or skip is off by a pixel, and rows are treated as columns are."""
    model = trained(DRUNet((3, 4, 5))).double()
    for parameter in model.parameters():
        kernel = parameter.data
        turned = [kernel.flip(axes) for axes in ((), (2,), (3,), (2, 3))]
        parameter.data = sum(turned + [each.mT for each in turned]) / 8
    image = torch.randn(1, 2, 20, 28, dtype=torch.float64)
    for turn in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT):
        assert torch.allclose(model(turn(image)), turn(model(image)), atol=1e-12)


def test_a_shift_on_the_coarsest_raster_shifts_the_result():
    model, image = trained(DRUNet((3, 4, 5), blocks=1)).double(), torch.zeros(1, 2, 96, 96).double()
    image[..., 44:52, 44:52] = torch.randn(1, 2, 8, 8)
    moved = image.roll((4, -8), dims=(-2, -1))
    assert torch.allclose(model(moved), model(image).roll((4, -8), dims=(-2, -1)), atol=1e-12)


def test_slices_of_a_batch_do_not_see_each_other():
    model, images = trained(DRUNet((3, 4))), torch.randn(3, 2, 12, 12)
    assert torch.allclose(model(images)[1:2], model(images[1:2]), atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_every_parameter_learns(bias):
    model = trained(DRUNet((4, 6, 8), bias=bias, neighbours=1)).train()
    (model(torch.randn(2, 4, 20, 20)) - 0.5).square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_features_keep_their_size_in_an_untrained_network():
    """Published depth, where the plain draw for ReLUs would let features grow 2 to the power of 28 times."""
    model, sizes = DRUNet((16, 16, 16, 16), blocks=4), []
    for layer in model.modules():
        if isinstance(layer, ResidualBlock):
            layer.register_forward_hook(lambda _, __, output: sizes.append(output.std().item()))
    with torch.no_grad():
        model(torch.randn(1, 2, 64, 64))
    assert 0.3 < min(sizes) < max(sizes) < 10


@pytest.mark.slow
def test_drunet_learns_to_denoise_at_two_noise_levels():
    model = DRUNet((8, 16))
    clean = interpolate(torch.randn(4, 1, 6, 6), size=24, mode="bicubic")
    sd = torch.tensor([0.1, 0.1, 0.4, 0.4])[:, None, None, None]
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(200):
        noisy = torch.cat([clean + sd * torch.randn(clean.shape), sd.expand(-1, 1, 24, 24)], dim=1)
        error = (model(noisy) - clean).square().mean(dim=(1, 2, 3), keepdim=True)
        optimizer.zero_grad()
        error.mean().backward()
        optimizer.step()
    assert (error < 0.5 * sd.square()).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": [16]}, r"features must name two scales or more, got \[16\]"),
        ({"features": 16}, "features must be a list of whole numbers from 1, got 16"),
        ({"features": [16, 0]}, "features must be a list of whole numbers from 1"),
        ({"blocks": 0}, "blocks must be 1 or more, got 0"),
        ({"bias": 1}, "bias must be true or false, got 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_model("drunet", **arguments)


def test_the_recipe_builds_the_default_network():
    recipe = load_train_settings(RECIPE)
    assert recipe.low_dose is not None
    model = build_model(recipe.model.architecture, **recipe.model.arguments)
    assert isinstance(model, DRUNet)
    assert model.noise_map
    assert parameters(model) == parameters(DRUNet())
