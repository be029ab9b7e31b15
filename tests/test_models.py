import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate

from pipeline.errors import ConfigError
from pipeline.models import (
    CNN10,
    MODELS,
    ConvVAE,
    DCGANDiscriminator,
    DCGANGenerator,
    RedCNN,
    RedNet,
    ResidualCNN,
    build_model,
    unet,
)
from pipeline.models.discriminator import patch_discriminator
from pipeline.models.encoder import UNetEncoder
from pipeline.models.inputs import input_channels, slice_to_restore
from pipeline.models.vae import reparameterise


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


NETWORKS = {
    "redcnn": lambda **options: RedCNN(features=3, **options),
    "redcnn-direct": lambda **options: RedCNN(features=3, residual=False, **options),
    "redcnn-clipped": lambda **options: RedCNN(features=3, final_relu=True, **options),
    "rednet": lambda **options: RedNet(depth=10, features=3, **options),
    "rednet-direct": lambda **options: RedNet(depth=6, features=3, residual=False, **options),
    "rednet-no-skips": lambda **options: RedNet(depth=4, features=3, skip_every=None, **options),
    "residual-cnn": lambda **options: ResidualCNN(depth=5, features=3, **options),
    "cnn10": CNN10,
}
"""One of each kind and variant of restoration network, small."""

RESIDUAL = ["redcnn", "rednet", "rednet-no-skips", "residual-cnn"]


def randomised(model: nn.Module) -> nn.Module:
    """The model with a last layer that is not zero."""
    *_, last = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d))
    nn.init.normal_(last.weight, std=0.05)
    return model


def opened(model: nn.Module) -> nn.Module:
    """The model with positive weights only: no ReLU closes for a positive image, every path counts."""
    for parameter in randomised(model).parameters():
        parameter.data.abs_()
    return model


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_networks_have_the_published_number_of_parameters():
    assert parameters(RedCNN()) == 1_848_865
    assert parameters(CNN10()) == 9 * 9 * 64 + 64 + 9 * 64 * 32 + 32 + 25 * 32 + 1
    for depth in (10, 20, 30):
        assert parameters(RedNet(depth)) == 640 + (depth - 2) * (9 * 64 * 64 + 64) + 577
    assert parameters(ResidualCNN()) == 640 + 15 * (9 * 64 * 64 + 64) + 577


@pytest.mark.parametrize(
    ("model", "radius", "smallest_side"),
    [
        (RedCNN(features=1), 20, 21),
        (RedNet(depth=10, features=1), 10, 1),
        (RedNet(depth=20, features=1), 20, 1),
        (RedNet(depth=30, features=1), 30, 1),
        (ResidualCNN(features=1), 17, 1),
        (CNN10(), 7, 1),
    ],
)
def test_published_networks_see_as_far_as_their_papers_say(model, radius, smallest_side):
    assert (model.receptive_radius, model.smallest_side) == (radius, smallest_side)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("at", [(25, 25), (0, 0), (0, 30), (49, 3), (48, 49), (19, 40)])
def test_a_network_sees_as_far_as_it_says_and_no_farther(name, at):
    """The gradient of one output pixel, in the middle, in a corner and on an edge, in every channel."""
    model = opened(NETWORKS[name](neighbours=1, noise_map=True)).double()
    image = torch.rand(1, 4, 50, 50, dtype=torch.float64, requires_grad=True)
    model(image)[0, 0, *at].backward()
    for channel in image.grad[0]:
        seen = channel.nonzero()
        for axis, here in enumerate(at):
            assert seen[:, axis].min() == max(here - model.receptive_radius, 0)
            assert seen[:, axis].max() == min(here + model.receptive_radius, 49)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_keeps_odd_shapes_down_to_its_smallest_side(name):
    model = randomised(NETWORKS[name](neighbours=2))
    for shape in [(model.smallest_side, 47), (33, model.smallest_side), (29, 24)]:
        restored = model(torch.zeros(2, 5, *shape))
        assert restored.shape == (2, 1, *shape)
        assert restored.dtype == torch.float32


@pytest.mark.parametrize("name", RESIDUAL)
@pytest.mark.parametrize("bf16", [False, True])
def test_an_untrained_residual_network_returns_the_slice_to_restore(name, bf16):
    """Steps of 0.5 HU at 1000 HU per unit, which bfloat16 could not hold, and other values beside them."""
    image = torch.randn(2, 6, 40, 33)
    image[:, 2] = torch.arange(-1320, 1320).reshape(2, 40, 33) / 2000
    model = NETWORKS[name](neighbours=2, noise_map=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        restored = model(image)
    assert restored.dtype == torch.float32
    assert torch.equal(restored, image[:, 2:3])


@pytest.mark.parametrize("name", RESIDUAL)
def test_a_residual_network_adds_a_correction_in_bfloat16_to_an_exact_slice(name):
    """Its error is that of the correction: far below what rounding the image to bfloat16 would cost."""
    image, model = torch.rand(1, 1, 40, 33) + 4, randomised(NETWORKS[name]())
    exact = model(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounding = model(image) - exact
    assert 0 < rounding.norm() < 0.3 * (image.bfloat16().float() - image).norm()


@pytest.mark.parametrize("name", ["redcnn-direct", "rednet-direct", "cnn10"])
def test_a_direct_network_makes_the_image_itself_in_float32(name):
    """Far from its input when untrained, and in steps finer than bfloat16's."""
    image, model = torch.rand(1, 1, 40, 33), NETWORKS[name]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = model(image)
    assert made.dtype == torch.float32
    assert (made - image).abs().max() > 0.1
    assert not torch.equal(made, made.bfloat16().float())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns(name):
    model = randomised(NETWORKS[name](neighbours=1, noise_map=True))
    (model(torch.rand(2, 4, 30, 30)) - 0.5).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model(torch.rand(1, 4, 30, 30)).requires_grad


def test_every_denoiser_says_how_far_it_sees():
    from pipeline.stages.families import ARCHITECTURES

    for architecture in ARCHITECTURES["restoration"]:
        model = MODELS[architecture]()
        assert isinstance(model.receptive_radius, int)
        assert isinstance(model.smallest_side, int)


def test_redcnn_skips_join_where_the_paper_says():
    """The published wiring, written out with functional calls."""
    model, image = randomised(RedCNN(features=3, final_relu=True)), torch.rand(1, 1, 25, 31)
    conv, deconv = model.encoder, model.decoder
    c1 = torch.relu(conv[0](image))
    c2 = torch.relu(conv[1](c1))
    c3 = torch.relu(conv[2](c2))
    c4 = torch.relu(conv[3](c3))
    c5 = torch.relu(conv[4](c4))
    d1 = torch.relu(deconv[0](c5) + c4)
    d2 = torch.relu(deconv[1](d1))
    d3 = torch.relu(deconv[2](d2) + c2)
    d4 = torch.relu(deconv[3](d3))
    assert torch.allclose(model(image), torch.relu(deconv[4](d4) + image), atol=1e-6)


def test_redcnn_without_input_skip_is_redcnn_minus_its_input():
    model, image = randomised(RedCNN(features=3)), torch.rand(1, 1, 25, 31)
    direct = RedCNN(features=3, residual=False)
    direct.load_state_dict(model.state_dict())
    assert torch.allclose(direct(image) + image, model(image), atol=1e-6)


def test_redcnn_names_the_smallest_image():
    with pytest.raises(ValueError, match="at least 21x21"):
        RedCNN(features=2)(torch.zeros(1, 1, 20, 64))


def red10_by_hand(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The published RED10: 5 + 5 layers, skips from convolutions 4 and 2 and from the input."""

    def conv(i: int, features: Tensor) -> Tensor:
        return conv2d(features, weights[f"encoder.{i}.weight"], weights[f"encoder.{i}.bias"], padding=1)

    def deconv(i: int, features: Tensor) -> Tensor:
        weight, bias = weights[f"decoder.{i}.weight"], weights[f"decoder.{i}.bias"]
        return conv_transpose2d(features, weight, bias, padding=1)

    c2 = conv(1, conv(0, x).clamp(min=0)).clamp(min=0)
    c4 = conv(3, conv(2, c2).clamp(min=0)).clamp(min=0)
    c5 = conv(4, c4).clamp(min=0)
    d1 = (deconv(0, c5) + c4).clamp(min=0)
    d3 = (deconv(2, deconv(1, d1).clamp(min=0)) + c2).clamp(min=0)
    return x + deconv(4, deconv(3, d3).clamp(min=0))


def rednet_by_hand(weights: dict[str, Tensor], x: Tensor, *, half: int, skips: dict[int, int]) -> Tensor:
    """RED-Net from its weights: `skips` maps a transposed convolution to the convolution that joins it.

    A transposed convolution is written as the convolution with turned and exchanged weights that it equals.
    """
    outputs, features = [], x
    for i in range(half):
        kernel, bias = weights[f"encoder.{i}.weight"], weights[f"encoder.{i}.bias"]
        features = conv2d(features, kernel, bias, padding=1).clamp(min=0)
        outputs.append(features)
    for j in range(half):
        kernel, bias = weights[f"decoder.{j}.weight"].flip(2, 3).transpose(0, 1), weights[f"decoder.{j}.bias"]
        features = conv2d(features, kernel, bias, padding=1)
        if j + 1 in skips:
            features = features + outputs[skips[j + 1] - 1]
        features = features if j + 1 == half else features.clamp(min=0)
    return x + features


def test_red10_is_wired_as_published():
    model, image = randomised(RedNet(10, features=3)), torch.randn(2, 1, 13, 9)
    assert torch.allclose(model(image), red10_by_hand(model.state_dict(), image), atol=1e-5)


@pytest.mark.parametrize(
    ("depth", "skip_every", "skips"),
    [
        (10, 2, {1: 4, 3: 2}),
        (20, 2, {2: 8, 4: 6, 6: 4, 8: 2}),
        (30, 2, {1: 14, 3: 12, 5: 10, 7: 8, 9: 6, 11: 4, 13: 2}),
        (20, 4, {2: 8, 6: 4}),
        (10, 1, {1: 4, 2: 3, 3: 2, 4: 1}),
        (10, 7, {}),
        (20, None, {}),
        (4, 2, {}),
    ],
)
def test_rednet_skips_join_mirrored_layers(depth, skip_every, skips):
    model = randomised(RedNet(depth, features=3, skip_every=skip_every))
    image = torch.randn(2, 1, 13, 9)
    by_hand = rednet_by_hand(model.state_dict(), image, half=depth // 2, skips=skips)
    assert torch.allclose(model(image), by_hand, atol=1e-4)
    assert not torch.equal(model(image), image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 15}, "depth must be an even number from 4, got 15"),
        ({"depth": 2}, "depth must be an even number from 4, got 2"),
        ({"skip_every": 0}, "skip_every must be 1 or more, or null for no skips, got 0"),
        ({"neighbours": -1}, "neighbours must be 0 or more, got -1"),
    ],
)
def test_rednet_names_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_model("rednet", features=1, **arguments)


def test_an_image_comes_through_red30_without_skips():
    """With PyTorch's own draw of the weights two images would differ by 1e-8 of themselves at the end."""
    model = RedNet(30, features=16, skip_every=None, residual=False)
    image, other = torch.randn(2, 1, 1, 40, 40)
    with torch.no_grad():
        response = (model(image) - model(other)).std() / (image - other).std()
    assert response > 0.005


@pytest.mark.slow
def test_red30_without_skips_learns_to_denoise():
    model = RedNet(30, features=16, skip_every=None, residual=False)
    clean = interpolate(torch.randn(4, 1, 6, 6), size=24, mode="bicubic")
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(150):
        loss = (model(clean + 0.3 * torch.randn(clean.shape)) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * clean.var()


def test_residual_cnn_is_a_chain_of_convolutions():
    model, image = randomised(ResidualCNN(depth=4, features=3)), torch.randn(1, 1, 12, 7)
    features = image
    for layer in model.inner:
        features = conv2d(features, layer.weight, layer.bias, padding=1).clamp(min=0)
    noise = conv2d(features, model.last.weight, model.last.bias, padding=1)
    assert torch.allclose(model(image), image + noise, atol=1e-6)


@pytest.mark.parametrize("noise_map", [False, True])
@pytest.mark.parametrize("neighbours", [0, 1, 3])
def test_channels_are_slices_then_noise_map(neighbours, noise_map):
    channels = input_channels(neighbours, noise_map)
    assert channels == 2 * neighbours + 1 + noise_map
    planes = torch.arange(channels, dtype=torch.float32).reshape(1, -1, 1, 1).expand(2, -1, 3, 4)
    middle = slice_to_restore(planes, neighbours)
    assert middle.shape == (2, 1, 3, 4)
    assert (middle == neighbours).all()


@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 2, 4, 4), (1, 5, 4, 4)])
def test_slice_to_restore_names_other_channels(shape):
    with pytest.raises(ValueError, match=r"1 neighbours on either side it is \(N, 3, H, W\), or \(N, 4"):
        slice_to_restore(torch.zeros(shape), 1)


def test_weights_of_earlier_bundles_fit():
    """Names and shapes that bundles in use have."""
    shapes = {name: tuple(values.shape) for name, values in RedCNN(features=8).state_dict().items()}
    assert shapes["encoder.0.weight"] == (8, 1, 5, 5)
    assert shapes["decoder.4.weight"] == (8, 1, 5, 5)
    assert {name.rsplit(".", 1)[0] for name in shapes} == {
        f"{half}.{i}" for half in ("encoder", "decoder") for i in range(5)
    }


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize(("side", "layers", "logits"), [(64, 3, 6), (24, 3, 1), (33, 1, 14), (6, 1, 1)])
def test_patch_discriminator_gives_a_logit_per_patch(side, layers, logits, spectral_norm):
    model = patch_discriminator(features=4, layers=layers, spectral_norm=spectral_norm)
    values = model(torch.randn(2, 1, side, side))
    assert values.shape == (2, 1, logits, logits)
    assert values.dtype == torch.float32
    assert model.smallest_side <= side


def test_patch_discriminator_sees_70_pixels_and_its_own_image_only():
    model = opened(patch_discriminator(features=2, spectral_norm=False)).double()
    image = torch.rand(2, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    model(image)[0, 0, 9, 9].backward()
    assert (image.grad[1] == 0).all()
    seen = image.grad[0, 0].nonzero()
    assert (seen.max(dim=0).values - seen.min(dim=0).values + 1).tolist() == [70, 70]
    assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_patch_discriminator_takes_gradient_penalties(spectral_norm):
    """The gradient of a gradient reaches every convolution (R1, WGAN-GP), checked against differences."""
    model = patch_discriminator(features=2, layers=1, spectral_norm=spectral_norm).double().eval()
    image = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(model, image)
    (slope,) = torch.autograd.grad(model(image).sum(), image, create_graph=True)
    slope.square().sum().backward()
    for name, parameter in model.named_parameters():
        if "weight" in name:
            assert parameter.grad.abs().max() > 0


def test_patch_discriminator_names_its_limits():
    with pytest.raises(ValueError, match=r"at least 24x24 pixels, got \(1, 1, 23, 64\): take larger patches"):
        patch_discriminator(features=2)(torch.zeros(1, 1, 23, 64))
    with pytest.raises(ValueError, match="must be 1 or more, got 32 and 0"):
        patch_discriminator(layers=0)


def trained_unet() -> nn.Module:
    return unet(classes=3, channels=(4, 6, 8))


@pytest.mark.parametrize("residual_units", [0, 2])
def test_encoder_gives_the_feature_maps_inside_the_unet(residual_units):
    model = unet(classes=3, channels=(4, 6, 8), residual_units=residual_units).eval()
    encoder, image, inside = UNetEncoder(model), torch.rand(2, 1, 16, 24), []
    top = model.model
    second = top[1].submodule
    for block in (top[0], second[0], second[1].submodule):
        block.register_forward_hook(lambda _, __, output: inside.append(output))
    model(image)
    maps = encoder(image)
    assert [tuple(each.shape) for each in maps] == [(2, 4, 8, 12), (2, 6, 4, 6), (2, 8, 4, 6)]
    for ours, theirs in zip(maps, inside, strict=True):
        assert torch.equal(ours, theirs)


def test_encoder_passes_gradients_to_the_image_and_not_to_weights():
    model, image = trained_unet(), torch.rand(1, 1, 16, 16, requires_grad=True)
    encoder = UNetEncoder(model).train()
    for features in encoder(image):
        (gradient,) = torch.autograd.grad(features.square().sum(), image, retain_graph=True)
        assert gradient.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(layer.training for layer in encoder.modules())


def test_encoder_leaves_the_unet_as_it_was():
    model = trained_unet()
    UNetEncoder(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_encoder_stays_frozen_inside_a_network_in_training():
    outer = nn.Sequential(UNetEncoder(trained_unet())).train()
    assert not outer[0].training
    assert not any(layer.training for layer in outer[0].modules())


def test_unet_gives_one_logit_image_per_class():
    assert unet(classes=5, channels=(4, 8, 16))(torch.rand(2, 1, 16, 24)).shape == (2, 5, 16, 24)


@pytest.mark.parametrize("image_size", [8, 32])
def test_vae_returns_image_and_posterior(image_size):
    model = ConvVAE(image_size, latent_dimensions=6, features=4)
    reconstruction, mean, log_variance = model(torch.rand(3, 1, image_size, image_size))
    assert reconstruction.shape == (3, 1, image_size, image_size)
    assert mean.shape == log_variance.shape == (3, 6)


def test_vae_draws_in_training_and_decodes_the_mean_in_evaluation():
    model, image = ConvVAE(16, latent_dimensions=4, features=4), torch.rand(2, 1, 16, 16)
    first, again, other = (model(image, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    model.eval()
    reconstruction, mean, _ = model(image)
    assert torch.equal(reconstruction, model.decode(mean))


def test_reparameterisation_passes_the_gradients_of_a_gaussian_draw():
    """∂z/∂μ = 1 and ∂z/∂σ = ε, here through s = log σ² at σ = 1: ∂z/∂s = ε / 2."""
    mean = torch.zeros(1, 5, requires_grad=True)
    log_variance = torch.zeros(1, 5, requires_grad=True)
    reparameterise(mean, log_variance, torch.Generator().manual_seed(3)).sum().backward()
    noise = torch.randn(1, 5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(mean.grad, torch.ones(1, 5))
    assert torch.allclose(log_variance.grad, noise / 2)


def test_generator_image_does_not_depend_on_its_batch():
    model, code = DCGANGenerator(16, latent_dimensions=8, features=4), torch.randn(4, 8)
    images = model(code)
    assert images.shape == (4, 1, 16, 16)
    assert images.abs().max() <= 1
    assert torch.allclose(images[:1], model(code[:1]), atol=1e-4)


def test_discriminator_layers_have_unit_spectral_norm():
    model = DCGANDiscriminator(16, features=4)
    for _ in range(50):
        logits = model(torch.randn(3, 1, 16, 16))
    assert logits.shape == (3,)
    weights = [
        layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    ]
    assert len(weights) == 3
    for weight in weights:
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_every_model_is_built_by_its_name():
    assert set(MODELS) == {"redcnn", "rednet", "residual_cnn", "drunet", "cnn10", "unet", "vae", "dcgan"}
    assert isinstance(build_model("redcnn", features=8), RedCNN)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_is_built_from_its_own_defaults_given_by_name(name):
    """So the check of arguments knows the type of each, also when a model gains one."""
    given = {
        argument: 2 if parameter.default is inspect.Parameter.empty else parameter.default
        for argument, parameter in inspect.signature(MODELS[name]).parameters.items()
    }
    if isinstance(given.get("features"), int):
        given["features"] = 1
    assert isinstance(build_model(name, **given), nn.Module)


def test_what_may_be_zero_or_null_is_taken():
    assert build_model("rednet", depth=4, features=1, skip_every=None, neighbours=0).skip_every is None
    assert isinstance(build_model("unet", classes=2, channels=[2, 4], residual_units=0), nn.Module)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "redcn",
            {},
            "unknown model 'redcn'; known models: redcnn, rednet, residual_cnn, drunet, cnn10, unet, vae, ",
        ),
        (
            "redcnn",
            {"featurs": 8},
            r"^model\.arguments\.featurs: model 'redcnn' takes no such argument, did you mean features\?$",
        ),
        ("cnn10", {"depth": 8}, "takes no such argument; it takes neighbours, noise_map$"),
        ("redcnn", {"residual": "no"}, r"^model\.arguments\.residual must be true or false, got 'no'$"),
        ("redcnn", {"residual": 0}, "residual must be true or false, got 0"),
        ("redcnn", {"features": True}, "features must be a whole number, got True"),
        ("redcnn", {"features": 8.0}, r"features must be a whole number, got 8\.0"),
        ("redcnn", {"features": None}, "features must be a whole number, got None"),
        ("redcnn", {"features": 0}, r"^model\.arguments\.features must be 1 or more, got 0$"),
        ("redcnn", {"features": -3}, "features must be 1 or more, got -3"),
        ("cnn10", {"neighbours": -1}, r"^model\.arguments\.neighbours must be 0 or more, got -1$"),
        ("rednet", {"skip_every": "none"}, "skip_every must be a whole number or null, got 'none'"),
        ("unet", {"classes": 2, "residual_units": -1}, "residual_units must be 0 or more, got -1"),
        ("unet", {"classes": 2, "channels": [8, 0]}, "channels must be a list of whole numbers from 1"),
        ("unet", {"classes": 2, "channels": "8"}, "channels must be a list of whole numbers from 1, got '8'"),
        ("vae", {"latent_dimensions": 0}, "latent_dimensions must be 1 or more, got 0"),
        ("vae", {"image_size": 30}, "image_size must be 8, 16, 32, …, got 30"),
    ],
)
def test_build_model_names_the_culprit(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_model(name, **arguments)
