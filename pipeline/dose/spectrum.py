"""What the noise of filtered back-projection looks like in a small region of the image.

White noise of the rays comes out of filtered back-projection with the 2-D spectrum |f| W(f)² (Riederer et al.
1978, doi:10.1088/0031-9155/23/3/007), W being the kernel's window on the ramp. A measurement sees it through
linear interpolation between detector cells (sinc⁴, and the repeats of the spectrum at multiples of 1/pitch),
aliasing at the pixel grid, and the leakage and detrending of a small region. All of this is linear in W², so
one matrix for each size of region tells what any kernel would be measured as. Lengths are in pixels, which
are as wide as detector cells.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.metrics.nps import detrended, radial_average, radial_bins
from pipeline.projector import Kernel

Array = npt.NDArray[np.float64]

_ANATOMY_EXPONENT: Final = 3.0
"""Power of tissue structure falls as 1/f³ (Burgess et al. 2001, doi:10.1118/1.1355308, in mammograms)."""

_WINDOW_POINTS: Final = 128
_OVERSAMPLING: Final = 4
_ALIASES: Final = (-2, -1, 0, 1, 2)
_POWER_FLOOR: Final = 0.05
"""Share of the highest power below which bins gain no more weight: a model is never better than that."""


@dataclass(frozen=True)
class RegionSpectrum:
    """Radial spectra that a detrended square region measures, in HU² for pixels of unit side.

    Attributes:
        modes: `(bins,)` independent frequencies of each bin.
        noise: `(bins, points)` response to the power gain W² at each of `window_frequencies`.
        variance: `(points,)` variance of the whole image noise that comes with it.
        anatomy: `(bins,)` of structure with a power of 1/f³.
    """

    modes: Array
    noise: Array
    variance: Array
    anatomy: Array

    def of_kernels(self, gains: Array) -> Array:
        """Spectra of noise with variance 1.

        Args:
            gains: `(kernels, points)` window W at `window_frequencies`.

        Returns:
            `(kernels, bins)`.
        """
        power = gains**2
        spectra: Array = power @ self.noise.T / (power @ self.variance)[:, None]
        return spectra

    def weights(self, measured: Array) -> Array:
        """`(bins,)` weights of a least-squares fit: a bin is as certain as it has modes and little power."""
        weights: Array = self.modes / (measured + _POWER_FLOOR * measured.max())
        weights[0] = 0.0  # the mean is gone
        return weights


def window_frequencies(pixel_mm: float) -> torch.Tensor:
    """`(points,)` frequencies up to the Nyquist frequency at which W is looked at, 1/mm."""
    return (torch.arange(_WINDOW_POINTS, dtype=torch.float64) + 0.5) / (2 * _WINDOW_POINTS * pixel_mm)


def kernel_gain(kernel: Kernel, pixel_mm: float) -> Array:
    """`(points,)` window of a kernel at `window_frequencies`."""
    gain: Array = kernel.gain(window_frequencies(pixel_mm)).double().numpy()
    return gain


def measured_power(regions_hu: npt.NDArray[Any]) -> Array:
    """Radial spectrum of each region, `(N, side, side)` HU to `(N, bins)` HU² for pixels of unit side."""
    side = regions_hu.shape[-1]
    power = np.abs(np.fft.fft2(detrended(regions_hu.astype(np.float64)))) ** 2 / side**2
    return np.stack([radial_average(one, 1.0).power_hu2_mm2 for one in power])


@functools.lru_cache(maxsize=8)
def region_spectrum(side: int) -> RegionSpectrum:
    """The model for regions of `side` pixels along an edge."""
    u, v, multiplicity = _frequencies(_OVERSAMPLING * side)
    seen = _seen(u, v, side) * multiplicity[:, None]
    source = _projection_noise(u, v)
    bins = radial_bins(side)
    return RegionSpectrum(
        modes=np.bincount(bins[bins <= side // 2]).astype(np.float64),
        noise=seen.T @ source,
        variance=multiplicity @ source,
        anatomy=seen.T @ np.hypot(u, v) ** -_ANATOMY_EXPONENT,
    )


def _frequencies(points: int) -> tuple[Array, Array, Array]:
    """A fine grid over an eighth of the frequency plane, in cycles per pixel, and the share of each point.

    The shares of all points add up to 1, so that sums are integrals over the plane.
    """
    line = (np.arange(points // 2) + 0.5) / points
    u, v = np.meshgrid(line, line, indexing="ij")
    eighth = u <= v
    multiplicity = np.where(u == v, 4.0, 8.0) / points**2
    return u[eighth], v[eighth], multiplicity[eighth]


def _seen(u: Array, v: Array, side: int) -> Array:
    """`(frequencies, bins)` power that a detrended region measures of a wave of power 1."""
    pixel = np.arange(side)
    waves = np.exp(2j * np.pi * (u[:, None, None] * pixel[:, None] + v[:, None, None] * pixel))
    power = np.abs(np.fft.fft2(detrended(waves))) ** 2 / side**2
    bins = radial_bins(side)
    return np.stack([power[:, bins == number].mean(axis=1) for number in range(side // 2 + 1)], axis=1)


def _projection_noise(u: Array, v: Array) -> Array:
    """`(frequencies, points)` noise power of back-projected white noise per unit of W²."""
    power = np.zeros((len(u), _WINDOW_POINTS))
    for across in _ALIASES:
        for along in _ALIASES:
            f = np.hypot(u + across, v + along)
            filtered = np.abs((f + 0.5) % 1 - 0.5)  # the filter's response repeats with the detector pitch
            ramp_and_interpolation = filtered**2 * np.sinc(f) ** 4 / f
            point = np.minimum((filtered * 2 * _WINDOW_POINTS).astype(np.int64), _WINDOW_POINTS - 1)
            np.add.at(power, (np.arange(len(u)), point), ramp_and_interpolation)
    return power
