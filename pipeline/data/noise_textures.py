"""Noise of other kernels than a case's own, at the level of its own: one scan teaches many textures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from pipeline.metrics.noise import REGION_PIXELS
from pipeline.projector import Kernel
from pipeline.transforms import resample_image

CUTOFFS_PER_MM: Final = tuple(float(cutoff) for cutoff in np.geomspace(0.5, 2.0, 8).round(3))
"""Hann windows, even in their logarithm, whose noise peaks at 0.15 to 0.6 /mm.

As `dose.texture` reads them, real body kernels end at 0.75 to 1.05 /mm with peaks near 0.23, and a sharp head
kernel peaks at 0.59 (docs/dose.md); the smoothest here is a step below all of them. A few fixed ones and not
any number in between: what filtering takes is computed once for each and stays on the device.
"""

_SIDE: Final = 256
_SEED: Final = 0
_ALIASES: Final = (-1, 0, 1)

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Texture:
    """A kernel that noise is filtered with.

    Attributes:
        kernel: window on the ramp.
        scale: factor that gives the noise of the same rays the level that it has with the case's own kernel,
            as `metrics.noise.global_noise_sd_hu` sees levels.
        zoomed: level of this noise over that of the case's own texture at each magnification.
    """

    kernel: Kernel
    scale: float
    zoomed: tuple[float, ...]


def own_texture(kernel: Kernel, zooms: Sequence[float]) -> Texture:
    """The case's own."""
    return Texture(kernel, 1.0, (1.0,) * len(zooms))


def varied_textures(own: Kernel, pixel_mm: float, zooms: Sequence[float]) -> tuple[Texture, ...]:
    """The case's own texture, then those of kernels that end at `CUTOFFS_PER_MM`.

    Args:
        own: the case's kernel.
        pixel_mm: side of its pixels.
        zooms: magnifications at which the noise is seen.
    """
    levels = _levels(_in_pixels(own, pixel_mm), tuple(zooms))
    others = []
    for cutoff_per_mm in CUTOFFS_PER_MM:
        kernel = Kernel(cutoff_per_mm)
        ratios = _levels(_in_pixels(kernel, pixel_mm), tuple(zooms)) / levels
        others.append(Texture(kernel, 1 / float(ratios[0]), tuple((ratios[1:] / ratios[0]).tolist())))
    return own_texture(own, zooms), *others


def _in_pixels(kernel: Kernel, pixel_mm: float) -> Kernel:
    """The kernel with frequencies in 1/pixel."""
    return Kernel(kernel.cutoff_per_mm * pixel_mm, kernel.boost)


@functools.lru_cache(maxsize=1024)
def _levels(kernel: Kernel, zooms: tuple[float, ...]) -> _Array:
    """(1 + zooms,) level as it is and at each magnification, up to a factor that all kernels share."""
    noise = _noise(kernel)
    sides = (round(_SIDE * zoom) for zoom in (1.0, *zooms))
    return np.array([_typical_sd(resample_image(noise, (side, side))[0].numpy()) for side in sides])


def _noise(kernel: Kernel) -> torch.Tensor:
    """(1, side, side) white noise of rays, always the same, back-projected with a kernel in 1/pixel.

    Its spectrum is |f| W² with the linear interpolation and the repeats that `dose.spectrum` describes.
    """
    v, u = np.meshgrid(np.fft.fftfreq(_SIDE), np.fft.rfftfreq(_SIDE), indexing="ij")
    power = np.zeros_like(u)
    for across in _ALIASES:
        for along in _ALIASES:
            f = np.hypot(u + across, v + along)
            filtered = np.abs((f + 0.5) % 1 - 0.5)  # the filter's response repeats with the detector pitch
            gain = filtered * kernel.gain(torch.from_numpy(filtered)).numpy() * np.sinc(f) ** 2
            power += np.divide(gain**2, f, out=np.zeros_like(f), where=f > 0)
    white = np.random.default_rng(_SEED).standard_normal((_SIDE, _SIDE))
    noise = np.fft.irfft2(np.fft.rfft2(white) * np.sqrt(power), (_SIDE, _SIDE))
    return torch.from_numpy(noise)[None]


def _typical_sd(image: _Array) -> float:
    """Median SD of small regions: the peak of their histogram, but steady in a small image."""
    mean = ndimage.uniform_filter(image, REGION_PIXELS)
    variance = ndimage.uniform_filter(image**2, REGION_PIXELS) - mean**2
    edge = REGION_PIXELS // 2
    return float(np.sqrt(np.median(variance[edge:-edge, edge:-edge])))
