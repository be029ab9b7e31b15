"""The family of variational autoencoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.train import VAESettings
from pipeline.data import Case
from pipeline.hu import HUWindow
from pipeline.models import build_model
from pipeline.objectives import ELBO
from pipeline.stages.families.bundles import Training, blank_bundle
from pipeline.stages.families.slices import slice_batches, validation_slices


def build_vae(
    settings: VAESettings,
    training: Sequence[Case],
    validation: Sequence[Case],
    fingerprint: Mapping[str, Any],
) -> Training:
    """A variational autoencoder.

    Raises:
        ConfigError: the model cannot be built.
    """
    data = settings.data
    window = HUWindow(data.window.low, data.window.high)
    arguments = {**settings.model.arguments, "image_size": data.image_size}
    objective = ELBO(
        window,
        noise_sd=settings.noise_sd,
        beta=settings.beta,
        warmup_steps=settings.beta_warmup_steps,
        validation=validation_slices(validation, data),
    )
    return Training(
        objective=objective,
        networks={ELBO.product: build_model(settings.model.architecture, **arguments)},
        batches=slice_batches(training, settings),
        bundle=blank_bundle(
            "vae",
            settings,
            arguments,
            fingerprint,
            window=window,
            training={"field_of_view_mm": data.field_of_view_mm, "noise_sd": settings.noise_sd},
        ),
    )
