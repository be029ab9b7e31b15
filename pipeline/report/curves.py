"""What training logged, as a few panels: related quantities together, constant ones left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.figures import CurvePanel
from pipeline.report.numbers import words

VALIDATION = "validation_"
INPUT = "input_"
Points = tuple[list[float], list[float]]


def curve_panels(rows: Sequence[Mapping[str, str]]) -> list[CurvePanel]:
    """A panel for each quantity, from the rows of `curves.csv`.

    Training and validation of one quantity share a panel, and so do a mean and its parts (`dice`,
    `dice_liver`). What never changes is left out; the input's own score is a line beside the model's.
    """
    columns = _columns(rows)
    constant = {name for name, (_, values) in columns.items() if len(values) > 1 and len(set(values)) == 1}
    changing = {name: points for name, points in columns.items() if name not in constant}
    quantities = {name.removeprefix(VALIDATION) for name in changing}
    groups: dict[str, dict[str, Points]] = {}
    references: dict[str, dict[str, float]] = {}
    for name, points in changing.items():
        quantity = _quantity(name, quantities)
        groups.setdefault(quantity, {})[_label(name, quantity)] = points
    for name in constant:
        quantity = name.removeprefix(VALIDATION).removeprefix(INPUT)
        if INPUT in name and quantity in groups:
            references[quantity] = {"input": columns[name][1][0]}
    return [CurvePanel(words(name), curves, references.get(name, {})) for name, curves in groups.items()]


def _columns(rows: Sequence[Mapping[str, str]]) -> dict[str, Points]:
    """Steps and values of each column that has any."""
    columns: dict[str, Points] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and value:
                steps, values = columns.setdefault(name, ([], []))
                steps.append(float(row["step"]))
                values.append(float(value))
    return columns


def _quantity(name: str, quantities: set[str]) -> str:
    """The shortest quantity that this one is a part of: `dice` for `validation_dice_liver`."""
    quantity = name.removeprefix(VALIDATION)
    return min((other for other in quantities if f"{quantity}_".startswith(f"{other}_")), key=len)


def _label(name: str, quantity: str) -> str:
    if name == quantity:
        return "training"
    return words(name.removeprefix(VALIDATION).removeprefix(quantity).strip("_")) or "validation"
