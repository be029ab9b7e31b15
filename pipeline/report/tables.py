"""Results (nested JSON) to tables, without knowing the metrics by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pipeline.report.page import Table

Results = Mapping[str, Any]


def tables_of(
    results: Results, title: str = "", notes: Mapping[str, str] = MappingProxyType({})
) -> list[Table]:
    """Tables of nested results.

    A mapping of mappings of plain values becomes a matrix with a row for each outer key; the plain values of
    any other level become a table of facts; what is deeper is split, with the keys on the way in the title.

    Args:
        results: nested mappings with plain values at the ends.
        title: of the tables; the keys on the way are added.
        notes: lines to print below the tables of a key, e.g. what a convention means.
    """
    if _is_matrix(results):
        return [matrix_table(results, title)]
    facts = {key: value for key, value in results.items() if not isinstance(value, Mapping)}
    tables = [facts_table(facts, title or "in short")] if facts else []
    for key, value in results.items():
        if isinstance(value, Mapping) and value:
            name = f"{title}, {words(key)}" if title else words(key)
            inner = tables_of(value, name, notes)
            tables.extend(replace(table, note=table.note or notes.get(key, "")) for table in inner)
    return tables


def facts_table(facts: Results, title: str, note: str = "") -> Table:
    """A row per value."""
    return Table(title, ("", "value"), [(words(key), text(value)) for key, value in facts.items()], note)


def matrix_table(rows: Mapping[str, Results], title: str, note: str = "") -> Table:
    """A row per outer key, a column per inner key; a dash where a row has no such value."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    cells = [(words(name), *(text(row.get(key)) for key in columns)) for name, row in rows.items()]
    return Table(title, ("", *(words(key) for key in columns)), cells, note)


def text(value: Any) -> str:
    """A value as a table shows it: four significant digits, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1e4 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{words(key)} {text(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(text(item) for item in value)
    return str(value)


_UNITS = {"db": "[dB]", "hu": "[HU]", "mm": "[mm]", "ml": "[ml]", "s": "[s]", "nats": "[nats]"}
_CAPITALS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "rmse": "RMSE",
    "sd": "SD",
    "kl": "KL",
    "elbo": "ELBO",
    "mmd": "MMD",
}


def words(key: str) -> str:
    """A key as a person writes it: `noise_sd_hu` is `noise SD [HU]`."""
    parts = str(key).split("_")
    if len(parts) > 1 and parts[-1] in _UNITS:
        parts[-1] = _UNITS[parts[-1]]
    return " ".join(_CAPITALS.get(part, part) for part in parts)


def _is_flat(value: Any) -> bool:
    return isinstance(value, Mapping) and not any(isinstance(item, Mapping) for item in value.values())


def _is_matrix(value: Results) -> bool:
    return bool(value) and all(_is_flat(item) and item for item in value.values())
