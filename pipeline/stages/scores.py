"""JSON that other stages left, such as scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import DataError

M = TypeVar("M", bound=BaseModel)


def read_json(path: Path, *, again: str = "its stage") -> dict[str, Any] | None:
    """Its content; None where there is no such file.

    Args:
        path: of the file.
        again: what makes it, for the message.

    Raises:
        DataError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as damaged:
        raise damaged_file(path, str(damaged), again) from None
    if not isinstance(content, dict):
        raise damaged_file(path, "no JSON object", again)
    return content


def read_checked(path: Path, schema: type[M], *, again: str) -> M | None:
    """Its content, checked at whatever depth; None where there is no such file. Arguments as in `read_json`.

    Raises:
        DataError: it is damaged; the first fault is named by its key.
    """
    content = read_json(path, again=again)
    if content is None:
        return None
    try:
        return schema.model_validate(content)
    except ValidationError as invalid:
        raise damaged_file(path, _told(invalid.errors()[0]), again) from None


def damaged_file(path: Path, fault: str, again: str) -> DataError:
    """One line with the way out."""
    return DataError(f"{path}: damaged ({fault}); run {again} again")


def _told(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    message = fault["msg"].removeprefix("Value error, ")
    what = "missing" if fault["type"] == "missing" else message[:1].lower() + message[1:]
    return f"{key}: {what}" if key else what
