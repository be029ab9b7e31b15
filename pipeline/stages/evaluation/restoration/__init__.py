"""Denoisers: scored on the low dose that is stored, or on low doses made from the normal dose."""

from pipeline.stages.evaluation.restoration.made import evaluate_made
from pipeline.stages.evaluation.restoration.stored import evaluate_stored

__all__ = ["evaluate_made", "evaluate_stored"]
