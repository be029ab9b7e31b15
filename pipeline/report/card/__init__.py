"""The model card: results and headers in, a page of Markdown out; gaps are named as such."""

from pipeline.report.card.facts import Card, Model, Source, Weights
from pipeline.report.card.page import render, summary
from pipeline.report.card.pictures import gain_panels, small_png, worst_of_each_dose

__all__ = [
    "Card",
    "Model",
    "Source",
    "Weights",
    "gain_panels",
    "render",
    "small_png",
    "summary",
    "worst_of_each_dose",
]
