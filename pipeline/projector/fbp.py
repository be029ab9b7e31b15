"""Filtered back-projection: a band-limited ramp times a Hann window."""

from __future__ import annotations

import math

import torch

from pipeline.projector.geometry import ParallelBeam
from pipeline.projector.joseph import back_project


def filtered_back_projection(
    sinograms: torch.Tensor, beam: ParallelBeam, *, hann_cutoff: float
) -> torch.Tensor:
    """Images from their line integrals (Kak and Slaney 1988, chapter 3).

    Args:
        sinograms: `(N, views, size)` line integrals, float32.
        beam: the scan.
        hann_cutoff: where the Hann window reaches zero, in units of the detector's Nyquist frequency
            `1 / (2 pixel_mm)`; `math.inf` leaves the plain Ram-Lak ramp.

    Returns:
        `(N, size, size)` linear attenuation in 1/mm; zero outside the inscribed circle.

    Raises:
        ValueError: a cut-off that is not positive, or sinograms that are not `(N, views, size)`.
    """
    padded = 2 ** math.ceil(math.log2(2 * beam.size))
    response = _ramp(padded, beam.pixel_mm) * _hann(padded, hann_cutoff)
    spectra = torch.fft.rfft(sinograms, n=padded, dim=-1)
    filtered = torch.fft.irfft(spectra * response, n=padded, dim=-1)[..., : beam.size]
    return back_project(filtered.float() * (math.pi / beam.views), beam)


def _ramp(length: int, pitch_mm: float) -> torch.Tensor:
    """Frequency response of the band-limited ramp, from its samples in space so that HU keep their offset."""
    offset = torch.fft.fftfreq(length, 1 / length, dtype=torch.float64)
    kernel = torch.where(offset % 2 == 1, -1 / (math.pi * offset) ** 2, 0.0)
    kernel[0] = 0.25
    response: torch.Tensor = torch.fft.rfft(kernel).real / pitch_mm
    return response.float()


def _hann(length: int, cutoff: float) -> torch.Tensor:
    if not cutoff > 0:
        raise ValueError(f"hann_cutoff must be positive, got {cutoff}")
    of_cutoff = torch.fft.rfftfreq(length) * 2 / cutoff
    return torch.where(of_cutoff < 1, 0.5 * (1 + torch.cos(math.pi * of_cutoff)), 0.0)
