"""The encoders of feature losses: halves of our own segmenters, named by the path of their bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.bundle import load_bundle
from pipeline.config.restoration import FeaturesTerm, RestorationSettings
from pipeline.errors import BundleError, ConfigError
from pipeline.hu import HUScale, HUWindow
from pipeline.models.encoder import UNetEncoder
from pipeline.stages.families.restoration.start import check_left_out


@dataclass(frozen=True)
class SegmenterEye:
    """What a segmenter's encoder sees in images that are on a denoiser's scale.

    The images keep their pixels: a segmenter that was trained at another pixel step sees organs larger or
    smaller than it learnt them.

    Attributes:
        encoder: frozen, on the training's device.
        window: HU range that it sees as [0, 1]; outside of it, it sees nothing.
        scale: of the denoiser.
        model_hash: of the segmenter's bundle.
    """

    encoder: UNetEncoder
    window: HUWindow
    scale: HUScale
    model_hash: str

    def features(self, image: Tensor) -> Sequence[Tensor]:
        """Feature maps of (N, 1, H, W) on the denoiser's scale."""
        maps: Sequence[Tensor] = self.encoder(self.window.to_unit(self.scale.to_hu(image)))
        return maps


def load_encoders(
    settings: RestorationSettings, scale: HUScale, device: torch.device
) -> dict[str, SegmenterEye]:
    """The encoders that the losses name, by the path in the settings.

    Args:
        settings: whose terms of kind `features` name bundles, below the project root.
        scale: of the denoiser.
        device: where the training runs.

    Raises:
        ConfigError: a file is not there, or was trained on a source that the settings leave out.
        BundleError: a file is damaged, or no segmenter's bundle.
    """
    paths = [term.encoder for term in settings.losses if isinstance(term, FeaturesTerm)]
    return {path: _load(path, settings, scale, device) for path in paths}


def _load(path: str, settings: RestorationSettings, scale: HUScale, device: torch.device) -> SegmenterEye:
    if not Path(path).is_file():
        raise ConfigError(
            f"losses: the encoder {path} is not there; train that segmenter first (ldct train unet --preset "
            "demo writes models/demo/unet/bundle.safetensors), or name another one's"
        )
    bundle = load_bundle(Path(path), "segmenter")
    check_left_out(f"losses: the encoder {path}", bundle, settings)
    if bundle.window is None:
        raise BundleError(f"{path}: names no HU window; train the segmenter again")
    try:
        encoder = UNetEncoder(bundle.model()).to(device)  # type: ignore[arg-type]  # (checked by the class)
    except (AttributeError, ValueError) as other:
        raise BundleError(f"{path}: {bundle.architecture} has no encoder of ours ({other})") from None
    return SegmenterEye(encoder, bundle.window, scale, bundle.model_hash)
