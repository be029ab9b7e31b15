"""Tables and numbers as Markdown shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NOT_MEASURED: Final = "not measured"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; one line that says so where it has no row."""
    if not rows:
        return f"*{NOT_MEASURED.capitalize()}.*"
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def gap(name: str, dose_fractions: Sequence[float], columns: int) -> list[str]:
    """The row of something that was not measured at any dose."""
    doses = ", ".join(map(percent, dose_fractions))
    return [name, doses, NOT_MEASURED, *[""] * (columns - 3)]


def number(value: float | None, digits: int = 2) -> str:
    """Rounded; `not measured` for None."""
    return NOT_MEASURED if value is None else f"{_round(value, digits):.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """Rounded and with its sign; `not measured` for None."""
    return NOT_MEASURED if value is None else f"{_round(value, digits):+.{digits}f}"


def interval(value: float | None, low: float | None, high: float | None, digits: int = 2) -> str:
    """A signed value with its interval, where there is one."""
    if value is None or low is None or high is None:
        return signed(value, digits)
    return f"{signed(value, digits)} [{signed(low, digits)}, {signed(high, digits)}]"


def percent(fraction: float) -> str:
    """A dose, e.g. `25 %`."""
    return f"{100 * fraction:g} %"


def bullets(lines: Sequence[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def _round(value: float, digits: int) -> float:
    return round(value, digits) + 0.0  # no minus before a zero
