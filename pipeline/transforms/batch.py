"""Augmentation of a whole batch on the device it is on; what each sample gets travels with the batch."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.compose import Compose
from monai.transforms.transform import MapTransform
from monai.transforms.utility.dictionary import EnsureTyped
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.hu import AIR_HU

TURN: Final = "turn"
"""Batch key: code of each sample's orientation, (N,) whole numbers from 0 to 7."""
ZOOM: Final = "zoom"
"""Batch key: magnification of each sample, (N,) float; absent where nothing is magnified."""
PIXEL_MM: Final = "pixel_mm"
"""Batch key: side of a pixel of each sample, (N,)."""
NOISE_SD: Final = "noise_sd_hu"
"""Batch key: level of each sample's noise in HU, (N,); absent where no network asks for it."""
SHIFT: Final = "shift_hu"
"""Batch key: what is added to each sample, (N,) HU; absent, with `CONTRAST`, where CT numbers stay."""
CONTRAST: Final = "contrast"
"""Batch key: factor on the distance from air of each sample, (N,)."""

ORIENTATIONS: Final = 8
_ROUNDING: Final = 1e-4


@dataclass(frozen=True)
class TissueVariety:
    """How far the CT numbers of samples may be from those of their scans.

    A few scans show a few tissues: with these, organs full of contrast agent, other calibrations and tube
    voltages, and other levels of noise occur too. See `TissueBatchd` for what is done.

    Attributes:
        shift_hu: farthest offset, drawn evenly from either side of 0.
        contrast: lowest and highest factor on the distance from air, drawn evenly in its logarithm.

    Raises:
        ValueError: a negative shift, or factors that are not positive or do not rise.
    """

    shift_hu: float = 0.0
    contrast: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.contrast
        if not (self.shift_hu >= 0 and 0 < low <= high):
            raise ValueError(
                "shift_hu must be 0 or more and contrast two positive factors that rise, got "
                f"{self.shift_hu:g} and {low:g}, {high:g}"
            )

    @property
    def changes(self) -> bool:
        """Whether any CT number may change."""
        return self != AS_SCANNED

    def draw(self, draws: np.random.Generator, samples: slice, *, count: int) -> dict[str, Tensor]:
        """Shift and contrast of some of `count` samples, by batch key; nothing where nothing changes."""
        if not self.changes:
            return {}
        shift = draws.uniform(-self.shift_hu, self.shift_hu, size=count)[samples]
        low, high = np.log(self.contrast).tolist()
        contrast = np.exp(draws.uniform(low, high, size=count))[samples]
        return {SHIFT: torch.from_numpy(shift).float(), CONTRAST: torch.from_numpy(contrast).float()}


AS_SCANNED: Final = TissueVariety()
"""CT numbers stay what they are."""


class TurnBatchd(MapTransform):
    """Turns and mirrors square images, each sample by its code under `turn`, all keys alike.

    Codes 0 to 3 are that many quarter turns counter-clockwise; 4 to 7 the same, then left and right swapped.
    Together they are the symmetries of the square (the dihedral group of order 8). Without branches, so that
    a GPU is never waited for.

    Args:
        keys: images, (N, C, P, P).
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The batch with its images turned and without the codes."""
        turned = dict(data)
        codes = turned.pop(TURN)[:, None, None, None]
        quarters, mirrored = codes % 4, codes >= 4
        flips_rows = (quarters == 1) | (quarters == 2)
        flips_columns = (quarters >= 2) ^ mirrored
        for key in self.key_iterator(turned):
            image: Tensor = turned[key]
            image = torch.where(quarters % 2 == 1, image.transpose(-2, -1), image)
            image = torch.where(flips_rows, image.flip(-2), image)
            turned[key] = torch.where(flips_columns, image.flip(-1), image)
        return turned


class ZoomBatchd(MapTransform):
    """Magnifies the centre of each window to one size, each sample by its factor under `zoom`, keys alike.

    Bilinear, and smoothed against aliasing where it shrinks; factor 1 is the centre itself, bit for bit. The
    sides of the pixels under `pixel_mm` change with it. Every sample is seen at every factor, and its own is
    kept: to look which factors occur would make the host wait for a GPU.

    Args:
        keys: images, (N, C, W, W) float32 with W at least `window_side(patch_size, zooms)`.
        patch_size: pixels per side of the result.
        zooms: the factors that occur.
    """

    def __init__(self, keys: KeysCollection, patch_size: int, zooms: Sequence[float]) -> None:
        super().__init__(keys)
        self._patch_size = patch_size
        self._zooms = tuple(zooms)
        self._window = window_side(patch_size, zooms)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The batch with patches in place of its windows and without the factors.

        Raises:
            ValueError: the windows are too small.
        """
        zoomed = dict(data)
        factors: Tensor = zoomed.pop(ZOOM)
        for key in self.key_iterator(zoomed):
            zoomed[key] = self._patches(zoomed[key], factors)
        if PIXEL_MM in zoomed:
            side = torch.zeros_like(zoomed[PIXEL_MM])
            for zoom in self._zooms:
                side = torch.where(_is(factors, zoom), zoomed_side(self._patch_size, zoom), side)
            zoomed[PIXEL_MM] = zoomed[PIXEL_MM] * side / self._patch_size
        return zoomed

    def _patches(self, windows: Tensor, factors: Tensor) -> Tensor:
        if min(windows.shape[-2:]) < self._window:
            raise ValueError(
                f"windows {tuple(windows.shape)} are smaller than {self._window} pixels per side"
            )
        first, *others = self._zooms
        patches = self._seen_at(windows, first)
        for zoom in others:
            own = _is(factors, zoom)[:, None, None, None]
            patches = torch.where(own, self._seen_at(windows, zoom), patches)
        return patches

    def _seen_at(self, windows: Tensor, zoom: float) -> Tensor:
        side = zoomed_side(self._patch_size, zoom)
        top, left = ((length - side) // 2 for length in windows.shape[-2:])
        centre = windows[..., top : top + side, left : left + side]
        if side == self._patch_size:
            return centre
        size = (self._patch_size, self._patch_size)
        return interpolate(centre, size, mode="bilinear", align_corners=False, antialias=True)


class TissueBatchd(MapTransform):
    """Moves CT numbers to contrast·(HU + 1000) − 1000 + shift, by each sample's `contrast` and `shift_hu`.

    Both doses change alike, so the noise between them is the same noise, times `contrast`; so is the level
    under `noise_sd_hu`. One straight line for all HU: what acts on soft tissue alone would bend edges and
    skew the noise across its bounds.

    The contrast is about air and not about water. Air keeps its value, which is the same in every scan,
    while water at 1.2 becomes 200 HU, as an organ with contrast agent: it is attenuation that is multiplied.
    About water, the network's zero, a bias-free network with a noise map would learn nothing: its answer
    scales with its input anyway.

    Args:
        keys: images, (N, C, P, P) float32 HU.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The batch with its CT numbers and noise levels changed and without the draws."""
        moved = dict(data)
        shift, contrast = moved.pop(SHIFT), moved.pop(CONTRAST)
        for key in self.key_iterator(moved):
            above_air = (moved[key] - AIR_HU) * contrast[:, None, None, None]
            moved[key] = above_air + (shift + AIR_HU)[:, None, None, None]
        if NOISE_SD in moved:
            moved[NOISE_SD] = moved[NOISE_SD] * contrast
        return moved


def patch_batches(
    keys: Sequence[str],
    patch_size: int,
    zooms: Sequence[float] = (1.0,),
    tissue: TissueVariety = AS_SCANNED,
) -> Compose:
    """From windows under `keys`, (N, C, W, W) HU, to patches (N, C, P, P) float32 HU, all keys alike.

    The batch says what each sample gets: `turn`, `zoom` where there are other zooms than 1, and `shift_hu`
    and `contrast` where the tissue varies.
    """
    zoom = [ZoomBatchd(keys, patch_size, zooms)] if zooms_change(zooms) else []
    moved = [TissueBatchd(keys)] if tissue.changes else []
    typed = EnsureTyped(keys, dtype=torch.float32, track_meta=False)
    return Compose([typed, *zoom, TurnBatchd(keys), *moved])


def zooms_change(zooms: Sequence[float]) -> bool:
    """Whether any of the zooms is not 1."""
    return any(zoom != 1 for zoom in zooms)


def window_side(patch_size: int, zooms: Sequence[float]) -> int:
    """Pixels per side of a window that holds a patch at each of these zooms.

    Raises:
        ValueError: there is no zoom, or one is not positive.
    """
    if not zooms or not all(zoom > 0 and math.isfinite(zoom) for zoom in zooms):
        raise ValueError(f"zooms must be positive, at least one of them, got {list(zooms)}")
    return max(zoomed_side(patch_size, zoom) for zoom in zooms)


def zoomed_side(patch_size: int, zoom: float) -> int:
    """Pixels per side of what a patch shows at a zoom: the next whole number, the same for float32 zooms."""
    return math.ceil(patch_size / zoom - _ROUNDING)


def _is(factors: Tensor, zoom: float) -> Tensor:
    """Which factors are this zoom, float32 or not."""
    return (factors - zoom).abs() < _ROUNDING
