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
    with Image.open(io.BytesIO(png)) as picture:
        shown = picture.convert("RGB")
    if shown.width > MAX_WIDTH:
        height = round(shown.height * MAX_WIDTH / shown.width)
        shown = shown.resize((MAX_WIDTH, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    shown.save(stream, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
    return min(stream.getvalue(), png, key=len)
