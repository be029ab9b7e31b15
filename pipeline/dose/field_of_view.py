"""Where an image shows anything, and what the rays meet outside of it.

A reconstruction fills a circle (or all) of its matrix; the rest is padding. Noise belongs to every pixel
within and to no other. A body that reaches beyond it is still crossed by the rays: for their line integrals
alone it is continued with its edge values, fading to air over `CONTINUATION_MM`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import torch
from scipy import ndimage
from torch.nn import functional

from pipeline.projector import Beam, FanBeam

CONTINUATION_MM: Final = 50.0
"""How far a body is continued outside the field of view: about what an arm or a flank adds."""

FARTHEST_FAN_RAY_MM: Final = 540.0
"""From the isocentre: the fan's focus is 570 mm away."""

_MARGIN_CELLS: Final = 4

_RIM_PIXELS: Final = 2


def field_of_view(hu: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """Pixels that show something.

    Padding does not, nor do the corners outside the inscribed circle where they hold one single value:
    scanners fill them with air without calling it padding.

    Args:
        hu: `(N, rows, columns)` HU.
        padding: `(N, rows, columns)` bool.

    Returns:
        `(N, rows, columns)` bool.
    """
    rows, columns = hu.shape[1:]
    corners = _corners(rows, columns, hu.device)
    outside = hu[:, corners]
    if outside.shape[1] == 0:
        return ~padding
    filled = outside.amin(dim=1) == outside.amax(dim=1)
    return ~(padding | (filled[:, None, None] & corners))


def known(visible: torch.Tensor) -> torch.Tensor:
    """Pixels whose content is known: those shown, and the air between them.

    A field of view ends at the circle of the farthest pixel shown, if more than half of that circle's rim is
    shown. What is not shown inside it, or anywhere where there is no such rim, has been removed (a face, the
    table, all air around the body) and counts as air.

    Args:
        visible: `(N, rows, columns)` bool; see `field_of_view`.

    Returns:
        `(N, rows, columns)` bool.
    """
    rows, columns = visible.shape[1:]
    y, x = (torch.arange(n, device=visible.device) - (n - 1) / 2 for n in (rows, columns))
    radius = (y[:, None] ** 2 + x[None, :] ** 2).sqrt()
    reach = (radius * visible).amax(dim=(1, 2), keepdim=True)
    within = radius <= reach
    rim = within & (radius > reach - _RIM_PIXELS)
    ends_there = (visible & rim).sum(dim=(1, 2), keepdim=True) > rim.sum(dim=(1, 2), keepdim=True) / 2
    return within | ~ends_there


def canvas_size(rows: int, columns: int) -> int:
    """Side of the square that a matrix is worked on in: even, so that half its resolution is whole pixels."""
    return 2 * math.ceil(max(rows, columns) / 2)


def covering(beam: Beam, visible: torch.Tensor) -> Beam:
    """The same scan with as many detector cells as it takes to see every pixel shown.

    Args:
        beam: a scan whose `size` is the `canvas_size`.
        visible: `(N, rows, columns)` bool, pixels shown in any slice; see `field_of_view`.

    Raises:
        ValueError: no pixel is shown.
    """
    shown = to_canvas(visible.any(dim=0, keepdim=True), beam.size, fill=False)[0].nonzero()
    if len(shown) == 0:
        raise ValueError("visible must name at least one pixel, got none")
    centre = (beam.size - 1) / 2
    reach = float((shown.double() - centre).square().sum(dim=1).max()) ** 0.5
    if isinstance(beam, FanBeam):
        source = beam.source_mm / beam.pixel_mm
        reach = math.asin(min(1.0, reach / source)) * source
    return replace(beam, cells=2 * (math.ceil(reach) + _MARGIN_CELLS))


def farthest_ray_mm(beam: Beam) -> float:
    """How far from the isocentre rays have to reach: over all pixels shown, and a body continued beyond.

    Args:
        beam: parallel, `covering` what is shown.
    """
    return max(beam.detector_cells * beam.pixel_mm / 2, beam.size * beam.pixel_mm / 2 + CONTINUATION_MM)


def to_canvas(images: torch.Tensor, size: int, *, fill: float) -> torch.Tensor:
    """Centre `(…, rows, columns)` images in `(…, size, size)`, the rest `fill`."""
    rows, columns = images.shape[-2:]
    top, left = (size - rows) // 2, (size - columns) // 2
    edges = (left, size - columns - left, top, size - rows - top)
    return images if not any(edges) else functional.pad(images, edges, value=fill)


def from_canvas(images: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Take `(…, rows, columns)` back out of the canvas: the inverse of `to_canvas`."""
    size = images.shape[-1]
    top, left = (size - rows) // 2, (size - columns) // 2
    return images[..., top : top + rows, left : left + columns]


def halved(attenuation: torch.Tensor, is_known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the resolution: the mean of the known pixels in each 2 × 2 block, and whether there is any.

    Args:
        attenuation: `(N, size, size)` 1/mm, 0 where it is not known.
        is_known: `(N, size, size)` bool.

    Returns:
        `(N, size / 2, size / 2)` 1/mm (0 where nothing is known) and bool.
    """
    weight = functional.avg_pool2d(is_known.to(attenuation.dtype), 2)
    mean = functional.avg_pool2d(attenuation, 2) / weight.clamp(min=0.25)
    return mean, weight > 0


def continued(attenuation: torch.Tensor, is_known: torch.Tensor, pixel_mm: float) -> torch.Tensor:
    """Continue a body beyond the field of view, on a larger square.

    Args:
        attenuation: `(N, size, size)` 1/mm.
        is_known: `(N, size, size)` bool; see `known`.
        pixel_mm: pixel side.

    Returns:
        `(N, size + 2 m, size + 2 m)` 1/mm with m = `CONTINUATION_MM` in pixels: unchanged where known,
        outside the value of the nearest known pixel, falling linearly to 0 at `CONTINUATION_MM`.
    """
    margin = math.ceil(CONTINUATION_MM / pixel_mm)
    edges = (margin,) * 4
    larger = functional.pad(attenuation, edges)
    inside = functional.pad(is_known, edges)
    masks, which = torch.unique(inside.flatten(1), dim=0, return_inverse=True)
    result = torch.empty_like(larger)
    for number, mask in enumerate(masks):
        nearest, share = _nearest(mask.reshape(inside.shape[1:]), pixel_mm)
        chosen = which == number
        result[chosen] = larger[chosen].flatten(1)[:, nearest] * share
    return result


def _nearest(inside: torch.Tensor, pixel_mm: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat index of the nearest known pixel, and the share of its value that is left at that distance."""
    distance, (row, column) = ndimage.distance_transform_edt(
        ~inside.cpu().numpy(), sampling=pixel_mm, return_indices=True
    )
    nearest = torch.from_numpy(row * inside.shape[1] + column).to(inside.device).long()
    share = 1 - torch.from_numpy(distance).to(inside.device).float() / CONTINUATION_MM
    return nearest, share.clamp_(min=0)


def _corners(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """`(rows, columns)` bool: pixels outside the inscribed circle, one pixel off its edge."""
    y, x = (torch.arange(n, device=device) - (n - 1) / 2 for n in (rows, columns))
    return y[:, None] ** 2 + x[None, :] ** 2 > (min(rows, columns) / 2 + 1) ** 2
