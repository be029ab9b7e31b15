"""What the statistical checks share: a test scan, its realisations, and regions to measure in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from pipeline.dose.flux import Flux
from pipeline.dose.insertion import Acquisition, insert_noise
from pipeline.dose.photons import HU_PER_ATTENUATION
from pipeline.dose.validation.direct import noise_of_a_scan
from pipeline.dose.validation.geometry import scan_of
from pipeline.dose.validation.objects import Ellipse, coverage, paint_hu
from pipeline.projector import Beam, Kernel, filtered_back_projection

BATCH: Final = 20
"""Realisations that are worked on together."""

Insertion = Callable[..., torch.Tensor]
"""`insert_noise`, or what a test puts in its place."""


@dataclass(frozen=True)
class Bench:
    """An object in a scanner, scanned again and again.

    Attributes:
        ellipses: the object.
        beam: ray geometry.
        flux: photons at normal dose.
        kernel: reconstruction kernel.
        realisations: independent scans.
        seed: of everything random.
        insertion: the noise insertion under test.
    """

    ellipses: Sequence[Ellipse]
    beam: Beam
    flux: Flux
    kernel: Kernel
    realisations: int
    seed: int = 0
    insertion: Insertion = insert_noise

    @property
    def acquisition(self) -> Acquisition:
        """What the insertion is told about the scan."""
        return Acquisition(beam=self.beam, flux=self.flux, kernel=self.kernel)

    def object_hu(self) -> torch.Tensor:
        """The noise-free object, `(1, size, size)` HU."""
        return paint_hu(self.ellipses, self.beam.size, self.beam.pixel_mm)

    def counts(self) -> torch.Tensor:
        """Expected photons of each ray at normal dose, from exact line integrals, `(1, views, cells)`."""
        offsets = self.beam.ray_offsets_mm()
        bowtie = 1.0 if self.flux.bowtie is None else self.flux.bowtie.relative_fluence(offsets)
        return self.flux.photons_per_ray * bowtie * (-scan_of(self.ellipses, self.beam)).exp()

    def reconstruct_noise_hu(self, line_integrals: torch.Tensor) -> torch.Tensor:
        """The image of noise in line integrals, `(N, views, cells)` to `(N, size, size)` HU."""
        return filtered_back_projection(line_integrals, self.beam, kernel=self.kernel) * HU_PER_ATTENUATION

    def batches(self) -> Iterator[tuple[int, int]]:
        """First index and length of each batch of realisations."""
        for first in range(0, self.realisations, BATCH):
            yield first, min(BATCH, self.realisations - first)

    def direct_noise_hu(self, dose_fraction: float) -> torch.Tensor:
        """Noise images of the direct simulation at a dose, `(realisations, size, size)` HU."""
        generator = torch.Generator().manual_seed(self.seed + round(1e6 * dose_fraction))
        counts = self.counts() * dose_fraction
        parts = [
            self.reconstruct_noise_hu(
                noise_of_a_scan(
                    counts.expand(length, -1, -1).contiguous(), self.flux.electronic_variance, generator
                )
            )
            for _, length in self.batches()
        ]
        return torch.cat(parts)

    def added_noise_hu(
        self,
        normal_dose_noise_hu: torch.Tensor | None,
        dose_fractions: Sequence[float],
        exposure: float = 1.0,
    ) -> torch.Tensor:
        """What the insertion adds to normal-dose images, `(doses, realisations, size, size)` HU.

        Args:
            normal_dose_noise_hu: `(realisations, size, size)` HU, or None for noise-free images.
            dose_fractions: the doses to come down to.
            exposure: mAs of the normal dose relative to the flux's.
        """
        parts = []
        for first, length in self.batches():
            hu = self.object_hu().expand(length, -1, -1)
            if normal_dose_noise_hu is not None:
                hu = hu + normal_dose_noise_hu[first : first + length]
            low_dose_hu = self.insertion(
                hu,
                self.acquisition,
                dose_fractions=dose_fractions,
                slice_index=first,
                seed=self.seed,
                exposure=exposure,
            )
            parts.append(low_dose_hu - hu)
        return torch.cat(parts, dim=1)

    def region(self, shape: Ellipse) -> torch.Tensor:
        """`(size, size)` bool: pixels that lie wholly in the shape."""
        return coverage(shape, self.beam.size, self.beam.pixel_mm) == 1
