"""Pictures: CT panels, image grids and curves as small PNG files, the same bytes for the same input."""

from pipeline.figures.curves import CurvePanel, save_curve_panels
from pipeline.figures.images import Panel, save_grid, save_panels

__all__ = ["CurvePanel", "Panel", "save_curve_panels", "save_grid", "save_panels"]
