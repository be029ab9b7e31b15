"""The noise of a lower dose, in whole slices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.degradations.base import Degraded
from pipeline.dose.field_of_view import canvas_size, covering, field_of_view
from pipeline.dose.flux import Flux
from pipeline.dose.insertion import Acquisition, insert_noise
from pipeline.hu import LOWEST_HU
from pipeline.projector import FanBeam, Kernel

_SEEDS = 2**31


@dataclass(frozen=True)
class LowDose:
    """n: the noise that a dose lacks, drawn in the ray sums of an equiangular fan beam; see `pipeline.dose`.

    It needs whole slices: the noise of a pixel depends on all the body that its rays cross, and is correlated
    along them. A patch would be taken for a small body in a small scanner. Slices of a batch get independent
    noise, as those of different series; for the slices of one series use `ldct simulate dose`.

    Args:
        dose_fraction: share of the images' own dose.
        photons_per_ray: of the scan that made the images, on the central ray without a patient; no bow-tie.
        kernel_cutoff_per_mm: where the kernel that made the images ends.

    Raises:
        ValueError: the fraction is not between 0 and 1, or another value is not positive.
    """

    dose_fraction: float
    photons_per_ray: float
    kernel_cutoff_per_mm: float

    def __post_init__(self) -> None:
        if not 0 < self.dose_fraction < 1:
            raise ValueError(f"dose_fraction must be between 0 and 1, got {self.dose_fraction}")
        if not min(self.photons_per_ray, self.kernel_cutoff_per_mm) > 0:
            raise ValueError(
                "photons_per_ray and kernel_cutoff_per_mm must be positive, got "
                f"{self.photons_per_ray} and {self.kernel_cutoff_per_mm}"
            )

    def __call__(self, image: Degraded, *, pixel_mm: Tensor, generator: torch.Generator) -> Degraded:
        """The images at the lower dose.

        Raises:
            ValueError: the images of the batch have pixels of different sizes.
        """
        sides = sorted(set(pixel_mm.tolist()))
        if len(sides) != 1:
            raise ValueError(f"low_dose needs one pixel size per batch, got {sides} mm")
        hu = image.hu[:, 0]
        visible = field_of_view(hu, hu < LOWEST_HU)
        beam = covering(FanBeam(canvas_size(*hu.shape[1:]), sides[0]), visible)
        seed = int(torch.randint(_SEEDS, (1,), generator=generator, device=generator.device))
        (low_dose,) = insert_noise(
            hu,
            Acquisition(beam, Flux(self.photons_per_ray), Kernel(self.kernel_cutoff_per_mm)),
            dose_fractions=[self.dose_fraction],
            slice_index=0,
            seed=seed,
            visible=visible,
        )
        return replace(image, hu=low_dose[:, None])
