"""The denoisers that ship with the package: with them `ldct predict` works at once."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, get_args

Variant = Literal["plain", "texture"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)

_FILES: Final = MappingProxyType({"plain": "denoiser.safetensors", "texture": "denoiser_texture.safetensors"})


def shipped(variant: Variant) -> Path | None:
    """The bundle of a shipped denoiser; None where this copy of the package came without it.

    Args:
        variant: `plain` is trained on the error alone, the noise of `texture` is nearer to the normal dose's.
    """
    path = Path(__file__).parent / _FILES[variant]
    return path if path.is_file() else None
