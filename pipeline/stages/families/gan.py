"""The family of generative adversarial networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pipeline.config.train import GANSettings
from pipeline.data import Case
from pipeline.hu import HUWindow
from pipeline.models import DCGANDiscriminator, DCGANGenerator, build_model
from pipeline.objectives import DISCRIMINATOR, Adversarial
from pipeline.stages.families.bundles import Training, blank_bundle
from pipeline.stages.families.slices import slice_batches, validation_slices


def build_gan(
    settings: GANSettings,
    training: Sequence[Case],
    validation: Sequence[Case],
    fingerprint: Mapping[str, Any],
) -> Training:
    """A generator and its discriminator; the bundle is the generator's.

    Raises:
        ConfigError: the model cannot be built.
    """
    data = settings.data
    window = HUWindow(data.window.low, data.window.high)
    arguments = {**settings.model.arguments, "image_size": data.image_size}
    generator = cast(DCGANGenerator, build_model(settings.model.architecture, **arguments))
    objective = Adversarial(
        window, latent_dimensions=generator.latent_dimensions, validation=validation_slices(validation, data)
    )
    discriminator = DCGANDiscriminator(data.image_size, settings.discriminator_features)
    return Training(
        objective=objective,
        networks={Adversarial.product: generator, DISCRIMINATOR: discriminator},
        batches=slice_batches(training, settings),
        bundle=blank_bundle(
            "gan",
            settings,
            arguments,
            fingerprint,
            window=window,
            training={"field_of_view_mm": data.field_of_view_mm},
        ),
    )
