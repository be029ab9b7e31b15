"""Missing pixels: random holes, brush strokes and the places of metal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from pipeline.degradations.base import Degraded
from pipeline.transforms.grid import BODY_HU

Shape = Literal["rectangle", "ellipse"]

STROKE_SEGMENTS: Final = 8
STROKE_TURN: Final = 0.5
"""SD of the turn between the segments of a stroke, in radians."""


@dataclass(frozen=True)
class Holes:
    """Rectangles or ellipses anywhere in the image, turned at random.

    Args:
        shape: of all of them.
        count: per image; they may overlap, and reach outside.
        smallest_mm, largest_mm: range of both widths of a hole, each drawn for itself.
        fill_hu: what the pixels in them become.

    Raises:
        ValueError: the shape is unknown, there is no hole, or the range of widths is none.
    """

    shape: Shape
    count: int
    smallest_mm: float
    largest_mm: float
    fill_hu: float

    def __post_init__(self) -> None:
        if self.shape not in ("rectangle", "ellipse"):
            raise ValueError(f"shape must be rectangle or ellipse, got {self.shape!r}")
        _check(self.count, self.smallest_mm, self.largest_mm)

    def __call__(self, image: Degraded, *, pixel_mm: Tensor, generator: torch.Generator) -> Degraded:
        """The image with other holes in each of the batch."""
        draw = _Draw(len(image.hu), self.count, generator, image.hu.device)
        rows, columns = _positions_mm(image.hu, pixel_mm)
        down, right = (extent * draw.uniform() for extent in _extents_mm(image.hu, pixel_mm))
        height, width = (draw.uniform(self.smallest_mm, self.largest_mm) for _ in range(2))
        angle = draw.uniform(0.0, math.pi)
        cosine, sine = torch.cos(angle), torch.sin(angle)
        u = ((rows - down) * cosine + (columns - right) * sine) / (height / 2)
        v = ((columns - right) * cosine - (rows - down) * sine) / (width / 2)
        inside = torch.maximum(u.abs(), v.abs()) <= 1 if self.shape == "rectangle" else u**2 + v**2 <= 1
        return _cut(image, inside, self.fill_hu)


@dataclass(frozen=True)
class Strokes:
    """Strokes of a round brush: a random walk of eight segments, from anywhere in the image.

    Args:
        count: per image.
        width_mm: of the brush.
        length_mm: of a stroke.
        fill_hu: what the pixels under it become.

    Raises:
        ValueError: there is no stroke, or it has no width or length.
    """

    count: int
    width_mm: float
    length_mm: float
    fill_hu: float

    def __post_init__(self) -> None:
        _check(self.count, self.width_mm, self.width_mm)
        if not self.length_mm > 0:
            raise ValueError(f"length_mm must be positive, got {self.length_mm}")

    def __call__(self, image: Degraded, *, pixel_mm: Tensor, generator: torch.Generator) -> Degraded:
        """The image with other strokes on each of the batch."""
        draw = _Draw(len(image.hu), self.count, generator, image.hu.device)
        rows, columns = _positions_mm(image.hu, pixel_mm)
        down, right = (extent * draw.uniform() for extent in _extents_mm(image.hu, pixel_mm))
        heading = draw.uniform(0.0, 2 * math.pi)
        step_mm = self.length_mm / STROKE_SEGMENTS
        inside = torch.zeros(
            len(image.hu), self.count, *image.hu.shape[-2:], dtype=torch.bool, device=image.hu.device
        )
        for _ in range(STROKE_SEGMENTS):
            cosine, sine = torch.cos(heading), torch.sin(heading)
            along = ((rows - down) * cosine + (columns - right) * sine).clamp(0.0, step_mm)
            distance = torch.hypot(rows - down - along * cosine, columns - right - along * sine)
            inside |= distance <= self.width_mm / 2
            down, right = down + step_mm * cosine, right + step_mm * sine
            heading = heading + STROKE_TURN * draw.normal()
        return _cut(image, inside, self.fill_hu)


@dataclass(frozen=True)
class Metal:
    """Discs of metal whose centres lie in the body: the values there are lost.

    This is the mask of the inpainting view of metal, no more: no streaks, no beam hardening, no photon
    starvation and no scatter around it. A network trained on it fills in metal traces that somebody has cut
    out; it does not reduce metal artefacts.

    Args:
        count: per image.
        smallest_mm, largest_mm: range of the diameters.
        metal_hu: what the pixels become, e.g. where the scanner's scale ends.

    Raises:
        ValueError: there is no disc, or the range of diameters is none.
    """

    count: int
    smallest_mm: float
    largest_mm: float
    metal_hu: float

    def __post_init__(self) -> None:
        _check(self.count, self.smallest_mm, self.largest_mm)

    def __call__(self, image: Degraded, *, pixel_mm: Tensor, generator: torch.Generator) -> Degraded:
        """The image with other discs in each of the batch; anywhere in an image that shows no body."""
        draw = _Draw(len(image.hu), self.count, generator, image.hu.device)
        rows, columns = _positions_mm(image.hu, pixel_mm)
        body = (image.hu > BODY_HU).flatten(start_dim=2)
        chosen = (draw.uniform(pixels=body.shape[-1]).flatten(start_dim=2) + body).argmax(dim=-1)
        width = image.hu.shape[-1]
        down, right = (
            (index[..., None, None] + 0.5) * pixel_mm[:, None, None, None]
            for index in (chosen // width, chosen % width)
        )
        diameter = draw.uniform(self.smallest_mm, self.largest_mm)
        return _cut(image, torch.hypot(rows - down, columns - right) <= diameter / 2, self.metal_hu)


@dataclass(frozen=True)
class _Draw:
    """Random numbers for `count` things in each of `images` images, (images, count, 1, 1)."""

    images: int
    count: int
    generator: torch.Generator
    device: torch.device

    def uniform(self, low: float = 0.0, high: float = 1.0, *, pixels: int = 1) -> Tensor:
        shape = (self.images, self.count, 1, pixels)
        return low + (high - low) * torch.rand(shape, generator=self.generator, device=self.device)

    def normal(self) -> Tensor:
        shape = (self.images, self.count, 1, 1)
        return torch.randn(shape, generator=self.generator, device=self.device)


def _check(count: int, smallest_mm: float, largest_mm: float) -> None:
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not 0 < smallest_mm <= largest_mm:
        raise ValueError(f"widths must be positive and in order, got {smallest_mm} to {largest_mm} mm")


def _positions_mm(hu: Tensor, pixel_mm: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of rows (N, 1, H, 1) and of columns (N, 1, 1, W), from the image's upper left corner."""
    rows, columns = (torch.arange(size, device=hu.device) + 0.5 for size in hu.shape[-2:])
    sides = pixel_mm[:, None, None, None]
    return rows[:, None] * sides, columns * sides


def _extents_mm(hu: Tensor, pixel_mm: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of each image, (N, 1, 1, 1)."""
    sides = pixel_mm[:, None, None, None]
    return hu.shape[-2] * sides, hu.shape[-1] * sides


def _cut(image: Degraded, inside: Tensor, fill_hu: float) -> Degraded:
    """Cut holes (N, count, H, W) out of the images."""
    hole = inside.any(dim=1, keepdim=True)
    return Degraded(image.hu.masked_fill(hole, fill_hu), image.unknown | hole)
