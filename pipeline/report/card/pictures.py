"""Pictures of the card: gains beside the ceiling, and the worst slices, small enough for git."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

from PIL import Image

from pipeline.figures import CurvePanel
from pipeline.report.card.facts import RESTORED, Card, Model, against_normal_dose, baselines_of, get
from pipeline.report.encoding import at_most_wide

MAX_WIDTH: Final = 900
COLOURS: Final = 96
"""Grey levels of CT and a few of the difference; noise of more levels costs most of the file."""


def gain_panels(card: Card) -> list[CurvePanel]:
    """A plot for each held-out source that was scored: gain of each method by dose, and the ceiling."""
    first = card.conventions[0]
    return [
        CurvePanel(f"{fold.held_out}, gain [dB]", _curves(fold, first)) for fold in card.folds if fold.by_dose
    ]


def worst_of_each_dose(card: Card) -> list[tuple[float, Model]]:
    """For each dose the held-out source with the worst slice."""
    worst: dict[float, tuple[float, Model]] = {}
    for fold in card.folds:
        for dose, scores in fold.by_dose.items():
            gain_db = get(scores, "worst_gain_db")
            if gain_db is not None and (dose not in worst or gain_db < worst[dose][0]):
                worst[dose] = (gain_db, fold)
    return [(dose, worst[dose][1]) for dose in sorted(worst, reverse=True)]


def small_png(png: bytes) -> bytes:
    """The picture at most `MAX_WIDTH` pixels wide, in few colours."""
    shown = at_most_wide(png, MAX_WIDTH)
    stream = io.BytesIO()
    shown.quantize(COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _curves(fold: Model, convention: str) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    doses = list(fold.by_dose)
    percents = [100 * dose for dose in doses]
    methods = [RESTORED, *baselines_of(fold.by_dose[doses[0]], convention)]
    curves: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "ceiling": (percents, [get(scores, "gain_ceiling_db") for scores in fold.by_dose.values()])
    }
    for method in methods:
        gains = [
            against_normal_dose(scores, convention, method, "gain_db") for scores in fold.by_dose.values()
        ]
        name = "network" if method == RESTORED else method
        curves[name] = (percents, [float("nan") if gain is None else gain for gain in gains])
    return curves
