"""Filtered back-projection of single patches: what a patch costs depends on its pixels, not on the image.

A pixel reads one value per view, that of the fine cell its footprint falls into: linear interpolation is done
beforehand, for `FINE_CELLS` cells per detector cell. In a fan they are even in tan γ, as those of a flat
detector, which spares an arc tangent per pixel and view.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.projector.beam import Beam
from pipeline.projector.fan import FanBeam
from pipeline.projector.fbp import convolved, filter_response
from pipeline.projector.geometry import centred
from pipeline.projector.kernel import Kernel

FINE_CELLS: Final = 2 + 5**0.5
"""Per detector cell. An irrational number, so that the middles of fine cells, where values are read, spread
evenly over a cell: then the variance of interpolated noise is that of reading in between."""

KEPT_SCANS: Final = 1024
"""Scans whose constants stay on the device, 0.1 MB each: to copy them each time would make the host wait."""

_VALUES_AT_ONCE: Final = {"cpu": 2**16}
_VALUES_AT_ONCE_ELSEWHERE: Final = 2**24
"""On a processor what fits in its cache, elsewhere what keeps a device busy."""


@dataclass(frozen=True)
class FilteredViews:
    """One filtered sinogram, ready to be back-projected anywhere.

    Attributes:
        beam: the scan.
        values: `(views, fine cells)` with all weights of the views that do not depend on the pixel.
    """

    beam: Beam
    values: Tensor

    @classmethod
    def of(cls, sinogram: Tensor, beam: Beam, *, kernel: Kernel) -> FilteredViews:
        """Filter a sinogram.

        Args:
            sinogram: `(views, cells)` line integrals, on any device.
            beam: the scan.
            kernel: window on the ramp.

        Raises:
            ValueError: the sinogram is not `(views, cells)`.
        """
        if tuple(sinogram.shape) != beam.sinogram_shape:
            raise ValueError(f"sinogram must be {beam.sinogram_shape}, got {tuple(sinogram.shape)}")
        kept = _filter(beam, kernel, sinogram.device)
        padded = functional.pad(convolved(sinogram * kept.weights, kept.response), (1, 1))
        values = torch.lerp(padded[:, kept.below], padded[:, kept.below + 1], kept.share)
        return cls(beam, values.mul_(kept.factor))

    def patches(self, corners: Tensor, side: int) -> Tensor:
        """Square patches of the reconstruction.

        Args:
            corners: `(K, 2)` first row and first column of each, whole numbers, on the device of the values.
            side: pixels along an edge.

        Returns:
            `(K, side, side)` linear attenuation in 1/mm, the same pixels as `filtered_back_projection` makes;
            not meaningful outside the circle that every view sees.
        """
        offsets = torch.arange(side, device=corners.device) - (self.beam.size - 1) / 2
        rows, columns = (first[:, None] + offsets for first in corners.unbind(1))
        together = _VALUES_AT_ONCE.get(self.values.device.type, _VALUES_AT_ONCE_ELSEWHERE)
        patches_together = max(1, together // (self.beam.views * side**2))
        return torch.cat(
            [
                self._sums(y, x, max(1, together // (len(y) * side**2)))
                for y, x in zip(
                    torch.split(rows, patches_together), torch.split(columns, patches_together), strict=True
                )
            ]
        )

    def _sums(self, rows: Tensor, columns: Tensor, views_together: int) -> Tensor:
        """`(K, side, side)` sums over the views; rows and columns `(K, side)` from the image centre."""
        sums = self.values.new_zeros(*rows.shape, columns.shape[1])
        waves = _waves(self.beam, self.values.device)
        first = 0
        for some in torch.split(waves, views_together, dim=1):
            read = self._read(rows, columns, some, first)
            sums += read.sum(dim=1)
            first += some.shape[1]
        return sums

    def _read(self, rows: Tensor, columns: Tensor, waves: Tensor, first: int) -> Tensor:
        """`(K, views, side, side)` weighted values of some views, see `_waves`, the first number `first`."""
        unit = self.beam.pitch_rad if isinstance(self.beam, FanBeam) else 1.0
        cosine, sine = waves[..., None]
        y, x = (axis.to(self.values)[:, None] for axis in (rows, columns))
        place = (y * sine)[..., :, None] + (x * cosine)[..., None, :]
        fine = self.values.shape[1]
        if isinstance(self.beam, FanBeam):
            magnification = ((1 - y * cosine)[..., :, None] + (x * sine)[..., None, :]).reciprocal_()
            place.mul_(magnification)
        place.mul_(FINE_CELLS / unit).add_(fine / 2).clamp_(0, fine - 1)
        lines = torch.arange(first, first + waves.shape[1], dtype=torch.int32, device=place.device) * fine
        index = place.int().add_(lines[:, None, None])
        values = self.values.flatten().index_select(0, index.flatten()).reshape(index.shape)
        return (
            values if not isinstance(self.beam, FanBeam) else values.mul_(magnification).mul_(magnification)
        )


class _Filter(NamedTuple):
    """What filtering takes, on a device.

    Attributes:
        weights: of the rays of a view, and the step between views.
        response: of the filter.
        below: (fine cells,) detector cell below each fine cell.
        share: of the cell above it.
        factor: of each fine cell.
    """

    weights: Tensor
    response: Tensor
    below: Tensor
    share: Tensor
    factor: Tensor


@functools.lru_cache(maxsize=KEPT_SCANS)
def _filter(beam: Beam, kernel: Kernel, device: torch.device) -> _Filter:
    place, factor = _fine_cells(beam)
    lower = place.floor().clamp_(0, beam.detector_cells)
    return _Filter(
        weights=beam.ray_weights().to(device, torch.float32) * (math.pi / beam.views),
        response=filter_response(beam, kernel).to(device),
        below=lower.long().to(device),
        share=(place - lower).clamp_(0, 1).to(device, torch.float32),
        factor=factor.to(device, torch.float32),
    )


@functools.lru_cache(maxsize=KEPT_SCANS)
def _waves(beam: Beam, device: torch.device) -> Tensor:
    """`(2, views)` float32: cosine and sine of each view, in a fan times the pitch of its rays."""
    angles, unit = beam.angles(), beam.pitch_rad if isinstance(beam, FanBeam) else 1.0
    return torch.stack([angles.cos(), angles.sin()]).to(device, torch.float32) * unit


def _fine_cells(beam: Beam) -> tuple[Tensor, Tensor]:
    """Where each fine cell lies on the padded detector, in cells, and its factor; float64.

    The weight 1 / (along² + across²) of a pixel in a fan is 1 / along², left to the pixel, times cos² γ of
    its ray.
    """
    middle = (beam.detector_cells + 1) / 2
    if not isinstance(beam, FanBeam):
        count = 2 * math.ceil(FINE_CELLS * (beam.detector_cells / 2 + 1))
        return centred(count) / FINE_CELLS + middle, torch.ones(count, dtype=torch.float64)
    widest = math.tan((beam.detector_cells / 2 + 1) * beam.pitch_rad) / beam.pitch_rad
    tangent = centred(2 * math.ceil(FINE_CELLS * widest)) / FINE_CELLS * beam.pitch_rad
    return tangent.atan() / beam.pitch_rad + middle, 1 / (1 + tangent**2)
