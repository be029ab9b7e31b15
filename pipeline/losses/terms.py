"""Losses by name: the weighted terms whose sum a restoration network minimises."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.hu import LOWEST_HU
from pipeline.losses.features import Encoder, feature_distance
from pipeline.losses.images import (
    absolute_error,
    charbonnier,
    gradient_difference,
    mean_squared_error,
    structural_dissimilarity,
)

ImageLoss = Callable[[Tensor, Tensor], Tensor]
"""(restored, target), both (N, 1, H, W) in network units → scalar."""


@dataclass(frozen=True)
class LossTerm:
    """One summand of a loss.

    Attributes:
        name: of its curve.
        weight: what its value is multiplied with.
        function: the term.

    Raises:
        ValueError: the weight is not a positive number.
    """

    name: str
    weight: float
    function: ImageLoss

    def __post_init__(self) -> None:
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ValueError(f"weight must be positive, got {self.weight}")


MSE: Final = LossTerm("mse", 1.0, mean_squared_error)
"""What a restoration minimises unless its settings say otherwise."""


@dataclass(frozen=True)
class Surroundings:
    """What turns the arguments of settings into those of a loss.

    Attributes:
        zero_hu: HU of the network's 0.
        unit_hu: HU per network unit.
        encoders: ready feature extractors by the path that settings give them.
    """

    zero_hu: float
    unit_hu: float
    encoders: Mapping[str, Encoder]


def _mse(_: Surroundings) -> ImageLoss:
    return mean_squared_error


def _l1(_: Surroundings) -> ImageLoss:
    return absolute_error


def _charbonnier(surroundings: Surroundings, *, epsilon_hu: float) -> ImageLoss:
    return partial(charbonnier, epsilon=epsilon_hu / surroundings.unit_hu)


def _gradient(_: Surroundings) -> ImageLoss:
    return gradient_difference


def _ssim(surroundings: Surroundings, *, data_range_hu: float) -> ImageLoss:
    return partial(
        structural_dissimilarity,
        data_range=data_range_hu / surroundings.unit_hu,
        lowest=(LOWEST_HU - surroundings.zero_hu) / surroundings.unit_hu,
    )


def _features(surroundings: Surroundings, *, encoder: str) -> ImageLoss:
    if encoder not in surroundings.encoders:
        known = ", ".join(surroundings.encoders) or "none"
        raise ValueError(f"no encoder {encoder!r} is loaded; loaded: {known}")
    return partial(feature_distance, surroundings.encoders[encoder])


LOSSES: Final[dict[str, Callable[..., ImageLoss]]] = {
    "mse": _mse,
    "l1": _l1,
    "charbonnier": _charbonnier,
    "gradient": _gradient,
    "ssim": _ssim,
    "features": _features,
}
"""Every `kind` that settings may name; a builder takes the surroundings and the term's own arguments."""


def build_loss_terms(
    terms: Iterable[Mapping[str, Any]],
    *,
    zero_hu: float,
    unit_hu: float,
    encoders: Mapping[str, Encoder] = MappingProxyType({}),
) -> tuple[LossTerm, ...]:
    """The terms of a loss, e.g. of `[{"kind": "l1"}, {"kind": "ssim", "weight": 0.1, "data_range_hu": 400}]`.

    Args:
        terms: `kind`, `weight` (1 where it is missing) and the arguments of the kind; lengths in HU.
        zero_hu: HU of the network's 0.
        unit_hu: HU per network unit.
        encoders: ready feature extractors by the path in the settings.

    Raises:
        ConfigError: a kind is unknown, comes twice, or does not take its arguments.
    """
    surroundings = Surroundings(zero_hu, unit_hu, encoders)
    built = tuple(_build(surroundings, **term) for term in terms)
    names = [term.name for term in built]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"losses name {', '.join(sorted(repeated))} more than once; add up their weights")
    return built


def _build(
    surroundings: Surroundings, kind: str | None = None, weight: float = 1.0, **arguments: Any
) -> LossTerm:
    if kind not in LOSSES:
        raise ConfigError(f"unknown loss {kind!r}; known kinds: {', '.join(LOSSES)}")
    try:
        return LossTerm(kind, weight, LOSSES[kind](surroundings, **arguments))
    except (TypeError, ValueError) as refused:
        given = {"weight": weight, **arguments}
        raise ConfigError(f"loss {kind!r} cannot be built from {given}: {refused}") from refused
