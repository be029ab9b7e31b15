"""Filtered back-projection: a band-limited ramp times the kernel's window; and the noise it lets through."""

from __future__ import annotations

import math

import torch

from pipeline.projector.beam import Beam
from pipeline.projector.joseph import back_project
from pipeline.projector.kernel import Kernel


def filtered_back_projection(sinograms: torch.Tensor, beam: Beam, *, kernel: Kernel) -> torch.Tensor:
    """Images from their line integrals (Kak and Slaney 1988, chapters 3.3 and 3.4.2). Differentiable.

    Args:
        sinograms: `(N, views, cells)` line integrals, on any device.
        beam: the scan.
        kernel: window on the ramp.

    Returns:
        `(N, size, size)` linear attenuation in 1/mm; zero outside the circle that every view sees.

    Raises:
        ValueError: sinograms that are not `(N, views, cells)`.
    """
    weighted = sinograms * beam.ray_weights().to(sinograms)
    filtered = convolved(weighted, filter_response(beam, kernel))
    return back_project(filtered * (math.pi / beam.views), beam)


def propagate_variance(variances: torch.Tensor, beam: Beam, *, kernel: Kernel) -> torch.Tensor:
    """Variance of the images that `filtered_back_projection` makes of uncorrelated noise.

    Between cells j and j + 1, linear interpolation at phase u gives noise of the filter `h` the weights
    `(1 − u) h_j + u h_{j+1}`; their square is averaged over u, since phases spread evenly over views.

    Args:
        variances: `(N, views, cells)` variance of each line integral.
        beam: the scan.
        kernel: window on the ramp.

    Returns:
        `(N, size, size)` in 1/mm²; zero outside the circle that every view sees.

    Raises:
        ValueError: variances that are not `(N, views, cells)`.
    """
    response = filter_response(beam, kernel)
    taps = torch.fft.irfft(response.double())
    between = (taps**2 + taps * taps.roll(-1) + taps.roll(-1) ** 2) / 3
    squared = (between + between.roll(1)) / 2
    weighted = variances * beam.ray_weights().to(variances) ** 2
    filtered = convolved(weighted, torch.fft.rfft(squared).real).clamp(min=0)
    return back_project(filtered * (math.pi / beam.views) ** 2, beam, weight_power=2)


def filter_response(beam: Beam, kernel: Kernel) -> torch.Tensor:
    """Frequency response of the windowed ramp, `(padded / 2 + 1,)` float32, in 1/mm.

    The ramp comes from its samples in space, so that HU keep their offset.
    """
    padded = 2 ** math.ceil(math.log2(2 * beam.detector_cells))
    offset = torch.fft.fftfreq(padded, 1 / padded, dtype=torch.float64)
    taps = torch.where(offset % 2 == 1, -1 / (math.pi * offset) ** 2, 0.0)
    taps[0] = 0.25
    ramp: torch.Tensor = torch.fft.rfft(taps * beam.ramp_factor(offset)).real / beam.pixel_mm
    frequency_per_mm = torch.fft.rfftfreq(padded, beam.pixel_mm, dtype=torch.float64)
    return ramp.float() * kernel.gain(frequency_per_mm)


def convolved(sinograms: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """Convolution along the cells, zero beyond the detector."""
    padded = 2 * (len(response) - 1)
    spectra = torch.fft.rfft(sinograms, n=padded, dim=-1) * response.to(sinograms)
    convolved: torch.Tensor = torch.fft.irfft(spectra, n=padded, dim=-1)
    return convolved[..., : sinograms.shape[-1]]
