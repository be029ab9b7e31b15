"""Phantom patients and the scanner that looks at them at any dose."""

from pipeline.simulate.labels import Label
from pipeline.simulate.phantom import REGIONS, Phantom, make_phantom
from pipeline.simulate.scanner import Scanner

__all__ = ["REGIONS", "Label", "Phantom", "Scanner", "make_phantom"]
