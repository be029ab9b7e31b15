"""The reconstruction kernel: a window on the ramp that sets resolution against noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Kernel:
    """Apodisation of the ramp filter: a Hann window, with a boost of the frequencies below its end.

    `W(f) = (1 + boost · x²) · ½ (1 + cos πx)` with x = f / cutoff_per_mm, and 0 beyond. With `boost` 0 this
    is a Hann window, a smooth kernel; 2 to 6 give the overshoot of sharp lung and bone kernels.

    Attributes:
        cutoff_per_mm: where the window reaches zero, 1/mm at the isocentre; `math.inf` for the plain ramp.
        boost: share by which high frequencies are raised, at least −1.

    Raises:
        ValueError: a cut-off that is not positive, or a boost below −1.
    """

    cutoff_per_mm: float
    boost: float = 0.0

    def __post_init__(self) -> None:
        if not self.cutoff_per_mm > 0:
            raise ValueError(f"cutoff_per_mm must be positive, got {self.cutoff_per_mm}")
        if not self.boost >= -1:
            raise ValueError(f"boost must be at least -1, got {self.boost}")

    def gain(self, frequency_per_mm: torch.Tensor) -> torch.Tensor:
        """W at these frequencies, float32."""
        x = (frequency_per_mm / self.cutoff_per_mm).float()
        window = (1 + self.boost * x**2) * (0.5 * (1 + torch.cos(math.pi * x)))
        return torch.where(x < 1, window, 0.0)
