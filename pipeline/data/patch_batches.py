"""Batches of patches, cut straight from memory-mapped volumes or from volumes in the device's own memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.batches import Batch, Part
from pipeline.data.cases import Case
from pipeline.data.noise_levels import low_dose_noise_sd_hu
from pipeline.data.patches import SliceOrder
from pipeline.errors import DataError
from pipeline.transforms import patch_batches
from pipeline.transforms.batch import (
    AS_SCANNED,
    NOISE_SD,
    ORIENTATIONS,
    PIXEL_MM,
    TURN,
    ZOOM,
    TissueVariety,
    window_side,
    zooms_change,
)

_WINDOWS: Final = "windows"
_CORNERS: Final = "corners"
_ROW_STEP: Final = "row_step"
_RESIDENT_FRACTION: Final = 0.5
"""Of the device's free memory, that the volumes may take."""

_Volumes = list[tuple[npt.NDArray[np.int16], ...]]


class PatchBatches(Dataset[Batch]):
    """Patches of both doses, or of the normal dose alone, from anywhere in the training slices.

    An epoch shows every slice once. Place, turn, magnification and tissue of the patches come from a
    counter-based generator keyed by seed and step (Philox, Salmon et al. 2011, doi:10.1145/2063384.2063405).

    On the device a batch is `low_dose` (N, 2k+1, P, P) with the slices -k…k around the one to restore (the
    ends of a volume repeat) and `normal_dose` (N, 1, P, P), both float32 HU; `pixel_mm` (N,), the side of a
    pixel; and, if asked for, `noise_sd_hu` (N,), the noise of the case's low dose at the sample's zoom.

    Where all volumes fit into half of a GPU's free memory they lie there and only positions travel; the
    batches are the same.

    Args:
        cases: training cases.
        patch_size: pixels per side, P.
        batch_size: samples of a whole batch, all parts together.
        seed: seed of the run.
        neighbours: slices on either side of the one to restore, k.
        zooms: magnifications that a sample may have, each as often.
        with_low_dose: False where the low dose is made from the normal dose later; the cases need none then.
        noise_levels: whether batches say `noise_sd_hu`.
        tissue: how far CT numbers vary.
        device: where the training runs.

    Raises:
        DataError: a slice is smaller than the window, a case has too few slices for its neighbours or lacks
            the low dose, or its noise cannot be measured.
        ValueError: the zooms or neighbours make no sense, or noise levels are asked of no low dose.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        *,
        patch_size: int,
        batch_size: int,
        seed: int,
        neighbours: int = 0,
        zooms: Sequence[float] = (1.0,),
        with_low_dose: bool = True,
        noise_levels: bool = False,
        tissue: TissueVariety = AS_SCANNED,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
    ) -> None:
        if noise_levels and not with_low_dose:
            raise ValueError("noise levels are those of the low dose; with_low_dose is False")
        self.batch_size = batch_size
        self._seed = seed
        self._window = window_side(patch_size, zooms)
        self._zooms = np.array(zooms, np.float64)
        self._with_low_dose = with_low_dose
        self._around = np.arange(-neighbours, neighbours + 1) if with_low_dose else np.arange(0)
        for case in cases:
            check_patch_fits(case, patch_size, zooms)
            check_neighbours(case, neighbours)
        self._cases = tuple(cases)
        self._volumes = self._open()
        self._shapes = np.array([case.shape for case in cases])
        self._pixels_mm = np.array([case.pixel_mm for case in cases], np.float32)
        self._noise_sd_hu = (
            np.array([[low_dose_noise_sd_hu(case, zoom) for zoom in zooms] for case in cases], np.float32)
            if noise_levels
            else None
        )
        self._order = SliceOrder([case.shape[0] for case in cases], seed)
        self._tissue = tissue
        self._transform = patch_batches((_WINDOWS,), patch_size, zooms, tissue)
        self._device = device
        self.resident = fits(sum(volume.nbytes for some in self._volumes for volume in some), device)

    def __getitem__(self, part: Part) -> Batch:
        """One part of the batch of a step: its windows as stored, or where they lie on the device."""
        share = part.share(self.batch_size)
        chosen = slice(share.start, share.stop)
        draws = np.random.Generator(np.random.Philox(key=[self._seed, part.step]))
        corners = draws.random((self.batch_size, 2))[chosen]
        turns = draws.integers(ORIENTATIONS, size=self.batch_size)[chosen]
        zooms = draws.integers(len(self._zooms), size=self.batch_size)[chosen]
        tissue = self._tissue.draw(draws, chosen, count=self.batch_size)
        first = part.step * self.batch_size
        places = np.array([self._order[first + position] for position in share])
        cases = places[:, 0]
        tops_lefts = (corners * (self._shapes[cases, 1:] - self._window + 1)).astype(np.int64)
        batch = self._corners(places, tops_lefts) if self.resident else self._windows(places, tops_lefts)
        batch |= {TURN: torch.from_numpy(turns), PIXEL_MM: torch.from_numpy(self._pixels_mm[cases])} | tissue
        if self._noise_sd_hu is not None:
            batch[NOISE_SD] = torch.from_numpy(self._noise_sd_hu[cases, zooms])
        if zooms_change(self._zooms.tolist()):
            batch[ZOOM] = torch.from_numpy(self._zooms[zooms])
        return batch

    def on_device(self, batch: Batch, part: Part, *, generator: torch.Generator) -> Batch:  # noqa: ARG002 (protocol)
        """Float32 patches, turned and magnified."""
        if _CORNERS in batch:
            batch = self._gathered(batch)
        patches: Batch = self._transform(batch)
        both = patches.pop(_WINDOWS)
        if self._with_low_dose:
            patches["low_dose"] = both[:, :-1]
        patches["normal_dose"] = both[:, -1:]
        return patches

    def _windows(self, places: npt.NDArray[np.int64], tops_lefts: npt.NDArray[np.int64]) -> Batch:
        """(N, C, W, W) int16: the channels of the low dose, then the normal dose."""
        side = self._window
        windows = np.empty((len(places), len(self._around) + 1, side, side), np.int16)
        channels = self._channels(places).tolist()
        for sample, case, slices, (top, left) in zip(
            windows, places[:, 0].tolist(), channels, tops_lefts.tolist(), strict=True
        ):
            rows, columns = slice(top, top + side), slice(left, left + side)
            low_dose, normal_dose = self._volumes[case][0], self._volumes[case][-1]
            for channel, position in enumerate(slices[:-1]):
                sample[channel] = low_dose[position, rows, columns]
            sample[-1] = normal_dose[slices[-1], rows, columns]
        return {_WINDOWS: torch.from_numpy(windows)}

    def _channels(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(N, C) slice of each channel: the neighbours in the low dose, then the slice in the normal dose."""
        cases, positions = places.T
        around = positions[:, None] + self._around
        return np.column_stack((around.clip(0, self._shapes[cases, :1] - 1), positions))

    def _corners(self, places: npt.NDArray[np.int64], tops_lefts: npt.NDArray[np.int64]) -> Batch:
        """Where each channel's window starts in `_stored`, (N, C), and the step between its rows, (N,)."""
        cases = places[:, 0]
        _, rows, columns = self._shapes[cases].T
        starts = self._starts[cases][:, [0] * len(self._around) + [-1]]
        corners = starts + self._channels(places) * (rows * columns)[:, None]
        corners += (tops_lefts[:, 0] * columns + tops_lefts[:, 1])[:, None]
        return {_CORNERS: torch.from_numpy(corners), _ROW_STEP: torch.from_numpy(columns)}

    def _gathered(self, batch: Batch) -> Batch:
        rest = dict(batch)
        corners, row_step = rest.pop(_CORNERS), rest.pop(_ROW_STEP)
        steps = torch.arange(self._window, device=corners.device)
        rows = corners[:, :, None, None] + row_step[:, None, None, None] * steps[:, None]
        return rest | {_WINDOWS: self._stored[rows + steps]}

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        """(cases, volumes of a case): where each volume starts in `_stored`."""
        sizes = np.array([volume.size for some in self._volumes for volume in some], np.int64)
        return (np.cumsum(sizes) - sizes).reshape(len(self._cases), -1)

    @cached_property
    def _stored(self) -> Tensor:
        """All volumes one after the other on the device, int16; copied when the first batch is asked for."""
        volumes = [volume for some in self._volumes for volume in some]
        stored = torch.empty(sum(volume.size for volume in volumes), dtype=torch.int16, device=self._device)
        start = 0
        for volume in volumes:
            stored[start : start + volume.size] = torch.from_numpy(np.array(volume)).flatten()
            start += volume.size
        return stored

    def _open(self) -> _Volumes:
        """The memory maps as plain arrays: low dose, where it is used, and normal dose of each case."""
        return [
            tuple(
                np.asarray(volume)
                for volume in ((case.low_dose(),) if self._with_low_dose else ()) + (case.normal_dose(),)
            )
            for case in self._cases
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Without volumes: a loading process opens the files itself and never holds what the device holds."""
        return {name: value for name, value in vars(self).items() if name not in ("_volumes", "_stored")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._volumes = self._open()


def check_patch_fits(case: Case, patch_size: int, zooms: Sequence[float]) -> None:
    """Refuse a case whose slices are smaller than a patch at the smallest zoom.

    Raises:
        DataError: they are.
    """
    window = window_side(patch_size, zooms)
    rows, columns = case.shape[1:]
    if min(rows, columns) < window:
        needed = (
            f"data.patch_size {patch_size}"
            if window == patch_size
            else f"the {window}x{window} that data.patch_size {patch_size} needs at data.zooms {min(zooms):g}"
        )
        raise DataError(
            f"case {case.case_id}: slices of {rows}x{columns} pixels are smaller than {needed}; lower "
            f"data.patch_size{'' if window == patch_size else ' or raise data.zooms'}"
        )


def check_neighbours(case: Case, neighbours: int) -> None:
    """Refuse a case with too few slices for the neighbours that a network looks at.

    Raises:
        DataError: it has.
        ValueError: the number is negative.
    """
    if neighbours < 0:
        raise ValueError(f"neighbours must be 0 or more, got {neighbours}")
    if neighbours > case.shape[0] - 1:
        raise DataError(
            f"case {case.case_id}: {case.shape[0]} slices are too few for model.arguments.neighbours "
            f"{neighbours}; lower it to {case.shape[0] - 1} or less, or leave the case out"
        )


def fits(size_bytes: int, device: torch.device) -> bool:
    """Whether volumes of this size may lie in the device's memory: on a GPU, in half of what is free."""
    if device.type != "cuda":
        return False
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return size_bytes <= _RESIDENT_FRACTION * free_bytes
