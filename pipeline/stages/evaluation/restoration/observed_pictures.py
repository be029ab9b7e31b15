"""One picture of detectability by dose and of f50 by contrast."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from matplotlib.axes import Axes

from pipeline.figures.png import new_figure, save_png
from pipeline.stages.evaluation.context import Metrics

APART: Final = 0.12
"""Methods stand side by side at each dose, so that no interval hides another."""


def draw_observed(path: Path, *, detectability: Metrics | None, ttf: Metrics | None) -> None:
    """For each observer d' by dose, with intervals; for each dose what is left of f50, by contrast.

    Args:
        path: of the picture.
        detectability: of the function of that name; None or that of `ttf_of`, but not both, may be missing.
        ttf: of `ttf_of`.
    """
    lesions = {} if detectability is None else detectability["by_dose"]
    edges = {} if ttf is None else ttf["by_dose"]
    observers = list(next(iter(lesions.values()), {}))
    figure = new_figure(3.2 * (len(observers) + len(edges)), 2.8, None)
    panels = iter(figure.subplots(1, len(observers) + len(edges), squeeze=False)[0])
    for observer in observers:
        axes = next(panels)
        _draw_d_prime(axes, {dose: found[observer] for dose, found in lesions.items()})
        _finish(axes, f"d' ({observer.upper()})", "dose", [f"{float(dose):.0%}" for dose in lesions])
    for dose, contrasts in edges.items():
        axes = next(panels)
        _draw_f50(axes, contrasts)
        _finish(axes, f"f50 over input's, {float(dose):.0%} dose", "contrast [HU]", list(contrasts))
    save_png(figure, path)


def _draw_d_prime(axes: Axes, by_dose: Metrics) -> None:
    methods = list(next(iter(by_dose.values())))
    for number, method in enumerate(methods):
        rows = [found[method] for found in by_dose.values()]
        places = [place + APART * (number - (len(methods) - 1) / 2) for place in range(len(rows))]
        middle, low, high = ([row[f"d_prime{end}"] for row in rows] for end in ("", "_95_low", "_95_high"))
        finite = [place for place, value in enumerate(middle) if None not in (value, low[place], high[place])]
        axes.errorbar(
            [places[one] for one in finite],
            [middle[one] for one in finite],
            yerr=(
                [middle[one] - low[one] for one in finite],
                [high[one] - middle[one] for one in finite],
            ),
            color=f"C{number}",
            label=method,
            fmt=".",
            capsize=2,
            linewidth=1.2,
        )


def _draw_f50(axes: Axes, by_contrast: Metrics) -> None:
    for number, method in enumerate(next(iter(by_contrast.values())), start=1):  # as in d', where input is 0
        shares = [found[method]["f50_share"] for found in by_contrast.values()]
        axes.plot(range(len(shares)), shares, color=f"C{number}", label=method, marker=".", linewidth=1.2)
    axes.axhline(1, linestyle="--", linewidth=1, color="0.4")


def _finish(axes: Axes, title: str, x_label: str, ticks: list[str]) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x_label, fontsize=8)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)
