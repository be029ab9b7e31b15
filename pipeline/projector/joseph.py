"""Joseph's forward projection and the pixel-driven back-projection, as gathers that all images share.

Indices and weights depend on the scan alone, so images (in each orientation of the scan's symmetry) form the
columns of one table and every ray sum is one weighted sum of table rows: `embedding_bag`, which is vectorised
and threaded without a compiler. Batches of eight slices or more use it well. Gradients are exact: each gather
is repeated in the backward pass instead of keeping its indices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.projector.beam import Beam
from pipeline.projector.geometry import centred

_RAYS_PER_GATHER: Final = 2048
_PIXELS_PER_GATHER: Final = 2048


def project(attenuation: torch.Tensor, beam: Beam) -> torch.Tensor:
    """Line integrals through images.

    One sample per row with linear interpolation along it (Joseph 1982, doi:10.1109/TMI.1982.4307572);
    rays beyond 45° take one sample per column. Differentiable.

    Args:
        attenuation: `(N, size, size)` linear attenuation in 1/mm, on any device.
        beam: the scan; its `pixel_mm` is the images' pixel side.

    Returns:
        `(N, views, cells)` dimensionless line integrals.

    Raises:
        ValueError: the images are not `(N, size, size)`.
    """
    _require_shape("attenuation", attenuation, (beam.size, beam.size))
    padded = functional.pad(attenuation, (1, 1, 1, 1)).permute(1, 2, 0)
    table = _as_table(beam.orient_images(padded))
    rays = torch.stack(beam.base_rays(), dim=2).to(table.device)
    chunks = torch.split(rays.flatten(0, 1), _RAYS_PER_GATHER)
    sums = torch.cat([_recomputed(_ray_sums, table, part, beam) for part in chunks])
    folded = sums.reshape(*rays.shape[:2], -1, len(attenuation))
    return beam.restore_views(folded).permute(2, 0, 1).contiguous()


def back_project(sinograms: torch.Tensor, beam: Beam, *, weight_power: int = 1) -> torch.Tensor:
    """Weighted sum over views of the linearly interpolated projections.

    Args:
        sinograms: `(N, views, cells)`.
        beam: the scan.
        weight_power: power of the scan's weights: 1 for values, 2 for their variances.

    Returns:
        `(N, size, size)` sums, zero outside the circle that all views see.

    Raises:
        ValueError: the sinograms are not `(N, views, cells)`.
    """
    _require_shape("sinograms", sinograms, beam.sinogram_shape)
    padded = functional.pad(sinograms, (1, 1)).permute(1, 2, 0)
    table = _as_table(beam.orient_views(padded))
    angles = beam.base_angles().to(table.device)
    pixels = beam.inside().nonzero().to(table.device)
    chunks = torch.split(centred(beam.size, table.device)[pixels.flip(1)], _PIXELS_PER_GATHER)
    sums = torch.cat([_recomputed(_view_sums, table, part, angles, beam, weight_power) for part in chunks])
    oriented = table.new_zeros(beam.size, beam.size, table.shape[1])
    oriented[pixels[:, 0], pixels[:, 1]] = sums
    folded = oriented.reshape(beam.size, beam.size, -1, len(sinograms))
    return beam.restore_images(folded).permute(2, 0, 1).contiguous()


def _as_table(oriented: list[torch.Tensor]) -> torch.Tensor:
    """Rows of the table are positions, its columns the images in each orientation.

    Args:
        oriented: `(H, W, N)` each.

    Returns:
        `(H · W, len(oriented) · N)`.
    """
    return torch.stack(oriented, dim=2).flatten(2).flatten(0, 1)


def _recomputed(sums: Callable[..., torch.Tensor], table: torch.Tensor, *scan: object) -> torch.Tensor:
    """The sums, whose indices and weights are computed again in a backward pass rather than kept for it."""
    if not table.requires_grad:
        return sums(table, *scan)
    result: torch.Tensor = checkpoint(sums, table, *scan, use_reentrant=False, preserve_rng_state=False)
    return result


def _ray_sums(table: torch.Tensor, rays: torch.Tensor, beam: Beam) -> torch.Tensor:
    """`(rays, columns of the table)` line integrals along rays `(rays, 2)`: angle θ, offset in pixels."""
    theta, offset = rays[:, :1], rays[:, 1:]
    cosine, sine = theta.cos(), theta.sin()
    by_column = sine.abs() > cosine.abs()
    along = torch.where(by_column, cosine, sine)
    across = torch.where(by_column, sine, cosine)
    width = beam.size + 2
    line = centred(beam.size, table.device)
    position = ((offset - line * along) / across).float() + (beam.size + 1) / 2
    stride = torch.where(by_column, width, 1).int()
    first = torch.arange(1, beam.size + 1, device=table.device).int() * torch.where(by_column, 1, width).int()
    step_mm = (beam.pixel_mm / across.abs()).float()
    return _interpolated_sums(table, position, first, stride, step_mm, beam.size)


def _view_sums(
    table: torch.Tensor, centres: torch.Tensor, angles: torch.Tensor, beam: Beam, weight_power: int
) -> torch.Tensor:
    """`(pixels, columns of the table)` sums over these view angles, for pixel centres `(pixels, 2)`."""
    position, weight = beam.footprint(centres, angles)
    cells = beam.detector_cells
    first = torch.arange(len(angles), device=table.device).int() * (cells + 2)
    stride = torch.ones((), dtype=torch.int32, device=table.device)
    position = (position + (cells + 1) / 2).float()
    return _interpolated_sums(table, position, first, stride, weight**weight_power, cells)


def _interpolated_sums(
    table: torch.Tensor,
    position: torch.Tensor,
    first: torch.Tensor,
    stride: torch.Tensor,
    scale: torch.Tensor,
    length: int,
) -> torch.Tensor:
    """Sum over the last axis of the table, read at `first + stride · position` with linear interpolation.

    Lines hold `length` values between two zeros; positions off the line fall on these.
    """
    lower = position.floor().clamp_(0, length)
    upper_weight = (position - lower).clamp_(0, 1)
    bags, terms = position.shape
    indices = torch.empty(bags, 2 * terms, dtype=torch.int32, device=table.device)
    weights = torch.empty(bags, 2 * terms, dtype=table.dtype, device=table.device)
    torch.add(lower.int() * stride, first, out=indices[:, :terms])
    torch.add(indices[:, :terms], stride, out=indices[:, terms:])
    torch.mul(1 - upper_weight, scale, out=weights[:, :terms])
    torch.mul(upper_weight, scale, out=weights[:, terms:])
    return functional.embedding_bag(indices, table, mode="sum", per_sample_weights=weights)


def _require_shape(name: str, images: torch.Tensor, expected: tuple[int, int]) -> None:
    if images.ndim != 3 or tuple(images.shape[1:]) != expected:
        raise ValueError(f"{name} must be (N, {expected[0]}, {expected[1]}), got {tuple(images.shape)}")
