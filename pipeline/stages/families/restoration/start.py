"""The first weights of a denoiser where they are another denoiser's: for fine-tuning."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pipeline.bundle import Bundle, load_bundle
from pipeline.config.restoration import RestorationSettings
from pipeline.errors import ConfigError
from pipeline.hu import HUScale


def load_start(network: nn.Module, settings: RestorationSettings, scale: HUScale) -> str | None:
    """Give a network the weights that the settings start from.

    Args:
        network: freshly built from the settings.
        settings: whose `start_from` names a bundle, below the project root.
        scale: of the network.

    Returns:
        The bundle's model hash; None where nothing is named, and the network stays as it is.

    Raises:
        ConfigError: the file is not there, holds another network or scale than the settings, or was trained
            on a source that they leave out.
        BundleError: the file is damaged, or no denoiser's bundle.
    """
    path = settings.start_from
    if path is None:
        return None
    if not Path(path).is_file():
        raise ConfigError(
            f"start_from: {path} is not there; train that denoiser first, or name another one's"
        )
    bundle = load_bundle(Path(path), "denoiser")
    _check(bundle, settings, scale)
    network.load_state_dict(bundle.model().state_dict())
    return bundle.model_hash


def check_left_out(named: str, bundle: Bundle, settings: RestorationSettings) -> None:
    """A source that a training leaves out must not come in by what it takes from another bundle.

    Args:
        named: the setting and the bundle, for the error.
        bundle: that the training takes something from.
        settings: of the training.

    Raises:
        ConfigError: the bundle does not leave out all that the settings do.
    """
    seen = sorted(set(settings.leave_out) - set(bundle.training.get("left_out", ())))
    if seen:
        raise ConfigError(
            f"{named} was trained on {', '.join(seen)}, which leave_out names; "
            "name a bundle that left it out too"
        )


def _check(bundle: Bundle, settings: RestorationSettings, scale: HUScale) -> None:
    model = settings.model
    held = (bundle.architecture, dict(bundle.arguments), bundle.scale)
    asked = (model.architecture, model.arguments, scale)
    if held != asked:
        raise ConfigError(
            f"start_from: {settings.start_from} holds {held[0]} {held[1]} at {held[2]}, the settings ask for "
            f"{asked[0]} {asked[1]} at {asked[2]}; make model and data.scale those of the bundle"
        )
    check_left_out(f"start_from: {settings.start_from}", bundle, settings)
