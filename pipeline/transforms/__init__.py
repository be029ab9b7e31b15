"""MONAI dictionary transforms that make training samples, seeded sample by sample or batch by batch."""

from pipeline.transforms.batch import TurnBatchd, ZoomBatchd, patch_batches
from pipeline.transforms.grid import centred_view, resample_image, resample_labels
from pipeline.transforms.samples import generative_slices, labelled_slices, seeded

__all__ = [
    "TurnBatchd",
    "ZoomBatchd",
    "centred_view",
    "generative_slices",
    "labelled_slices",
    "patch_batches",
    "resample_image",
    "resample_labels",
    "seeded",
]
