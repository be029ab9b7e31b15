"""Adversarial losses on logits, and the penalties on a discriminator's slope that keep the game stable.

Logits are (N,) or one per patch, (N, 1, h, w); all losses are means over images and patches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """−log D(real) − log(1 − D(fake)), D being the sigmoid of the logits.

    Goodfellow et al. 2014, arXiv:1406.2661.
    """
    return softplus(-real_logits.float()).mean() + softplus(fake_logits.float()).mean()


def nonsaturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """−log D(fake): its gradient does not vanish when D is sure of a fake."""
    return softplus(-fake_logits.float()).mean()


def wasserstein_critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean(fake) − mean(real): for a critic of slope 1 at most, minus the distance of the two distributions.

    Arjovsky et al. 2017, arXiv:1701.07875.
    """
    return fake_logits.float().mean() - real_logits.float().mean()


def wasserstein_generator_loss(fake_logits: Tensor) -> Tensor:
    """−mean(fake)."""
    return -fake_logits.float().mean()


def r1_penalty(logits: Tensor, inputs: Tensor) -> Tensor:
    """Squared slope of a discriminator at real data, averaged over the batch; the loss takes γ/2 of it.

    Mescheder et al. 2018, arXiv:1801.04406. With P logits per image it is ‖∂(l₁ + … + l_P)/∂image‖² / P: the
    published value for one logit, and for several whose patches do not overlap the mean of their own. (Where
    they overlap, slopes of neighbours in the same direction add up before they are squared.)

    Args:
        logits: (N,) or (N, 1, h, w), made from `inputs` in float32, outside autocast.
        inputs: (N, ...) that require a gradient.

    Raises:
        ValueError: the inputs require no gradient, or the logits have less than float32.
    """
    values = logits.reshape(len(logits), -1)
    return _squared_slope(values.sum(dim=1), inputs).mean() / values.shape[1]


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator
) -> Tensor:
    """Squared difference from 1 of the slope of a critic's mean logit, between real and fake images.

    Gulrajani et al. 2017, arXiv:1704.00028: each pair of images is mixed by a random share. The Wasserstein
    losses judge an image by the mean of its logits, so it is the mean whose slope is held at 1: the critic's
    gap is then a distance of whole images, in the Euclidean norm over their pixels. The critic is called
    outside autocast.

    Args:
        critic: images to logits, (N,) or (N, 1, h, w).
        real: (N, ...).
        fake: the same shape.
        generator: draws the shares; on the images' device.

    Raises:
        ValueError: shapes differ, or the logits have less than float32.
    """
    if real.shape != fake.shape:
        raise ValueError(f"shapes differ: {tuple(real.shape)} and {tuple(fake.shape)}")
    share = torch.rand((len(real), *[1] * (real.ndim - 1)), generator=generator, device=real.device)
    mixed = torch.lerp(fake.detach().float(), real.detach().float(), share).requires_grad_()
    with torch.autocast(real.device.type, enabled=False):
        logits = critic(mixed)
        squares = _squared_slope(logits.reshape(len(mixed), -1).mean(dim=1), mixed)
    # the summand keeps the slope of a critic that is flat from having an infinite derivative
    return ((squares + 1e-12).sqrt() - 1).square().mean()


def _squared_slope(values: Tensor, inputs: Tensor) -> Tensor:
    """(N,) squared gradient of each image's value, `values` (N,), with regard to that image."""
    if not inputs.requires_grad:
        raise ValueError("the inputs require no gradient; call requires_grad_() before the discriminator")
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"a gradient penalty needs float32 logits, got {values.dtype}")
    (gradient,) = torch.autograd.grad(values.sum(), inputs, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1)
