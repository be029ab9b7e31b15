"""Distance in the feature maps of a frozen network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Encoder = Callable[[Tensor], Sequence[Tensor]]
"""(N, 1, H, W) in network units → one feature map per level."""


def feature_distance(encoder: Encoder, restored: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of the feature maps of two images, averaged over the levels.

    The "perceptual" loss of Johnson et al. 2016, arXiv:1603.08155, with features of CT slices in place of
    photographs: what it keeps is what the encoder has learned to look at.

    Args:
        encoder: frozen; gradients go through it to `restored`.
        restored: (N, 1, H, W) in network units.
        target: the same shape.

    Raises:
        ValueError: shapes differ, or the encoder gives no feature map.
    """
    if restored.shape != target.shape:
        raise ValueError(f"shapes differ: {tuple(restored.shape)} and {tuple(target.shape)}")
    with torch.autocast(restored.device.type, enabled=False):
        with torch.no_grad():
            aims = [level.float() for level in encoder(target.float())]
        found = [level.float() for level in encoder(restored.float())]
        if not found:
            raise ValueError("the encoder gives no feature map")
        return torch.stack([(one - aim).square().mean() for one, aim in zip(found, aims, strict=True)]).mean()
