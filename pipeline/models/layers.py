"""How the first weights are drawn, and how the last sum stays exact in a restoration network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.inputs import slice_to_restore


def he_normal(layer: nn.Conv2d | nn.ConvTranspose2d, *, linear: bool = False) -> None:
    """Draw the weights of a layer of stride 1 so that it keeps the size of its input; the bias starts at 0.

    He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852: variance 2 / fan-in in front of a ReLU,
    1 / fan-in in front of nothing (`linear`). PyTorch's own draw has a sixth of the former: behind thirty
    layers without skips 1e-8 of the difference between two images is left (with He's, a few per cent).

    The fan-in of a transposed convolution is what PyTorch calls its fan-out: its weights are (in, out, …).
    """
    nn.init.kaiming_normal_(
        layer.weight,
        mode="fan_out" if isinstance(layer, nn.ConvTranspose2d) else "fan_in",
        nonlinearity="linear" if linear else "relu",
    )
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def zero(layer: nn.Module) -> None:
    """Let a layer start with nothing, so that an untrained network with an input skip returns its input."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def corrected_slice(image: Tensor, neighbours: int, correction: Tensor) -> Tensor:
    """The slice to restore plus a correction: float32 on unquantised CT numbers, also under autocast.

    Args:
        image: (N, C, H, W), all channels of the network's input.
        neighbours: slices on either side of the one to restore.
        correction: (N, 1, H, W), in bfloat16 under autocast: exact to 0.4 % of itself.
    """
    return at_least_float32(slice_to_restore(image, neighbours)) + at_least_float32(correction)


def in_float32(layer: nn.Module, features: Tensor) -> Tensor:
    """Run the last layer of a network without input skip outside of autocast.

    Its output is the image itself: in bfloat16 that would come in steps of 8 HU above 1000 HU, where the
    network's unit is 1000 HU.
    """
    with torch.autocast(features.device.type, enabled=False):
        image: Tensor = layer(at_least_float32(features))
    return image


def at_least_float32(values: Tensor) -> Tensor:
    """`values` in float32, or in float64 where they are."""
    return values if values.dtype == torch.float64 else values.float()
