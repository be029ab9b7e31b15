"""One training loop for every family of models."""

from pipeline.engine.curves import write_curves
from pipeline.engine.hardware import Hardware, choose_hardware, exact
from pipeline.engine.journal import DivergenceError, MetricLog
from pipeline.engine.loop import Outcome, train
from pipeline.engine.plan import OptimizerPlan, Plan
from pipeline.engine.progress import Progress
from pipeline.engine.resume import ResumeStore
from pipeline.engine.team import Team, join_team

__all__ = [
    "DivergenceError",
    "Hardware",
    "MetricLog",
    "OptimizerPlan",
    "Outcome",
    "Plan",
    "Progress",
    "ResumeStore",
    "Team",
    "choose_hardware",
    "exact",
    "join_team",
    "train",
    "write_curves",
]
