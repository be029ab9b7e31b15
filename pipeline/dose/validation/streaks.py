"""Do streaks appear where they belong? Between the two dense bones of shoulders and hips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch

from pipeline.dose.validation.bench import Bench
from pipeline.dose.validation.check import Check, Image, Measure
from pipeline.dose.validation.objects import HIPS, SHOULDERS, Ellipse

DOSE: Final = 0.1
LEAST_STREAKINESS: Final = 3.0
"""Between bones."""
MOST_WITHOUT_BONES: Final = 1.25
"""In a round body, and as low as its inverse."""
AGREEMENT: Final = 0.1
"""Relative difference to the direct simulation."""
_ROUND: Final = (Ellipse(85, 85),)
_SHOWN_SD: Final = 3.0


def streaks(benches: Mapping[str, Bench]) -> Check:
    """Anisotropy of the added noise between the bones, beside the direct simulation's and a round body's."""
    measures, images = [], []
    for name, bench in benches.items():
        for body, ellipses in (("shoulders", SHOULDERS), ("hips", HIPS), ("round body", _ROUND)):
            at = replace(bench, ellipses=ellipses)
            added_hu = at.added_noise_hu(at.direct_noise_hu(1.0), [DOSE])[0]
            direct_hu = at.direct_noise_hu(DOSE)
            found, expected = streakiness(added_hu), streakiness(direct_hu)
            where = f"{body}, {name}"
            measures.append(
                Measure(where, found, low=1 / MOST_WITHOUT_BONES, high=MOST_WITHOUT_BONES)
                if ellipses is _ROUND
                else Measure(where, found, low=LEAST_STREAKINESS)
            )
            ratio = found / expected
            measures.append(Measure(f"{where}, over direct", ratio, low=1 - AGREEMENT, high=1 + AGREEMENT))
            limit_hu = _SHOWN_SD * float(added_hu.std())
            images.append(Image(f"{where}: inserted", added_hu[0].numpy(), limit_hu))
            images.append(Image(f"{where}: direct", direct_hu[0].numpy(), limit_hu))
    return Check(
        key="streaks",
        title="Streaks between the bones",
        proves="Rays through both bones are the noisiest, so noise between them runs along the line that "
        "joins them. Streakiness is the variance of row means over the variance of column means in a "
        "square between the bones: 1 without direction, the more the longer the streaks.",
        quantity="streakiness",
        measures=measures,
        images=images,
    )


def streakiness(noise_hu: torch.Tensor) -> float:
    """Variance of the means along x over that of the means along y, in the central sixth of the image.

    Args:
        noise_hu: `(realisations, size, size)` HU.
    """
    size = noise_hu.shape[-1]
    middle = slice(size // 2 - size // 12, size // 2 + size // 12)
    square = noise_hu[:, middle, middle]
    return float(square.mean(dim=2).var(dim=0).mean() / square.mean(dim=1).var(dim=0).mean())
