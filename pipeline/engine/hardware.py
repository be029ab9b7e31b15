"""Device and arithmetic of a training."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch.utils._triton import has_triton

from pipeline.engine.team import Team, gpu_index
from pipeline.models.precision import ieee_float32, preferred_device, preferred_precision

PrecisionChoice = Literal["auto", "fp32", "bf16"]

_ALONE: Final = Team()


@dataclass(frozen=True)
class Hardware:
    """Where a training runs.

    Attributes:
        device: of the networks.
        bf16: whether layers compute in bfloat16; weights and sums stay float32.
        compile: whether the product's training passes go through `torch.compile`.
    """

    device: torch.device
    bf16: bool
    compile: bool = False


def choose_hardware(precision: PrecisionChoice, team: Team = _ALONE) -> Hardware:
    """This process's GPU where there is one; `auto` takes bfloat16 where the device computes in it natively.

    Networks are compiled on GPUs alone: on CPUs it does not pay.

    Raises:
        ConfigError: there are more processes than GPUs.
    """
    device = preferred_device()
    if device.type == "cuda":
        device = torch.device("cuda", gpu_index(team))
    chosen = preferred_precision(device) if precision == "auto" else precision
    return Hardware(device, bf16=chosen == "bf16", compile=device.type == "cuda" and _has_compiler())


def lightning(hardware: Hardware) -> Fabric:
    """Fabric for one device; bfloat16 is mixed: float32 weights, moments and losses.

    Teams are `pipeline.engine.team`'s business: Fabric does not look for a launcher.
    """
    device = hardware.device
    precision = MixedPrecision("bf16-mixed", device.type) if hardware.bf16 else Precision()
    devices = 1 if device.index is None else [device.index]
    with _without_advice():
        return Fabric(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else devices,
            plugins=[precision, LightningEnvironment()],
        )


@contextmanager
def exact() -> Iterator[None]:
    """Deterministic kernels where torch has them, and IEEE float32; torch's settings are put back.

    To be entered before the first product on a GPU, as cuBLAS reads its variable once; may be nested.
    """
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # its attributes are properties that mypy does not see
    fill = memory.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # a write to every new tensor, for debugging
    torch.backends.cudnn.benchmark = False
    try:
        with ieee_float32():
            yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark


def _has_compiler() -> bool:
    """Whether this machine can build what `torch.compile` generates for a GPU."""
    return has_triton() and any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without the recommendation of TF32 that Fabric prints on every newer GPU."""
    logger = logging.getLogger("lightning_utilities.core.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
