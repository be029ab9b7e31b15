"""How much a denoiser can gain when it is scored against an image that is noisy itself.

The noise variance of the normal dose is taken as 1; at dose fraction α that of the low dose is 1/α. A low
dose made from the normal dose (`shared` noise: every simulation, and the public paired collections) differs
from it by the added noise only, of variance 1/α − 1; an `independent` second scan by 1/α + 1.
"""

from __future__ import annotations

import math


def gain_ceiling_db(dose_fraction: float, noise: str) -> float:
    """Best possible PSNR gain against the normal dose, in dB.

    With shared noise the low dose knows part of the target's noise, and the best linear estimate of the
    target leaves the variance 1 − α of it: −10 log10 α. With independent noise nothing beats the clean image.

    Args:
        dose_fraction: dose of the low-dose image over that of the normal-dose image, in (0, 1).
        noise: `shared` or `independent`.

    Raises:
        ValueError: the dose fraction is outside (0, 1), or the kind of noise is unknown.
    """
    if _is_shared(dose_fraction, noise):
        return -10 * math.log10(dose_fraction)
    return clean_output_gain_db(dose_fraction, noise)


def clean_output_gain_db(dose_fraction: float, noise: str) -> float:
    """PSNR gain of a perfectly clean output, in dB: negative above half the dose where noise is shared.

    Arguments and errors as in `gain_ceiling_db`.
    """
    sign = -1 if _is_shared(dose_fraction, noise) else 1
    return 10 * math.log10(1 / dose_fraction + sign)


def _is_shared(dose_fraction: float, noise: str) -> bool:
    if not 0 < dose_fraction < 1:
        raise ValueError(f"dose_fraction must lie between 0 and 1, got {dose_fraction}")
    if noise not in ("shared", "independent"):
        raise ValueError(f"noise must be 'shared' or 'independent', got {noise!r}")
    return noise == "shared"
