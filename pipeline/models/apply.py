"""Networks on CT numbers: HU in, HU or logits on the same grid out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from pipeline.hu import HUScale, HUWindow
from pipeline.models.tiles import apply_in_tiles


@torch.no_grad()
def restore_hu(
    model: nn.Module,
    image_hu: Tensor,
    scale: HUScale,
    *,
    bf16: bool = False,
    tile_pixels: int | None = None,
) -> Tensor:
    """Denoise CT slices.

    Args:
        model: restoration network in network units, in evaluation mode, on the images' device.
        image_hu: (N, 1, H, W) float32 HU.
        scale: the HU scale that the network was trained on.
        bf16: run the layers in bfloat16 (the network's input skip stays float32).
        tile_pixels: side of the largest tile that goes through the network at once, more than twice its
            `receptive_radius`. Slices of any size go through whole with None, and through a network that
            states no radius: how far its tiles would have to overlap is not known.

    Returns:
        (N, 1, H, W) float32 HU; in tiles the same as whole, up to rounding.

    Raises:
        ValueError: `tile_pixels` is too small.
    """
    image = scale.to_network(image_hu.float())

    def run(part: Tensor) -> Tensor:
        return _run(model, part, bf16=bf16)

    radius = receptive_radius(model)
    if tile_pixels is None or radius is None or max(image.shape[-2:]) <= tile_pixels:
        restored = run(image)
    else:
        restored = apply_in_tiles(run, image, side=tile_pixels, receptive_radius=radius)
    return scale.to_hu(restored).contiguous()


@torch.no_grad()
def class_logits(
    model: nn.Module,
    image_hu: Tensor,
    *,
    window: HUWindow,
    spacing_mm: tuple[float, float],
    input_spacing_mm: float | None,
    bf16: bool = False,
) -> Tensor:
    """Class logits of CT slices on the slices' own grid, always from whole slices.

    (A segmenter reads a structure from where in the body it lies: a tile would hide that, and the receptive
    field of a U-Net is about as wide as a slice.)

    The slices are resampled in-plane to the spacing that the network was trained on, padded with the window's
    lower edge to a multiple of the network's total stride (its `strides`, if it has any), and the logits are
    brought back.

    Args:
        model: segmentation network on windowed images, in evaluation mode, on the images' device.
        image_hu: (N, 1, H, W) HU.
        window: HU range that the network sees as [0, 1].
        spacing_mm: (row, column) spacing of the images.
        input_spacing_mm: in-plane spacing of the network's images; None leaves the grid as it is.
        bf16: run the layers in bfloat16.

    Returns:
        (N, classes, H, W) float32 logits.
    """
    height, width = image_hu.shape[-2:]
    image = image_hu.float()
    if input_spacing_mm is not None:
        size = [
            max(1, round(n * mm / input_spacing_mm))
            for n, mm in zip((height, width), spacing_mm, strict=True)
        ]
        image = _resample(image, size)
    rows, columns = image.shape[-2:]
    multiple = math.prod(getattr(model, "strides", ()))
    padded = pad(window.to_unit(image), (0, -columns % multiple, 0, -rows % multiple))
    logits = _run(model, padded, bf16=bf16)[..., :rows, :columns]
    return _resample(logits, [height, width]).contiguous()


def receptive_radius(model: nn.Module) -> int | None:
    """How many pixels away the input can change an output pixel; None where the network does not say."""
    radius = getattr(model, "receptive_radius", None)
    return radius if isinstance(radius, int) else None


def _run(model: nn.Module, image: Tensor, *, bf16: bool) -> Tensor:
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=bf16):
        output: Tensor = model(image.contiguous(memory_format=torch.channels_last))
    return output.float()


def _resample(image: Tensor, size: list[int]) -> Tensor:
    """Bilinear on the same field of view, smoothed against aliasing where it shrinks."""
    if list(image.shape[-2:]) == size:
        return image
    return interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
