"""Settings of a restoration that cannot work together, each told in one line before the training starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import nn

from pipeline.config.restoration import RestorationSettings
from pipeline.data import Case
from pipeline.errors import ConfigError, DataError
from pipeline.hu import AIR_HU, HUScale
from pipeline.models.apply import neighbours_of, takes_noise_map

_CASES_NAMED: Final = 3


def check_network(network: nn.Module, settings: RestorationSettings, scale: HUScale) -> None:
    """Refuse a network that clips air, is larger than its patches, or takes what its input does not have.

    Raises:
        ConfigError: it does.
    """
    if getattr(network, "final_relu", False) and scale.zero_hu > AIR_HU:
        raise ConfigError(
            f"model.arguments.final_relu clips what is below data.scale.zero_hu {scale.zero_hu:g} HU, air "
            "(-1000 HU) too; set final_relu: false, or zero_hu: -1024 and unit_hu: 4096 as published"
        )
    check_patch_size("model", network, settings.data.patch_size)
    made = _made_by(settings)
    if made is not None and neighbours_of(network):
        raise ConfigError(
            f"model.arguments.neighbours {neighbours_of(network)} needs stored neighbouring slices, but "
            f"{made} makes single ones; set neighbours: 0, or remove {made}"
        )
    if settings.error_unit == "noise_sd" and not takes_noise_map(network):
        raise ConfigError(
            "error_unit noise_sd needs the noise level, which only a network with a noise map is told; set "
            "model.arguments.noise_map: true, or error_unit: hu"
        )
    if made == "degradation" and takes_noise_map(network):
        raise ConfigError(
            "model.arguments.noise_map needs the noise of the input, which is not known after a degradation; "
            "set noise_map: false, or remove degradation"
        )


def check_patch_size(where: str, network: nn.Module, patch_size: int) -> None:
    """Refuse patches that do not pass through a network.

    Args:
        where: the network's key in the settings.
        network: may state a `smallest_side`.
        patch_size: pixels per side.

    Raises:
        ConfigError: the patches are too small.
    """
    smallest = getattr(network, "smallest_side", 1)
    if patch_size < smallest:
        raise ConfigError(
            f"data.patch_size {patch_size} is too small for {where}, which needs {smallest} pixels or more; "
            "raise it"
        )


def check_low_dose(cases: Sequence[Case], settings: RestorationSettings) -> None:
    """Refuse cases without a low dose where the settings do not make one.

    Raises:
        DataError: some lack it.
    """
    lacking = [case.case_id for case in cases if not case.has_low_dose]
    if lacking and _made_by(settings) is None:
        named = ", ".join(lacking[:_CASES_NAMED]) + (", …" if len(lacking) > _CASES_NAMED else "")
        raise DataError(
            f"{len(lacking)} of {len(cases)} {cases[0].role} cases have no low dose ({named}); give the "
            "settings low_dose or degradation, which make the input from the normal dose, or leave them out"
        )


def _made_by(settings: RestorationSettings) -> str | None:
    """Which block makes the input from the normal dose."""
    if settings.low_dose is not None:
        return "low_dose"
    return None if settings.degradation is None else "degradation"
