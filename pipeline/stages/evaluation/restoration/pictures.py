"""Slices and noise power spectra before and after, beside the normal dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from pipeline.data import Case
from pipeline.figures import CurvePanel, Panel, save_curve_panels, save_panels
from pipeline.hu import HUWindow, display_window
from pipeline.stages.evaluation.context import INPUT, RESTORED, Slice
from pipeline.stages.evaluation.restoration.scores import NORMAL_DOSE, references

DIFFERENCE: Final = HUWindow(-30, 30)
ZOOM_PIXELS: Final = 192
SPECTRUM_POINTS: Final = 64


@dataclass(frozen=True, eq=False)
class Example:
    """A slice to be drawn.

    Attributes:
        case: that it is of.
        index: of the slice.
        dose_fraction: of the input.
        outputs: what each method, `input` and `restored` among them, makes of it, (H, W) HU.
        title: over the input.
    """

    case: Case
    index: int
    dose_fraction: float
    outputs: Mapping[str, Slice]
    title: str


def draw_before_and_after(path: Path, examples: Sequence[Example]) -> None:
    """A row per example: before, after, target and their difference."""
    rows = []
    for one in examples:
        window = display_window(one.case.anatomy)
        normal_dose = references(one.case, one.index)[NORMAL_DOSE]
        difference = one.outputs[RESTORED] - normal_dose
        rows.append(
            [
                Panel(one.outputs[INPUT], window, f"{one.title}, low dose ({one.dose_fraction:.0%})"),
                Panel(one.outputs[RESTORED], window, RESTORED),
                Panel(normal_dose, window, "normal dose"),
                Panel(difference, DIFFERENCE, "restored − normal dose", diverging=True),
            ]
        )
    save_panels(path, rows)


def draw_methods(path: Path, examples: Sequence[Example]) -> None:
    """A row per example: all methods and references, zoomed into the centre."""
    rows = []
    for one in examples:
        window = display_window(one.case.anatomy)
        images = {**one.outputs, **references(one.case, one.index)}
        rows.append([Panel(_centre(image), window, name.replace("_", " ")) for name, image in images.items()])
    save_panels(path, rows)


def draw_spectra(path: Path, spectra: pd.DataFrame) -> None:
    """For each source the mean of its cases' normalised spectra, up to the lowest Nyquist frequency.

    Args:
        path: of the picture.
        spectra: of `texture_rows` at one dose, with the column `source`; at least one row.
    """
    panels = []
    for source, rows in spectra.groupby("source"):
        highest_per_mm = rows.groupby("case")["frequency_per_mm"].max().min()
        frequency_per_mm = np.linspace(0, highest_per_mm, SPECTRUM_POINTS)
        curves = {}
        for method in (INPUT, RESTORED, NORMAL_DOSE):
            each = [
                np.interp(frequency_per_mm, own["frequency_per_mm"], own["normalised_nps_mm"])
                for _, own in rows[rows["method"] == method].groupby("case")
            ]
            curves[method.replace("_", " ")] = (frequency_per_mm.tolist(), np.mean(each, axis=0).tolist())
        panels.append(CurvePanel(f"{source}: normalised NPS [mm]", curves))
    save_curve_panels(path, panels, x_label="frequency [1/mm]")


def _centre(image: Slice) -> Slice:
    top, left = (max(0, (side - ZOOM_PIXELS) // 2) for side in image.shape)
    return image[top : top + ZOOM_PIXELS, left : left + ZOOM_PIXELS]
