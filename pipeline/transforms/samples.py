"""From slice to training sample; every random choice comes from the sample's own seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandSpatialCropd, SpatialPadd
from monai.transforms.intensity.dictionary import RandGaussianNoised, RandScaleIntensityd, RandShiftIntensityd
from monai.transforms.spatial.dictionary import RandAffined
from monai.transforms.transform import Randomizable
from monai.transforms.utility.dictionary import EnsureTyped
from torch import Tensor

from pipeline.hu import AIR_HU

Sample = dict[str, Tensor]


def seeded(transform: Compose, sample: Mapping[str, Any], *, seed: int, index: int) -> Sample:
    """Apply `transform` with random numbers that depend on `seed` and `index` alone.

    The generator is counter-based (Philox, Salmon et al. 2011, doi:10.1145/2063384.2063405): sample `index`
    is the same in whatever order, process or resumed run it is made.
    """
    state = np.random.RandomState(np.random.Philox(key=[seed, index]))
    for step in transform.transforms:
        if isinstance(step, Randomizable):
            step.set_random_state(state=state)
    return {name: plain_tensor(value) for name, value in cast(Sample, transform(dict(sample))).items()}


def plain_tensor(value: Tensor) -> Tensor:
    """The tensor without MONAI's metadata."""
    return value.as_tensor() if hasattr(value, "as_tensor") else value


def labelled_slices(
    image_size: int, *, rotation_degrees: float, scale: float, shift_hu: float, noise_hu: float
) -> Compose:
    """`image`, (1, H, W) float32 HU, and `classes`: a square, turned, scaled, with other contrast and noise.

    No flips: the liver stays on its side. Wherever the square leaves the slice there is air and class 0.

    Args:
        image_size: pixels per side.
        rotation_degrees: largest rotation either way.
        scale: largest relative change of size, and of contrast about water.
        shift_hu: largest offset.
        noise_hu: largest SD of white noise, so that the network also meets lower doses.
    """
    size = (image_size, image_size)
    turn = np.deg2rad(rotation_degrees)
    return Compose(
        [
            SpatialPadd("image", size, mode="constant", constant_values=AIR_HU),
            SpatialPadd("classes", size, mode="constant", constant_values=0),
            RandSpatialCropd(("image", "classes"), size, random_size=False),
            RandAffined(
                ("image", "classes"),
                prob=0.8,
                rotate_range=(turn,),
                scale_range=((-scale, scale), (-scale, scale)),
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandScaleIntensityd("image", factors=scale, prob=0.5),
            RandShiftIntensityd("image", offsets=shift_hu, prob=0.5),
            RandGaussianNoised("image", prob=0.5, std=noise_hu),
            EnsureTyped("image", dtype=torch.float32, track_meta=False),
            EnsureTyped("classes", dtype=torch.int64, track_meta=False),
        ]
    )


def generative_slices(*, shift_pixels: float, scale: float) -> Compose:
    """`image`, (1, S, S) float32 HU: moved and scaled a little.

    Args:
        shift_pixels: largest shift along each axis.
        scale: largest relative change of size.
    """
    return Compose(
        [
            RandAffined(
                "image",
                prob=1.0,
                translate_range=(shift_pixels, shift_pixels),
                scale_range=((-scale, scale), (-scale, scale)),
                mode="bilinear",
                padding_mode="border",
            ),
            EnsureTyped("image", dtype=torch.float32, track_meta=False),
        ]
    )
