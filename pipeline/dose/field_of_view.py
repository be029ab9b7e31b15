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

_MARGIN_CELLS: Final = 4


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


def halved(attenuation: torch.Tensor, visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the resolution: the mean of the pixels shown in each 2 × 2 block, and whether any is shown.

    Args:
        attenuation: `(N, size, size)` 1/mm.
        visible: `(N, size, size)` bool.

    Returns:
        `(N, size / 2, size / 2)` 1/mm (0 where nothing is shown) and bool.
    """
    weight = functional.avg_pool2d(visible.to(attenuation.dtype), 2)
    mean = functional.avg_pool2d(attenuation * visible, 2) / weight.clamp(min=0.25)
    return mean, weight > 0


def continued(attenuation: torch.Tensor, visible: torch.Tensor, pixel_mm: float) -> torch.Tensor:
    """Continue what is shown beyond the field of view, on a larger square.

    Args:
        attenuation: `(N, size, size)` 1/mm.
        visible: `(N, size, size)` bool.
        pixel_mm: pixel side.

    Returns:
        `(N, size + 2 m, size + 2 m)` 1/mm with m = `CONTINUATION_MM` in pixels: unchanged where visible,
        outside the value of the nearest visible pixel, falling linearly to 0 at `CONTINUATION_MM`.
    """
    margin = math.ceil(CONTINUATION_MM / pixel_mm)
    edges = (margin,) * 4
    larger = functional.pad(attenuation, edges)
    shown = functional.pad(visible, edges)
    masks, which = torch.unique(shown.flatten(1), dim=0, return_inverse=True)
    result = torch.empty_like(larger)
    for number, mask in enumerate(masks):
        nearest, share = _nearest(mask.reshape(shown.shape[1:]), pixel_mm)
        chosen = which == number
        result[chosen] = larger[chosen].flatten(1)[:, nearest] * share
    return result


def _nearest(shown: torch.Tensor, pixel_mm: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat index of the nearest pixel shown, and the share of its value that is left at that distance."""
    distance, (row, column) = ndimage.distance_transform_edt(
        ~shown.cpu().numpy(), sampling=pixel_mm, return_indices=True
    )
    nearest = torch.from_numpy(row * shown.shape[1] + column).to(shown.device).long()
    share = 1 - torch.from_numpy(distance).to(shown.device).float() / CONTINUATION_MM
    return nearest, share.clamp_(min=0)


def _corners(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """`(rows, columns)` bool: pixels outside the inscribed circle, one pixel off its edge."""
    y, x = (torch.arange(n, device=device) - (n - 1) / 2 for n in (rows, columns))
    return y[:, None] ** 2 + x[None, :] ** 2 > (min(rows, columns) / 2 + 1) ** 2
