"""Proofs of the dose physics: each check measures one property and says whether its limits hold."""

from pipeline.dose.validation.check import Check, Image, Measure, Plot
from pipeline.dose.validation.suite import proofs

__all__ = ["Check", "Image", "Measure", "Plot", "proofs"]
