"""Augmentation of a whole batch on the device it is on; what each sample gets travels with the batch."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.compose import Compose
from monai.transforms.transform import MapTransform
from monai.transforms.utility.dictionary import EnsureTyped
from torch import Tensor
from torch.nn.functional import interpolate

TURN: Final = "turn"
"""Batch key: code of each sample's orientation, (N,) whole numbers from 0 to 7."""
ZOOM: Final = "zoom"
"""Batch key: magnification of each sample, (N,) float; absent where nothing is magnified."""
PIXEL_MM: Final = "pixel_mm"
"""Batch key: side of a pixel of each sample, (N,)."""

ORIENTATIONS: Final = 8
_ROUNDING: Final = 1e-4


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


def patch_batches(keys: Sequence[str], patch_size: int, zooms: Sequence[float] = (1.0,)) -> Compose:
    """From windows under `keys`, (N, C, W, W) HU, to patches (N, C, P, P) float32 HU, all keys alike.

    The batch says what each sample gets: `turn`, and `zoom` where there are other zooms than 1.
    """
    zoom = [ZoomBatchd(keys, patch_size, zooms)] if zooms_change(zooms) else []
    return Compose([EnsureTyped(keys, dtype=torch.float32, track_meta=False), *zoom, TurnBatchd(keys)])


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
