"""Networks on CT numbers: HU in, HU or logits on the same grid out."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from pipeline.hu import HUScale, HUWindow
from pipeline.models.inputs import input_channels
from pipeline.models.tiles import apply_in_tiles

HU = TypeVar("HU", bound=np.generic)


def network_input(
    model: nn.Module, image_hu: Tensor, scale: HUScale, *, noise_sd_hu: Tensor | None
) -> Tensor:
    """What a restoration network is given, see `models.inputs`.

    Args:
        model: restoration network in network units.
        image_hu: (N, 2k + 1, H, W) HU: the slices -k … k around those to restore, k the network's
            `neighbours`.
        scale: the HU scale that the network is trained on.
        noise_sd_hu: (N,) standard deviation of each slice's noise in HU; left aside by a network without a
            noise map.

    Returns:
        (N, C, H, W) float32 in network units.

    Raises:
        ValueError: another number of slices, or no SD per slice for a network with a noise map.
    """
    slices = input_channels(neighbours_of(model), noise_map=False)
    if image_hu.ndim != 4 or image_hu.shape[1] != slices:
        raise ValueError(
            f"images of shape {tuple(image_hu.shape)}: this network takes (N, {slices}, H, W), a slice with "
            f"{neighbours_of(model)} neighbours on either side"
        )
    image = scale.to_network(image_hu.float())
    if not takes_noise_map(model):
        return image
    if noise_sd_hu is None or noise_sd_hu.shape != image.shape[:1]:
        given = "none" if noise_sd_hu is None else f"shape {tuple(noise_sd_hu.shape)}"
        raise ValueError(f"this network takes a noise map: noise_sd_hu must be ({len(image)},), got {given}")
    noise_sd = (noise_sd_hu / scale.unit_hu).to(image)[:, None, None, None]
    return torch.cat([image, noise_sd.expand(-1, 1, *image.shape[-2:])], dim=1)


@torch.no_grad()
def restore_hu(
    model: nn.Module,
    image_hu: Tensor,
    scale: HUScale,
    *,
    noise_sd_hu: Tensor | None = None,
    bf16: bool = False,
    tile_pixels: int | None = None,
) -> Tensor:
    """Denoise CT slices.

    Args:
        model: restoration network in network units, in evaluation mode, on the images' device.
        image_hu: (N, 2k + 1, H, W) float32 HU: each slice between its k neighbours on either side, as many
            as the network takes (`with_neighbours`); (N, 1, H, W) for most.
        scale: the HU scale that the network was trained on.
        noise_sd_hu: (N,) SD of the slices' noise, for a network with a noise map.
        bf16: run the layers in bfloat16 (the network's input skip stays float32).
        tile_pixels: side of the largest tile that goes through the network at once, more than twice its
            `receptive_radius` by its total stride. Slices of any size go through whole with None, and through
            a network that states no radius: how far its tiles would have to overlap is not known.

    Returns:
        (N, 1, H, W) float32 HU; in tiles the same as whole, up to rounding.

    Raises:
        ValueError: `tile_pixels` is too small, or the input is not the network's (`network_input`).
    """
    image = network_input(model, image_hu, scale, noise_sd_hu=noise_sd_hu)

    def run(part: Tensor) -> Tensor:
        return _run(model, part, bf16=bf16)

    radius = receptive_radius(model)
    if tile_pixels is None or radius is None or max(image.shape[-2:]) <= tile_pixels:
        restored = run(image)
    else:
        restored = apply_in_tiles(
            run, image, side=tile_pixels, receptive_radius=radius, total_stride=total_stride(model)
        )
    return scale.to_hu(restored).contiguous()


def with_neighbours(volume_hu: Tensor, neighbours: int) -> Tensor:
    """Each slice of a volume between its neighbours; beyond the ends the last slice is repeated.

    Args:
        volume_hu: (S, H, W), any number of slices, in their order along the slice normal.
        neighbours: k, slices on either side.

    Returns:
        (S, 2k + 1, H, W).

    Raises:
        ValueError: `volume_hu` is no volume.
    """
    if volume_hu.ndim != 3:
        raise ValueError(f"a volume is (slices, rows, columns), got shape {tuple(volume_hu.shape)}")
    offsets = torch.arange(input_channels(neighbours, noise_map=False), device=volume_hu.device) - neighbours
    here = torch.arange(len(volume_hu), device=volume_hu.device)[:, None]
    return volume_hu[(here + offsets).clamp(0, len(volume_hu) - 1)]


def among_neighbours(volume_hu: npt.NDArray[HU], position: int, neighbours: int) -> npt.NDArray[HU]:
    """One slice of a volume between its neighbours, as `with_neighbours` gives it; only these are read.

    Args:
        volume_hu: (S, H, W), e.g. a memory map.
        position: of the slice.
        neighbours: k, slices on either side.

    Returns:
        (2k + 1, H, W).
    """
    around = np.arange(position - neighbours, position + neighbours + 1)
    slices: npt.NDArray[HU] = volume_hu[around.clip(0, len(volume_hu) - 1)]
    return slices


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
    multiple = total_stride(model)
    padded = pad(window.to_unit(image), (0, -columns % multiple, 0, -rows % multiple))
    logits = _run(model, padded, bf16=bf16)[..., :rows, :columns]
    return _resample(logits, [height, width]).contiguous()


def receptive_radius(model: nn.Module) -> int | None:
    """How many pixels away the input can change an output pixel; None where the network does not say."""
    radius = getattr(model, "receptive_radius", None)
    return radius if isinstance(radius, int) else None


def total_stride(model: nn.Module) -> int:
    """Pixels of the image per pixel of the network's coarsest features: the product of its `strides`."""
    return math.prod(getattr(model, "strides", ()))


def neighbours_of(model: nn.Module) -> int:
    """How many slices on either side a restoration network takes with the one to restore."""
    return int(getattr(model, "neighbours", 0))


def takes_noise_map(model: nn.Module) -> bool:
    """Whether a restoration network takes a plane with the noise's SD as its last channel."""
    return bool(getattr(model, "noise_map", False))


def _run(model: nn.Module, image: Tensor, *, bf16: bool) -> Tensor:
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=bf16):
        output: Tensor = model(image.contiguous(memory_format=torch.channels_last))
    return output.float()


def _resample(image: Tensor, size: list[int]) -> Tensor:
    """Bilinear on the same field of view, smoothed against aliasing where it shrinks."""
    if list(image.shape[-2:]) == size:
        return image
    return interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
