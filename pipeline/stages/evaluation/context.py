"""What every evaluation is given, and how it walks through cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import Tensor, nn

from pipeline.bundle import Bundle
from pipeline.config.evaluate import EvaluateSettings
from pipeline.data import Case, read_cases
from pipeline.data.noise_levels import low_dose_noise_sd_hu
from pipeline.data.patches import spread_slices
from pipeline.errors import DataError
from pipeline.hu import HUScale
from pipeline.models.apply import among_neighbours, neighbours_of, restore_hu, takes_noise_map
from pipeline.models.precision import device_of, ieee_float32, preferred_device, preferred_precision

Metrics = dict[str, Any]
Slice = npt.NDArray[np.float32]

INPUT: Final = "input"
"""A method's name in every table: the low dose as it is."""
RESTORED: Final = "restored"
"""Likewise: what the network makes of it."""


@dataclass(frozen=True)
class Context:
    """Everything around the bundle.

    Attributes:
        settings: of the evaluation.
        test: cases that no choice was made on, see `scored_cases`.
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


@dataclass(frozen=True)
class Denoiser:
    """A denoiser on the device of this machine.

    Attributes:
        model: restoration network in network units.
        scale: that it was trained on.
        bf16: whether its layers run in bfloat16.
    """

    model: nn.Module
    scale: HUScale
    bf16: bool

    @property
    def neighbours(self) -> int:
        """How many slices on either side it sees."""
        return neighbours_of(self.model)

    @property
    def takes_noise_map(self) -> bool:
        """Whether it is told the noise."""
        return takes_noise_map(self.model)

    @ieee_float32()
    def restore(self, seen_hu: npt.NDArray[Any], noise_sd_hu: float | None) -> Slice:
        """Denoise one slice.

        Args:
            seen_hu: (2k + 1, H, W) HU, the slice between its k neighbours on either side.
            noise_sd_hu: global noise level of its series; left aside by a network that is not told it.

        Returns:
            (H, W) HU.
        """
        device = device_of(self.model)
        image = torch.from_numpy(seen_hu.astype(np.float32)).unsqueeze(0).to(device)
        level = None if noise_sd_hu is None else torch.tensor([noise_sd_hu], device=device)
        restored = restore_hu(self.model, image, self.scale, noise_sd_hu=level, bf16=self.bf16)
        return np.asarray(restored[0, 0].cpu())


def denoiser_of(bundle: Bundle) -> Denoiser:
    """The denoiser of a bundle.

    Raises:
        ValueError: the bundle is not a denoiser's.
    """
    model = ready(bundle)
    if bundle.scale is None:
        raise ValueError(f"a denoiser is needed, got a bundle of kind {bundle.kind}")
    return Denoiser(model, bundle.scale, runs_in_bf16(bundle, model))


def restore_with(bundle: Bundle) -> Callable[[Case, int], Slice]:
    """From a case and the number of a slice to what the denoiser makes of its low dose, (H, W) HU.

    A network with neighbours sees those of the case, one with a noise map is told the noise of the case's low
    dose, measured once. The function raises a DataError for a case in which it cannot be.

    Raises:
        ValueError: the bundle is not a denoiser's.
    """
    denoiser = denoiser_of(bundle)

    @cache
    def noise_sd_hu(case: Case) -> float | None:
        return low_dose_noise_sd_hu(case) if denoiser.takes_noise_map else None

    def restore(case: Case, index: int) -> Slice:
        seen_hu = among_neighbours(case.low_dose(), index, denoiser.neighbours)
        return denoiser.restore(seen_hu, noise_sd_hu(case))

    return restore


def scored_cases(bundle: Bundle, folder: Path) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The cases that a bundle is scored on, and those for tuning beside it.

    What a training left out is what it is tested on: all cases of these sources, whatever their role. Without
    such sources it is the cases with the role `test`.

    Args:
        bundle: whose `training` may name `left_out` sources.
        folder: of the ingested cases.

    Raises:
        DataError: there are no such cases.
    """
    left_out = tuple(bundle.training.get("left_out", ()))
    if not left_out:
        return read_cases(folder, "test"), read_cases(folder, "validation")
    test = tuple(case for case in read_cases(folder) if case.source in left_out)
    missing = [source for source in left_out if all(case.source != source for case in test)]
    if missing:
        raise DataError(
            f"{bundle.name} was trained without {', '.join(missing)} to be tested on it, but {folder} has no "
            "case of it; ingest it"
        )
    validation = tuple(case for case in read_cases(folder, "validation") if case.source not in left_out)
    if not validation:
        raise DataError(f"{folder}: no validation case is left without {', '.join(left_out)}; see the splits")
    return test, validation


def runs_in_bf16(bundle: Bundle, model: nn.Module) -> bool:
    """Whether layers run in bfloat16: only a model trained so, and only where the device computes in it.

    On a wide scale (a unit of 4096 HU) bfloat16 moves in steps of 8 HU, which training in float32 never saw.
    """
    return bundle.precision == "bf16" and preferred_precision(device_of(model)) == "bf16"


def to_device(image_hu: npt.NDArray[Any], model: nn.Module) -> Tensor:
    """Slices (N, H, W) as (N, 1, H, W) float32 on the model's device."""
    return torch.from_numpy(np.asarray(image_hu, np.float32)).unsqueeze(1).to(device_of(model))
