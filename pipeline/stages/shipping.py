"""What `publish` and `card` share: the trainings that may ship, and files of theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.errors import DataError

PLAIN: Final = "denoiser"
TEXTURE: Final = "denoiser_texture"
TEXTURE_GATE: Final = "texture_gate"
"""Name, in the folder of scores, of the verdict whether the texture variant ships."""


def read_json(path: Path) -> Mapping[str, Any] | None:
    """Its content; None where there is no such file.

    Raises:
        DataError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as damaged:
        raise DataError(f"{path}: damaged ({damaged}); run its stage again") from None
    return content


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; one that is there already is replaced whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
