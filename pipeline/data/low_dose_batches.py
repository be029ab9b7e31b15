"""Batches whose low dose is made while training: another dose and other noise at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.batches import Batch, Part
from pipeline.data.cases import Case
from pipeline.data.low_dose_choices import Choices, Chooser
from pipeline.data.low_dose_levels import LowDoseLevels, low_dose_levels
from pipeline.data.low_dose_slices import CaseNoise
from pipeline.data.noise_textures import Texture, own_texture, varied_textures
from pipeline.data.patch_batches import check_patch_fits, fits
from pipeline.data.scans import read_or_assumed
from pipeline.errors import ConfigError, DataError
from pipeline.transforms import patch_batches
from pipeline.transforms.batch import (
    AS_SCANNED,
    NOISE_SD,
    PIXEL_MM,
    TURN,
    ZOOM,
    TissueVariety,
    window_side,
    zooms_change,
)

_CORNERS: Final = "corners"
_LOW_DOSE: Final = "low_dose"
_NORMAL_DOSE: Final = "normal_dose"


class LowDoseBatches(Dataset[Batch]):
    """Patches of the normal dose and of a low dose drawn for them, `patches_per_slice` from each slice.

    An epoch shows every slice once. Slices, places, turns, zooms, dose fractions, kernels and tissue come
    from counter-based generators keyed by seed and step (`Chooser`); the noise from the generator that
    `on_device` is given, so no two steps see the same. Keys and shapes are those of `PatchBatches`, without
    neighbours.

    The added noise has the texture of the case's own kernel. With `varied` kernels half of the slices get
    that of a kernel drawn from smooth to sharp ones (`noise_textures`), with as many photons as leave the
    noise at the level of its own texture: at the same photons a sharp kernel's would be up to 2.6 times as
    strong, and a smooth one's hidden by the noise that the normal dose has. That noise, which is in both
    images, keeps the own kernel, and so do edges: it is the texture of what is to be removed that varies.

    What a slice's noise is drawn from is computed when it is first drawn, and stays: 100 to 150 kB for 512²
    pixels and patches of 64, as many times more as patches are wider. It lies on the device; where that of
    all slices would take more than half of a GPU's free memory, it lies on the host and travels at each use.
    On a GPU the host waits for the device when a slice is first drawn, and for nothing else here.

    At the start the scan and the noise levels of each case are read from some slices: seconds per case.

    Args:
        cases: training cases; no low dose is read.
        patch_size: pixels per side, P.
        batch_size: samples of a whole batch, all parts together.
        seed: seed of the run.
        patches_per_slice: patches that share a slice, its dose and its noise.
        dose_fractions: lowest and highest share of the normal dose, drawn evenly.
        photons_per_ray: at normal dose; None to read them from each case's own noise.
        kernel_cutoff_per_mm: where the kernel ends; None to read it from each case's own noise.
        assumed_cutoff_per_mm: of the kernel, where a case's own noise cannot be read; see `read_or_assumed`.
        zooms: magnifications that a sample may have, each as often.
        noise_levels: whether batches say `noise_sd_hu`: level of the sample's series at its dose and zoom, as
            inference finds it in a series (`low_dose_levels`).
        kernels: `own`, or `varied` for other textures too.
        tissue: how far CT numbers vary.
        device: where the training runs.
        progress: hands the cases on while they are read, one after the other.

    Attributes:
        assumed: cases whose scan is assumed in part.
        noise_sd_hu: lowest and highest level of the cases at these doses, zooms, kernels and contrasts; None
            where no case has enough soft tissue to tell.

    Raises:
        ConfigError: the batch is no whole number of slices, or the dose fractions make no sense.
        DataError: a slice is smaller than the window, a case's noise cannot be read, or, where batches say
            it, not be measured.
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
        assumed_cutoff_per_mm: float | None = None,
        zooms: Sequence[float] = (1.0,),
        noise_levels: bool = False,
        kernels: Literal["own", "varied"] = "own",
        tissue: TissueVariety = AS_SCANNED,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
        progress: Callable[[Sequence[Case]], Iterable[Case]] = iter,
    ) -> None:
        _check(batch_size, patches_per_slice, dose_fractions)
        for case in cases:
            check_patch_fits(case, patch_size, zooms)
        self.batch_size = batch_size
        self._patches_per_slice = patches_per_slice
        self._window = window_side(patch_size, zooms)
        self._zooms = np.array(zooms, np.float64)
        self._cases = tuple(cases)
        self._pixels_mm = np.array([case.pixel_mm for case in cases], np.float32)
        self._says_levels = noise_levels
        self._choose = Chooser(
            [case.shape for case in cases],
            seed=seed,
            batch_size=batch_size,
            patches_per_slice=patches_per_slice,
            dose_fractions=dose_fractions,
            window=self._window,
            zooms=len(zooms),
            varied_kernels=kernels == "varied",
            tissue=tissue,
        )
        self._noise: list[CaseNoise] = []
        self._textures: list[tuple[Texture, ...]] = []
        self._levels: list[LowDoseLevels] = []  # of every case where `noise_levels`: else a case is refused
        measured: list[LowDoseLevels | None] = []
        assumed: list[Case] = []
        for case in progress(cases):
            scan, is_assumed = read_or_assumed(
                case,
                photons_per_ray=photons_per_ray,
                kernel_cutoff_per_mm=kernel_cutoff_per_mm,
                assumed_cutoff_per_mm=assumed_cutoff_per_mm,
                device=device,
            )
            if is_assumed:
                assumed.append(case)
            self._noise.append(CaseNoise(case, scan, side=self._window, device=device))
            self._textures.append(
                varied_textures(scan.kernel, case.pixel_mm, zooms)
                if kernels == "varied"
                else (own_texture(scan.kernel, zooms),)
            )
            try:
                levels = low_dose_levels(
                    case, scan, dose_fractions=dose_fractions, zooms=zooms, device=device
                )
            except DataError:
                if noise_levels:
                    raise
                measured.append(None)
            else:
                measured.append(levels)
                self._levels.append(levels)
        self.assumed = tuple(assumed)
        self._keep_where_it_fits(device)
        self.noise_sd_hu = _range(measured, self._textures, tissue)
        self._transform = patch_batches((_LOW_DOSE, _NORMAL_DOSE), patch_size, zooms, tissue)
        self._volumes = self._open()

    def __getitem__(self, part: Part) -> Batch:
        """One part of the batch of a step: windows of the normal dose as stored, and what to do with them.

        Raises:
            ValueError: the batch cannot be cut so, or the part would cut a slice's patches apart.
        """
        chosen = self.choices(part)
        each = self._patches_per_slice
        cases = chosen.places[:, 0].repeat(each)
        batch = {
            _NORMAL_DOSE: self._windows(chosen.places.repeat(each, axis=0), chosen.corners),
            _CORNERS: torch.from_numpy(chosen.corners),
            TURN: torch.from_numpy(chosen.turns),
            PIXEL_MM: torch.from_numpy(self._pixels_mm[cases]),
        } | chosen.tissue
        if self._says_levels:
            batch[NOISE_SD] = self._told_levels(chosen)
        if zooms_change(self._zooms.tolist()):
            batch[ZOOM] = torch.from_numpy(self._zooms[chosen.zooms])
        return batch

    def on_device(self, batch: Batch, part: Part, *, generator: torch.Generator) -> Batch:
        """Float32 patches of both doses, the low one with new noise, turned and magnified.

        The host repeats its choices, so that it need not ask the device for them.
        """
        drawn = dict(batch)
        chosen = self.choices(part)
        corners = torch.split(drawn.pop(_CORNERS), self._patches_per_slice)
        added_hu = [
            self._noise[case]
            .draw(position, dose, self._textures[case][texture], generator=generator)
            .windows_hu(some, self._window)
            for (case, position), dose, texture, some in zip(
                chosen.places.tolist(), chosen.doses.tolist(), chosen.textures.tolist(), corners, strict=True
            )
        ]
        normal_dose = drawn[_NORMAL_DOSE].float()
        drawn |= {_NORMAL_DOSE: normal_dose, _LOW_DOSE: normal_dose + torch.cat(added_hu)[:, None]}
        patches: Batch = self._transform(drawn)
        return patches

    def choices(self, part: Part) -> Choices:
        """Everything random in a part but the noise: by seed and step alone, the same on every call.

        Raises:
            ValueError: as for `__getitem__`.
        """
        return self._choose(part)

    def _told_levels(self, chosen: Choices) -> Tensor:
        """(N,) HU."""
        each = self._patches_per_slice
        cases = chosen.places[:, 0].repeat(each).tolist()
        doses, textures = chosen.doses.repeat(each).tolist(), chosen.textures.repeat(each).tolist()
        return torch.tensor(
            [
                self._levels[case].at(dose, zoom, self._textures[case][texture].zoomed[zoom])
                for case, dose, texture, zoom in zip(
                    cases, doses, textures, chosen.zooms.tolist(), strict=True
                )
            ]
        )

    def _keep_where_it_fits(self, device: torch.device) -> None:
        resident = device.type != "cuda" or fits(sum(noise.bytes_kept for noise in self._noise), device)
        for noise in self._noise:
            noise.resident = resident

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


def _range(
    every_levels: Sequence[LowDoseLevels | None],
    every_textures: Sequence[Sequence[Texture]],
    tissue: TissueVariety,
) -> tuple[float, float] | None:
    found = [
        levels.at(dose, zoom, added)
        for levels, textures in zip(every_levels, every_textures, strict=True)
        if levels is not None
        for dose in levels.dose_fractions.tolist()
        for texture in textures
        for zoom, added in enumerate(texture.zoomed)
    ]
    low, high = tissue.contrast
    return (round(low * min(found), 3), round(high * max(found), 3)) if found else None


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
