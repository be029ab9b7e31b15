"""Phantom patients."""

from pipeline.simulate.labels import Label
from pipeline.simulate.phantom import REGIONS, Phantom, make_phantom

__all__ = ["REGIONS", "Label", "Phantom", "make_phantom"]
