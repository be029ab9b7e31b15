"""What an experiment hands over: numbers that decide, and a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Effects = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers.

    Attributes:
        columns: headings, with units.
        rows: as many cells each; numbers are shown with four significant digits.
        note: what has to be known to read it.

    Raises:
        ValueError: a row has another number of cells.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    note: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"every row needs {len(self.columns)} cells: {self.columns}")


@dataclass(frozen=True)
class Findings:
    """The outcome of one claim's experiment, ready for JSON.

    Attributes:
        effects: one number per seed for each measure of the settings.
        table: numbers per seed.
        caption: what the figure shows.
        at_least: for measures in which a run ended before it got there: which effects are lower bounds.
        numbers: everything else that was measured.
    """

    effects: Effects
    table: Table
    caption: str
    at_least: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
