"""What `publish` and `card` share: the trainings that may ship, and how their files are replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PLAIN: Final = "denoiser"
TEXTURE: Final = "denoiser_texture"
TEXTURE_GATE: Final = "texture_gate"
"""Name, in the folder of scores, of the verdict whether the texture variant ships."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; one that is there already is replaced whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
