"""Parallel-beam ray sums and filtered back-projection."""

from pipeline.projector.fbp import filtered_back_projection
from pipeline.projector.geometry import ParallelBeam
from pipeline.projector.joseph import project

__all__ = ["ParallelBeam", "filtered_back_projection", "project"]
