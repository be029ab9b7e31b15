"""Adversarial losses on logits (Goodfellow et al. 2014, arXiv:1406.2661)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """−log D(real) − log(1 − D(fake)), averaged over the batch; D is the sigmoid of the logits (N,)."""
    return softplus(-real_logits.float()).mean() + softplus(fake_logits.float()).mean()


def nonsaturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """−log D(fake), averaged over the batch: its gradient does not vanish when D is sure of a fake."""
    return softplus(-fake_logits.float()).mean()
