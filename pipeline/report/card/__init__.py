"""The model card: results and headers in, a page of Markdown out; gaps are named as such."""

from pipeline.report.card.facts import Card, Model, Source, Weights
from pipeline.report.card.page import render, summary
from pipeline.report.card.pictures import first_rows, gain_panels, small_png, worst_of_each_dose
from pipeline.report.card.tables import lowest_gains, squares_of

__all__ = [
    "Card",
    "Model",
    "Source",
    "Weights",
    "first_rows",
    "gain_panels",
    "lowest_gains",
    "render",
    "small_png",
    "squares_of",
    "summary",
    "worst_of_each_dose",
]
