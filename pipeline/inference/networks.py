"""Bundles made ready to run, and CT volumes sent through them in batches of slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.bundle import Bundle
from pipeline.dicom import SegmentLabel
from pipeline.hu import AIR_HU
from pipeline.inference.treatment import OnSlices
from pipeline.models.apply import class_logits, restore_hu
from pipeline.models.precision import Precision

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
        precision: arithmetic of its layers; sums on HU stay float32.
        batch_slices: slices per forward pass.
    """

    bundle: Bundle
    module: nn.Module
    device: torch.device
    precision: Precision
    batch_slices: int

    @classmethod
    def load(
        cls, bundle: Bundle, *, device: torch.device, precision: Precision, batch_slices: int
    ) -> Network:
        """Build the model of `bundle` on `device`.

        Raises:
            BundleError: the weights do not fit the architecture.
        """
        module = bundle.model().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(bundle, module, device, precision, batch_slices)

    @property
    def bf16(self) -> bool:
        """Whether the layers run in bfloat16."""
        return self.precision == "bf16"


def denoise(
    network: Network, hu: Volume, padding: Mask, *, strength: float = 1.0, on_slices: OnSlices | None = None
) -> Volume:
    """Denoise a series slice by slice.

    Args:
        network: of a denoiser's bundle.
        hu: (S, R, C) HU; slices need not form a regular grid.
        padding: (S, R, C), true outside the field of view: air for the network, unchanged in the result.
        strength: share of the network's correction that is added; at 0 the result equals `hu` bit for bit.
        on_slices: told the number of slices of each finished batch.

    Returns:
        (S, R, C) HU.

    Raises:
        ValueError: `strength` is outside 0..1, or the bundle is not a denoiser's.
        FloatingPointError: the network gave values that are not finite.
    """
    scale = network.bundle.scale
    if scale is None:
        raise ValueError(f"a denoiser is needed, got a bundle of kind {network.bundle.kind}")
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must lie in 0..1, got {strength}")
    denoised = hu.copy()
    for part, images in _batches(network, hu, padding, on_slices):
        restored = restore_hu(network.module, images, scale, bf16=network.bf16)[:, 0].cpu().numpy()
        if not np.isfinite(restored).all():
            raise FloatingPointError("the denoiser gave values that are not finite")
        inside = ~padding[part]
        source = hu[part][inside]
        denoised[part][inside] = source + np.float32(strength) * (restored[inside] - source)
    return denoised


def segment(
    network: Network,
    hu: Volume,
    padding: Mask,
    *,
    spacing_mm: tuple[float, float],
    on_slices: OnSlices | None = None,
) -> LabelMap:
    """Label every voxel of a series.

    Args:
        network: of a segmenter's bundle.
        hu: (S, R, C) HU.
        padding: (S, R, C), true outside the field of view: air for the network, background in the result.
        spacing_mm: (row, column) spacing.
        on_slices: told the number of slices of each finished batch.

    Returns:
        (S, R, C) class of each voxel, 0 for background.

    Raises:
        ValueError: the bundle is not a segmenter's.
    """
    bundle = network.bundle
    if bundle.kind != "segmenter" or bundle.window is None:
        raise ValueError(f"a segmenter is needed, got a bundle of kind {bundle.kind}")
    label_map = np.zeros(hu.shape, np.uint8)
    for part, images in _batches(network, hu, padding, on_slices):
        logits = class_logits(
            network.module,
            images,
            window=bundle.window,
            spacing_mm=spacing_mm,
            input_spacing_mm=bundle.input_spacing_mm,
            bf16=network.bf16,
        )
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


def _batches(
    network: Network, hu: Volume, padding: Mask, on_slices: OnSlices | None
) -> Iterator[tuple[slice, Tensor]]:
    for first in range(0, len(hu), network.batch_slices):
        part = slice(first, min(first + network.batch_slices, len(hu)))
        images = np.where(padding[part], np.float32(AIR_HU), hu[part])
        yield part, torch.from_numpy(images).unsqueeze(1).to(network.device)
        if on_slices is not None:
            on_slices(part.stop - part.start)
