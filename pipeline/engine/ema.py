"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """A copy of a network whose weights follow the trained ones slowly.

    The decay at step t is min(decay, (1 + t) / (10 + t)), so that the random start is soon forgotten.

    Args:
        network: what to follow.
        decay: share of the average that a step keeps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow `network` after `step` earlier updates; buffers are copied."""
        decay = min(self._decay, (1 + step) / (10 + step))
        averages: list[Tensor] = list(self.network.parameters())
        weights: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for copied, value in zip(self.network.buffers(), network.buffers(), strict=True):
            copied.copy_(value)
