"""Noise power spectra of image regions, after AAPM TG-233 (Samei et al. 2019, doi:10.1002/mp.13763)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_FEWEST_PIXELS: Final = 8
_NEAR_THE_PEAK: Final = 0.8
"""Share of the highest power from which bins speak of where the peak is."""


@dataclass(frozen=True)
class RadialNPS:
    """A noise power spectrum averaged over directions.

    Attributes:
        frequency_per_mm: `(bins,)` centres of evenly spaced bins from zero to the Nyquist frequency, 1/mm.
        power_hu2_mm2: `(bins,)` mean power of each bin, HU² mm².
    """

    frequency_per_mm: Array
    power_hu2_mm2: Array

    @property
    def step_per_mm(self) -> float:
        """Width of a bin."""
        return float(self.frequency_per_mm[1] - self.frequency_per_mm[0])

    @property
    def normalised_mm(self) -> Array:
        """The texture without the amount: power over its integral along frequency, in mm; its integral is 1.

        Raises:
            ValueError: there is no noise.
        """
        integral = float(self.power_hu2_mm2.sum()) * self.step_per_mm
        if not integral > 0:
            raise ValueError("an image without noise has no normalised noise power spectrum")
        return self.power_hu2_mm2 / integral

    @property
    def peak_per_mm(self) -> float:
        """Frequency of the highest power: the top of a parabola through the bins around the highest one."""
        power, top = self.power_hu2_mm2, int(self.power_hu2_mm2.argmax())
        low = high = top
        while low > 0 and power[low - 1] >= _NEAR_THE_PEAK * power[top]:
            low -= 1
        while high < len(power) - 1 and power[high + 1] >= _NEAR_THE_PEAK * power[top]:
            high += 1
        near = slice(max(min(low, top - 1), 0), max(high, top + 1) + 1)
        frequency = self.frequency_per_mm[near]
        if len(frequency) < 3:
            return float(self.frequency_per_mm[top])
        curvature, slope, _ = np.polyfit(frequency, power[near], 2)
        if curvature >= 0:
            return float(self.frequency_per_mm[top])
        return float(np.clip(-slope / (2 * curvature), frequency[0], frequency[-1]))


def noise_power_spectrum(regions_hu: npt.NDArray[Any], pixel_mm: float) -> Array:
    """NPS = pixel area / number of pixels · mean over regions of |DFT of the detrended region|².

    Each region loses its own second-order polynomial first (TG-233, section 4.2.1), so that shading and
    cupping do not count as noise. The mean of the spectrum over its whole area is the variance that is left
    (Parseval): `nps.sum() / (side · pixel_mm)²`.

    Args:
        regions_hu: `(N, side, side)` HU, square regions of uniform material.
        pixel_mm: pixel side.

    Returns:
        `(side, side)` HU² mm², frequencies in the order of `numpy.fft.fftfreq(side, pixel_mm)`.

    Raises:
        ValueError: regions that are no stack of squares of at least 8 pixels, or no positive pixel side.
    """
    _require_squares(regions_hu)
    if not pixel_mm > 0:
        raise ValueError(f"pixel_mm must be positive, got {pixel_mm}")
    side = regions_hu.shape[-1]
    power = np.abs(np.fft.fft2(detrended(regions_hu))) ** 2
    spectrum: Array = power.mean(axis=0) * (pixel_mm / side) ** 2
    return spectrum


def detrended(regions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Square regions less their least-squares second-order polynomial in x and y.

    Args:
        regions: `(..., side, side)` real or complex.

    Raises:
        ValueError: the regions are not square.
    """
    _require_squares(regions)
    side = regions.shape[-1]
    basis = _quadratic_basis(side)
    flat = regions.reshape(*regions.shape[:-2], side * side)
    left: npt.NDArray[Any] = flat - (flat @ basis) @ basis.T
    return left.reshape(regions.shape)


def radial_average(spectrum_hu2_mm2: npt.NDArray[Any], pixel_mm: float) -> RadialNPS:
    """Average of a 2-D spectrum over directions, in bins one DFT step wide, up to the Nyquist frequency.

    Args:
        spectrum_hu2_mm2: `(side, side)`, as `noise_power_spectrum` gives it.
        pixel_mm: pixel side.

    Raises:
        ValueError: the spectrum is not square.
    """
    _require_squares(spectrum_hu2_mm2)
    side = spectrum_hu2_mm2.shape[-1]
    bins = radial_bins(side)
    inside = bins <= side // 2
    counts = np.bincount(bins[inside])
    power = np.bincount(bins[inside], weights=spectrum_hu2_mm2[inside]) / counts
    return RadialNPS(np.arange(len(power)) / (side * pixel_mm), power)


def radial_nps(regions_hu: npt.NDArray[Any], pixel_mm: float) -> RadialNPS:
    """Radial average of the `noise_power_spectrum` of regions; arguments and errors as there."""
    return radial_average(noise_power_spectrum(regions_hu, pixel_mm), pixel_mm)


def radial_bins(side: int) -> npt.NDArray[np.int64]:
    """`(side, side)` number of the radial bin of each frequency of a DFT: |f| in DFT steps, rounded."""
    steps = np.fft.fftfreq(side, 1 / side)
    bins: npt.NDArray[np.int64] = np.rint(np.hypot(steps[:, None], steps[None, :])).astype(np.int64)
    return bins


def texture_distance(one: RadialNPS, other: RadialNPS) -> float:
    """L1 distance ∫ |a − b| df of two normalised radial spectra: 0 for the same texture, at most 2.

    Raises:
        ValueError: the spectra have other bins, or one is without noise.
    """
    same = len(one.frequency_per_mm) == len(other.frequency_per_mm)
    if not same or not np.allclose(one.frequency_per_mm, other.frequency_per_mm):
        raise ValueError("spectra need the same bins: take regions of one size and pixel side")
    return float(np.abs(one.normalised_mm - other.normalised_mm).sum()) * one.step_per_mm


def _quadratic_basis(side: int) -> Array:
    """`(side², 6)` orthonormal polynomials up to the second order."""
    line = np.linspace(-1.0, 1.0, side)
    y, x = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
    columns = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2], axis=1)
    basis: Array = np.linalg.qr(columns)[0]
    return basis


def _require_squares(regions: npt.NDArray[Any]) -> None:
    if regions.ndim < 2 or regions.shape[-1] != regions.shape[-2] or regions.shape[-1] < _FEWEST_PIXELS:
        raise ValueError(
            f"regions must be squares of at least {_FEWEST_PIXELS} pixels, got shape {regions.shape}"
        )
