"""Settings of a scan that its images do not tell."""

from __future__ import annotations

from pydantic import PositiveFloat

from pipeline.config.base import Settings


class AssumedScanSettings(Settings):
    """The scan of a case whose own noise cannot be read: little of it, or hidden by anatomy."""

    photons_per_ray: PositiveFloat
    """At normal dose, on the central ray without a patient."""
    kernel_cutoff_per_mm: PositiveFloat
    """Where the kernel ends."""
