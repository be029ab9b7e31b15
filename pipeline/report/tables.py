"""Results (nested JSON) to tables, without knowing the metrics by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pipeline.report.numbers import text, words
from pipeline.report.page import Table
from pipeline.report.remarks import remarks_on

Results = Mapping[str, Any]


def tables_of(
    results: Results, title: str = "", notes: Mapping[str, str] = MappingProxyType({}), quantity: str = ""
) -> list[Table]:
    """Tables of nested results.

    A mapping of mappings of plain values becomes a matrix with a row for each outer key; the plain values of
    any other level become a table of facts; what is deeper is split, with the keys on the way in the title.

    Args:
        results: nested mappings with plain values at the ends.
        title: of the tables; the keys on the way are added.
        notes: lines to print below the tables of a key, e.g. what a convention means.
        quantity: keys on the way, which decide how values are rounded.
    """
    if _is_matrix(results):
        return [matrix_table(results, title, quantity=quantity)]
    facts = {key: value for key, value in results.items() if not isinstance(value, Mapping)}
    tables = [facts_table(facts, title or "in short", quantity=quantity)] if facts else []
    for key, value in results.items():
        if isinstance(value, Mapping) and value:
            name = f"{title}, {words(key)}" if title else words(key)
            inner = tables_of(value, name, notes, f"{quantity}_{key}")
            tables.extend(replace(table, note=table.note or notes.get(key, "")) for table in inner)
    return tables


def facts_table(facts: Results, title: str, note: str = "", quantity: str = "") -> Table:
    """A row per value."""
    rows = [(words(key), text(value, f"{quantity}_{key}")) for key, value in facts.items()]
    return Table(title, ("", "value"), rows, note)


def matrix_table(rows: Mapping[str, Results], title: str, note: str = "", quantity: str = "") -> Table:
    """A row per outer key, a column per inner key; a dash where a row has no such value.

    Rows that are worse than what they should beat say so in a last column.
    """
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    heads = ["", *(words(key) for key in columns)]
    cells = [
        [words(name), *(text(row.get(key), f"{quantity}_{name}_{key}") for key in columns)]
        for name, row in rows.items()
    ]
    if remarks := remarks_on(rows, quantity):
        heads.append("remark")
        cells = [[*row, remarks.get(name, "")] for name, row in zip(rows, cells, strict=True)]
    return Table(title, heads, cells, note)


def comparison_table(columns: Mapping[str, Results], title: str, note: str = "") -> Table:
    """A row per quantity, a column per outer key: nested keys are flattened, two numbers are a range."""
    flat = {name: dict(_flattened(results)) for name, results in columns.items()}
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    rows = [
        (", ".join(words(part) for part in key), *(_cell(flat[name].get(key), key) for name in flat))
        for key in keys
    ]
    return Table(title, ("", *(words(name) for name in flat)), rows, note)


def _flattened(results: Results, way: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in results.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, (*way, key))
        else:
            yield (*way, key), value


def _cell(value: Any, way: tuple[str, ...]) -> str:
    quantity = "_".join(way)
    if isinstance(value, list) and len(value) == len(("lowest", "highest")):
        low, high = (text(end, quantity) for end in value)
        return low if low == high else f"{low} to {high}"
    return text(value, quantity)


def _is_flat(value: Any) -> bool:
    return isinstance(value, Mapping) and not any(isinstance(item, Mapping) for item in value.values())


def _is_matrix(value: Results) -> bool:
    return bool(value) and all(_is_flat(item) and item for item in value.values())
