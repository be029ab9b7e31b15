"""Which device and arithmetic this machine runs networks with, unless the settings say otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]


def preferred_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next(network.parameters()).device


def preferred_precision(device: torch.device) -> Precision:
    """bfloat16 where `device` computes in it natively; an emulated one would be slower than float32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bf16" if native else "fp32"


@contextmanager
def ieee_float32() -> Iterator[None]:
    """Float32 is IEEE float32 on CUDA too, in products and convolutions; torch's settings are put back.

    cuDNN's convolutions default to TF32, with 10 bits of mantissa: at 1000 HU that is a step of half a HU.
    (torch's older switches, because `torch.compile` reads them, and mixed with the newer ones they raise.)
    """
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
