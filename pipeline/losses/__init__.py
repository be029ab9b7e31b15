"""Losses that neither torch nor MONAI has: the two ELBO terms and the adversarial pair."""

from pipeline.losses.adversarial import discriminator_loss, nonsaturating_generator_loss
from pipeline.losses.elbo import gaussian_reconstruction, kl_divergence, kl_per_dimension

__all__ = [
    "discriminator_loss",
    "gaussian_reconstruction",
    "kl_divergence",
    "kl_per_dimension",
    "nonsaturating_generator_loss",
]
