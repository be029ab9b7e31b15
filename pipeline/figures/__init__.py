"""Pictures: CT panels, image grids and curves as small PNG files, the same bytes for the same input."""

from pipeline.figures.curves import save_curves
from pipeline.figures.images import Panel, save_grid, save_panels

__all__ = ["Panel", "save_curves", "save_grid", "save_panels"]
