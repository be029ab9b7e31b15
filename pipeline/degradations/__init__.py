"""What spoils an image: y = Hx + n."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pipeline.degradations.base import Degradation, Degraded, degrade
from pipeline.degradations.linear import Downsample, GaussianBlur, Identity
from pipeline.degradations.low_dose import LowDose
from pipeline.degradations.masks import Holes, Metal, Strokes
from pipeline.degradations.noise import WhiteNoise
from pipeline.errors import ConfigError

__all__ = [
    "DEGRADATIONS",
    "Degradation",
    "Degraded",
    "Downsample",
    "GaussianBlur",
    "Holes",
    "Identity",
    "LowDose",
    "Metal",
    "Strokes",
    "WhiteNoise",
    "build_degradations",
    "degrade",
]

DEGRADATIONS: Final[dict[str, Callable[..., Degradation]]] = {
    "identity": Identity,
    "blur": GaussianBlur,
    "downsample": Downsample,
    "holes": Holes,
    "strokes": Strokes,
    "metal": Metal,
    "white_noise": WhiteNoise,
    "low_dose": LowDose,
}
"""Every `kind` that settings may name; `low_dose` is for whole slices, all others for patches too."""


def build_degradations(steps: Iterable[Mapping[str, Any]]) -> tuple[Degradation, ...]:
    """The steps of a degradation, e.g. of `[{"kind": "blur", "sigma_mm": 0.8}]`.

    Raises:
        ConfigError: no such kind, or it does not take these arguments.
    """
    return tuple(_build(**step) for step in steps)


def _build(kind: str, **arguments: Any) -> Degradation:
    if kind not in DEGRADATIONS:
        raise ConfigError(f"unknown degradation {kind!r}; known kinds: {', '.join(DEGRADATIONS)}")
    try:
        return DEGRADATIONS[kind](**arguments)
    except (TypeError, ValueError) as refused:
        raise ConfigError(f"degradation {kind!r} cannot be built from {arguments}: {refused}") from refused
