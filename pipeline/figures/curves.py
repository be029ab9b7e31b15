"""Line plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes

from pipeline.figures.png import new_figure, save_png

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]
CROWDED = 4
"""From so many curves in a panel, the legend has two columns."""


@dataclass(frozen=True)
class CurvePanel:
    """One small plot.

    Attributes:
        title: the quantity and its unit.
        curves: x and y values by label.
        references: values by label, drawn as dashed horizontal lines.
    """

    title: str
    curves: Curves
    references: Mapping[str, float] = field(default_factory=dict)


def save_curve_panels(path: Path, panels: Sequence[CurvePanel], *, x_label: str, columns: int = 4) -> None:
    """Write small plots side by side, `columns` to a row, as one PNG.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("save_curve_panels needs at least one panel")
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(2.9 * columns, 2.2 * rows, None)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, axes in zip(panels, cells, strict=False):
        _plot(axes, panel.curves)
        for label, value in panel.references.items():
            axes.axhline(value, label=label, linestyle="--", linewidth=1, color="0.4")
        axes.set_title(panel.title, fontsize=9)
        axes.set_xlabel(x_label, fontsize=8)
        axes.tick_params(labelsize=7)
        if len(panel.curves) + len(panel.references) > 1:
            axes.legend(fontsize=6, ncols=2 if len(panel.curves) >= CROWDED else 1)
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    save_png(figure, path)


def _plot(axes: Axes, curves: Curves) -> None:
    for label, (x, y) in curves.items():
        axes.plot(x, y, label=label, linewidth=1.2, marker="." if len(x) == 1 else None)
    axes.grid(alpha=0.3)
