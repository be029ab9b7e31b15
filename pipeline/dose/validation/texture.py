"""Does the noise look right? Its power spectrum against the direct simulation's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from pipeline.dose.validation.bench import Bench
from pipeline.dose.validation.check import Check, Measure, Plot
from pipeline.metrics.nps import RadialNPS, radial_nps, texture_distance

DOSE: Final = 0.25
FEWEST_REALISATIONS: Final = 200
"""What a claim of 5 % takes (AAPM TG-233)."""
DISTANCE_LIMIT: Final = 0.05
PEAK_LIMIT: Final = 0.05
SIDE_MM: Final = 96
"""Of the square in the middle of the body."""


def noise_spectrum(benches: Mapping[str, Bench]) -> Check:
    """Normalised radial NPS of the inserted noise, on noisy normal-dose images, against direct simulation.

    Raises:
        ValueError: too few realisations for the claim.
    """
    measures, curves = [], {}
    for name, bench in benches.items():
        if bench.realisations < FEWEST_REALISATIONS:
            raise ValueError(f"a spectrum needs {FEWEST_REALISATIONS} realisations, got {bench.realisations}")
        inserted = _spectrum(bench.added_noise_hu(bench.direct_noise_hu(1.0), [DOSE])[0], bench)
        direct = _spectrum(bench.direct_noise_hu(DOSE), bench)
        distance = texture_distance(inserted, direct)
        measures.append(Measure(f"{name}, L1 distance", distance, high=DISTANCE_LIMIT))
        peak = inserted.peak_per_mm / direct.peak_per_mm
        measures.append(Measure(f"{name}, peak over direct", peak, low=1 - PEAK_LIMIT, high=1 + PEAK_LIMIT))
        for label, spectrum in (("inserted", inserted), ("direct", direct)):
            curves[f"{name}, {label}"] = (
                spectrum.frequency_per_mm.tolist(),
                spectrum.normalised_mm.tolist(),
            )
    return Check(
        key="spectrum",
        title="Noise power spectrum",
        proves="The inserted noise has the texture that counting gives: normalised radial NPS (AAPM TG-233) "
        "in the middle of a water body. The L1 distance is the area between two spectra whose areas are 1.",
        quantity="distance, ratio",
        measures=measures,
        plots=[Plot("Normalised radial NPS [mm]", "frequency [1/mm]", curves)],
    )


def _spectrum(noise_hu: torch.Tensor, bench: Bench) -> RadialNPS:
    half = round(SIDE_MM / bench.beam.pixel_mm / 2)
    middle = slice(bench.beam.size // 2 - half, bench.beam.size // 2 + half)
    return radial_nps(noise_hu[:, middle, middle].numpy(), bench.beam.pixel_mm)
