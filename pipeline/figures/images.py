"""Rows of CT panels and grids of small images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from pipeline.figures.png import new_figure, save_png
from pipeline.hu import HUWindow

PANEL_INCHES = 3.2
OVERLAY_OPACITY = 0.45


@dataclass(frozen=True)
class Panel:
    """One image of a figure.

    Attributes:
        image: (H, W) HU.
        window: HU range from black to white (or from blue to red).
        title: a short line above the image.
        labels: (H, W) class values drawn over the image; values without a colour stay transparent.
        colours: (red, green, blue) from 0 to 255 for each class value that is drawn.
        diverging: blue to red instead of black to white, for signed differences; gets a colour bar.

    Raises:
        ValueError: the image is not 2-D, or labels come without colours or in another shape.
    """

    image: npt.NDArray[Any]
    window: HUWindow
    title: str = ""
    labels: npt.NDArray[Any] | None = None
    colours: Mapping[int, Sequence[int]] | None = None
    diverging: bool = False

    def __post_init__(self) -> None:
        if self.image.ndim != 2:
            raise ValueError(f"a panel shows a 2-D image, got shape {self.image.shape}")
        if self.labels is None:
            return
        if self.colours is None or self.labels.shape != self.image.shape:
            raise ValueError(
                f"labels need colours and the image's shape {self.image.shape}, got {self.labels.shape}"
            )


def save_panels(path: Path, rows: Sequence[Sequence[Panel]], *, title: str | None = None) -> None:
    """Write rows of panels as one PNG; rows may differ in length.

    Raises:
        ValueError: there is no panel.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("save_panels needs at least one panel")
    figure = new_figure(PANEL_INCHES * columns, (PANEL_INCHES + 0.25) * len(rows), title)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, row_axes in zip(rows, axes, strict=True):
        for cell in row_axes:
            cell.set_axis_off()
        for panel, cell in zip(row, row_axes, strict=False):
            _draw(panel, cell)
    save_png(figure, path)


def save_grid(
    path: Path, images: npt.NDArray[Any], window: HUWindow, columns: int = 8, title: str | None = None
) -> None:
    """Write images (N, H, W) HU as one PNG, row by row, `columns` to a row, on white.

    Raises:
        ValueError: `images` is not (N, H, W) with N ≥ 1.
    """
    if images.ndim != 3 or len(images) == 0:
        raise ValueError(f"a grid needs images (N, H, W), got shape {images.shape}")
    count, height, width = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    gap = max(1, width // 32)
    mosaic = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap), np.float32)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        mosaic[top : top + height, left : left + width] = window.to_unit(image.astype(np.float32))
    figure = new_figure(columns * 1.1, rows * 1.1 * height / width + (0.3 if title else 0), title)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.imshow(mosaic, cmap="gray", vmin=0, vmax=1)
    save_png(figure, path)


def _draw(panel: Panel, axes: Axes) -> None:
    axes.set_title(panel.title, fontsize=9)
    low, high = panel.window.low, panel.window.high
    if panel.diverging:
        drawn = axes.imshow(panel.image, cmap="RdBu_r", vmin=low, vmax=high)
        axes.figure.colorbar(drawn, ax=axes, shrink=0.8, label="HU")
    elif panel.labels is None:
        axes.imshow(panel.image, cmap="gray", vmin=low, vmax=high)
    else:
        axes.imshow(_overlay(panel))


def _overlay(panel: Panel) -> npt.NDArray[np.float32]:
    """Grey image with the coloured labels over it: (H, W, 3) in [0, 1]."""
    grey = panel.window.to_unit(panel.image.astype(np.float32))
    rgb = np.repeat(grey[..., None], 3, axis=2)
    for value, colour in (panel.colours or {}).items():
        here = panel.labels == value
        tint = np.asarray(colour, np.float32) / 255
        rgb[here] = (1 - OVERLAY_OPACITY) * rgb[here] + OVERLAY_OPACITY * tint
    return rgb
