import math

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from pipeline.losses import (
    discriminator_loss,
    gaussian_reconstruction,
    kl_divergence,
    kl_per_dimension,
    nonsaturating_generator_loss,
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
