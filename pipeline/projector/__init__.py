"""Ray sums and filtered back-projection in parallel and fan beams, on any device, differentiable."""

from pipeline.projector.beam import Beam
from pipeline.projector.fan import FanBeam
from pipeline.projector.fbp import filtered_back_projection, propagate_variance
from pipeline.projector.joseph import project
from pipeline.projector.kernel import Kernel
from pipeline.projector.parallel import ParallelBeam

__all__ = [
    "Beam",
    "FanBeam",
    "Kernel",
    "ParallelBeam",
    "filtered_back_projection",
    "project",
    "propagate_variance",
]
