"""What the trainings of several claims share: white noise to remove, and scores of a restored image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from pipeline.config.lab import Phantoms, Training
from pipeline.degradations import WhiteNoise
from pipeline.hu import WATER_CENTRED
from pipeline.lab.phantoms import Array, MemoryBatches, Slices
from pipeline.metrics import CONVENTIONS, psnr
from pipeline.models.apply import restore_hu
from pipeline.objectives import Restoration, RestorationPair

CONVENTION = CONVENTIONS["redcnn"]
_AT_ONCE = 4


def with_noise(images_hu: Array, sd_hu: float, entropy: Sequence[int]) -> Array:
    """Images with white noise of their own."""
    rng = np.random.default_rng(list(entropy))
    return images_hu + np.float32(sd_hu) * rng.standard_normal(images_hu.shape, dtype=np.float32)


def denoising(validation: Slices, sd_hu: float, *, slices_of_a_patient: int, seed: int) -> Restoration:
    """Learn to remove white noise; validated on one slice of each patient."""
    truth = validation.truth[slices_of_a_patient // 2 :: slices_of_a_patient]
    noisy = with_noise(truth, sd_hu, (seed, 101))
    pairs = [RestorationPair(one, clean.astype(np.int16)) for one, clean in zip(noisy, truth, strict=True)]
    return Restoration(WATER_CENTRED, pairs, degradation=(WhiteNoise(sd_hu),))


def clean_patches(train: Slices, training: Training, phantoms: Phantoms, seed: int) -> MemoryBatches:
    """Patches without noise: the objective adds it."""
    return MemoryBatches(
        {"normal_dose": train.truth},
        pixel_mm=phantoms.pixel_mm,
        patch_size=training.patch_size,
        batch_size=training.batch_size,
        seed=seed,
    )


def restored(network: nn.Module, images_hu: Array) -> Array:
    """`(N, H, W)` HU through a network, a few at a time."""
    parts = [
        restore_hu(network, torch.from_numpy(images_hu[first : first + _AT_ONCE])[:, None], WATER_CENTRED)
        for first in range(0, len(images_hu), _AT_ONCE)
    ]
    whole: Array = torch.cat(parts)[:, 0].numpy()
    return whole


def mean_psnr(images_hu: Array, truth_hu: Array) -> float:
    """PSNR in dB under the convention `redcnn`, averaged over slices."""
    return float(np.mean([psnr(i, t, CONVENTION) for i, t in zip(images_hu, truth_hu, strict=True)]))


def first_step(rows: Sequence[dict[str, float]], name: str, *, below: float) -> int | None:
    """First step at which a curve is at or below a value; None when it never is."""
    return next((int(row["step"]) for row in rows if row.get(name, np.inf) <= below), None)
