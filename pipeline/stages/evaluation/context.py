"""What every evaluation is given, and how it walks through cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from pipeline.bundle import Bundle
from pipeline.config.evaluate import EvaluateSettings
from pipeline.data import Case
from pipeline.data.patches import spread_slices
from pipeline.models.apply import restore_hu
from pipeline.models.precision import device_of, preferred_device, preferred_precision

Item = TypeVar("Item")
Metrics = dict[str, Any]
Slice = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Context:
    """Everything around the bundle.

    Attributes:
        settings: of the evaluation.
        test: cases that no choice was made on.
        validation: cases for tuning and for real-vs-real distances.
        folder: where tables and pictures go; exists and is empty.
    """

    settings: EvaluateSettings
    test: Sequence[Case]
    validation: Sequence[Case]
    folder: Path


def chosen_slices(cases: Sequence[Case], slices_per_case: int) -> list[tuple[Case, int]]:
    """Evenly spread slices of each case."""
    return [(case, index) for case in cases for index in spread_slices(case.shape[0], slices_per_case)]


def one_per_anatomy(slices: Sequence[tuple[Case, int]]) -> list[tuple[Case, int]]:
    """For each anatomy the middle one of the slices of its first case."""
    first = {case.anatomy: case for case, _ in reversed(slices)}
    of_case = {
        anatomy: [index for case, index in slices if case is wanted] for anatomy, wanted in first.items()
    }
    return [(first[anatomy], of_case[anatomy][len(of_case[anatomy]) // 2]) for anatomy in sorted(first)]


def progress(items: Sequence[Item], what: str) -> Iterable[Item]:
    """The items, with a bar on standard error where that is a terminal."""
    console = Console(stderr=True)
    return track(items, description=what, console=console, transient=True, disable=not console.is_terminal)


def ready(bundle: Bundle) -> nn.Module:
    """The bundle's model on the device of this machine."""
    model = bundle.model().to(preferred_device())
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def restore_with(bundle: Bundle) -> Callable[[Slice], Slice]:
    """From a low-dose slice (H, W) HU to the denoiser's output.

    Raises:
        ValueError: the bundle is not a denoiser's.
    """
    model, scale = ready(bundle), bundle.scale
    bf16 = runs_in_bf16(bundle, model)
    if scale is None:
        raise ValueError(f"a denoiser is needed, got a bundle of kind {bundle.kind}")

    def restore(image_hu: Slice) -> Slice:
        restored = restore_hu(model, to_device(image_hu[None], model), scale, bf16=bf16)
        return np.asarray(restored[0, 0].cpu())

    return restore


def runs_in_bf16(bundle: Bundle, model: nn.Module) -> bool:
    """Whether layers run in bfloat16: only a model trained so, and only where the device computes in it.

    On a wide scale (a unit of 4096 HU) bfloat16 moves in steps of 8 HU, which training in float32 never saw.
    """
    return bundle.precision == "bf16" and preferred_precision(device_of(model)) == "bf16"


def to_device(image_hu: npt.NDArray[Any], model: nn.Module) -> Tensor:
    """Slices (N, H, W) as (N, 1, H, W) float32 on the model's device."""
    return torch.from_numpy(np.asarray(image_hu, np.float32)).unsqueeze(1).to(device_of(model))
