"""The reconstruction kernel behind a noise texture."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.dose.regions import FEWEST_REGIONS, Regions
from pipeline.dose.spectrum import Array, kernel_gain, measured_power, region_spectrum
from pipeline.errors import ConfigError
from pipeline.projector import Beam, FanBeam, Kernel

POOR_FIT: Final = 0.25
"""L1 distance beyond which the measured texture is not that of filtered back-projection."""

_CUTOFFS: Final = np.geomspace(0.15, 6.0, 220)
"""In units of the Nyquist frequency."""
_BOOSTS: Final = (0.0, *np.geomspace(1.0, 32.0, 16))
_LEAST_BOOSTED_CUTOFF_PER_MM: Final = 0.6
"""Kernels that end below are smooth: a boost there would fit anatomy."""
_MOST_ANATOMY: Final = 0.5
"""Share of the spectrum beyond which neither texture nor level of the noise can be read."""
_MOST_NYQUIST: Final = 4.0
"""Where a Hann window may end; with 0.85 left at the Nyquist frequency it is nearly `ramp` by then."""
_GOOD_FIT: Final = 0.06
"""L1 distance up to which a plain Hann window is taken: anatomy and chance pass for a little boost."""


@dataclass(frozen=True)
class KernelFit:
    """The kernel that gives the noise of a series its texture.

    Attributes:
        kernel: window on the ramp.
        distance: L1 distance of the regions' normalised radial spectrum from the fitted one; None where the
            noise cannot be seen and the kernel is assumed.
        regions: how many were looked at.
        warning: what a user has to know; None when there is nothing.
    """

    kernel: Kernel
    distance: float | None
    regions: int
    warning: str | None = None


def parse_kernel(name: str, pixel_mm: float) -> Kernel:
    """A kernel by name: `ramp`, `hann`, or `hann:0.6` for a cut-off at that share of the Nyquist frequency.

    Args:
        name: as a user writes it.
        pixel_mm: pixel side; the Nyquist frequency is 1 / (2 pixel_mm).

    Raises:
        ConfigError: another name, or a share that is not a number above 0, up to 4.
    """
    family, colon, share = name.strip().lower().partition(":")
    if family == "ramp" and not colon:
        return Kernel(math.inf)
    cutoff = _positive_number(share if colon else "1") if family == "hann" else None
    if cutoff is None or cutoff > _MOST_NYQUIST:
        raise ConfigError(
            f"unknown --kernel {name!r}; give image, ramp, hann, or hann:0.6 (share of the Nyquist "
            f"frequency, at most {_MOST_NYQUIST:g})"
        )
    return Kernel(cutoff / (2 * pixel_mm))


def estimate_kernel(hu: npt.NDArray[np.float32], regions: Regions, beam: Beam) -> KernelFit:
    """The kernel whose noise has the texture of these regions.

    Their mean radial spectrum is taken apart into the noise of a kernel and anatomy with a power of 1/f³, by
    weighted least squares over a grid of cut-offs, and of boosts where a plain Hann window does not fit.

    Args:
        hu: `(slices, rows, columns)` HU.
        regions: uniform tissue in them.
        beam: the scan that the noise will be simulated with.

    Returns:
        The fit. With fewer than four regions, without noise in them, or with more anatomy than noise: a Hann
        window that ends at the Nyquist frequency, and a warning.
    """
    power = measured_power(regions.cut(hu)) if len(regions) else np.empty((0, 1))
    power = power[power.sum(axis=1) > 0]
    if len(power) < FEWEST_REGIONS:
        few = f"{len(power)} uniform regions are too few to see the noise (at least {FEWEST_REGIONS})"
        return KernelFit(parse_kernel("hann", beam.pixel_mm), None, len(power), few)
    texture = (power / power.sum(axis=1, keepdims=True)).mean(axis=0)
    cutoff, boost, fitted, anatomy = _best_fit(texture, regions.side, beam.pixel_mm)
    if anatomy > _MOST_ANATOMY:
        hidden = f"the most uniform regions hold more anatomy than noise ({anatomy:.0%} of the spectrum)"
        return KernelFit(parse_kernel("hann", beam.pixel_mm), None, len(power), hidden)
    distance = _distance(texture, fitted)
    cutoff_per_mm = cutoff / (2 * beam.pixel_mm) / _magnification(hu.shape, regions, beam)
    return KernelFit(Kernel(cutoff_per_mm, boost), distance, len(power), _doubt(distance))


def noise_variance_hu2(hu: npt.NDArray[np.float32], regions: Regions, beam: Beam, kernel: Kernel) -> Array:
    """Variance of the noise in each region, told from anatomy by its texture.

    Args:
        hu: `(slices, rows, columns)` HU.
        regions: uniform tissue in them.
        beam: the scan.
        kernel: gives the noise its texture, see `estimate_kernel`.

    Returns:
        `(regions,)` HU², unbiased, so single ones can be negative where there is next to no noise.
    """
    power = measured_power(regions.cut(hu))
    if not power.any():
        return np.zeros(len(power))
    model = region_spectrum(regions.side)
    seen = Kernel(kernel.cutoff_per_mm * _magnification(hu.shape, regions, beam), kernel.boost)
    noise = model.of_kernels(kernel_gain(seen, beam.pixel_mm)[None])[0]
    parts = np.stack([noise, model.anatomy / model.anatomy.max()], axis=1)
    weighted = parts * model.weights(power.mean(axis=0))[:, None]
    shares = np.linalg.solve(weighted.T @ parts, weighted.T @ power.T)
    variance: Array = shares[0]
    return variance


def _best_fit(texture: Array, side: int, pixel_mm: float) -> tuple[float, float, Array, float]:
    """Cut-off in units of the Nyquist frequency, boost, and the closest spectrum with its anatomy share."""
    cutoffs, boosts, spectra = _spectra_of_kernels(side)
    model = region_spectrum(side)
    weights, anatomy = model.weights(texture), model.anatomy / model.anatomy.max()
    nn, na, aa = (spectra**2) @ weights, spectra @ (weights * anatomy), anatomy**2 @ weights
    nt, at = spectra @ (weights * texture), anatomy @ (weights * texture)
    tissue = np.maximum((nn * at - na * nt) / (nn * aa - na**2), 0)
    noise = np.maximum((nt - tissue * na) / nn, 0)
    fitted = noise[:, None] * spectra + tissue[:, None] * anatomy
    errors = ((texture - fitted) ** 2) @ weights
    hann = np.flatnonzero(boosts == 0)
    best = int(hann[errors[hann].argmin()])
    if _distance(texture, fitted[best]) > _GOOD_FIT:
        is_smooth = cutoffs / (2 * pixel_mm) < _LEAST_BOOSTED_CUTOFF_PER_MM
        best = int(np.where((boosts > 0) & is_smooth, np.inf, errors).argmin())
    share = float(tissue[best] * anatomy.sum() / fitted[best].sum())
    return float(cutoffs[best]), float(boosts[best]), fitted[best], share


def _distance(texture: Array, fitted: Array) -> float:
    """L1 distance of a spectrum that is normalised from one that may not be."""
    return float(np.abs(texture - fitted / fitted.sum()).sum())


@functools.lru_cache(maxsize=8)
def _spectra_of_kernels(side: int) -> tuple[Array, Array, Array]:
    """Cut-offs in units of the Nyquist frequency, boosts and spectra of all kernels that are tried."""
    cutoffs, boosts = (grid.ravel() for grid in np.meshgrid(_CUTOFFS, _BOOSTS, indexing="ij"))
    half_pixel = 0.5  # pixels this wide have their Nyquist frequency at 1
    gains = [kernel_gain(Kernel(c, b), half_pixel) for c, b in zip(cutoffs, boosts, strict=True)]
    return cutoffs, boosts, region_spectrum(side).of_kernels(np.stack(gains))


def _doubt(distance: float) -> str | None:
    if distance > POOR_FIT:
        return (
            f"the noise texture is not that of filtered back-projection (L1 distance {distance:.2f}, at most "
            f"{POOR_FIT}): compare the pictures, or name it with --kernel and --flux"
        )
    return None


def _magnification(shape: tuple[int, ...], regions: Regions, beam: Beam) -> float:
    """How much finer the noise is in these regions than at the isocentre.

    A view whose source is U times as far from a pixel as from the isocentre puts noise there with frequencies
    1/U times those at the isocentre and weights its power by 1/U⁴: close sources, with fine cells, win.
    """
    if not isinstance(beam, FanBeam):
        return 1.0
    middle = (np.array(shape[1:]) - regions.side) / 2
    radius_mm = np.hypot(*(regions.corners[:, 1:] - middle).T) * beam.pixel_mm
    view = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    distance = 1 + np.outer(radius_mm / beam.source_mm, np.sin(view))
    return float((distance**-5.0).mean() / (distance**-4.0).mean())


def _positive_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value > 0 and math.isfinite(value) else None
