"""Losses that neither torch nor MONAI has in this form: images, features, ELBO, adversarial games."""

from pipeline.losses.adversarial import (
    discriminator_loss,
    gradient_penalty,
    nonsaturating_generator_loss,
    r1_penalty,
    wasserstein_critic_loss,
    wasserstein_generator_loss,
)
from pipeline.losses.elbo import gaussian_reconstruction, kl_divergence, kl_per_dimension
from pipeline.losses.features import Encoder, feature_distance
from pipeline.losses.images import (
    absolute_error,
    charbonnier,
    gradient_difference,
    mean_squared_error,
    structural_dissimilarity,
)
from pipeline.losses.terms import LOSSES, MSE, LossTerm, build_loss_terms

__all__ = [
    "LOSSES",
    "MSE",
    "Encoder",
    "LossTerm",
    "absolute_error",
    "build_loss_terms",
    "charbonnier",
    "discriminator_loss",
    "feature_distance",
    "gaussian_reconstruction",
    "gradient_difference",
    "gradient_penalty",
    "kl_divergence",
    "kl_per_dimension",
    "mean_squared_error",
    "nonsaturating_generator_loss",
    "r1_penalty",
    "structural_dissimilarity",
    "wasserstein_critic_loss",
    "wasserstein_generator_loss",
]
