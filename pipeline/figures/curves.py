"""Line plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.figures.png import new_figure, save_png


def save_curves(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str | None = None,
) -> None:
    """Write labelled curves, each a pair of x and y values, as one PNG.

    Raises:
        ValueError: there is no curve.
    """
    if not curves:
        raise ValueError("save_curves needs at least one curve")
    figure = new_figure(6, 3.6, title)
    axes = figure.subplots()
    for label, (x, y) in curves.items():
        axes.plot(x, y, label=label, linewidth=1.2, marker="." if len(x) == 1 else None)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_png(figure, path)
