"""Networks: plain numbers in, plain tensors through; none of them knows HU, files or settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.cnn10 import CNN10
from pipeline.models.dcgan import DCGANDiscriminator, DCGANGenerator
from pipeline.models.redcnn import RedCNN
from pipeline.models.rednet import RedNet
from pipeline.models.residual_cnn import ResidualCNN
from pipeline.models.unet import unet
from pipeline.models.vae import ConvVAE

__all__ = [
    "CNN10",
    "MODELS",
    "ConvVAE",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "RedCNN",
    "RedNet",
    "ResidualCNN",
    "build_model",
    "unet",
]

MODELS: Final[dict[str, Callable[..., nn.Module]]] = {
    "redcnn": RedCNN,
    "rednet": RedNet,
    "residual_cnn": ResidualCNN,
    "cnn10": CNN10,
    "unet": unet,
    "vae": ConvVAE,
    "dcgan": DCGANGenerator,
}
"""Every model that a bundle or a settings file may name."""


def build_model(name: str, **arguments: object) -> nn.Module:
    """The model `name` with its constructor arguments, e.g. `build_model("redcnn", features=32)`.

    Raises:
        ConfigError: no such model, or it does not take these arguments.
    """
    if name not in MODELS:
        raise ConfigError(f"unknown model {name!r}; known models: {', '.join(MODELS)}")
    try:
        return MODELS[name](**arguments)
    except (TypeError, ValueError) as refused:
        raise ConfigError(f"model {name!r} cannot be built from {arguments}: {refused}") from refused
