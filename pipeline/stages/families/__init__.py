"""From the settings of a family of models to its networks, batches, objective and bundle."""

from pipeline.stages.families.building import ARCHITECTURES, build_plan, build_training
from pipeline.stages.families.bundles import Training

__all__ = ["ARCHITECTURES", "Training", "build_plan", "build_training"]
