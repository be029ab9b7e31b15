"""The ladder of sizes that the square generative networks climb: 4, 8, 16 … pixels."""

from __future__ import annotations

import math

SMALLEST_SIDE = 4
"""Side of the coarsest feature map."""


def pyramid_widths(image_size: int, features: int) -> list[int]:
    """Channels after each halving from `image_size` down to 4 pixels: doubling, at most 8 × `features`.

    Raises:
        ValueError: `image_size` is not 8, 16, 32, …
    """
    halvings = math.log2(image_size / SMALLEST_SIDE) if image_size > 0 else 0.0
    if halvings < 1 or not halvings.is_integer():
        raise ValueError(f"image_size must be 8, 16, 32, …, got {image_size}")
    return [features * min(2**level, 8) for level in range(int(halvings))]
