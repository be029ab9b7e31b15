"""Pictures of the card: gains beside the ceiling, and the worst slices, small enough for git."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from pipeline.figures import CurvePanel
from pipeline.report.card.facts import Card, Model, against_normal_dose
from pipeline.report.card.scores import RESTORED
from pipeline.report.encoding import at_most_wide

MAX_WIDTH: Final = 900
GREYS: Final = 96
COLOURS: Final = 128
"""Levels of CT and colours of the difference; noise of more of them costs most of the file."""
GREY_TO: Final = 8
"""Channels that differ by no more are a grey."""


def gain_panels(card: Card) -> list[CurvePanel]:
    """A plot for each held-out source that was scored: gain of each method by dose, and the ceiling.

    Gains are of the first convention.
    """
    first = card.conventions[0]
    return [
        CurvePanel(f"{fold.held_out}, gain ({first}) [dB]", _curves(fold, first))
        for fold in card.folds
        if fold.by_dose
    ]


def worst_of_each_dose(card: Card) -> list[tuple[float, Model]]:
    """For each dose the held-out source with the worst slice."""
    worst: dict[float, tuple[float, Model]] = {}
    for fold in card.folds:
        for dose, scores in fold.by_dose.items():
            gain_db = scores.worst_gain_db
            if gain_db is not None and (dose not in worst or gain_db < worst[dose][0]):
                worst[dose] = (gain_db, fold)
    return [(dose, worst[dose][1]) for dose in sorted(worst, reverse=True)]


def small_png(png: bytes) -> bytes:
    """The picture at most `MAX_WIDTH` pixels wide, its greys and its colours each in a palette of their own.

    One palette of both would go to the greys of the CT and leave the dark blue of a difference grey.
    """
    shown = np.asarray(at_most_wide(png, MAX_WIDTH))
    is_coloured = np.ptp(shown.astype(np.int16), axis=2) > GREY_TO
    indices = np.rint(shown.mean(axis=2) / 255 * (GREYS - 1)).astype(np.uint8)
    palette = [level for grey in np.rint(np.linspace(0, 255, GREYS)).astype(int) for level in [int(grey)] * 3]
    if is_coloured.any():
        coloured = Image.fromarray(shown[is_coloured][None])
        few = coloured.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        indices[is_coloured] = np.asarray(few)[0] + GREYS
        palette += few.getpalette() or []
    picture = Image.fromarray(indices, "L")
    picture.putpalette(palette)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def first_rows(pictures: Sequence[tuple[bytes, int]]) -> bytes:
    """One picture of the first row of each.

    Args:
        pictures: PNG and how many rows, as high as each other, it has; at least one.
    """
    tops = []
    for png, rows in pictures:
        with Image.open(io.BytesIO(png)) as picture:
            whole = picture.convert("RGB")
        tops.append(whole.crop((0, 0, whole.width, whole.height // rows)))
    sheet = Image.new("RGB", (max(top.width for top in tops), sum(top.height for top in tops)), "white")
    at = 0
    for top in tops:
        sheet.paste(top, (0, at))
        at += top.height
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _curves(fold: Model, convention: str) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    doses = list(fold.by_dose)
    percents = [100 * dose for dose in doses]
    methods = [RESTORED, *fold.by_dose[doses[0]].baselines]
    curves: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "ceiling": (percents, [scores.gain_ceiling_db for scores in fold.by_dose.values()])
    }
    for method in methods:
        gains = [
            against_normal_dose(scores, convention, method, "gain_db") for scores in fold.by_dose.values()
        ]
        name = "network" if method == RESTORED else method
        curves[name] = (percents, [float("nan") if gain is None else gain for gain in gains])
    return curves
