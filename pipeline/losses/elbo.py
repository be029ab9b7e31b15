"""The two terms of the evidence lower bound, in nats per image."""

from __future__ import annotations

import math

from torch import Tensor


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z|x) ‖ N(0, I)) of diagonal Gaussians: summed over latent dimensions, averaged over the batch.

    ½ Σ (exp(s) + μ² − 1 − s) with s = log σ²; Kingma and Welling 2014, arXiv:1312.6114, appendix B.

    Args:
        mean: (N, L) posterior means μ.
        log_variance: (N, L) logarithms of the posterior variances.
    """
    return kl_per_dimension(mean, log_variance).sum()


def kl_per_dimension(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The same divergence for each latent dimension, (L,) nats, averaged over the batch."""
    terms = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance)
    return terms.mean(dim=0)


def gaussian_reconstruction(reconstruction: Tensor, image: Tensor, *, noise_sd: float = 1.0) -> Tensor:
    """−log p(x|z) of a Gaussian with a fixed SD: summed over pixels, averaged over the batch.

    Args:
        reconstruction: (N, ...) decoder means.
        image: (N, ...) targets.
        noise_sd: standard deviation of a pixel, in the images' units; small values weigh reconstruction
            against the KL term.

    Raises:
        ValueError: shapes differ, or `noise_sd` is not positive.
    """
    if reconstruction.shape != image.shape:
        raise ValueError(f"shapes differ: {tuple(reconstruction.shape)} and {tuple(image.shape)}")
    if not noise_sd > 0:
        raise ValueError(f"noise_sd must be positive, got {noise_sd}")
    squares = (reconstruction.float() - image.float()).square().flatten(1).sum(dim=1)
    pixels = image[0].numel()
    log_normaliser = pixels * math.log(noise_sd * math.sqrt(2 * math.pi))
    return squares.mean() / (2 * noise_sd**2) + log_normaliser
