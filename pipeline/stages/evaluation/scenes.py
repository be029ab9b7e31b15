"""Windows around uniform tissue of a case, at lower doses, with other noise every time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bundle import Bundle
from pipeline.data import Case
from pipeline.data.low_dose_levels import low_dose_levels
from pipeline.data.low_dose_slices import case_acquisition, normal_dose_hu, visible_pixels
from pipeline.data.patches import spread_slices
from pipeline.dose.insertion import Acquisition
from pipeline.dose.realisations import NoiseRealisations
from pipeline.dose.regions import uniform_regions
from pipeline.errors import DataError
from pipeline.models.precision import device_of, preferred_device
from pipeline.projector import Kernel
from pipeline.stages.bars import progress
from pipeline.stages.evaluation.context import Slice, denoiser_of

Found = TypeVar("Found")

Restore = Callable[[Slice, Case], Slice]
"""From a window (W, W) HU and its case, whose `dose_fraction` is the window's, to a window."""

ScanOf = Callable[[Case], Acquisition]
"""The scan behind a case's normal dose; raises a DataError where it cannot tell."""

INPUT: Final = "input"
RESTORED: Final = "restored"

WINDOW_PIXELS: Final = 96
"""What a denoiser sees around a place: the noise in it takes nearly all of the time."""
ROI_PIXELS: Final = 64
"""What an observer sees of it, with the place on pixel `ROI_PIXELS // 2` of both axes."""

_SLICES_LOOKED_AT: Final = 8
_MANY_TIMES: Final = 1000.0
"""The noise that a scan of so many times the dose lacks at a dose is all the noise of that dose, to 0.1 %."""


@dataclass(frozen=True)
class Scenes:
    """Places of uniform tissue in one slice of a case.

    Attributes:
        case: the case.
        index: of the slice.
        places: `(K, 2)` row and column.
        corners: `(K, 2)` first row and column of the window around each.
        side: of the windows, pixels.
        normal_dose_hu: `(K, side, side)` windows of the slice as it is.
        acquisition: the scan.
    """

    case: Case
    index: int
    places: npt.NDArray[np.int64]
    corners: npt.NDArray[np.int64]
    side: int
    normal_dose_hu: npt.NDArray[np.float32]
    acquisition: Acquisition

    @property
    def kernel(self) -> Kernel:
        """Of the scan."""
        return self.acquisition.kernel

    def roi(self, place: int) -> tuple[slice, slice]:
        """The square around a place within its window."""
        first_row, first_column = (self.places[place] - self.corners[place] - ROI_PIXELS // 2).tolist()
        return slice(first_row, first_row + ROI_PIXELS), slice(first_column, first_column + ROI_PIXELS)


def read_scan(case: Case) -> Acquisition:
    """The scan as the normal dose's own noise tells it.

    Raises:
        DataError: the noise cannot be read.
    """
    return case_acquisition(case, photons_per_ray=None, kernel_cutoff_per_mm=None, device=preferred_device())


def over_cases(
    cases: Sequence[Case], what: str, look: Callable[[Case], Found]
) -> tuple[list[Found], dict[str, str]]:
    """What is found in each case; and by name of those that raise a DataError, why.

    Raises:
        DataError: all do.
    """
    found, left_out = [], {}
    for case in progress(cases, what):
        try:
            found.append(look(case))
        except DataError as unfit:
            left_out[case.case_id] = str(unfit)
    if not found:
        raise DataError(f"{what}: no case can be used: {'; '.join(left_out.values()) or 'there is none'}")
    return found, left_out


def find_scenes(case: Case, count: int, scan_of: ScanOf, device: torch.device) -> Scenes:
    """The slice with the most uniform tissue of eight, and places in it.

    Args:
        case: with a normal dose.
        count: most places to take.
        scan_of: gives the scan.
        device: where slices are looked at.

    Raises:
        DataError: there is no uniform tissue far enough from the borders, or `scan_of` raises it.
    """
    looked_at = spread_slices(case.shape[0], _SLICES_LOOKED_AT)
    hu = normal_dose_hu(case, looked_at, device)
    regions = uniform_regions(hu.cpu().numpy(), ~visible_pixels(hu).cpu().numpy(), case.pixel_mm)
    shape, half = np.array(case.shape[1:]), ROI_PIXELS // 2
    places = regions.corners[:, 1:] + regions.side // 2
    fits = ((places >= half) & (places <= shape - half)).all(axis=1)
    if not fits.any():
        raise DataError(
            f"case {case.case_id}: no uniform tissue {half} pixels or more from the image's border in "
            f"{len(looked_at)} slices looked at; leave the case out"
        )
    slices = regions.corners[fits, 0]
    richest = int(np.bincount(slices).argmax())
    places = places[fits][slices == richest]
    places = places[spread_slices(len(places), count)]
    side = int(min(WINDOW_PIXELS, *shape))
    corners = np.clip(places - side // 2, 0, shape - side)
    image = hu[richest].cpu().numpy()
    windows = np.stack([image[row : row + side, column : column + side] for row, column in corners])
    return Scenes(case, looked_at[richest], places, corners, side, windows, scan_of(case))


class SceneNoise:
    """Draws noise for the windows of a case's scenes.

    Args:
        scenes: the places.
        device: where the noise is drawn.
        seed: of the evaluation; with case and dose it decides all that is drawn.
    """

    def __init__(self, scenes: Scenes, device: torch.device, *, seed: int) -> None:
        self._scenes, self._device, self._seed = scenes, device, seed
        hu = normal_dose_hu(scenes.case, slice(scenes.index, scenes.index + 1), device)
        visible = visible_pixels(hu)
        flux = scenes.acquisition.flux
        many = replace(flux, photons_per_ray=_MANY_TIMES * flux.photons_per_ray)
        self._missing = NoiseRealisations(scenes.acquisition, side=scenes.side)
        self._all = NoiseRealisations(replace(scenes.acquisition, flux=many), side=scenes.side)
        self._rays = self._missing.line_integrals(hu, visible)
        self._corners = torch.from_numpy(scenes.corners).to(device)
        self._shown = torch.stack([visible[0][rows, columns] for rows, columns in self._squares()])

    def missing_hu(self, dose_fraction: float) -> Callable[[], npt.NDArray[np.float32]]:
        """Draws what a dose lacks against the normal dose, `(K, side, side)` HU, new at every call."""
        return self._source(self._missing, dose_fraction)

    def all_hu(self, dose_fraction: float) -> Callable[[], npt.NDArray[np.float32]]:
        """Draws all the noise of a dose, `(K, side, side)` HU, for images that have none of their own."""
        return self._source(self._all, dose_fraction / _MANY_TIMES)

    def _source(
        self, noise: NoiseRealisations, dose_fraction: float
    ) -> Callable[[], npt.NDArray[np.float32]]:
        scenes = self._scenes
        key = f"{self._seed}/{scenes.case.case_id}/{dose_fraction!r}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
        generator = torch.Generator(self._device).manual_seed(seed)
        shape = (scenes.case.shape[1], scenes.case.shape[2])

        def draw() -> npt.NDArray[np.float32]:
            (drawn,) = noise.draw(self._rays, [dose_fraction], generator=generator)
            windows = noise.patches_hu(noise.filtered(drawn), self._corners, scenes.side, shape)
            return np.asarray((windows * self._shown).cpu())

        return draw

    def _squares(self) -> list[tuple[slice, slice]]:
        side = self._scenes.side
        return [
            (slice(row, row + side), slice(column, column + side))
            for row, column in self._scenes.corners.tolist()
        ]


def methods_of(restore: Restore, baselines: Mapping[str, Restore]) -> dict[str, Restore]:
    """The input as it is, the network, and the baselines.

    Raises:
        ValueError: a baseline has the name of one of the others.
    """
    if taken := {INPUT, RESTORED} & set(baselines):
        raise ValueError(f"no baseline can be called {' or '.join(sorted(taken))}")
    return {INPUT: lambda image_hu, _: image_hu, RESTORED: restore, **baselines}


def restore_windows_with(bundle: Bundle, scan_of: ScanOf = read_scan) -> Restore:
    """What a denoiser makes of a window.

    A network with a noise map is told the level of the whole series at the window's dose, as inference is.

    Raises:
        ValueError: the bundle is not a denoiser's, or its network takes neighbouring slices, which a window
            does not have.
    """
    denoiser = denoiser_of(bundle)
    if denoiser.neighbours:
        raise ValueError(f"{bundle.name} takes {denoiser.neighbours} neighbours; a window has none")

    @cache
    def noise_sd_hu(case: Case) -> float | None:
        if not denoiser.takes_noise_map:
            return None
        device = device_of(denoiser.model)
        dose_fractions = (case.dose_fraction, case.dose_fraction)
        levels = low_dose_levels(case, scan_of(case), dose_fractions=dose_fractions, device=device)
        return levels.at(case.dose_fraction, zoom=0)

    return lambda image_hu, case: denoiser.restore(image_hu[None], noise_sd_hu(case))
