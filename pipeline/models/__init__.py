"""Networks: plain numbers in, plain tensors through; none of them knows HU, files or settings."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final, cast, get_type_hints

from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.cnn10 import CNN10
from pipeline.models.dcgan import DCGANDiscriminator, DCGANGenerator
from pipeline.models.drunet import DRUNet
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
    "DRUNet",
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
    "drunet": DRUNet,
    "cnn10": CNN10,
    "unet": unet,
    "vae": ConvVAE,
    "dcgan": DCGANGenerator,
}
"""Every model that a bundle or a settings file may name."""

_MAY_BE_ZERO: Final = frozenset({"neighbours", "residual_units"})
"""Every other argument that is a whole number counts something a network must have."""


def build_model(name: str, **arguments: object) -> nn.Module:
    """The model `name` with its constructor arguments, e.g. `build_model("redcnn", features=32)`.

    Raises:
        ConfigError: no such model, or it does not take these arguments; they are named as settings files
            write them, `model.arguments.features`.
    """
    if name not in MODELS:
        raise ConfigError(f"unknown model {name!r}; known models: {', '.join(MODELS)}")
    _check_arguments(name, arguments)
    try:
        return MODELS[name](**arguments)
    except (TypeError, ValueError) as refused:
        raise ConfigError(f"model {name!r} cannot be built from {arguments}: {refused}") from refused


def _check_arguments(name: str, arguments: dict[str, object]) -> None:
    """Python would take the text `no` for true, and PyTorch a layer without channels.

    A constructor that takes any keyword checks them itself.
    """
    constructor: Any = MODELS[name]
    known = inspect.signature(constructor).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    types = get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor)
    for argument, value in arguments.items():
        key = f"model.arguments.{argument}"
        if argument not in known:
            near = difflib.get_close_matches(argument, known, n=1, cutoff=0.75)
            hint = f", did you mean {near[0]}?" if near else f"; it takes {', '.join(known)}"
            raise ConfigError(f"{key}: model {name!r} takes no such argument{hint}")
        words, fits = _TYPES[types[argument]]
        if not fits(value):
            raise ConfigError(f"{key} must be {words}, got {value!r}")
        lowest = 0 if argument in _MAY_BE_ZERO else 1
        if types[argument] is int and cast(int, value) < lowest:
            raise ConfigError(f"{key} must be {lowest} or more, got {value!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_counts(values: object) -> bool:
    return isinstance(values, list | tuple) and all(_is_whole(value) and value > 0 for value in values)


_TYPES: Final[dict[object, tuple[str, Callable[[Any], bool]]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", _is_whole),
    int | None: ("a whole number or null", lambda value: value is None or _is_whole(value)),
    Sequence[int]: ("a list of whole numbers from 1", _are_counts),
}
"""What an argument is, by the annotation of its constructor: in words, and whether a value fits."""
