"""A CT scanner with counting noise: one patient, seen at any dose, as independent scans.

Line integrals p give N ~ Poisson(α I0 e^−p) + Normal(0, σe²) detected photons, and −ln(N / (α I0)) the noisy
line integrals, reconstructed by filtered back-projection. The noise-free truth goes the same way without
noise, so truth and scans share resolution and sampling artefacts and differ by noise alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.dose.photons import ELECTRONIC_VARIANCE, LEAST_COUNT, attenuation_per_mm, attenuation_to_hu
from pipeline.hu import AIR_HU
from pipeline.projector import Kernel, ParallelBeam, filtered_back_projection, project

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scanner:
    """How a scanner measures and reconstructs.

    Attributes:
        beam: ray geometry.
        photons_per_ray: I0 without attenuation, at normal dose.
        hann_cutoff: reconstruction kernel: where its Hann window ends, in units of the detector's Nyquist
            frequency `1 / (2 pixel_mm)`.

    Raises:
        ValueError: `photons_per_ray` is not positive.
    """

    beam: ParallelBeam
    photons_per_ray: float
    hann_cutoff: float = 1.0

    def __post_init__(self) -> None:
        if not self.photons_per_ray > 0:
            raise ValueError(f"photons_per_ray must be positive, got {self.photons_per_ray}")

    def measure(self, hu: Array) -> torch.Tensor:
        """Noise-free line integrals of an object, `(N, size, size)` HU to `(N, views, size)`."""
        return project(attenuation_per_mm(torch.from_numpy(hu)), self.beam)

    def expose(
        self, line_integrals: torch.Tensor, dose_fraction: float, rng: np.random.Generator
    ) -> torch.Tensor:
        """Noisy line integrals of one scan.

        Args:
            line_integrals: `(N, views, size)`, noise-free.
            dose_fraction: α, the share of the normal dose.
            rng: draws the noise.

        Raises:
            ValueError: `dose_fraction` is not positive.
        """
        if not dose_fraction > 0:
            raise ValueError(f"dose_fraction must be positive, got {dose_fraction}")
        photons = self.photons_per_ray * dose_fraction
        expected = photons * np.exp(-line_integrals.numpy())
        counts = rng.poisson(expected).astype(np.float32)
        counts += np.float32(ELECTRONIC_VARIANCE**0.5) * rng.standard_normal(counts.shape, dtype=np.float32)
        np.maximum(counts, np.float32(LEAST_COUNT), out=counts)
        return torch.from_numpy(np.float32(np.log(photons)) - np.log(counts))

    def reconstruct(self, scans: Sequence[torch.Tensor]) -> tuple[Array, ...]:
        """HU images of several scans of the same slices, reconstructed together to share the work.

        Args:
            scans: line integrals, `(N, views, size)` each.

        Returns:
            `(N, size, size)` float32 HU per scan; air outside the circle that every view sees.
        """
        kernel = Kernel(self.hann_cutoff / (2 * self.beam.pixel_mm))
        images = filtered_back_projection(torch.cat(list(scans)), self.beam, kernel=kernel)
        hu = attenuation_to_hu(images)
        hu[:, ~self.beam.inside()] = AIR_HU
        return tuple(part.numpy() for part in torch.split(hu, [len(scan) for scan in scans]))
