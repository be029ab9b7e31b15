"""One training loop for every family of models."""

from pipeline.engine.curves import write_curves
from pipeline.engine.hardware import Hardware, choose_hardware
from pipeline.engine.loop import DivergenceError, MetricLog, Outcome, train
from pipeline.engine.plan import OptimizerPlan, Plan
from pipeline.engine.progress import Progress
from pipeline.engine.resume import ResumeStore

__all__ = [
    "DivergenceError",
    "Hardware",
    "MetricLog",
    "OptimizerPlan",
    "Outcome",
    "Plan",
    "Progress",
    "ResumeStore",
    "choose_hardware",
    "train",
    "write_curves",
]
