"""What a page consists of, and its HTML."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_NUMBER = re.compile(r"–|[+-]?[\d.,]+( to [+-]?[\d.,]+)?")


@dataclass(frozen=True)
class Table:
    """A table whose cells are ready to print.

    Attributes:
        title: what the numbers are, with convention and unit.
        columns: heads; the first column names the row.
        rows: one text per column.
        note: a line below, e.g. what the convention means.
        is_folded: the reader has to open it.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    is_folded: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: {len(self.columns)} columns, but a row of {len(row)} cells")

    @property
    def text_columns(self) -> set[int]:
        """Columns that hold anything but numbers, ranges and dashes; they are aligned to the left."""
        return {
            index
            for index in range(len(self.columns))
            if not all(_NUMBER.fullmatch(row[index]) for row in self.rows)
        }


@dataclass(frozen=True)
class Picture:
    """A PNG or WebP with what it shows, in words for those who cannot see it and as a caption."""

    image: bytes = field(repr=False)
    alt: str
    caption: str
    is_wide: bool = True

    @property
    def data_uri(self) -> str:
        """The image as text inside the page."""
        kind = "webp" if self.image[8:12] == b"WEBP" else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self.image).decode('ascii')}"


@dataclass(frozen=True)
class Finding:
    """A result in one sentence.

    Attributes:
        text: the sentence.
        label: what it is about, printed before it; without one the sentence is a headline.
        is_alarming: bad news, printed in red.
    """

    text: str
    label: str = ""
    is_alarming: bool = False


@dataclass(frozen=True)
class Section:
    """A chapter of the page, printed in this order.

    Attributes:
        anchor: its address in the page.
        title: its head.
        findings: what came out.
        missing: what should be here and is not, one line each.
        pictures: images.
        tables: numbers.
        note: a last line in small print.
        is_folded: the reader has to open it.
    """

    anchor: str
    title: str
    findings: Sequence[Finding] = ()
    missing: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    note: str = ""
    is_folded: bool = False


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
