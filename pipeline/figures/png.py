"""Figures to PNG without pyplot's global state."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DOTS_PER_INCH = 120


def new_figure(width_inches: float, height_inches: float, title: str | None) -> Figure:
    """An empty figure with a tight layout."""
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained", dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure atomically, without a software version or date; parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(unfinished, format="png", metadata={"Software": None})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
