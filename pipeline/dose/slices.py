"""Noise that neighbouring slices share, and where every slice's random numbers come from.

A generator is seeded by the SHA-256 of seed, slice index and dose fraction, so the noise of a slice
depends on those alone: not on how the series is cut into chunks, on the number of workers, or on which other
doses are made. The same seed gives other numbers on a GPU than on a CPU, since their generators differ.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch


def slice_correlations(thickness_over_increment: float) -> tuple[float, ...]:
    """Noise correlation of a slice with itself, the next one, and so on while it is not zero.

    Slices with a box profile of thickness T every d share the photons of their overlap: max(0, 1 − k d/T).

    Args:
        thickness_over_increment: T / d; up to 1 the slices share nothing.

    Raises:
        ValueError: the ratio is not positive or above 64.
    """
    if not 0 < thickness_over_increment <= 64:
        raise ValueError(f"thickness_over_increment must be in (0, 64], got {thickness_over_increment}")
    lags = int(np.ceil(round(thickness_over_increment, 6)))
    return tuple(1 - lag / max(1.0, thickness_over_increment) for lag in range(lags))


def shared_noise_weights(thickness_over_increment: float) -> tuple[float, ...]:
    """Weights of white noise fields k, k + 1, … whose sum for slice k has the `slice_correlations`.

    A moving average with one new field per slice does it for any ratio, whole or not: its weights are the
    factor of the correlation polynomial with the roots within the unit circle (Fejér–Riesz).
    """
    correlations = np.array(slice_correlations(thickness_over_increment))
    lags = len(correlations) - 1
    roots = np.roots(np.concatenate([correlations[:0:-1], correlations]))
    within = roots[np.argsort(np.abs(roots))][:lags]
    weights = np.atleast_1d(np.poly(within)).real
    return tuple((weights / np.linalg.norm(weights)).tolist())


def shared_noise(
    shape: Sequence[int],
    *,
    seed: int,
    first_slice: int,
    dose_fraction: float,
    thickness_over_increment: float,
    device: torch.device,
) -> Iterator[torch.Tensor]:
    """Standard normal fields of slices `first_slice`, `first_slice + 1`, … without end, correlated in z.

    Args:
        shape: of a field.
        seed: of the series.
        first_slice: index along the slice normal, in steps of the increment.
        dose_fraction: doses have independent noise.
        thickness_over_increment: see `slice_correlations`.
        device: where the fields are drawn.
    """
    weights = shared_noise_weights(thickness_over_increment)
    fields: deque[torch.Tensor] = deque(maxlen=len(weights))
    slice_index = first_slice
    while True:
        key = f"{seed}/{slice_index}/{dose_fraction!r}".encode()
        digest = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
        generator = torch.Generator(device).manual_seed(digest)
        fields.append(torch.randn(tuple(shape), generator=generator, device=device))
        slice_index += 1
        if len(fields) == len(weights):
            yield sum(
                (w * f for w, f in zip(weights[1:], list(fields)[1:], strict=True)), weights[0] * fields[0]
            )
