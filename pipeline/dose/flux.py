"""How many photons a scanner sends along each ray: tube output, tube current and bow-tie filter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from pipeline.dose.photons import ELECTRONIC_VARIANCE, WATER_PER_MM
from pipeline.projector import Beam, FanBeam

PHOTONS_PER_MM2_MAS: Final = 6e5
"""Photons that count, per tube load, 1 m from the focus of a 120 kVp CT beam, 1/(mm² mAs).

The beam carries about 2.2e6: 70 µGy/mAs air kerma behind CT filtration times 31 000 photons/(mm² µGy), the
fluence per air kerma of such beams (IEC 62220-1, RQA 7 and 9). Detection, energy weighting, scatter and
interpolation leave noise as of about a quarter of them: the median of the photons read from the noise of 25
real series of filtered back-projection over those of the beam. Single scanners differ threefold either way.
"""

_REFERENCE_KVP: Final = 120.0
_REFERENCE_DISTANCE_MM: Final = 1000.0
_TYPICAL_SOURCE_MM: Final = 570.0


@dataclass(frozen=True)
class Bowtie:
    """A filter that takes from the outer rays part of what a thinner patient edge would let through.

    It equalises a share of a centred water cylinder: rays at offset t from the isocentre pass through extra
    filter worth `strength` times the water that the cylinder lacks there, 2 (R − √(R² − t²)), and beyond its
    radius through as much as at its edge.

    Attributes:
        radius_mm: radius R of the water cylinder.
        strength: share of the cylinder's attenuation that is equalised, 0 (no filter) to 1.

    Raises:
        ValueError: a radius that is not positive, or a strength outside 0 to 1.
    """

    radius_mm: float
    strength: float

    def __post_init__(self) -> None:
        if not (self.radius_mm > 0 and math.isfinite(self.radius_mm)):
            raise ValueError(f"radius_mm must be positive, got {self.radius_mm}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be between 0 and 1, got {self.strength}")

    def relative_fluence(self, offset_mm: torch.Tensor) -> torch.Tensor:
        """Fluence behind the filter relative to the central ray's, in (0, 1], in the shape of `offset_mm`.

        Args:
            offset_mm: distance of each ray from the isocentre, either sign.
        """
        half_chord_mm = (self.radius_mm**2 - offset_mm**2).clamp(min=0).sqrt()
        lacking_mm = 2 * (self.radius_mm - half_chord_mm)
        return torch.exp(-self.strength * WATER_PER_MM * lacking_mm)


BODY: Final = Bowtie(radius_mm=160.0, strength=0.5)
"""For trunks; the radius of the 32 cm CTDI body phantom (IEC 60601-2-44)."""

HEAD: Final = Bowtie(radius_mm=90.0, strength=0.5)
"""For heads; a little wider than the 16 cm CTDI head phantom (IEC 60601-2-44)."""


@dataclass(frozen=True)
class Flux:
    """Photons at normal dose.

    Attributes:
        photons_per_ray: I0 of the central ray without a patient, at relative exposure 1.
        bowtie: the filter before the patient; None for none.
        electronic_variance: σe² of the read-out noise in photons².

    Raises:
        ValueError: photons that are not positive and finite, or a negative variance.
    """

    photons_per_ray: float
    bowtie: Bowtie | None = None
    electronic_variance: float = ELECTRONIC_VARIANCE

    def __post_init__(self) -> None:
        if not (self.photons_per_ray > 0 and math.isfinite(self.photons_per_ray)):
            raise ValueError(f"photons_per_ray must be positive, got {self.photons_per_ray}")
        if not (self.electronic_variance >= 0 and math.isfinite(self.electronic_variance)):
            raise ValueError(f"electronic_variance must not be negative, got {self.electronic_variance}")

    def expected_counts(
        self, line_integrals: torch.Tensor, beam: Beam, exposure: torch.Tensor | float = 1.0
    ) -> torch.Tensor:
        """Photons that each ray is expected to bring to the detector.

        Args:
            line_integrals: `(N, views, cells)`, noise-free.
            beam: the scan whose rays they are.
            exposure: `(N,)` mAs of each slice relative to that of `photons_per_ray`, or one for all.

        Returns:
            `(N, views, cells)` counts.
        """
        counts = torch.exp(-line_integrals) * self.photons_per_ray
        if self.bowtie is not None:
            offsets = beam.ray_offsets_mm().to(counts)
            counts *= self.bowtie.relative_fluence(offsets)
        return counts * torch.as_tensor(exposure, dtype=counts.dtype, device=counts.device).reshape(-1, 1, 1)


def flux_from_tags(*, kvp: float, exposure_mas: float, slice_thickness_mm: float, beam: Beam) -> float:
    """Photons per ray that a scan's tags suggest: right within a factor of three at best.

    The tube's fluence falls with the square of the distance and rises with the square of the voltage; a ray
    collects it over one detector cell, as high as the slice is thick (both at the isocentre), for its share
    of a rotation's mAs.

    Args:
        kvp: tube voltage.
        exposure_mas: mAs of one rotation (not divided by pitch).
        slice_thickness_mm: nominal thickness.
        beam: the scan; parallel rays get the share of both opposite views, at a focus 570 mm away.

    Returns:
        `photons_per_ray` of a `Flux`.

    Raises:
        ValueError: a value that is not positive and finite.
    """
    for name, value in (
        ("kvp", kvp),
        ("exposure_mas", exposure_mas),
        ("slice_thickness_mm", slice_thickness_mm),
    ):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive, got {value}")
    source_mm = beam.source_mm if isinstance(beam, FanBeam) else _TYPICAL_SOURCE_MM
    fluence_per_mas = (
        PHOTONS_PER_MM2_MAS * (kvp / _REFERENCE_KVP) ** 2 * (_REFERENCE_DISTANCE_MM / source_mm) ** 2
    )
    return fluence_per_mas * exposure_mas / beam.views * beam.pixel_mm * slice_thickness_mm
