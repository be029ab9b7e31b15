"""MONAI dictionary transforms that make training samples, seeded sample by sample."""

from pipeline.transforms.grid import centred_view, resample_image, resample_labels
from pipeline.transforms.samples import generative_slices, labelled_slices, paired_patches, seeded

__all__ = [
    "centred_view",
    "generative_slices",
    "labelled_slices",
    "paired_patches",
    "resample_image",
    "resample_labels",
    "seeded",
]
