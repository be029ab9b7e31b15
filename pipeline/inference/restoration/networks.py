"""Bundles made ready to run, and slices sent through them in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.bundle import Bundle
from pipeline.dicom import SegmentLabel
from pipeline.errors import BundleError, ConfigError
from pipeline.hu import AIR_HU
from pipeline.inference.restoration.engines import Engine, Precision, engine_in_words, in_openvino
from pipeline.inference.treatment import UnfitSeriesError
from pipeline.models.apply import (
    class_logits,
    neighbours_of,
    receptive_radius,
    restore_hu,
    takes_noise_map,
    total_stride,
    with_neighbours,
)
from pipeline.models.inputs import input_channels
from pipeline.models.precision import ieee_float32

TILE_PIXELS: Final = 512
"""Side of the largest slice that goes through a denoiser whole: the scanners' usual matrix."""
NOT_FINITE: Final = "NOT_FINITE"
"""Reason code of a series for which a network gives values that are no numbers."""

_TRIAL_PIXELS: Final = 64
_BATCH_SLICES: Final = {"cuda": 8}
"""Slices that fill a GPU. A CPU is full with one, and further ones only cost memory and cache: 96 features
take 0.7 GB per slice of 512 x 512 in float32."""

ALL: Final = slice(None)
"""Every slice."""

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
LabelMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Network:
    """The model of a bundle on its device.

    Attributes:
        bundle: what the weights came with: HU transform, labels, hash.
        module: the model in evaluation mode.
        device: where it runs.
        precision: arithmetic of its layers, where fp32 is IEEE float32 on every device; sums on HU stay
            float32. In int8 the first and last layer are bf16, or fp32 where the CPU has no bf16.
        batch_slices: slices per forward pass.
        tile_pixels: a denoiser takes slices with a longer side in tiles of this side, if it states its
            `receptive_radius`.
        runtime: what computes it.
    """

    bundle: Bundle
    module: nn.Module
    device: torch.device
    precision: Precision
    batch_slices: int
    tile_pixels: int = TILE_PIXELS
    runtime: Engine = "torch"

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        *,
        device: torch.device,
        precision: Precision,
        engine: Engine = "torch",
        batch_slices: int | None = None,
        tile_pixels: int = TILE_PIXELS,
    ) -> Network:
        """Build the model of `bundle` on `device`; without `batch_slices` the device decides.

        Engine and precision are a pair that `engines.choose_engine` gives. A network in OpenVINO is compared
        with torch before it is used; int8 is calibrated on phantom slices.

        Raises:
            BundleError: the weights do not fit the architecture, or the network is not of its kind.
            ConfigError: the tiles are no larger than what has to overlap, OpenVINO is not installed, or it
                gives something else than torch.
        """
        module = bundle.model().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        _check_channels(bundle, module, device)
        overlap = 2 * (receptive_radius(module) or 0)
        least = overlap + total_stride(module)
        if tile_pixels < least:
            raise ConfigError(
                f"tile_pixels {tile_pixels}: neighbouring tiles of {bundle.architecture} share {overlap} "
                f"pixels; name {least} or more, or leave it at {TILE_PIXELS}"
            )
        return cls(
            bundle,
            module if engine == "torch" else in_openvino(bundle, precision),
            device,
            precision,
            batch_slices or _BATCH_SLICES.get(device.type, 1),
            tile_pixels,
            engine,
        )

    @property
    def engine(self) -> str:
        """What computes, as far as it may change the last bits, e.g. `torch 2.13.0+cpu on cpu in fp32`."""
        return engine_in_words(self.runtime, self.precision, self.device)

    @property
    def bf16(self) -> bool:
        """Whether torch is to run the layers in bfloat16; OpenVINO's are compiled for it."""
        return self.runtime == "torch" and self.precision == "bf16"

    @property
    def neighbours(self) -> int:
        """Slices on either side of each that the layers see with it."""
        return neighbours_of(self.module)

    @property
    def noise_map(self) -> bool:
        """Whether it has to be told the noise of a series."""
        return takes_noise_map(self.module)

    def tiles(self, rows: int, columns: int) -> bool:
        """Whether slices of this matrix are taken in tiles."""
        return receptive_radius(self.module) is not None and max(rows, columns) > self.tile_pixels


@ieee_float32()
def denoise(
    network: Network,
    hu: Volume,
    padding: Mask,
    *,
    strength: float = 1.0,
    own: slice = ALL,
    noise_sd_hu: float | None = None,
) -> Volume:
    """Denoise slices; each on its own, or with its neighbours where the network sees them.

    Args:
        network: of a denoiser's bundle.
        hu: (n, rows, columns) HU; for a network with neighbours consecutive slices of a regular grid, whose
            first and last are repeated for what would lie beyond; for others any slices.
        padding: (n, rows, columns), true outside the field of view: air for the network, unchanged in the
            result.
        strength: share of the network's correction that is added; at 0 the result equals `hu` bit for bit.
        own: the slices to denoise; the others are only seen as their neighbours.
        noise_sd_hu: noise of the series, for a network with a noise map; others make no use of it.

    Returns:
        (own, rows, columns) HU.

    Raises:
        ValueError: `strength` is outside 0..1, the bundle is not a denoiser's, or it needs the noise and gets
            none.
        UnfitSeriesError: the network gives values that are not finite.
    """
    scale = network.bundle.scale
    if scale is None:
        raise ValueError(f"a denoiser is needed, got a bundle of kind {network.bundle.kind}")
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must lie in 0..1, got {strength}")
    tile_pixels = network.tile_pixels if network.tiles(*hu.shape[1:]) else None
    denoised = hu.copy()
    for part, images in _batches(network, hu, padding, own):
        restored_hu = restore_hu(
            network.module,
            images,
            scale,
            noise_sd_hu=None if noise_sd_hu is None else images.new_full((len(images),), noise_sd_hu),
            bf16=network.bf16,
            tile_pixels=tile_pixels,
        )
        _check_finite(network, restored_hu)
        inside = ~padding[part]
        source = hu[part][inside]
        correction = restored_hu[:, 0].cpu().numpy()[inside] - source
        denoised[part][inside] = source + np.float32(strength) * correction
    return denoised[own]


@ieee_float32()
def segment(network: Network, hu: Volume, padding: Mask, *, spacing_mm: tuple[float, float]) -> LabelMap:
    """Label every pixel of some slices; each on its own, and always whole.

    Args:
        network: of a segmenter's bundle.
        hu: (n, rows, columns) HU.
        padding: (n, rows, columns), true outside the field of view: air for the network, background in the
            result.
        spacing_mm: (row, column) spacing.

    Returns:
        (n, rows, columns) class of each pixel, 0 for background.

    Raises:
        ValueError: the bundle is not a segmenter's.
        UnfitSeriesError: the network gives values that are not finite.
    """
    bundle = network.bundle
    if bundle.kind != "segmenter" or bundle.window is None:
        raise ValueError(f"a segmenter is needed, got a bundle of kind {bundle.kind}")
    label_map = np.zeros(hu.shape, np.uint8)
    for part, images in _batches(network, hu, padding, ALL):
        logits = class_logits(
            network.module,
            images,
            window=bundle.window,
            spacing_mm=spacing_mm,
            input_spacing_mm=bundle.input_spacing_mm,
            bf16=network.bf16,
        )
        _check_finite(network, logits)
        label_map[part] = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
    label_map[padding] = 0
    return label_map


def segment_labels(network: Network) -> tuple[SegmentLabel, ...]:
    """Labels of the classes 1, 2, …: the body (whatever of it no organ claims), then the organs."""
    return tuple(
        SegmentLabel(
            name=label["name"],
            value=label["value"],
            category=tuple(label["category"]),
            type=tuple(label["type"]),
            rgb=tuple(label["rgb"]),
        )
        for label in network.bundle.labels
    )


@torch.no_grad()
def _check_channels(bundle: Bundle, module: nn.Module, device: torch.device) -> None:
    """An image from a denoiser, a class per label and the background from a segmenter."""
    wanted = 1 if bundle.kind == "denoiser" else len(bundle.labels) + 1
    inputs = input_channels(neighbours_of(module), takes_noise_map(module))
    side = max(_TRIAL_PIXELS, getattr(module, "smallest_side", 1))
    channels = module(torch.zeros(1, inputs, side, side, device=device)).shape[1]
    if channels != wanted:
        raise BundleError(
            f"bundle {bundle.name}: its network gives {channels} channels, a {bundle.kind} has {wanted}; "
            "train it again"
        )


def _batches(network: Network, hu: Volume, padding: Mask, own: slice) -> Iterator[tuple[slice, Tensor]]:
    """The slices `own`: which ones, and (n, 2 neighbours + 1, rows, columns) HU on the device."""
    reach = network.neighbours
    start, stop, _ = own.indices(len(hu))
    for first in range(start, stop, network.batch_slices):
        part = slice(first, min(first + network.batch_slices, stop))
        seen = slice(max(0, part.start - reach), min(part.stop + reach, len(hu)))
        images = torch.from_numpy(np.where(padding[seen], np.float32(AIR_HU), hu[seen])).to(network.device)
        yield part, with_neighbours(images, reach)[part.start - seen.start : part.stop - seen.start]


def _check_finite(network: Network, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise UnfitSeriesError(
            NOT_FINITE,
            f"{network.bundle.name} gives values that are not finite for these images; "
            "try it with precision fp32, else train it again",
        )
