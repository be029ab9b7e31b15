"""New noise for the same slices, again and again, as training wants it: that of `insertion`, at patch prices.

    noise = NoiseRealisations(acquisition, side=64)
    rays = noise.line_integrals(hu, visible)  # once, float16
    drawn = noise.draw(rays, dose_fractions, generator=generator)  # every time
    added_hu = noise.patches_hu(noise.filtered(drawn[0]), corners, 64, shape)

Three things make it cheap. The line integrals are kept. Views are as many as a patch can tell apart: a ray
then stands for several neighbours and gets the mean of their noise. And only the pixels of the patches are
back-projected (`projector.patches`).

On a GPU nothing that is done every time makes the host wait: what depends on the scan alone is kept there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.dose.field_of_view import continued, from_canvas, halved, known, to_canvas
from pipeline.dose.flux import Flux
from pipeline.dose.insertion import WIDEST_RAY_MM, Acquisition
from pipeline.dose.photons import HU_PER_ATTENUATION, attenuation_per_mm
from pipeline.dose.statistics import draw_missing_noise, low_count, plentiful_noise, require_dose_fraction
from pipeline.projector import Beam, FanBeam, filtered_back_projection, project
from pipeline.projector.patches import KEPT_SCANS, FilteredViews

VIEWS_PER_PIXEL: Final = 3
"""Views over 360° per pixel along a patch's edge. Noise of frequency f repeats itself at a distance of
1/(f Δ) where views are Δ apart; about π views per pixel keep that outside of the patch."""

_DRAWN_EVERYWHERE: Final = ("cuda",)
"""Where photons are counted in every ray and the starved ones chosen afterwards: to gather those first, the
host would have to wait for their number, which costs a GPU more than the counting. A processor gathers."""


class NoiseRealisations:
    """Draws the noise that a lower dose would have had on top of a scan's slices.

    Slices are as independent as those of different series. None is projected at full resolution: where a
    lower dose leaves fewer than `insertion.FEW_PHOTONS` in a ray, that costs up to 0.3 HU of the log bias
    between two metal implants. The noise of starved rays is drawn by counting their photons.

    Args:
        acquisition: the scan, as for `insert_noise`.
        side: pixels along an edge of the largest patch that will be looked at.
    """

    def __init__(self, acquisition: Acquisition, *, side: int) -> None:
        self.beam = beam = with_fewer_views(acquisition.beam, side)
        self._rays_each = acquisition.beam.views // beam.views
        self._flux, self._kernel = acquisition.flux, acquisition.kernel
        self._side = side
        halves = beam.size % 2 == 0 and beam.detector_cells % 2 == 0
        self._halved = halves and 2 * beam.pixel_mm <= WIDEST_RAY_MM

    @property
    def bytes_per_slice(self) -> int:
        """What `line_integrals` keeps of one slice."""
        return math.prod(self.beam.sinogram_shape) * torch.float16.itemsize // (2 if self._halved else 1)

    def line_integrals(self, hu: Tensor, visible: Tensor) -> Tensor:
        """What is kept of slices: line integrals, on half as many cells where rays so wide are fine enough.

        Args:
            hu: `(N, rows, columns)` HU at normal dose, float32.
            visible: `(N, rows, columns)` bool, pixels that show something, all of them inside the beam.

        Returns:
            `(N, views, cells)` or `(N, views, cells / 2)` float16: counts within 0.4 % even behind metal.

        Raises:
            ValueError: images that do not fit the beam.
        """
        beam = self.beam
        if hu.ndim != 3 or visible.shape != hu.shape or max(hu.shape[1:]) > beam.size:
            raise ValueError(
                f"images and what is visible must be (N, rows, columns) of at most {beam.size} pixels, "
                f"got {tuple(hu.shape)} and {tuple(visible.shape)}"
            )
        attenuation = to_canvas(attenuation_per_mm(hu) * visible, beam.size, fill=0.0)
        is_known = to_canvas(known(visible), beam.size, fill=False)
        if self._halved:
            beam = replace(beam.coarser(2), views=beam.views)
            attenuation, is_known = halved(attenuation, is_known)
        larger = continued(attenuation, is_known, beam.pixel_mm)
        return project(larger, replace(beam, size=larger.shape[-1], cells=beam.detector_cells)).half()

    def draw(
        self, line_integrals: Tensor, dose_fractions: Sequence[float], *, generator: torch.Generator
    ) -> Tensor:
        """Noise of the line integrals, new at every call.

        Args:
            line_integrals: `(N, …)` as `line_integrals` keeps them.
            dose_fractions: share of the normal dose of each slice.
            generator: source of the noise, on the same device.

        Returns:
            `(N, views, cells)` float32.

        Raises:
            ValueError: a dose fraction is not between 0 and 1, or there are more or fewer than slices.
        """
        pairs = zip(line_integrals, dose_fractions, strict=True)
        return torch.stack([self._draw(rays, dose_fraction, generator) for rays, dose_fraction in pairs])

    def filtered(self, noise: Tensor) -> FilteredViews:
        """The `(views, cells)` noise of one slice, ready to be back-projected to any of its patches."""
        return FilteredViews.of(noise, self.beam, kernel=self._kernel)

    def patches_hu(self, noise: FilteredViews, corners: Tensor, side: int, shape: tuple[int, int]) -> Tensor:
        """Noise in patches of a slice.

        Args:
            noise: of the slice.
            corners: `(K, 2)` first row and first column of each patch, whole numbers, on the noise's device.
            side: pixels along an edge.
            shape: rows and columns of the slice.

        Returns:
            `(K, side, side)` HU, to be added where pixels are visible.

        Raises:
            ValueError: patches larger than the noise was drawn for.
        """
        if side > self._side:
            raise ValueError(f"the noise was drawn for patches of at most {self._side} pixels, got {side}")
        firsts = [
            first + (self.beam.size - length) // 2 for first, length in zip(corners.T, shape, strict=True)
        ]
        return noise.patches(torch.stack(firsts, dim=1), side) * HU_PER_ATTENUATION

    def slices_hu(self, noise: Tensor, shape: tuple[int, int]) -> Tensor:
        """`(N, rows, columns)` HU of `(N, views, cells)` noise, to be added where pixels are visible."""
        attenuation = filtered_back_projection(noise, self.beam, kernel=self._kernel)
        return from_canvas(attenuation, *shape) * HU_PER_ATTENUATION

    def _draw(self, line_integrals: Tensor, dose_fraction: float, generator: torch.Generator) -> Tensor:
        require_dose_fraction(dose_fraction)
        shape, electronic_variance = self.beam.sinogram_shape, self._flux.electronic_variance
        rays = line_integrals.float()[None]
        if rays.shape[1:] != shape:
            rays = functional.interpolate(rays[None], shape, mode="bicubic", align_corners=False)[0]
        counts = rays[0].neg().exp_() * _open_counts(self._flux, self.beam, rays.device)
        enough = low_count(electronic_variance) / dose_fraction
        normal = torch.randn(shape, generator=generator, device=counts.device) / self._rays_each**0.5
        noise = plentiful_noise(counts, dose_fraction, normal, electronic_variance=electronic_variance)
        starved = counts < enough
        everywhere = counts.device.type in _DRAWN_EVERYWHERE
        few = counts.clamp(max=enough) if everywhere else counts[starved]
        each = few.expand(self._rays_each, *few.shape)
        drawn = draw_missing_noise(each, dose_fraction, electronic_variance, generator).mean(dim=0)
        if everywhere:
            return torch.where(starved, drawn, noise)
        noise[starved] = drawn
        return noise


@functools.lru_cache(maxsize=KEPT_SCANS)
def _open_counts(flux: Flux, beam: Beam, device: torch.device) -> Tensor:
    """`(1, cells)` photons that reach the detector where nothing is in the way."""
    nothing = torch.zeros(1, 1, beam.detector_cells, device=device)
    return flux.expected_counts(nothing, beam)[0]


def with_fewer_views(beam: Beam, side: int) -> Beam:
    """The same rays in as few views as a patch of `side` pixels allows: a whole share of the scan's."""
    octants, turn = (8, 1) if isinstance(beam, FanBeam) else (4, 2)
    counts = range(octants, beam.views, octants)
    enough = (n for n in counts if beam.views % n == 0 and n * turn >= VIEWS_PER_PIXEL * side)
    return replace(beam, views=next(enough, beam.views), cells=beam.detector_cells)
