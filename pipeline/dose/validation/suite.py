"""Every check with its full settings, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch

from pipeline.dose.flux import Flux
from pipeline.dose.photons import ELECTRONIC_VARIANCE
from pipeline.dose.validation.bench import Bench
from pipeline.dose.validation.bias import mean_of_starved_scans
from pipeline.dose.validation.check import Check
from pipeline.dose.validation.geometry import (
    adjointness,
    analytic_line_integrals,
    analytic_reconstruction,
    scikit_image_reference,
)
from pipeline.dose.validation.laws import dose_law, tube_current_law
from pipeline.dose.validation.level import added_image_variance, added_ray_variance
from pipeline.dose.validation.objects import BODY, METAL_HIPS
from pipeline.dose.validation.streaks import streaks
from pipeline.dose.validation.texture import noise_spectrum
from pipeline.projector import Beam, FanBeam, Kernel, ParallelBeam

SIZE: Final = 192
PIXEL_MM: Final = 1.5
BEAMS: Final[dict[str, Beam]] = {
    "parallel": ParallelBeam(SIZE, PIXEL_MM, views=240),
    "fan": FanBeam(SIZE, PIXEL_MM, views=480),
}
"""A field of view of 288 mm."""
FINE_BEAMS: Final[dict[str, Beam]] = {
    "parallel": ParallelBeam(256, 0.8, views=240),
    "fan": FanBeam(256, 0.8, views=480),
}
"""Pixels as small as in patients, so that line integrals come from half the resolution."""
KERNEL: Final = Kernel(cutoff_per_mm=1 / (2 * PIXEL_MM))
"""Ramp times a Hann window that ends at the Nyquist frequency."""
PHOTONS: Final = 2e5
"""Per ray, without attenuation: a body scan at normal dose."""
HIGH_FLUX: Final = 4e6


def proofs(seed: int) -> Sequence[Callable[[], Check]]:
    """The whole suite, each check ready to run; one seed gives the same numbers on the same machine."""

    def benches(realisations: int, photons: float = PHOTONS) -> dict[str, Bench]:
        flux = Flux(photons_per_ray=photons)
        return {name: Bench(BODY, beam, flux, KERNEL, realisations, seed) for name, beam in BEAMS.items()}

    def fine_benches(realisations: int) -> dict[str, Bench]:
        flux = Flux(photons_per_ray=PHOTONS)
        return {
            name: Bench(METAL_HIPS, beam, flux, KERNEL, realisations, seed)
            for name, beam in FINE_BEAMS.items()
        }

    return [
        lambda: added_ray_variance(ELECTRONIC_VARIANCE),
        lambda: added_image_variance(benches(100, photons=2 * PHOTONS)),
        lambda: dose_law(benches(60)),
        lambda: mean_of_starved_scans(fine_benches(40)),
        lambda: noise_spectrum(benches(200)),
        lambda: analytic_line_integrals(BEAMS),
        lambda: analytic_reconstruction(BEAMS, KERNEL),
        lambda: adjointness(BEAMS, torch.Generator().manual_seed(seed)),
        lambda: scikit_image_reference(BEAMS),
        lambda: tube_current_law(benches(20, photons=HIGH_FLUX)),
        lambda: streaks(benches(600)),
    ]
