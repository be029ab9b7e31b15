"""Windows around uniform tissue of a case, at lower doses, with other noise every time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.low_dose_slices import normal_dose_hu, visible_pixels
from pipeline.data.patches import spread_slices
from pipeline.dose.lesions import disc_hu
from pipeline.dose.realisations import NoiseRealisations
from pipeline.dose.regions import uniform_regions
from pipeline.errors import DataError
from pipeline.models.precision import preferred_device
from pipeline.projector import Kernel
from pipeline.stages.evaluation.context import Slice
from pipeline.stages.evaluation.restoration.low_doses import Scan
from pipeline.stages.evaluation.restoration.whole_bar import Bar

Found = TypeVar("Found")

Restore = Callable[[Slice, Scan, float], Slice]
"""From a window (W, W) HU, its scan and its dose fraction to a window."""

WINDOW_PIXELS: Final = 96
"""What a denoiser sees around a place."""
ROI_PIXELS: Final = 64
"""What an observer sees of it, with the place on pixel `ROI_PIXELS // 2` of both axes."""

_SLICES_LOOKED_AT: Final = 8
_MANY_TIMES: Final = 1000.0
"""The noise that a scan of so many times the dose lacks at a dose is all the noise of that dose, to 0.1 %."""


@dataclass(frozen=True)
class Scenes:
    """Places of uniform tissue in one slice of a case.

    Attributes:
        scan: of the case.
        index: of the slice.
        places: `(K, 2)` row and column.
        corners: `(K, 2)` first row and column of the window around each.
        side: of the windows, pixels.
        normal_dose_hu: `(K, side, side)` windows of the slice as it is.
    """

    scan: Scan
    index: int
    places: npt.NDArray[np.int64]
    corners: npt.NDArray[np.int64]
    side: int
    normal_dose_hu: npt.NDArray[np.float32]

    @property
    def kernel(self) -> Kernel:
        """Of the scan."""
        return self.scan.acquisition.kernel

    def disc_hu(self, contrast_hu: float, diameter_mm: float, side: int) -> npt.NDArray[np.float32]:
        """A disc `(side, side)` HU as the scan would show it, on the middle pixel.

        Raises:
            DataError: it is smaller than a pixel or wider than half of the side.
        """
        case = self.scan.case
        try:
            return disc_hu(
                contrast_hu=contrast_hu,
                diameter_mm=diameter_mm,
                side=side,
                pixel_mm=case.pixel_mm,
                kernel=self.kernel,
            )
        except ValueError as unfit:
            raise DataError(f"case {case.case_id}: {unfit}") from None

    def roi(self, place: int) -> tuple[slice, slice]:
        """The square around a place within its window."""
        first_row, first_column = (self.places[place] - self.corners[place] - ROI_PIXELS // 2).tolist()
        return slice(first_row, first_row + ROI_PIXELS), slice(first_column, first_column + ROI_PIXELS)


def over_scenes(
    scans: Sequence[Scan], wanted: int, count: int, look: Callable[[Scenes], Found], *, what: str, bar: Bar
) -> tuple[list[Found], dict[str, str]]:
    """What is found in the scenes of the first cases that have any; and of those that have none, why.

    Args:
        scans: of the cases, in the order in which they are tried.
        wanted: most cases.
        count: most places in each.
        look: at the scenes of a case; raises a DataError where it cannot.
        what: is said beside the bar.
        bar: goes through the cases.

    Raises:
        DataError: no case has any.
    """
    found: list[Found] = []
    left_out: dict[str, str] = {}
    waiting = iter(scans)
    for _ in bar(range(min(wanted, len(scans))), what):
        for scan in waiting:
            try:
                found.append(look(find_scenes(scan, count)))
                break
            except DataError as unfit:
                left_out[scan.case.case_id] = str(unfit)
    if not found:
        raise DataError(f"{what}: no case can be used: {'; '.join(left_out.values()) or 'there is none'}")
    return found, left_out


def find_scenes(scan: Scan, count: int) -> Scenes:
    """The slice with the most uniform tissue of eight, and places in it.

    Args:
        scan: of the case.
        count: most places to take.

    Raises:
        DataError: there is no uniform tissue far enough from the borders.
    """
    case = scan.case
    looked_at = spread_slices(case.shape[0], _SLICES_LOOKED_AT)
    hu = normal_dose_hu(case, looked_at, preferred_device())
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
    return Scenes(scan, looked_at[richest], places, corners, side, windows)


def require_finite_windows(
    images_hu: npt.NDArray[np.float32], scan: Scan, method: str, dose_fraction: float
) -> None:
    """An observer's answer to a NaN compares with nothing.

    Raises:
        DataError: a pixel is no finite number.
    """
    if not np.isfinite(images_hu).all():
        raise DataError(
            f"case {scan.case.case_id}, dose {dose_fraction:g}: windows of {method} are not finite; a "
            "network that gives such images cannot be scored: train it again"
        )


class SceneNoise:
    """Draws noise for the windows of a case's scenes.

    Args:
        scenes: the places; the scan's seed and the dose decide all that is drawn.
    """

    def __init__(self, scenes: Scenes) -> None:
        self._scenes, self._device = scenes, preferred_device()
        acquisition = scenes.scan.acquisition
        hu = normal_dose_hu(scenes.scan.case, slice(scenes.index, scenes.index + 1), self._device)
        visible = visible_pixels(hu)
        flux = acquisition.flux
        many = replace(flux, photons_per_ray=_MANY_TIMES * flux.photons_per_ray)
        self._missing = NoiseRealisations(acquisition, side=scenes.side)
        self._all = NoiseRealisations(replace(acquisition, flux=many), side=scenes.side)
        self._rays = self._missing.line_integrals(hu, visible)
        self._corners = torch.from_numpy(scenes.corners).to(self._device)
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
        key = f"{scenes.scan.seed}/{dose_fraction!r}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
        generator = torch.Generator(self._device).manual_seed(seed)
        _, rows, columns = scenes.scan.case.shape

        def draw() -> npt.NDArray[np.float32]:
            (drawn,) = noise.draw(self._rays, [dose_fraction], generator=generator)
            windows = noise.patches_hu(noise.filtered(drawn), self._corners, scenes.side, (rows, columns))
            return np.asarray((windows * self._shown).cpu())

        return draw

    def _squares(self) -> list[tuple[slice, slice]]:
        side = self._scenes.side
        return [
            (slice(row, row + side), slice(column, column + side))
            for row, column in self._scenes.corners.tolist()
        ]
