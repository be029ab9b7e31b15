"""Joseph's forward projection and its pixel-driven back-projection, as gathers that all images share.

Indices and weights depend on the scan alone, so images (in four orientations each) form the columns of one
table and every ray sum is one weighted sum of table rows: `embedding_bag`, which is vectorised and threaded
without a compiler. Batches of eight slices or more use it well.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from pipeline.projector.geometry import ParallelBeam, fold_images, fold_views, unfold_images, unfold_views

_VIEWS_PER_GATHER = 4
_PIXELS_PER_GATHER = 2048


def project(attenuation: torch.Tensor, beam: ParallelBeam) -> torch.Tensor:
    """Line integrals through images.

    One sample per row with linear interpolation along it (Joseph 1982, doi:10.1109/TMI.1982.4307572);
    views steeper than 45° use the transposed image.

    Args:
        attenuation: `(N, size, size)` linear attenuation in 1/mm, float32.
        beam: the scan; its `pixel_mm` is the images' pixel side.

    Returns:
        `(N, views, size)` dimensionless line integrals.

    Raises:
        ValueError: the images are not `(N, size, size)`.
    """
    _require_shape("attenuation", attenuation, (beam.size, beam.size))
    padded = functional.pad(fold_images(attenuation), (1, 1))
    table = padded.permute(2, 3, 0, 1).reshape(beam.size * (beam.size + 2), -1).contiguous()
    angles = torch.split(beam.base_angles(), _VIEWS_PER_GATHER)
    sums = torch.cat([_ray_sums(table, chunk, beam) for chunk in angles])
    folded = sums.reshape(len(beam.base_angles()), beam.size, 4, -1).permute(2, 3, 0, 1)
    return unfold_views(folded)


def back_project(sinograms: torch.Tensor, beam: ParallelBeam) -> torch.Tensor:
    """Sum over views of the linearly interpolated projections, zero outside the circle that all views see.

    Args:
        sinograms: `(N, views, size)`, float32.
        beam: the scan.

    Returns:
        `(N, size, size)` sums.

    Raises:
        ValueError: the sinograms are not `(N, views, size)`.
    """
    _require_shape("sinograms", sinograms, (beam.views, beam.size))
    padded = functional.pad(fold_views(sinograms), (1, 1))
    table = padded.permute(2, 3, 0, 1).reshape(beam.views // 4 * (beam.size + 2), -1).contiguous()
    inside = beam.inside()
    folded = table.new_zeros(beam.size, beam.size, table.shape[1])
    rows, columns = inside.nonzero(as_tuple=True)
    centred = beam.centred()
    chunks = torch.split(torch.stack([centred[rows], centred[columns]], dim=1), _PIXELS_PER_GATHER)
    folded[inside] = torch.cat([_view_sums(table, chunk, beam) for chunk in chunks])
    return unfold_images(folded.reshape(beam.size, beam.size, 4, -1).permute(2, 3, 0, 1))


def _ray_sums(table: torch.Tensor, angles: torch.Tensor, beam: ParallelBeam) -> torch.Tensor:
    """`(len(angles) · size, columns of the table)` line integrals, one ray after the other."""
    theta = angles[:, None, None]
    cell = beam.centred()[None, :, None]
    row = beam.centred()[None, None, :]
    position = ((cell - row * theta.sin()) / theta.cos()).float() + (beam.size + 1) / 2
    first_of_row = torch.arange(beam.size) * (beam.size + 2)
    step_mm = (beam.pixel_mm / theta.cos()).float()
    return _interpolated_sums(table, position, first_of_row, step_mm)


def _view_sums(table: torch.Tensor, centres: torch.Tensor, beam: ParallelBeam) -> torch.Tensor:
    """`(pixels, columns of the table)` sums over the base views, for pixel centres `(pixels, 2)`: y, x."""
    theta = beam.base_angles()
    position = (
        torch.outer(centres[:, 1], theta.cos())
        + torch.outer(centres[:, 0], theta.sin())
        + (beam.size + 1) / 2
    )
    first_of_view = torch.arange(len(theta)) * (beam.size + 2)
    return _interpolated_sums(table, position[:, None].float(), first_of_view, torch.ones(()))


def _interpolated_sums(
    table: torch.Tensor, position: torch.Tensor, first: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Sum over the last axis of the table, read at `first + position` with linear interpolation.

    Positions off the line fall on its zero padding.
    """
    lower = position.floor().clamp_(0, int(first[1]) - 2)
    upper_weight = (position - lower).clamp_(0, 1)
    index = lower.int() + first.int()
    indices = torch.cat([index, index + 1], dim=-1).flatten(0, 1)
    weights = torch.cat([(1 - upper_weight) * scale, upper_weight * scale], dim=-1).flatten(0, 1)
    return functional.embedding_bag(indices, table, mode="sum", per_sample_weights=weights)


def _require_shape(name: str, images: torch.Tensor, expected: tuple[int, int]) -> None:
    if images.ndim != 3 or tuple(images.shape[1:]) != expected:
        raise ValueError(f"{name} must be (N, {expected[0]}, {expected[1]}), got {tuple(images.shape)}")
