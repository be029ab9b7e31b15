"""What a family of models optimises and how it is validated; the engine does everything else."""

from pipeline.objectives.adversarial import Adversarial
from pipeline.objectives.adversarial_restoration import AdversarialRestoration, NonSaturating, Wasserstein
from pipeline.objectives.base import DISCRIMINATOR, Batch, Networks, Objective, Score, Turn
from pipeline.objectives.elbo import ELBO
from pipeline.objectives.restoration import Restoration, RestorationPair
from pipeline.objectives.segmentation import LabelledSlice, Segmentation

__all__ = [
    "DISCRIMINATOR",
    "ELBO",
    "Adversarial",
    "AdversarialRestoration",
    "Batch",
    "LabelledSlice",
    "Networks",
    "NonSaturating",
    "Objective",
    "Restoration",
    "RestorationPair",
    "Score",
    "Segmentation",
    "Turn",
    "Wasserstein",
]
