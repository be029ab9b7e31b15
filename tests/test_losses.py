import math

import numpy as np
import pytest
import torch
from monai.losses.ssim_loss import SSIMLoss
from skimage.metrics import structural_similarity
from torch import nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from pipeline.errors import ConfigError
from pipeline.losses import (
    LOSSES,
    MSE,
    LossTerm,
    absolute_error,
    build_loss_terms,
    charbonnier,
    discriminator_loss,
    feature_distance,
    gaussian_reconstruction,
    gradient_difference,
    gradient_penalty,
    kl_divergence,
    kl_per_dimension,
    mean_squared_error,
    nonsaturating_generator_loss,
    r1_penalty,
    structural_dissimilarity,
    wasserstein_critic_loss,
    wasserstein_generator_loss,
)


@pytest.fixture
def posterior():
    generator = torch.Generator().manual_seed(5)
    mean = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return mean, torch.randn(6, 4, generator=generator, dtype=torch.float64)


def test_kl_equals_that_of_torch_distributions(posterior):
    mean, log_variance = posterior
    prior = Normal(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    expected = torch_kl(Normal(mean, (log_variance / 2).exp()), prior).sum(dim=1).mean()
    assert kl_divergence(mean, log_variance).item() == pytest.approx(expected.item())


def test_kl_equals_its_monte_carlo_estimate(posterior):
    mean, log_variance = posterior[0][:1], posterior[1][:1]
    q, p = Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)
    z = mean + q.scale * torch.randn(
        200_000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    estimate = (q.log_prob(z) - p.log_prob(z)).sum(dim=1).mean()
    assert kl_divergence(mean, log_variance).item() == pytest.approx(estimate.item(), rel=0.01)


def test_kl_of_the_prior_is_zero_and_of_a_shift_is_half_its_square():
    assert kl_divergence(torch.zeros(3, 2), torch.zeros(3, 2)) == 0
    assert kl_divergence(torch.tensor([[3.0, 0.0]]), torch.zeros(1, 2)) == 4.5
    assert kl_per_dimension(torch.tensor([[3.0, 0.0]]), torch.zeros(1, 2)).tolist() == [4.5, 0.0]


def test_reconstruction_is_the_negative_log_likelihood_per_image():
    generator = torch.Generator().manual_seed(2)
    image, reconstruction = torch.rand(2, 3, 1, 5, 5, generator=generator)
    expected = -Normal(reconstruction, 0.2).log_prob(image).sum() / 3
    assert gaussian_reconstruction(reconstruction, image, noise_sd=0.2).item() == pytest.approx(
        expected.item()
    )


def test_reconstruction_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="shapes differ"):
        gaussian_reconstruction(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))


def test_undecided_discriminator_costs_log_four():
    assert discriminator_loss(torch.zeros(5), torch.zeros(5)).item() == pytest.approx(math.log(4))
    assert nonsaturating_generator_loss(torch.zeros(5)).item() == pytest.approx(math.log(2))


def test_generator_still_learns_when_the_discriminator_is_sure():
    """At D = sigmoid(-30) the gradient of log(1 − D) has vanished; that of −log D is −1."""
    logits = torch.tensor([-30.0], requires_grad=True)
    nonsaturating_generator_loss(logits).backward()
    assert logits.grad.item() == pytest.approx(-1)
    assert torch.isfinite(discriminator_loss(torch.tensor([-1e4]), torch.tensor([1e4])))


LOWEST = -1.024
"""-1024 HU in network units."""

FLOAT32_SSIM = 2e-4
"""Rounding where the noise of air, 0.02 around 1, is what is left of mean(x²) − mean(x)²."""


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=0):
    """(restored, target) in network units: tissue beside air, with noise of 20 HU."""
    anatomy = torch.where(torch.arange(shape[-1]) < shape[-1] // 3, -1.0, 0.04).expand(shape)
    noise = 0.02 * torch.randn(2, *shape, generator=draws(seed))
    return anatomy + noise[0], anatomy + noise[1]


def of_two_by_two(loss, **arguments):
    """The loss of differences 0, 3, −4 and 0."""
    restored = torch.tensor([[1.0, 4.0], [-3.0, 1.0]])[None, None]
    return loss(restored, torch.ones(1, 1, 2, 2), **arguments).item()


def test_image_losses_by_hand():
    assert of_two_by_two(mean_squared_error) == (9 + 16) / 4
    assert of_two_by_two(absolute_error) == (3 + 4) / 4
    expected = (4 + 4 + 5 + math.sqrt(32)) / 4
    assert of_two_by_two(charbonnier, epsilon=4.0) == pytest.approx(expected)
    # along the rows |−4 − 0| and |0 − 3|, along the columns |3 − 0| and |0 + 4|
    assert of_two_by_two(gradient_difference) == (4 + 3) / 2 + (3 + 4) / 2


def test_gradients_are_blind_to_an_offset_and_charbonnier_nears_the_absolute_error():
    restored, target = images(2, 1, 13, 17)
    assert gradient_difference(target + 0.5, target).item() == pytest.approx(0, abs=1e-6)
    assert charbonnier(restored, target, epsilon=1e-6).item() == pytest.approx(
        absolute_error(restored, target).item(), rel=1e-4
    )


def reference_ssim(restored, target, data_range):
    """scikit-image, in float64."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(restored[:, 0].double().numpy(), target[:, 0].double().numpy(), strict=True)
    return np.mean(
        [
            structural_similarity(one - LOWEST, other - LOWEST, data_range=data_range, **options)
            for one, other in pairs
        ]
    )


@pytest.mark.parametrize("size", [(11, 11), (12, 37), (64, 64)])
def test_ssim_equals_that_of_scikit_image(size):
    restored, target = images(3, 1, *size)
    expected = 1 - reference_ssim(restored, target, 0.4)
    ours = structural_dissimilarity(restored, target, data_range=0.4, lowest=LOWEST)
    assert ours.item() == pytest.approx(expected, abs=FLOAT32_SSIM)


def test_ssim_and_its_gradient_equal_those_of_monai():
    restored, target = (image.requires_grad_(index == 0) for index, image in enumerate(images(2, 1, 20, 24)))
    monai = SSIMLoss(spatial_dims=2, data_range=0.4)(restored - LOWEST, target - LOWEST)
    ours = structural_dissimilarity(restored, target, data_range=0.4, lowest=LOWEST)
    assert ours.item() == pytest.approx(monai.item(), abs=FLOAT32_SSIM)
    gradient, expected = (torch.autograd.grad(loss, restored)[0] for loss in (ours, monai))
    assert (gradient - expected).norm() < 2e-3 * expected.norm()


def test_ssim_is_the_same_on_every_network_scale():
    restored, target = images(2, 1, 24, 24)
    published = [(1000 * image + 1024) / 4096 for image in (restored, target)]
    assert structural_dissimilarity(*published, data_range=400 / 4096, lowest=0.0).item() == pytest.approx(
        structural_dissimilarity(restored, target, data_range=0.4, lowest=LOWEST).item(), abs=FLOAT32_SSIM
    )


def test_one_low_pixel_of_the_target_does_not_change_ssim_elsewhere():
    """A zero at the target's own minimum would move with that pixel, for the whole patch."""
    restored, target = images(1, 1, 24, 64)
    restored.requires_grad_()
    spoilt = target.clone()
    spoilt[..., 12, 60] -= 0.5
    losses = [
        structural_dissimilarity(restored, image, data_range=0.4, lowest=LOWEST) for image in (target, spoilt)
    ]
    whole, beside = (torch.autograd.grad(loss, restored)[0][..., :40] for loss in losses)
    assert (whole - beside).norm() < 1e-5 * whole.norm()


ALL_TERMS = [
    {"kind": "mse"},
    {"kind": "l1"},
    {"kind": "charbonnier", "epsilon_hu": 1.0},
    {"kind": "gradient"},
    {"kind": "ssim", "data_range_hu": 400},
    {"kind": "features", "encoder": "unet"},
]


def encoder():
    """Two levels with fixed weights."""
    torch.manual_seed(0)
    fine, coarse = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3, stride=2)
    for parameter in [*fine.parameters(), *coarse.parameters()]:
        parameter.requires_grad = False

    def levels(image):
        first = torch.tanh(fine(image))
        return first, coarse(first)

    return levels


def built(term):
    (only,) = build_loss_terms([term], zero_hu=0.0, unit_hu=1000.0, encoders={"unet": encoder()})
    return only


def kinds(term):
    return term["kind"]


def test_every_kind_of_loss_is_tested_here():
    assert [term["kind"] for term in ALL_TERMS] == list(LOSSES)


@pytest.mark.parametrize("term", ALL_TERMS, ids=kinds)
def test_the_gradient_of_a_loss_is_that_of_finite_differences(term):
    restored, target = images(1, 1, 13, 12, seed=3)
    restored.requires_grad_()
    loss = built(term).function
    (gradient,) = torch.autograd.grad(loss(restored, target), restored)
    step = 2e-3 * gradient / gradient.norm()
    with torch.no_grad():
        risen = loss(restored + step, target) - loss(restored - step, target)
    assert risen.item() == pytest.approx(2 * (gradient * step).sum().item(), rel=0.02)


@pytest.mark.parametrize("term", ALL_TERMS, ids=kinds)
def test_the_loss_of_a_batch_is_the_mean_over_its_equal_parts(term):
    restored, target = images(4, 1, 15, 16)
    loss = built(term).function
    parts = [loss(restored[part], target[part]).item() for part in (slice(0, 2), slice(2, 4))]
    assert loss(restored, target).item() == pytest.approx(np.mean(parts), rel=1e-5)


@pytest.mark.parametrize("term", ALL_TERMS, ids=kinds)
def test_a_loss_is_float32_whatever_the_network_ran_in(term):
    restored, target = images(2, 1, 16, 16)
    loss = built(term).function
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = loss(restored, target)
    assert under_autocast.dtype == torch.float32
    assert under_autocast.item() == loss(restored, target).item()
    assert loss(restored.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize("term", ALL_TERMS, ids=kinds)
def test_a_loss_refuses_shapes_that_would_broadcast(term):
    with pytest.raises(ValueError, match="shapes differ"):
        built(term).function(torch.zeros(2, 1, 16, 16), torch.zeros(2, 16, 16))


def test_images_too_small_for_a_loss_are_named():
    with pytest.raises(ValueError, match="11x11 pixels or more"):
        structural_dissimilarity(*torch.zeros(2, 1, 1, 10, 30), data_range=1.0, lowest=0.0)
    with pytest.raises(ValueError, match="2x2 pixels or more"):
        gradient_difference(*torch.zeros(2, 1, 1, 1, 30))


def test_features_are_compared_level_by_level():
    restored, target = torch.full((2, 1, 4, 4), 3.0), torch.ones(2, 1, 4, 4)

    def levels(image):
        return image, 2 * image[..., ::2, ::2]

    assert feature_distance(levels, restored, target).item() == (2**2 + 4**2) / 2
    with pytest.raises(ValueError, match="no feature map"):
        feature_distance(lambda _: (), restored, target)


def test_terms_turn_hu_into_network_units():
    restored, target = images(1, 1, 16, 16)
    terms = build_loss_terms(
        [{"kind": "charbonnier", "weight": 2, "epsilon_hu": 8}, {"kind": "ssim", "data_range_hu": 500}],
        zero_hu=-24.0,
        unit_hu=2000.0,
    )
    assert [(term.name, term.weight) for term in terms] == [("charbonnier", 2), ("ssim", 1.0)]
    assert terms[0].function(restored, target) == charbonnier(restored, target, epsilon=0.004)
    assert terms[1].function(restored, target) == structural_dissimilarity(
        restored, target, data_range=0.25, lowest=-0.5
    )
    assert build_loss_terms([{"kind": "mse"}], zero_hu=0.0, unit_hu=1000.0) == (MSE,)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([{"kind": "vgg"}], "unknown loss 'vgg'; known kinds: mse, l1"),
        ([{"weight": 1.0}], "unknown loss None"),
        ([{"kind": "mse"}, {"kind": "mse"}], "mse more than once"),
        ([{"kind": "mse", "weight": 0}], "weight must be positive, got 0"),
        ([{"kind": "mse", "weight": math.inf}], "weight must be positive, got inf"),
        ([{"kind": "ssim"}], "missing 1 required keyword-only argument: 'data_range_hu'"),
        ([{"kind": "l1", "epsilon_hu": 1}], "unexpected keyword argument 'epsilon_hu'"),
        ([{"kind": "features", "encoder": "b"}], "no encoder 'b' is loaded; loaded: none"),
    ],
)
def test_terms_that_cannot_be_built_are_named(terms, message):
    with pytest.raises(ConfigError, match=message):
        build_loss_terms(terms, zero_hu=0.0, unit_hu=1000.0)


def test_losses_check_their_numbers():
    with pytest.raises(ValueError, match="epsilon must be positive, got 0"):
        charbonnier(*torch.zeros(2, 1, 1, 16, 16), epsilon=0)
    with pytest.raises(ValueError, match="data_range must be positive, got -1"):
        structural_dissimilarity(*torch.zeros(2, 1, 1, 16, 16), data_range=-1, lowest=0.0)


def test_a_term_checks_its_weight():
    with pytest.raises(ValueError, match="weight must be positive"):
        LossTerm("mse", -1.0, mean_squared_error)


def test_wasserstein_losses_by_hand():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.0])
    assert wasserstein_critic_loss(real, fake).item() == -2.5
    assert wasserstein_generator_loss(fake).item() == 0.5


def linear(weights):
    """A critic whose slope is `weights` everywhere."""
    return lambda image: (image * weights).flatten(1).sum(dim=1)


def test_gradient_penalty_of_a_linear_critic_is_its_norm_less_one_squared():
    weights = torch.zeros(1, 2, 2)
    weights[0, 0] = torch.tensor([3.0, 4.0])
    real, fake = torch.randn(2, 5, 1, 2, 2, generator=draws())
    assert gradient_penalty(linear(weights), real, fake, draws()).item() == pytest.approx((5 - 1) ** 2)
    assert gradient_penalty(linear(weights / 5), real, fake, draws()).item() == pytest.approx(0, abs=1e-10)


def test_gradient_penalty_looks_between_real_and_fake_and_draws_from_the_generator_alone():
    seen = []

    def critic(image):
        seen.append(image.detach())
        return image.flatten(1).square().sum(dim=1)

    real, fake = torch.ones(64, 1, 2, 2), torch.zeros(64, 1, 2, 2)
    first, second = (gradient_penalty(critic, real, fake, draws(seed)) for seed in (1, 1))
    assert first == second != gradient_penalty(critic, real, fake, draws(2))
    shares = seen[0][:, 0, 0, 0]
    assert (seen[0] == shares[:, None, None, None]).all()  # one share per image
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert shares.mean().item() == pytest.approx(0.5, abs=0.15)
    # the slope of Σ x² is 2 |x|, here 2 × share × √4
    assert first.item() == pytest.approx((4 * shares - 1).square().mean().item(), rel=1e-5)


def test_gradient_penalty_of_a_flat_critic_has_a_finite_gradient():
    weights = torch.zeros(1, 2, 2, requires_grad=True)
    penalty = gradient_penalty(linear(weights), torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2), draws())
    penalty.backward()
    assert penalty.item() == pytest.approx(1, abs=1e-5)
    assert torch.isfinite(weights.grad).all()


def test_r1_of_a_quadratic_by_hand():
    """The slope of a·|x|² is 2 a x, so R1 is 4 a² |x|² and its slope in a is 8 a |x|²."""
    scale = torch.tensor(0.5, requires_grad=True)
    image = torch.tensor([[1.0, 2.0], [0.0, 2.0]], requires_grad=True)
    penalty = r1_penalty(scale * image.square().sum(dim=1), image)
    assert penalty.item() == pytest.approx((5 + 4) / 2)
    penalty.backward()
    assert scale.grad.item() == pytest.approx(8 * 0.5 * (5 + 4) / 2)


def test_r1_is_the_mean_of_separate_patches_and_the_critics_slope_is_that_of_its_mean_logit():
    """Four patches with slopes 1, 2, 3 and 4 in each of their four pixels."""
    slopes = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    def critic(image):
        return 4 * slopes * nn.functional.avg_pool2d(image, 2)

    image = torch.randn(3, 1, 4, 4, generator=draws()).requires_grad_()
    squared = 4 * slopes.square().mean().item()
    assert r1_penalty(critic(image), image).item() == pytest.approx(squared)
    penalty = gradient_penalty(critic, image, torch.zeros_like(image), draws())
    slope_of_the_mean = math.sqrt(4 * (1 + 4 + 9 + 16)) / 4
    assert penalty.item() == pytest.approx((slope_of_the_mean - 1) ** 2, rel=1e-5)


def test_a_critic_without_penalty_tells_images_at_most_their_distance_apart():
    """Its losses use the mean of four logits; each logit alone has slope 2."""

    def critic(image):
        return 2 * nn.functional.avg_pool2d(image, 2) * 2

    near, far = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    assert gradient_penalty(critic, far, near, draws()).item() == pytest.approx(0, abs=1e-10)
    assert -wasserstein_critic_loss(critic(far), critic(near)) == (far - near).norm()


def smooth_critic(image, first, second):
    return (torch.tanh(image @ first) @ second).squeeze(1)


def test_the_penalties_gradients_are_those_of_finite_differences():
    weights = [
        torch.randn(4, 3, generator=draws(1), dtype=torch.float64, requires_grad=True),
        torch.randn(3, 1, generator=draws(2), dtype=torch.float64, requires_grad=True),
    ]
    image = torch.randn(2, 4, generator=draws(3), dtype=torch.float64, requires_grad=True)

    def r1(first, second):
        return r1_penalty(smooth_critic(image, first, second), image)

    def wgan_gp(first, second):
        def critic(mixed):
            return smooth_critic(mixed.double(), first, second)

        return gradient_penalty(critic, image, torch.zeros_like(image), draws())

    assert torch.autograd.gradcheck(r1, weights)
    # the mixed images are float32, and so is their slope
    assert torch.autograd.gradcheck(wgan_gp, weights, eps=1e-3, atol=2e-3, nondet_tol=1e-5)


def test_penalties_refuse_what_is_not_exact_or_has_no_slope():
    image = torch.ones(2, 3)
    with pytest.raises(ValueError, match="require no gradient"):
        r1_penalty(image.sum(dim=1), image)
    image.requires_grad_()
    with pytest.raises(ValueError, match=r"float32 logits, got torch\.bfloat16"):
        r1_penalty(image.bfloat16().sum(dim=1), image)
    with pytest.raises(ValueError, match="shapes differ"):
        gradient_penalty(linear(torch.ones(3)), torch.ones(2, 3), torch.ones(1, 3), draws())


def test_gradient_penalty_calls_the_critic_outside_autocast():
    layer = nn.Linear(3, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gradient_penalty(layer, torch.ones(2, 3), torch.zeros(2, 3), draws())
    assert inside == gradient_penalty(layer, torch.ones(2, 3), torch.zeros(2, 3), draws())
