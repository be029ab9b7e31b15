"""How far a network in another engine or precision is from its float32 original, in HU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from pipeline.models.apply import neighbours_of
from pipeline.models.inputs import slice_to_restore

Precision = Literal["fp32", "bf16", "int8"]

TOLERANCE: Final[dict[str, float]] = {"fp32": 0.001, "bf16": 0.05, "int8": 0.05}
"""RMS of the difference that each precision may make, as a share of the correction's RMS."""
ROUNDING_HU: Final = 0.02
"""RMS of a difference that is always allowed: a network that corrects next to nothing has no 5 % to give."""


@dataclass(frozen=True)
class Agreement:
    """Difference of two networks over all pixels of some slices.

    Attributes:
        max_hu: largest difference of a pixel.
        rms_hu: root mean square of the difference.
        correction_rms_hu: root mean square of what the original takes away or adds.
    """

    max_hu: float
    rms_hu: float
    correction_rms_hu: float

    @property
    def share(self) -> float:
        """RMS of the difference over that of the correction; 0 where there is no difference."""
        if self.rms_hu == 0:
            return 0.0
        return self.rms_hu / self.correction_rms_hu if self.correction_rms_hu else math.inf

    def within(self, precision: Precision) -> bool:
        """Whether `TOLERANCE` allows it; values that are not finite never pass."""
        return self.rms_hu <= max(TOLERANCE[precision] * self.correction_rms_hu, ROUNDING_HU)

    def __str__(self) -> str:
        return (
            f"largest difference {self.max_hu:.3g} HU, RMS {self.rms_hu:.3g} HU, "
            f"{100 * self.share:.2g} % of the correction's {self.correction_rms_hu:.3g} HU"
        )


@torch.no_grad()
def compare(original: nn.Module, other: nn.Module, images: Sequence[Tensor], *, unit_hu: float) -> Agreement:
    """Both networks on the same inputs.

    Args:
        original: in float32, on the CPU.
        other: the same network, computed otherwise.
        images: (N, C, H, W) each, in network units, see `models.inputs`.
        unit_hu: HU per network unit.

    Raises:
        ValueError: no image is given.
    """
    if not images:
        raise ValueError("networks are compared on images, got none")
    differences, corrections = [], []
    for image in images:
        restored = original(image)
        differences.append((other(image) - restored).flatten())
        corrections.append((restored - slice_to_restore(image, neighbours_of(original))).flatten())
    difference_hu = unit_hu * torch.cat(differences).double()
    correction_hu = unit_hu * torch.cat(corrections).double()
    return Agreement(
        max_hu=difference_hu.abs().max().item(),
        rms_hu=difference_hu.square().mean().sqrt().item(),
        correction_rms_hu=correction_hu.square().mean().sqrt().item(),
    )
