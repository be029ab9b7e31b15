"""A picture of the middle slice for a quick look: source, result, difference, segments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.dicom import CTSeries, SegmentLabel
from pipeline.figures import Panel, save_panels
from pipeline.hu import HUWindow, display_window
from pipeline.inference.networks import LabelMap, Volume

DIFFERENCE = HUWindow(low=-30.0, high=30.0)
_DIFFERENCE_PERCENTILE = 99.0


def save_preview(
    path: Path,
    series: CTSeries,
    denoised_hu: Volume | None,
    label_map: LabelMap | None,
    labels: Sequence[SegmentLabel],
) -> None:
    """Write the middle slice as one row of panels; titles hold no text from the DICOM headers.

    The first label, the body that the organs lie in, is not coloured.
    """
    middle = len(series.hu) // 2
    window = display_window(series.entry.body_part)
    source = series.hu[middle]
    row = [Panel(source, window, title="source")]
    shown = source
    if denoised_hu is not None:
        shown = denoised_hu[middle]
        row.append(Panel(shown, window, title="denoised"))
        row.append(Panel(shown - source, DIFFERENCE, title="denoised - source", diverging=True))
    if label_map is not None:
        colours = {label.value: label.rgb for label in labels[1:]}
        row.append(Panel(shown, window, title="segmentation", labels=label_map[middle], colours=colours))
    save_panels(path, [row])


def save_dose_preview(
    path: Path,
    normal_dose_hu: npt.NDArray[np.float32],
    low_dose_hu: npt.NDArray[np.float32],
    dose_fractions: Sequence[float],
    body_part: str | None,
) -> None:
    """Write one slice as a row per dose: normal dose, that dose, their difference on one scale for all.

    Args:
        path: the picture.
        normal_dose_hu: (rows, columns) HU.
        low_dose_hu: (doses, rows, columns) HU.
        dose_fractions: of each.
        body_part: decides the display window.
    """
    window = display_window(body_part)
    differences = low_dose_hu - normal_dose_hu
    limit = max(DIFFERENCE.high, float(np.percentile(np.abs(differences), _DIFFERENCE_PERCENTILE)))
    scale = HUWindow(-limit, limit)
    rows = [
        [
            Panel(normal_dose_hu, window, title="normal dose"),
            Panel(image, window, title=f"{100 * dose:g} % dose, simulated"),
            Panel(difference, scale, title="difference", diverging=True),
        ]
        for dose, image, difference in zip(dose_fractions, low_dose_hu, differences, strict=True)
    ]
    save_panels(path, rows)
