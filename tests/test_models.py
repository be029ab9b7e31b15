import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models import MODELS, ConvVAE, DCGANDiscriminator, DCGANGenerator, RedCNN, build_model, unet
from pipeline.models.vae import reparameterise
from pipeline.stages.families import ARCHITECTURES


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomised(model: RedCNN) -> RedCNN:
    """The model with a last layer that is not zero."""
    torch.nn.init.normal_(model.decoder[-1].weight, std=0.01)
    return model


def test_redcnn_has_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in RedCNN(features=96).parameters()) == 1_848_865


def test_untrained_redcnn_returns_its_input():
    image = torch.randn(2, 1, 40, 33)
    assert torch.equal(RedCNN(features=4)(image), image)


@pytest.mark.parametrize("final_relu", [False, True])
@pytest.mark.parametrize("at", [(45, 45), (0, 0), (0, 50), (89, 3), (88, 89), (19, 70)])
def test_redcnn_sees_as_far_as_it_says_and_no_farther(final_relu, at):
    """The gradient of one output pixel, in the middle, in a corner and on an edge."""
    model = randomised(RedCNN(features=4, final_relu=final_relu)).double()
    image = torch.rand(1, 1, 90, 90, dtype=torch.float64, requires_grad=True)
    restored = model(image)
    assert restored[0, 0, *at] > 0
    restored[0, 0, *at].backward()
    seen = image.grad[0, 0].nonzero()
    radius = model.receptive_radius
    assert radius == 20
    for axis, here in enumerate(at):
        assert seen[:, axis].min() == max(here - radius, 0)
        assert seen[:, axis].max() == min(here + radius, 89)


def test_every_denoiser_says_how_far_it_sees():
    for architecture in ARCHITECTURES["restoration"]:
        assert isinstance(MODELS[architecture]().receptive_radius, int)


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


def test_redcnn_keeps_the_shape_of_odd_images():
    assert randomised(RedCNN(features=2))(torch.zeros(1, 1, 21, 47)).shape == (1, 1, 21, 47)


def test_redcnn_names_the_smallest_image():
    with pytest.raises(ValueError, match="at least 21x21"):
        RedCNN(features=2)(torch.zeros(1, 1, 20, 64))


def test_redcnn_input_skip_is_float32_under_bfloat16_autocast():
    ramp = torch.linspace(-1, 3, 64 * 64).reshape(1, 1, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        restored = RedCNN(features=4)(ramp)
    assert restored.dtype == torch.float32
    assert torch.equal(restored, ramp)


def test_redcnn_is_its_input_plus_the_residual():
    model, image = randomised(RedCNN(features=4)), torch.randn(1, 1, 32, 32)
    assert torch.equal(model(image), image + model.residual(image))
    assert model.residual(image).abs().max() > 0


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
    assert set(MODELS) == {"redcnn", "unet", "vae", "dcgan"}
    assert isinstance(build_model("redcnn", features=8), RedCNN)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("redcn", {}, "unknown model 'redcn'; known models: redcnn, unet, vae, dcgan"),
        ("redcnn", {"featurs": 8}, "featurs"),
        ("vae", {"image_size": 30}, "image_size must be 8, 16, 32, …, got 30"),
    ],
)
def test_build_model_names_the_culprit(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_model(name, **arguments)
