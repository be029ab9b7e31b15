"""A picture of one slice for a quick look: source, result, difference, segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.dicom import SegmentLabel
from pipeline.figures import Panel, save_panels
from pipeline.hu import HUWindow, display_window

DIFFERENCE = HUWindow(low=-30.0, high=30.0)
_DIFFERENCE_PERCENTILE = 99.0


@dataclass(frozen=True)
class Shown:
    """The slice that a preview shows.

    Attributes:
        source_hu: (rows, columns) HU.
        denoised_hu: (rows, columns) HU, if there is a denoiser.
        label_map: (rows, columns), if there is a segmentation.
    """

    source_hu: npt.NDArray[np.float32]
    denoised_hu: npt.NDArray[np.float32] | None = None
    label_map: npt.NDArray[np.uint8] | None = None


def save_preview(path: Path, shown: Shown, labels: Sequence[SegmentLabel], body_part: str | None) -> None:
    """Write a slice as one row of panels; titles hold no text from the DICOM headers.

    Args:
        path: the picture.
        shown: the slice.
        labels: of its label map; the first one, the body that the organs lie in, is not coloured.
        body_part: decides the display window.
    """
    window = display_window(body_part)
    row = [Panel(shown.source_hu, window, title="source")]
    result = shown.source_hu
    if shown.denoised_hu is not None:
        result = shown.denoised_hu
        row.append(Panel(result, window, title="denoised"))
        row.append(Panel(result - shown.source_hu, DIFFERENCE, title="denoised - source", diverging=True))
    if shown.label_map is not None:
        colours = {label.value: label.rgb for label in labels[1:]}
        row.append(Panel(result, window, title="segmentation", labels=shown.label_map, colours=colours))
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
