"""The two scan geometries."""

from typing import TypeAlias

from pipeline.projector.fan import FanBeam
from pipeline.projector.parallel import ParallelBeam

Beam: TypeAlias = ParallelBeam | FanBeam
