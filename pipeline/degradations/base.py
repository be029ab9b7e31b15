"""What a degradation is, and how several follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Degraded:
    """Images on their way from x to y.

    Attributes:
        hu: (N, 1, H, W) float32 HU.
        unknown: (N, 1, H, W) bool: pixels that a mask has cut out, as they were cut; `hu` says nothing about
            the object there. A blur or down-sampling after the mask smears the fill beyond them.
    """

    hu: Tensor
    unknown: Tensor


class Degradation(Protocol):
    """One step of H, or the noise n."""

    def __call__(self, image: Degraded, *, pixel_mm: Tensor, generator: torch.Generator) -> Degraded:
        """The image after this step; the given one is left as it was.

        Args:
            image: what the steps before have made.
            pixel_mm: (N,) side of a (square) pixel of each image.
            generator: source of all randomness, on the images' device.
        """


def degrade(
    hu: Tensor, steps: Sequence[Degradation], *, pixel_mm: Tensor, generator: torch.Generator
) -> Degraded:
    """Y = Hx + n: the steps one after the other, each on the result of the one before.

    The same generator state gives the same y on the same kind of device; CPU and CUDA draw other numbers.
    All steps but `low_dose` are differentiable in x.

    Args:
        hu: (N, 1, H, W) float32 HU, any device; left as it was.
        steps: in order; no step is the identity.
        pixel_mm: (N,) side of a pixel of each image, on the same device.
        generator: on the same device.

    Raises:
        ValueError: a shape or type is another one.
    """
    if hu.ndim != 4 or hu.shape[1] != 1 or hu.dtype != torch.float32:
        raise ValueError(f"hu must be (N, 1, H, W) float32, got {tuple(hu.shape)} {hu.dtype}")
    if pixel_mm.shape != hu.shape[:1]:
        raise ValueError(f"pixel_mm must be ({len(hu)},), got {tuple(pixel_mm.shape)}")
    image = Degraded(hu, torch.zeros_like(hu, dtype=torch.bool))
    for step in steps:
        image = step(image, pixel_mm=pixel_mm, generator=generator)
    return image
