"""The encoder half of our own CT segmenter, as the eye of a feature loss."""

from __future__ import annotations

from copy import deepcopy
from typing import Self

from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets.unet import UNet
from torch import Tensor, nn


class UNetEncoder(nn.Module):
    """Feature maps of a segmentation U-Net on its way down; frozen.

    Gradients pass to the image and never to the weights, which stay in evaluation mode also under `train()`.
    The U-Net that is given stays as it is: its layers are copied.

    Args:
        unet: from `models.unet.unet`, trained.

    Raises:
        ValueError: the network is not built as MONAI builds a `UNet`.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.levels = nn.ModuleList(deepcopy(level) for level in _levels(unet))
        self.requires_grad_(requires_grad=False)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """One feature map per level, fine to coarse, each half the size of the one before.

        Args:
            image: (N, 1, H, W) in the segmenter's window, [0, 1].
        """
        features, maps = image, []
        for level in self.levels:
            features = level(features)
            maps.append(features)
        return tuple(maps)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 (a frozen network has one mode)
        """Stay in evaluation mode."""
        return super().train(mode=False)


def _levels(unet: UNet) -> list[nn.Module]:
    """The blocks on the way down and the bottom: each level is [down, skip around the next level, up]."""
    levels, block = [], unet.model
    while isinstance(block, nn.Sequential) and len(block) == 3 and isinstance(block[1], SkipConnection):
        levels.append(block[0])
        block = block[1].submodule
    if not levels:
        raise ValueError(f"a MONAI UNet is needed, got {type(unet).__name__} without levels")
    return [*levels, block]
