"""Pictures made small enough for a page that holds them all."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image

MAX_WIDTH: Final = 1400
"""Pixels; the page shows about 1000 of them side by side."""
WEBP_QUALITY: Final = 85
WEBP_METHOD: Final = 6
"""The slowest and smallest of 0 to 6."""


def for_page(png: bytes) -> bytes:
    """The picture as WebP of at most `MAX_WIDTH` pixels, or as it is where that is smaller."""
    shown = at_most_wide(png, MAX_WIDTH)
    stream = io.BytesIO()
    shown.save(stream, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
    return min(stream.getvalue(), png, key=len)


def at_most_wide(png: bytes, width: int) -> Image.Image:
    """The picture in RGB, made smaller where it is wider than so many pixels."""
    with Image.open(io.BytesIO(png)) as picture:
        shown = picture.convert("RGB")
    if shown.width > width:
        height = round(shown.height * width / shown.width)
        shown = shown.resize((width, height), Image.Resampling.LANCZOS)
    return shown
