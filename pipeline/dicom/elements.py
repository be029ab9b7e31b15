"""Values of DICOM elements that may be missing, empty or malformed: then there are none."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

import pydicom

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9 ._+/-]+")


def clean(text: str) -> str | None:
    """At most 64 harmless characters of a DICOM text, for tables and log lines; None when empty."""
    return _UNSAFE.sub(" ", text).strip()[:64] or None


def printable(text: str) -> str:
    """A file name or a message that holds one, safe for any terminal.

    Names may hold terminal codes, or bytes that are no text: these are written out as escapes.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def values_of(dataset: pydicom.Dataset, keyword: str) -> list[Any]:
    """The values of an element; none when it is absent, empty or malformed."""
    try:
        value = dataset.get(keyword)
    except MemoryError:  # says nothing about the value
        raise
    except Exception:  # noqa: BLE001  a malformed value is as good as a missing one
        return []
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def text_of(dataset: pydicom.Dataset, keyword: str) -> str:
    """The first value as stripped text; empty when there is none."""
    values = values_of(dataset, keyword)
    return str(values[0]).strip(" \0") if values else ""


def numbers_of(dataset: pydicom.Dataset, keyword: str, count: int) -> list[float] | None:
    """Exactly `count` finite numbers, or None."""
    try:
        numbers = [float(value) for value in values_of(dataset, keyword)]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def number_of(dataset: pydicom.Dataset, keyword: str) -> float | None:
    """The one finite number, or None."""
    numbers = numbers_of(dataset, keyword, 1)
    return numbers[0] if numbers else None


def integer_of(dataset: pydicom.Dataset, keyword: str) -> int | None:
    """The one finite number without its decimals, or None."""
    number = number_of(dataset, keyword)
    return None if number is None else int(number)
