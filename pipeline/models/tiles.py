"""Slices too large for one pass of a network, cut into tiles that give the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from torch import Tensor


def apply_in_tiles(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    side: int,
    receptive_radius: int,
    total_stride: int = 1,
) -> Tensor:
    """`network(image)`, computed on tiles of at most `side` × `side` pixels.

    Of each tile only those pixels are kept whose receptive field lies in the tile, or ends with the image:
    the result is that of the whole image, up to rounding. Tiles start on the raster of a network that halves
    its image, where a shift of one pixel would give other values.

    Args:
        network: takes (N, C, H, W), returns (N, 1, H, W).
        image: (N, C, H, W).
        side: rows and columns of the largest tile, from 2 × `receptive_radius` + `total_stride`.
        receptive_radius: no output pixel depends on an input pixel farther away, in rows or in columns.
        total_stride: the network commutes with shifts by this many pixels; 1 for one without strides.

    Returns:
        (N, 1, H, W) in the precision of `image`.

    Raises:
        ValueError: `side` leaves nothing of a tile.
    """
    least = 2 * receptive_radius + total_stride
    if side < least:
        raise ValueError(
            f"tiles of {side} pixels; a radius of {receptive_radius} needs more than twice that: {least} or "
            f"more, at a total stride of {total_stride}"
        )
    height, width = image.shape[-2:]
    result = image.new_empty(len(image), 1, height, width)
    spans = product(*(_spans(length, side, receptive_radius, total_stride) for length in (height, width)))
    for (top, rows, kept_rows), (left, columns, kept_columns) in spans:
        tile = network(image[..., top : top + rows, left : left + columns])
        inside = tile[
            ...,
            kept_rows.start - top : kept_rows.stop - top,
            kept_columns.start - left : kept_columns.stop - left,
        ]
        result[..., kept_rows, kept_columns] = inside
    return result


def _spans(length: int, side: int, halo: int, stride: int) -> Iterator[tuple[int, int, slice]]:
    """Along one axis: first pixel and length of each tile, and what is kept of it.

    All tiles are of one length, but for the last, which is shorter where the stride does not let it start
    earlier.
    """
    side = min(side, length)
    last = length - side + (side - length) % stride
    kept = 0
    while kept < length:
        first = max(0, min((kept - halo) // stride * stride, last))
        end = length if first >= length - side else first + side - halo
        yield first, min(side, length - first), slice(kept, end)
        kept = end
