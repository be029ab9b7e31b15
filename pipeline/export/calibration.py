"""Slices that quantisation learns its ranges from, and that engines are compared on; no user data needed."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from pipeline.hu import HUScale
from pipeline.models.apply import neighbours_of, network_input, takes_noise_map
from pipeline.simulate import make_phantom

_SEED: Final = 6
_FIELD_OF_VIEW_MM: Final = 380.0
_SLICE_MM: Final = 3.0
_SLICES: Final = (("chest", 12.0, 0.0), ("abdomen", 20.0, 1.0), ("chest", 80.0, 0.8), ("abdomen", 40.0, 0.0))
"""Region, SD of the noise in HU, and width in pixels of the Gaussian that correlates it (0: white noise)."""
_RAMP_HU: Final = (-1000.0, 800.0)
_RAMP_PIXELS: Final = 96
_RAMP_NOISE_SD_HU: Final = 25.0

Array = npt.NDArray[np.float32]


def phantom_inputs(
    model: nn.Module, scale: HUScale, *, pixels: int = 512, seed: int = _SEED
) -> tuple[Tensor, ...]:
    """Noisy slices of phantom patients, the same every time: smooth and sharp noise, weak to strong.

    Args:
        model: the restoration network that takes them.
        scale: the HU scale that it is trained on.
        pixels: side of the slices, over the same 380 mm.
        seed: of patients and noise; another one for slices that int8 is not calibrated on.

    Returns:
        Four of (1, C, pixels, pixels) float32 in network units, see `models.inputs`.
    """
    rng = np.random.default_rng(seed)
    shape = (2 * neighbours_of(model) + 1, pixels, pixels)
    pixel_mm = _FIELD_OF_VIEW_MM / pixels
    inputs: list[Tensor] = []
    for region, noise_sd_hu, width_pixels in _SLICES:
        phantom = make_phantom(region, rng, shape=shape, spacing_mm=(_SLICE_MM, pixel_mm, pixel_mm))
        noise = _noise(rng, shape, noise_sd_hu, width_pixels)
        inputs += network_inputs(model, scale, (phantom.hu + noise)[None], noise_sd_hu=noise_sd_hu)
    return tuple(inputs)


def ramp_input(model: nn.Module, scale: HUScale) -> Tensor:
    """Noise on every CT number from air to bone, to compare engines on in an instant.

    Args:
        model: the restoration network that takes it.
        scale: the HU scale that it is trained on.

    Returns:
        (1, C, 96, 96) float32 in network units; CT numbers rise from column to column.
    """
    rng = np.random.default_rng(_SEED)
    ramp_hu = np.linspace(*_RAMP_HU, _RAMP_PIXELS, dtype=np.float32)
    noise_hu = _noise(rng, (2 * neighbours_of(model) + 1, _RAMP_PIXELS, _RAMP_PIXELS), _RAMP_NOISE_SD_HU, 0.0)
    (image,) = network_inputs(model, scale, (ramp_hu + noise_hu)[None], noise_sd_hu=_RAMP_NOISE_SD_HU)
    return image


def network_inputs(
    model: nn.Module, scale: HUScale, images_hu: Array, *, noise_sd_hu: float | None
) -> tuple[Tensor, ...]:
    """Slices as a network takes them, one by one.

    Args:
        model: the restoration network.
        scale: the HU scale that it is trained on.
        images_hu: (N, 2k + 1, H, W) HU, each slice between its k neighbours on either side.
        noise_sd_hu: of all slices, for a network with a noise map.

    Returns:
        N of (1, C, H, W) float32 in network units.

    Raises:
        ValueError: another number of slices, or no noise for a network with a noise map.
    """
    told = None
    if takes_noise_map(model) and noise_sd_hu is not None:
        told = torch.full((len(images_hu),), noise_sd_hu)
    return torch.split(network_input(model, torch.from_numpy(images_hu), scale, noise_sd_hu=told), 1)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sd_hu: float, width_pixels: float) -> Array:
    """(S, H, W) HU, independent from slice to slice."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if width_pixels:
        noise = gaussian_filter(noise, (0.0, width_pixels, width_pixels), mode="wrap")
    scaled: Array = noise * np.float32(sd_hu / noise.std())
    return scaled
