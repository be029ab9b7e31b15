"""The parallel-beam scan: where its rays run, and the symmetry that makes it quick."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pipeline.projector.geometry import centred, coarsened, require_scan, within_radius


@dataclass(frozen=True)
class ParallelBeam:
    """Parallel rays around a square image; detector cells are as wide as pixels.

    With x to the right and y downwards from the image centre in mm, the ray of view angle θ and detector
    position t is the line `x cos θ + y sin θ = t`. View k has θ = (k + ½) π / views; cell j lies at
    t = (j − (cells − 1)/2) · pixel_mm. Every view sees a circle as wide as the detector.

    Attributes:
        size: rows and columns.
        pixel_mm: pixel side and detector pitch.
        views: angles over 180°, a multiple of four.
        cells: detector cells; `None` for as many as columns.

    Raises:
        ValueError: a value that gives no such scan.
    """

    size: int
    pixel_mm: float
    views: int = 720
    cells: int | None = None

    def __post_init__(self) -> None:
        require_scan(
            size=self.size, pixel_mm=self.pixel_mm, views=self.views, cells=self.detector_cells, multiple=4
        )

    @property
    def detector_cells(self) -> int:
        """Cells of the detector."""
        return self.size if self.cells is None else self.cells

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """`(views, cells)`."""
        return self.views, self.detector_cells

    def angles(self) -> torch.Tensor:
        """View angles θ in radians, `(views,)` float64."""
        return (torch.arange(self.views, dtype=torch.float64) + 0.5) * (math.pi / self.views)

    def ray_offsets_mm(self) -> torch.Tensor:
        """Signed distance t of each cell's ray from the isocentre, `(cells,)` float64."""
        return centred(self.detector_cells) * self.pixel_mm

    def inside(self) -> torch.Tensor:
        """`(size, size)` bool: pixels whose centre lies in the circle that every view sees."""
        return within_radius(self.size, self.detector_cells / 2)

    def coarser(self, factor: int) -> ParallelBeam:
        """The same scan with pixels and cells `factor` times as wide and as many times fewer views."""
        return ParallelBeam(
            size=-(-self.size // factor),
            pixel_mm=self.pixel_mm * factor,
            views=coarsened(self.views, factor, multiple=4),
            cells=-(-self.detector_cells // factor),
        )

    def base_angles(self) -> torch.Tensor:
        """View angles below 45°, `(views / 4,)` float64: all other views are mirror images of these."""
        return self.angles()[: self.views // 4]

    def base_rays(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Angle θ in radians and offset t in pixels of the base views' rays, `(views / 4, cells)` float64."""
        offset = centred(self.detector_cells).expand(self.views // 4, -1)
        return self.base_angles()[:, None].expand_as(offset), offset

    def footprint(self, centres: torch.Tensor, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where pixel centres fall on the detector.

        Args:
            centres: `(P, 2)` x and y in pixels from the image centre, float64.
            angles: `(V,)` view angles θ.

        Returns:
            `(P, V)` positions in cells from the detector's middle; weights in back-projection, here 1.
        """
        x, y = centres.unbind(1)
        position = torch.outer(x, angles.cos()) + torch.outer(y, angles.sin())
        return position, torch.ones((), device=centres.device)

    def ray_weights(self) -> torch.Tensor:
        """Factor on each cell before filtering, `(cells,)` float64."""
        return torch.ones(self.detector_cells, dtype=torch.float64)

    def ramp_factor(self, offset_cells: torch.Tensor) -> torch.Tensor:
        """Factor on the samples of the ramp at these offsets."""
        return torch.ones_like(offset_cells)

    def orient_images(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Images in the four orientations in which a view θ shows the views θ, 90° − θ, 90° + θ, 180° − θ.

        Args:
            images: `(rows, columns, N)`, as many rows as columns.
        """
        transposed = images.transpose(0, 1)
        return [images, transposed, transposed.flip(0), images.flip(1)]

    def restore_images(self, oriented: torch.Tensor) -> torch.Tensor:
        """Turn orientations back and add them up: `(rows, columns, 4, N)` to `(rows, columns, N)`."""
        same, transposed, turned, mirrored = oriented.unbind(2)
        return same + transposed.transpose(0, 1) + turned.flip(0).transpose(0, 1) + mirrored.flip(1)

    def orient_views(self, sinograms: torch.Tensor) -> list[torch.Tensor]:
        """`(views, cells, N)` sorted by orientation, `(views / 4, cells, N)` each."""
        below, near, beyond, above = sinograms.chunk(4)
        return [below, near.flip(0), beyond, above.flip(0)]

    def restore_views(self, oriented: torch.Tensor) -> torch.Tensor:
        """The inverse of `orient_views`: `(views / 4, cells, 4, N)` to `(views, cells, N)`."""
        below, near, beyond, above = oriented.unbind(2)
        return torch.cat([below, near.flip(0), beyond, above.flip(0)])
