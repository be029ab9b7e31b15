"""Batches whose low dose is made while training: another dose and other noise at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.batches import Batch, Part
from pipeline.data.cases import Case
from pipeline.data.low_dose_slices import (
    CaseNoise,
    case_acquisition,
    pixel_side_mm,
)
from pipeline.data.noise_levels import normal_dose_noise_sd_hu
from pipeline.data.patch_batches import check_patch_fits
from pipeline.data.patches import SliceOrder
from pipeline.errors import ConfigError
from pipeline.transforms import patch_batches
from pipeline.transforms.batch import ORIENTATIONS, PIXEL_MM, TURN, ZOOM, window_side, zooms_change

_PLACES: Final = "places"
_CORNERS: Final = "corners"
_DOSES: Final = "dose_fractions"
_OWN_SD: Final = "own_sd_hu"
"""Batch keys on the way to the device; the last: SD of the normal dose as it is, and at the sample's zoom."""
_LOW_DOSE: Final = "low_dose"
_NORMAL_DOSE: Final = "normal_dose"


class LowDoseBatches(Dataset[Batch]):
    """Patches of the normal dose and of a low dose drawn for them, `patches_per_slice` from each slice.

    An epoch shows every slice once. Slices, places, turns, zooms and dose fractions come from counter-based
    generators keyed by seed and step; the noise from the generator that `on_device` is given, so no two steps
    see the same. Keys and shapes are those of `PatchBatches`, without neighbours.

    What a slice's noise is drawn from is computed when it is first drawn, and stays on the device: 100 to 150
    kB for 512² pixels and patches of 64, as many times more as patches are wider.

    Args:
        cases: training cases; no low dose is read.
        patch_size: pixels per side, P.
        batch_size: samples of a whole batch, all parts together.
        seed: seed of the run.
        patches_per_slice: patches that share a slice, its dose and its noise.
        dose_fractions: lowest and highest share of the normal dose, drawn evenly in their logarithm.
        photons_per_ray: at normal dose; None to read them from each case's own noise.
        kernel_cutoff_per_mm: where the kernel ends; None to read it from each case's own noise.
        zooms: magnifications that a sample may have, each as often.
        noise_levels: whether batches say `noise_sd_hu`: SD in soft tissue of the slice drawn, own noise and
            added noise together, at the sample's zoom.
        device: where the training runs.

    Raises:
        ConfigError: the batch is no whole number of slices, or the dose fractions make no sense.
        DataError: a slice is smaller than the window, or a case's noise cannot be read.
        ValueError: the zooms make no sense.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        *,
        patch_size: int,
        batch_size: int,
        seed: int,
        patches_per_slice: int,
        dose_fractions: tuple[float, float],
        photons_per_ray: float | None,
        kernel_cutoff_per_mm: float | None,
        zooms: Sequence[float] = (1.0,),
        noise_levels: bool = False,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
    ) -> None:
        _check(batch_size, patches_per_slice, dose_fractions)
        for case in cases:
            check_patch_fits(case, patch_size, zooms)
        self.batch_size = batch_size
        self._seed = seed
        self._patches_per_slice = patches_per_slice
        self._lowest, self._highest = (math.log(fraction) for fraction in dose_fractions)
        self._window = window_side(patch_size, zooms)
        self._zooms = np.array(zooms, np.float64)
        self._cases = tuple(cases)
        self._shapes = np.array([case.shape for case in cases])
        self._pixels_mm = np.array([pixel_side_mm(case) for case in cases], np.float32)
        given = {"photons_per_ray": photons_per_ray, "kernel_cutoff_per_mm": kernel_cutoff_per_mm}
        self._noise = [
            CaseNoise(case, case_acquisition(case, device=device, **given), side=self._window, device=device)
            for case in cases
        ]
        self._own_sd_hu = (
            np.array(
                [[normal_dose_noise_sd_hu(case, zoom) for zoom in (1.0, *zooms)] for case in cases],
                np.float32,
            )
            if noise_levels
            else None
        )
        self._order = SliceOrder([case.shape[0] for case in cases], seed)
        self._transform = patch_batches((_LOW_DOSE, _NORMAL_DOSE), patch_size, zooms)
        self._volumes = self._open()

    def __getitem__(self, part: Part) -> Batch:
        """One part of the batch of a step: windows of the normal dose as stored, and what to do with them.

        Raises:
            ValueError: the batch cannot be cut so, or the part would cut a slice's patches apart.
        """
        share, each = part.share(self.batch_size), self._patches_per_slice
        if len(share) % each:
            raise ValueError(
                f"{part.count} parts of a batch of {self.batch_size} have {len(share)} samples each, no "
                f"multiple of patches_per_slice {each}"
            )
        samples = slice(share.start, share.stop)
        slices = slice(share.start // each, share.stop // each)
        count = self.batch_size // each
        draws = np.random.Generator(np.random.Philox(key=[self._seed, part.step]))
        corners = draws.random((self.batch_size, 2))[samples]
        turns = draws.integers(ORIENTATIONS, size=self.batch_size)[samples]
        zooms = draws.integers(len(self._zooms), size=self.batch_size)[samples]
        doses = np.exp(draws.uniform(self._lowest, self._highest, size=count))[slices]
        places = np.array([self._order[part.step * count + place] for place in range(count)[slices]])
        cases = places[:, 0].repeat(each)
        corners = (corners * (self._shapes[cases, 1:] - self._window + 1)).astype(np.int64)
        batch = {
            _NORMAL_DOSE: self._windows(places.repeat(each, axis=0), corners),
            _PLACES: torch.from_numpy(places),
            _CORNERS: torch.from_numpy(corners),
            _DOSES: torch.from_numpy(doses),
            TURN: torch.from_numpy(turns),
            PIXEL_MM: torch.from_numpy(self._pixels_mm[cases]),
        }
        if self._own_sd_hu is not None:
            batch[_OWN_SD] = torch.from_numpy(
                np.stack([self._own_sd_hu[cases, 0], self._own_sd_hu[cases, 1 + zooms]], axis=1)
            )
        if zooms_change(self._zooms.tolist()):
            batch[ZOOM] = torch.from_numpy(self._zooms[zooms])
        return batch

    def on_device(self, batch: Batch, *, generator: torch.Generator) -> Batch:
        """Float32 patches of both doses, the low one with new noise, turned and magnified."""
        drawn = dict(batch)
        places, doses = drawn.pop(_PLACES).tolist(), drawn.pop(_DOSES).tolist()
        corners = torch.split(drawn.pop(_CORNERS), self._patches_per_slice)
        noises = [
            self._noise[case].draw(position, dose, generator=generator)
            for (case, position), dose in zip(places, doses, strict=True)
        ]
        added_hu = [noise.windows_hu(some, self._window) for noise, some in zip(noises, corners, strict=True)]
        normal_dose = drawn[_NORMAL_DOSE].float()
        drawn |= {_NORMAL_DOSE: normal_dose, _LOW_DOSE: normal_dose + torch.cat(added_hu)[:, None]}
        if _OWN_SD in drawn:
            here, zoomed = drawn.pop(_OWN_SD).unbind(1)
            sd_hu = torch.stack([noise.soft_tissue_sd_hu() for noise in noises])
            added = sd_hu.repeat_interleave(self._patches_per_slice) / here
            drawn["noise_sd_hu"] = zoomed * (1 + added.square()).sqrt()
        patches: Batch = self._transform(drawn)
        return patches

    def _windows(self, places: npt.NDArray[np.int64], corners: npt.NDArray[np.int64]) -> Tensor:
        """(N, 1, W, W) int16."""
        side = self._window
        windows = [
            self._volumes[case][position, top : top + side, left : left + side]
            for (case, position), (top, left) in zip(places.tolist(), corners.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(windows)[:, None])

    def _open(self) -> list[npt.NDArray[np.int16]]:
        return [np.asarray(case.normal_dose()) for case in self._cases]

    def __getstate__(self) -> dict[str, Any]:
        """Without volumes: a loading process opens the files itself."""
        return {name: value for name, value in vars(self).items() if name != "_volumes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._volumes = self._open()


def _check(batch_size: int, patches_per_slice: int, dose_fractions: tuple[float, float]) -> None:
    if patches_per_slice < 1 or batch_size % patches_per_slice:
        raise ConfigError(
            f"batch_size {batch_size} is no multiple of low_dose.patches_per_slice {patches_per_slice}; "
            "change one of them"
        )
    low, high = dose_fractions
    if not 0 < low <= high < 1:
        raise ConfigError(
            "low_dose.dose_fractions must rise and lie between 0 and 1, both excluded, got "
            f"{low:g} and {high:g}"
        )
