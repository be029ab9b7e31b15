"""Low-dose images from normal-dose ones: only the missing noise is added.

    visible = field_of_view(hu, padding)
    beam = covering(FanBeam(canvas_size(rows, columns), pixel_mm), visible)
    low_dose_hu = insert_noise(hu, Acquisition(beam, flux, kernel), dose_fractions=[0.25, 0.1],
                               slice_index=first, seed=seed, exposure=relative_mas, visible=visible)

The image is projected (at half resolution where that is fine enough: its line integrals only set the level
of the noise), the noise that each dose lacks is drawn in the sinogram, reconstructed alone and added,
so the normal-dose image keeps its resolution, kernel and artefacts. Work on chunks of 8 to 16 slices; the
result does not depend on the chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch.nn import functional

from pipeline.dose.field_of_view import continued, from_canvas, halved, known, to_canvas
from pipeline.dose.flux import Flux
from pipeline.dose.photons import HU_PER_ATTENUATION, attenuation_per_mm
from pipeline.dose.slices import shared_noise
from pipeline.dose.statistics import missing_noise, missing_variance, require_dose_fraction
from pipeline.projector import Beam, Kernel, filtered_back_projection, project, propagate_variance

WIDEST_RAY_MM: Final = 2.0
"""Rays up to this width keep the log bias between two metal hips (50 HU at 5 % dose) within 1 HU."""

FEW_PHOTONS: Final = 10.0
"""A slice whose darkest ray expects fewer at the lower dose is projected at full resolution: there the log
bias is so steep that the rays' error at half of it costs 0.3 HU between two metal hips (measured with 2.7
photons left; from 10 photons on it makes no difference)."""

_MOST_VIEWS_TOGETHER: Final = 6
"""At most so many views' variances are averaged before they are propagated: they change slowly."""


@dataclass(frozen=True)
class Acquisition:
    """How the noise came about.

    Attributes:
        beam: rays of the full-resolution scan; its `size` is the `canvas_size` of the images.
        flux: photons at normal dose.
        kernel: reconstruction kernel, which gives the noise its texture.
    """

    beam: Beam
    flux: Flux
    kernel: Kernel


def line_integrals(hu: torch.Tensor, beam: Beam, visible: torch.Tensor | None = None) -> torch.Tensor:
    """Line integrals through images, fine enough to set the level of noise.

    They are projected at half the resolution where its rays are at most `WIDEST_RAY_MM` wide, and
    interpolated (bicubic: linear interpolation flattens the darkest rays behind metal and costs up to 1 HU
    of their bias). A body that reaches outside the field of view is continued there, see
    `field_of_view.continued`.

    Args:
        hu: `(N, rows, columns)` HU, float32.
        beam: the scan; its `size` is the `canvas_size` of the images.
        visible: `(N, rows, columns)` bool, pixels that show something; None for all that every view sees.

    Returns:
        `(N, views, cells)` line integrals.

    Raises:
        ValueError: images that do not fit the beam, or show pixels that some views do not see.
    """
    visible = _visible(hu, beam, visible)
    if not _can_be_halved(beam):
        return _full_line_integrals(hu, beam, visible)
    coarse = _rays_through(*halved(*_on_canvas(hu, beam, visible)), beam.coarser(2))
    fine = functional.interpolate(coarse[:, None], beam.sinogram_shape, mode="bicubic", align_corners=False)
    return fine[:, 0]


def insert_noise(
    hu: torch.Tensor,
    acquisition: Acquisition,
    *,
    dose_fractions: Sequence[float],
    slice_index: int,
    seed: int,
    exposure: torch.Tensor | float = 1.0,
    thickness_over_increment: float = 1.0,
    visible: torch.Tensor | None = None,
) -> torch.Tensor:
    """Images as they would have been at lower doses.

    Args:
        hu: `(N, rows, columns)` HU of consecutive slices at normal dose, float32.
        acquisition: the scan.
        dose_fractions: shares of the normal dose, each between 0 and 1; their noise is independent.
        slice_index: of the first slice within its series.
        seed: of the series; with a slice's index and the dose it fixes its noise, whatever the chunks.
        exposure: `(N,)` mAs of each slice relative to the flux's, or one for all.
        thickness_over_increment: slice thickness over slice spacing; above 1 neighbours share noise.
        visible: `(N, rows, columns)` bool, pixels that show something; None for all that every view sees. All
            others come back bit for bit.

    Returns:
        `(doses, N, rows, columns)` HU.

    Raises:
        ValueError: a dose fraction outside 0 to 1, images that do not fit the beam, or pixels shown that some
            views do not see.
    """
    for dose_fraction in dose_fractions:
        require_dose_fraction(dose_fraction)
    beam = acquisition.beam
    visible = _visible(hu, beam, visible)
    noise = hu.new_empty(len(dose_fractions), len(hu), *beam.sinogram_shape)
    every_counts = expected_counts(
        hu, acquisition, dose_fractions=dose_fractions, exposure=exposure, visible=visible
    )
    for dose_fraction, counts, images in zip(dose_fractions, every_counts, noise, strict=True):
        fields = shared_noise(
            counts.shape[1:],
            seed=seed,
            first_slice=slice_index,
            dose_fraction=dose_fraction,
            thickness_over_increment=thickness_over_increment,
            device=counts.device,
        )
        for image, rays, field in zip(images, counts, fields, strict=False):
            image[:] = missing_noise(
                rays, dose_fraction, field, electronic_variance=acquisition.flux.electronic_variance
            )
    attenuation = filtered_back_projection(noise.flatten(0, 1), beam, kernel=acquisition.kernel)
    noise_hu = from_canvas(attenuation, *hu.shape[1:]).reshape(-1, *hu.shape) * HU_PER_ATTENUATION
    return torch.where(visible, hu + noise_hu, hu)


def added_sd_hu(
    hu: torch.Tensor,
    acquisition: Acquisition,
    *,
    dose_fraction: float,
    exposure: torch.Tensor | float = 1.0,
    visible: torch.Tensor | None = None,
) -> torch.Tensor:
    """Standard deviation of the noise that `insert_noise` adds, without drawing it.

    Args:
        hu: `(N, rows, columns)` HU at normal dose.
        acquisition: the scan.
        dose_fraction: share of the normal dose.
        exposure: see `insert_noise`.
        visible: see `insert_noise`.

    Returns:
        `(N, rows, columns)` HU; zero where nothing is shown.

    Raises:
        ValueError: as `insert_noise`.
    """
    visible = _visible(hu, acquisition.beam, visible)
    (counts,) = expected_counts(
        hu, acquisition, dose_fractions=[dose_fraction], exposure=exposure, visible=visible
    )
    variances = missing_variance(counts, dose_fraction, acquisition.flux.electronic_variance)
    beam = acquisition.beam
    together = next((n for n in range(_MOST_VIEWS_TOGETHER, 1, -1) if beam.views % (8 * n) == 0), 1)
    fewer = replace(beam, views=beam.views // together, cells=beam.detector_cells)
    variances = variances.reshape(len(hu), fewer.views, together, beam.detector_cells).mean(dim=2)
    images = propagate_variance(variances, fewer, kernel=acquisition.kernel) / together
    return from_canvas(images, *hu.shape[1:]).sqrt() * HU_PER_ATTENUATION * visible


def expected_counts(
    hu: torch.Tensor,
    acquisition: Acquisition,
    *,
    dose_fractions: Sequence[float],
    exposure: torch.Tensor | float = 1.0,
    visible: torch.Tensor | None = None,
) -> Iterator[torch.Tensor]:
    """Photons of every ray at normal dose, for each dose as exactly as it needs them.

    Args:
        hu: see `insert_noise`, as the others.
        acquisition: the scan.
        dose_fractions: the doses to come down to.
        exposure: see `insert_noise`.
        visible: see `insert_noise`.

    Yields:
        `(N, views, cells)` counts for each dose.

    Raises:
        ValueError: as `line_integrals`.
    """
    visible = _visible(hu, acquisition.beam, visible)
    beam, flux = acquisition.beam, acquisition.flux
    every_exposure = torch.as_tensor(exposure, device=hu.device).expand(len(hu))
    counts = flux.expected_counts(line_integrals(hu, beam, visible), beam, every_exposure)
    darkest = counts.amin(dim=(1, 2))
    starved = darkest * min(dose_fractions) < FEW_PHOTONS
    finer = counts
    if _can_be_halved(beam) and bool(starved.any()):
        rays = _full_line_integrals(hu[starved], beam, visible[starved])
        finer = counts.clone()
        finer[starved] = flux.expected_counts(rays, beam, every_exposure[starved])
    for dose_fraction in dose_fractions:
        yield torch.where((darkest * dose_fraction < FEW_PHOTONS)[:, None, None], finer, counts)


def _can_be_halved(beam: Beam) -> bool:
    """Whether half the resolution is whole pixels, and fine enough."""
    whole = beam.size % 2 == 0 and beam.detector_cells % 2 == 0
    return whole and 2 * beam.pixel_mm <= WIDEST_RAY_MM


def _full_line_integrals(hu: torch.Tensor, beam: Beam, visible: torch.Tensor) -> torch.Tensor:
    return _rays_through(*_on_canvas(hu, beam, visible), beam)


def _on_canvas(hu: torch.Tensor, beam: Beam, visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(N, size, size)` attenuation in 1/mm, and whether it is known; 0 where nothing is shown."""
    attenuation = attenuation_per_mm(hu) * visible
    return to_canvas(attenuation, beam.size, fill=0.0), to_canvas(known(visible), beam.size, fill=False)


def _rays_through(attenuation: torch.Tensor, is_known: torch.Tensor, beam: Beam) -> torch.Tensor:
    """Line integrals of a continued body."""
    larger = continued(attenuation, is_known, beam.pixel_mm)
    return project(larger, replace(beam, size=larger.shape[-1], cells=beam.detector_cells))


def _visible(hu: torch.Tensor, beam: Beam, visible: torch.Tensor | None) -> torch.Tensor:
    """Pixels that get noise, `(N, rows, columns)` bool; all of them seen by every view."""
    if hu.ndim != 3 or max(hu.shape[1:]) > beam.size:
        raise ValueError(
            f"images must be (N, rows, columns) of at most {beam.size} pixels, got {tuple(hu.shape)}"
        )
    seen = from_canvas(beam.inside().to(hu.device), *hu.shape[1:]).expand_as(hu)
    if visible is None:
        return seen
    if visible.shape != hu.shape:
        raise ValueError(f"visible must be {tuple(hu.shape)}, got {tuple(visible.shape)}")
    missed = int((visible & ~seen).sum())
    if missed:
        raise ValueError(
            f"every pixel shown must be seen by every view, got {missed} outside the circle that "
            f"{beam.detector_cells} cells see: take the beam from `covering`"
        )
    return visible
