"""JSON that other stages left, such as scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import DataError


def read_json(path: Path) -> dict[str, Any] | None:
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
