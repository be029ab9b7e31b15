"""What every evaluation is given, and how it walks through cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import Tensor, nn

from pipeline.bundle import Bundle
from pipeline.config.evaluate import EvaluateSettings
from pipeline.data import Case
from pipeline.data.noise_levels import low_dose_noise_sd_hu
from pipeline.data.patches import spread_slices
from pipeline.errors import DataError
from pipeline.models.apply import among_neighbours, neighbours_of, restore_hu, takes_noise_map
from pipeline.models.precision import device_of, ieee_float32, preferred_device, preferred_precision

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


def ready(bundle: Bundle) -> nn.Module:
    """The bundle's model on the device of this machine."""
    model = bundle.model().to(preferred_device())
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def with_low_dose(cases: Sequence[Case], role: str) -> tuple[Case, ...]:
    """The cases that have a low dose; a line on standard error says how many have not.

    Raises:
        DataError: none has.
    """
    chosen = tuple(case for case in cases if case.has_low_dose)
    if not chosen:
        raise DataError(
            f"no {role} case has a low dose, and without one no denoiser can be scored; "
            "make one from their normal dose with `ldct simulate dose`, or name pairs in the manifest, "
            "and run `ldct ingest` again"
        )
    if left_out := len(cases) - len(chosen):
        Console(stderr=True).print(
            f"{left_out} of {len(cases)} {role} cases left out: no low dose", highlight=False, soft_wrap=True
        )
    return chosen


def restore_with(bundle: Bundle) -> Callable[[Case, int], Slice]:
    """From a case and the number of a slice to what the denoiser makes of its low dose, (H, W) HU.

    A network with neighbours sees those of the case, one with a noise map is told the noise of the case's low
    dose, measured once. The function raises a DataError for a case in which it cannot be.

    Raises:
        ValueError: the bundle is not a denoiser's.
    """
    model, scale = ready(bundle), bundle.scale
    device, bf16, neighbours = device_of(model), runs_in_bf16(bundle, model), neighbours_of(model)
    if scale is None:
        raise ValueError(f"a denoiser is needed, got a bundle of kind {bundle.kind}")

    @cache
    def noise_sd_hu(case: Case) -> Tensor | None:
        if not takes_noise_map(model):
            return None
        return torch.tensor([low_dose_noise_sd_hu(case)], device=device)

    @ieee_float32()
    def restore(case: Case, index: int) -> Slice:
        seen_hu = among_neighbours(case.low_dose(), index, neighbours).astype(np.float32)
        image = torch.from_numpy(seen_hu).unsqueeze(0)
        restored = restore_hu(model, image.to(device), scale, noise_sd_hu=noise_sd_hu(case), bf16=bf16)
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
