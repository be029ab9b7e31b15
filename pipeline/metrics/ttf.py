"""Task transfer function: the sharpness of a disc's edge at a stated contrast, after AAPM TG-233.

Samei et al. 2019, doi:10.1002/mp.13763, section 4.2.2. The MTF of a linear system belongs to the system; what
a non-linear one (a denoising network) keeps of an edge depends on the edge's contrast and on the noise, so
both are stated beside every TTF.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.signal.windows import tukey

Array = npt.NDArray[np.float64]

BIN_PIXELS: Final = 0.25
"""Width of a bin of the edge spread function: a disc's edge passes the pixel grid at every phase."""

_PADDED: Final = 4
"""The line spread function is padded to so many times its length: a finer frequency axis, nothing else."""

_HALF: Final = 0.5

_RESAMPLES: Final = 500


@dataclass(frozen=True)
class TTF:
    """The transfer of a disc's edge.

    Attributes:
        frequency_per_mm: `(F,)` from 0 to the Nyquist frequency of the image, 1/mm.
        amplitude: `(F,)` transfer, 1 at frequency 0.
        contrast_hu: inside minus outside, as measured on the image.
    """

    frequency_per_mm: Array
    amplitude: Array
    contrast_hu: float

    @property
    def f50_per_mm(self) -> float:
        """First frequency at which the transfer has fallen to a half; the last one where it never does."""
        below = np.flatnonzero(self.amplitude < _HALF)
        if not below.size:
            return float(self.frequency_per_mm[-1])
        here = int(below[0])
        pair = slice(here - 1, here + 1)
        return float(np.interp(_HALF, self.amplitude[pair][::-1], self.frequency_per_mm[pair][::-1]))


def disc_ttf(
    images_hu: npt.NDArray[Any],
    *,
    centre_pixels: tuple[float, float],
    radius_mm: float,
    reach_mm: float,
    pixel_mm: float,
) -> TTF:
    """The TTF of a disc in a uniform surround, from images that differ by noise alone.

    The images are averaged, which takes off the noise without touching the edge. Every pixel within reach of
    the edge falls into a bin by its distance from the centre (edge spread function); the difference of
    neighbouring bins is the line spread function, tapered over its outer halves (Tukey window); its Fourier
    amplitude, corrected for the width of the bins and of that difference, over its value at zero is the TTF.
    The edge counts as straight: a Gaussian blur σ moves it by about σ²/(2·radius) and leaves the width.

    Args:
        images_hu: `(N, H, W)` HU, repeats of one scene.
        centre_pixels: row and column of the disc's centre; pixel centres lie at whole numbers.
        radius_mm: of the disc.
        reach_mm: how far to both sides of the edge it is looked at: beyond the blur, short of other objects.
        pixel_mm: side of a pixel.

    Raises:
        ValueError: no stack of images, a reach under 3 pixels or up to the centre or over the image's border,
            or a disc without any contrast.
    """
    if images_hu.ndim != 3 or len(images_hu) == 0:
        raise ValueError(f"images must be (N, H, W) with N of 1 or more, got shape {images_hu.shape}")
    _require_room(images_hu.shape[1:], centre_pixels, radius_mm / pixel_mm, reach_mm / pixel_mm)
    edge = _edge_spread(images_hu.mean(axis=0), centre_pixels, radius_mm / pixel_mm, reach_mm / pixel_mm)
    return _transfer(edge, pixel_mm)


def f50_interval(
    images_hu: npt.NDArray[Any],
    generator: np.random.Generator,
    *,
    centre_pixels: tuple[float, float],
    radius_mm: float,
    reach_mm: float,
    pixel_mm: float,
) -> tuple[float, float]:
    """The 95 % interval of a disc's f50 in 1/mm: a percentile bootstrap over the images.

    Args:
        images_hu: as for `disc_ttf`, as all others.
        generator: draws the resamples.
        centre_pixels: see `disc_ttf`.
        radius_mm: see `disc_ttf`.
        reach_mm: see `disc_ttf`.
        pixel_mm: see `disc_ttf`.

    Raises:
        ValueError: as `disc_ttf`, or a single image.
    """
    if images_hu.ndim != 3 or len(images_hu) < 2:
        raise ValueError(f"an interval needs at least 2 images (N, H, W), got shape {images_hu.shape}")
    radius, reach = radius_mm / pixel_mm, reach_mm / pixel_mm
    _require_room(images_hu.shape[1:], centre_pixels, radius, reach)
    edges = np.stack([_edge_spread(image, centre_pixels, radius, reach) for image in images_hu])
    count = len(edges)
    shares = generator.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES) / count
    low, high = np.percentile([_transfer(edge, pixel_mm).f50_per_mm for edge in shares @ edges], [2.5, 97.5])
    return float(low), float(high)


def _transfer(edge: Array, pixel_mm: float) -> TTF:
    """The TTF of an edge spread function."""
    line: Array = np.diff(edge) * np.asarray(tukey(len(edge) - 1, 0.5), np.float64)
    length = _PADDED * len(line)
    cycles_per_pixel = np.fft.rfftfreq(length, BIN_PIXELS)
    shown = cycles_per_pixel <= _HALF
    spectrum = np.abs(np.fft.rfft(line, length))[shown]
    if not spectrum[0] > 0:
        raise ValueError("the disc has no contrast: there is no edge to measure")
    frequency: Array = cycles_per_pixel[shown].astype(np.float64)
    amplitude: Array = spectrum / spectrum[0] / np.sinc(frequency * BIN_PIXELS) ** 2
    quarter = max(1, len(edge) // 4)
    contrast = float(edge[:quarter].mean() - edge[-quarter:].mean())
    return TTF(frequency / pixel_mm, amplitude, contrast)


def _require_room(shape: tuple[int, ...], centre: tuple[float, float], radius: float, reach: float) -> None:
    """All in pixels."""
    room = min(*centre, *(side - 1 - middle for side, middle in zip(shape, centre, strict=True)))
    if not 3 <= reach < radius or radius + reach > room:
        raise ValueError(
            f"reach {reach:.3g} pixels must be at least 3, below the radius {radius:.3g}, and with it within "
            f"the {room:.3g} pixels from the centre to the border"
        )


def _edge_spread(image: Array, centre: tuple[float, float], radius: float, reach: float) -> Array:
    """Mean value per distance bin, from the inside out; bins without a pixel are interpolated."""
    rows, columns = np.indices(image.shape)
    distance = np.hypot(rows - centre[0], columns - centre[1]) - (radius - reach)
    count = int(2 * reach / BIN_PIXELS)
    bins = np.floor(distance / BIN_PIXELS).astype(np.int64)
    near = (bins >= 0) & (bins < count)
    pixels = np.bincount(bins[near], minlength=count)
    sums = np.bincount(bins[near], weights=image[near], minlength=count)
    filled = np.flatnonzero(pixels)
    edge: Array = np.interp(np.arange(count), filled, sums[filled] / pixels[filled])
    return edge
