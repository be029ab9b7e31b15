"""Small whole slices of the normal dose, which VAE and GAN learn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.config.train import GANSettings, SliceData, VAESettings
from pipeline.data import Case
from pipeline.data.batches import SampleBatches
from pipeline.data.patches import CentredSlices, centred_slices
from pipeline.transforms import generative_slices


def validation_slices(cases: Sequence[Case], data: SliceData) -> Tensor:
    """All slices of the validation cases, (N, 1, S, S) float32 HU."""
    return torch.cat(
        [
            centred_slices(case, image_size=data.image_size, field_of_view_mm=data.field_of_view_mm)
            for case in cases
        ]
    )


def slice_batches(cases: Sequence[Case], settings: VAESettings | GANSettings) -> SampleBatches:
    """Varied slices of the training cases."""
    data = settings.data
    transform = generative_slices(shift_pixels=data.shift_pixels, scale=data.scale)
    samples = CentredSlices(
        cases,
        transform,
        image_size=data.image_size,
        field_of_view_mm=data.field_of_view_mm,
        seed=settings.seed,
    )
    return SampleBatches(samples, settings.batch_size)
