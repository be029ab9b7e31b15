"""Device and arithmetic of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from pipeline.models.precision import preferred_device, preferred_precision

PrecisionChoice = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Hardware:
    """Where a training runs, and whether its layers compute in bfloat16 (weights and sums stay float32)."""

    device: torch.device
    bf16: bool


def choose_hardware(precision: PrecisionChoice) -> Hardware:
    """The GPU where there is one; `auto` takes bfloat16 where the device computes in it natively."""
    device = preferred_device()
    chosen = preferred_precision(device) if precision == "auto" else precision
    return Hardware(device, bf16=chosen == "bf16")


@contextmanager
def deterministic() -> Iterator[None]:
    """Have torch choose deterministic kernels where it has them, and leave its settings as they were."""
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
