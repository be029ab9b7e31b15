"""Transposed convolutions written as plain ones, which other runtimes compute faster."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn


def flipped(module: nn.Module) -> nn.Module:
    """A copy of a network whose transposed convolutions of stride 1 are plain convolutions.

    A transposed convolution of stride 1 correlates its input, padded with k - 1 - p zeros, with the kernel
    turned by 180° and its input and output channels swapped (Dumoulin and Visin 2016, arXiv:1603.07285,
    relationship 8): the same sums in another order, so equal up to the rounding of float32. Those of a larger
    stride stay as they are.

    Args:
        module: any network; it is left untouched.
    """
    turned = copy.deepcopy(module)
    for name, layer in list(turned.named_modules()):
        if isinstance(layer, nn.ConvTranspose2d) and _can_be_flipped(layer):
            parent, _, child = name.rpartition(".")
            setattr(turned.get_submodule(parent), child, _as_convolution(layer))
    return turned.eval()


def _can_be_flipped(layer: nn.ConvTranspose2d) -> bool:
    return set(layer.stride) == {1} and min(_padding(layer)) >= 0


def _padding(layer: nn.ConvTranspose2d) -> tuple[int, int]:
    (rows, columns), (row_padding, column_padding) = layer.kernel_size, cast(tuple[int, int], layer.padding)
    row_dilation, column_dilation = layer.dilation
    return row_dilation * (rows - 1) - row_padding, column_dilation * (columns - 1) - column_padding


@torch.no_grad()
def _as_convolution(layer: nn.ConvTranspose2d) -> nn.Conv2d:
    """Weights (in, out / groups, rows, columns) become (out, in / groups, rows, columns), turned by 180°."""
    plain = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        (layer.kernel_size[0], layer.kernel_size[1]),
        padding=_padding(layer),
        dilation=(layer.dilation[0], layer.dilation[1]),
        groups=layer.groups,
        bias=layer.bias is not None,
    ).to(layer.weight)
    by_group = layer.weight.reshape(layer.groups, -1, *layer.weight.shape[1:])
    plain.weight.copy_(by_group.transpose(1, 2).flatten(0, 1).flip(-2, -1))
    if layer.bias is not None and plain.bias is not None:
        plain.bias.copy_(layer.bias)
    return plain
