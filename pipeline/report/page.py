"""What a page consists of, and its HTML."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


@dataclass(frozen=True)
class Table:
    """A table whose cells are ready to print.

    Attributes:
        title: what the numbers are, with convention and unit.
        columns: heads; the first column names the row.
        rows: one text per column.
        note: a line below, e.g. what the convention means.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: {len(self.columns)} columns, but a row of {len(row)} cells")


@dataclass(frozen=True)
class Picture:
    """A PNG with what it shows, in words for those who cannot see it and as a caption."""

    png: bytes = field(repr=False)
    alt: str
    caption: str
    is_wide: bool = True

    @property
    def data_uri(self) -> str:
        """The image as text inside the page."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}"


@dataclass(frozen=True)
class Section:
    """A chapter of the page.

    Attributes:
        anchor: its address in the page.
        title: its head.
        summary: one sentence that says what came out; `is_alarming` prints it in red.
        tables: numbers.
        pictures: images.
        missing: what should be here and is not, one line each.
        is_alarming: the summary is bad news.
    """

    anchor: str
    title: str
    summary: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    missing: Sequence[str] = ()
    is_alarming: bool = False


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def render(page: Page) -> str:
    """The page as one HTML document with all images inside; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(page=page)
