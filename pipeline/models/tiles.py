"""Slices too large for one pass of a network, cut into tiles that give the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from torch import Tensor


def apply_in_tiles(
    network: Callable[[Tensor], Tensor], image: Tensor, *, side: int, receptive_radius: int
) -> Tensor:
    """`network(image)`, computed on tiles of at most `side` × `side` pixels.

    Of each tile only those pixels are kept whose receptive field lies in the tile, or ends with the image:
    the result is that of the whole image, up to rounding.

    Args:
        network: takes (N, C, H, W), returns (N, 1, H, W).
        image: (N, C, H, W).
        side: rows and columns of the largest tile, more than twice `receptive_radius`.
        receptive_radius: no output pixel depends on an input pixel farther away, in rows or in columns.

    Returns:
        (N, 1, H, W) in the precision of `image`.

    Raises:
        ValueError: `side` leaves nothing of a tile.
    """
    if side <= 2 * receptive_radius:
        raise ValueError(f"tiles of {side} pixels; a radius of {receptive_radius} needs more than twice that")
    height, width = image.shape[-2:]
    result = image.new_empty(len(image), 1, height, width)
    spans = product(_spans(height, side, receptive_radius), _spans(width, side, receptive_radius))
    for (top, rows, kept_rows), (left, columns, kept_columns) in spans:
        tile = network(image[..., top : top + rows, left : left + columns])
        inside = tile[
            ...,
            kept_rows.start - top : kept_rows.stop - top,
            kept_columns.start - left : kept_columns.stop - left,
        ]
        result[..., kept_rows, kept_columns] = inside
    return result


def _spans(length: int, side: int, halo: int) -> Iterator[tuple[int, int, slice]]:
    """Along one axis: first pixel and length of each tile, all of one length, and what is kept of it."""
    side = min(side, length)
    kept = 0
    while kept < length:
        first = max(0, min(kept - halo, length - side))
        end = length if first + side == length else first + side - halo
        yield first, side, slice(kept, end)
        kept = end
