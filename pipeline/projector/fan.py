"""The equiangular fan-beam scan of a third-generation CT: its rays, weights and symmetry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from pipeline.projector.geometry import centred, coarsened, require_scan, within_radius

_WIDEST_FAN_RAD: Final = math.radians(150)


@dataclass(frozen=True)
class FanBeam:
    """A fan of rays from a source that circles the image (Kak and Slaney 1988, chapter 3.4.2).

    With x to the right and y downwards from the image centre in mm, the source of view angle β stands at
    `source_mm · (−sin β, cos β)`; its ray of fan angle γ is the line `x cos θ + y sin θ = t` with
    θ = β + γ and t = source_mm · sin γ. View k has β = (k + ½) 2π / views; cell j has
    γ = (j − (cells − 1)/2) · pixel_mm / source_mm, so cells are as wide as pixels at the isocentre.

    Attributes:
        size: rows and columns.
        pixel_mm: pixel side, and detector pitch at the isocentre.
        views: angles over 360°, a multiple of eight.
        cells: detector cells; `None` for as many as columns.
        source_mm: distance from the source to the isocentre.

    Raises:
        ValueError: a value that gives no such scan.
    """

    size: int
    pixel_mm: float
    views: int = 1152
    cells: int | None = None
    source_mm: float = 570.0

    def __post_init__(self) -> None:
        require_scan(
            size=self.size, pixel_mm=self.pixel_mm, views=self.views, cells=self.detector_cells, multiple=8
        )
        if not self.size * self.pixel_mm / 2 < self.source_mm:
            raise ValueError(
                f"source_mm must exceed half the image width of {self.size} × {self.pixel_mm} mm, "
                f"got {self.source_mm}"
            )
        if not self.detector_cells * self.pitch_rad < _WIDEST_FAN_RAD:
            fan_deg = math.degrees(self.detector_cells * self.pitch_rad)
            raise ValueError(
                f"the fan must be narrower than 150°, got {fan_deg:.0f}° from {self.detector_cells} cells of "
                f"{self.pixel_mm} mm at {self.source_mm} mm"
            )

    @property
    def detector_cells(self) -> int:
        """Cells of the detector."""
        return self.size if self.cells is None else self.cells

    @property
    def pitch_rad(self) -> float:
        """Angle between neighbouring rays."""
        return self.pixel_mm / self.source_mm

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """`(views, cells)`."""
        return self.views, self.detector_cells

    def angles(self) -> torch.Tensor:
        """View angles β in radians, `(views,)` float64."""
        return (torch.arange(self.views, dtype=torch.float64) + 0.5) * (2 * math.pi / self.views)

    def fan_angles(self) -> torch.Tensor:
        """Fan angle γ of each cell in radians, `(cells,)` float64."""
        return centred(self.detector_cells) * self.pitch_rad

    def ray_offsets_mm(self) -> torch.Tensor:
        """Signed distance t of each cell's ray from the isocentre, `(cells,)` float64."""
        return self.source_mm * self.fan_angles().sin()

    def inside(self) -> torch.Tensor:
        """`(size, size)` bool: pixels whose centre lies in the circle that every view sees."""
        half_fan = self.detector_cells / 2 * self.pitch_rad
        return within_radius(self.size, math.sin(half_fan) / self.pitch_rad)

    def coarser(self, factor: int) -> FanBeam:
        """The same scan with pixels and cells `factor` times as wide and as many times fewer views."""
        return FanBeam(
            size=-(-self.size // factor),
            pixel_mm=self.pixel_mm * factor,
            views=coarsened(self.views, factor, multiple=8),
            cells=-(-self.detector_cells // factor),
            source_mm=self.source_mm,
        )

    def base_angles(self) -> torch.Tensor:
        """View angles below 45°, `(views / 8,)` float64: all other views are turned or mirrored ones."""
        return self.angles()[: self.views // 8]

    def base_rays(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Angle θ in radians and offset t in pixels of the base views' rays, `(views / 8, cells)` float64."""
        theta = self.base_angles()[:, None] + self.fan_angles()
        return theta, (self.ray_offsets_mm() / self.pixel_mm).expand_as(theta)

    def footprint(self, centres: torch.Tensor, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where pixel centres fall on the detector.

        Args:
            centres: `(P, 2)` x and y in pixels from the image centre, float64.
            angles: `(V,)` view angles β.

        Returns:
            `(P, V)` positions in cells from the detector's middle; `(P, V)` weights in back-projection, the
            squared ratio of the source's distances from the isocentre and from the pixel.
        """
        in_radii = centres * self.pitch_rad
        across = (in_radii @ torch.stack([angles.cos(), angles.sin()])).float()
        along = (in_radii @ torch.stack([angles.sin(), -angles.cos()])).float() + 1
        return torch.atan(across / along) / self.pitch_rad, 1 / (across.square() + along.square())

    def ray_weights(self) -> torch.Tensor:
        """Factor on each cell before filtering, cos γ, `(cells,)` float64."""
        return self.fan_angles().cos()

    def ramp_factor(self, offset_cells: torch.Tensor) -> torch.Tensor:
        """Factor on the samples of the ramp at these offsets, (γ / sin γ)²."""
        widest = self.detector_cells * self.pitch_rad
        gamma = (offset_cells * self.pitch_rad).clamp(-widest, widest)
        return 1 / torch.sinc(gamma / math.pi).square()

    def orient_images(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Images in the eight orientations in which a view below 45° shows one view of each octant.

        Args:
            images: `(rows, columns, N)`, as many rows as columns.
        """
        turned = [torch.rot90(images, quarter) for quarter in range(4)]
        return [image for same in turned for image in (same, _mirror(same))]

    def restore_images(self, oriented: torch.Tensor) -> torch.Tensor:
        """Turn orientations back and add them up: `(rows, columns, 8, N)` to `(rows, columns, N)`."""
        octants = oriented.unbind(2)
        quarters = [octants[even] + _mirror(octants[even + 1]) for even in (0, 2, 4, 6)]
        upright = quarters[0] + _half_turn(quarters[2])
        return upright + torch.rot90(quarters[1] + _half_turn(quarters[3]), -1)

    def orient_views(self, sinograms: torch.Tensor) -> list[torch.Tensor]:
        """`(views, cells, N)` sorted by orientation, `(views / 8, cells, N)` each."""
        return _reverse_every_second(sinograms.chunk(8))

    def restore_views(self, oriented: torch.Tensor) -> torch.Tensor:
        """The inverse of `orient_views`: `(views / 8, cells, 8, N)` to `(views, cells, N)`."""
        return torch.cat(_reverse_every_second(oriented.unbind(2)))


def _mirror(images: torch.Tensor) -> torch.Tensor:
    """Mirrored at the line x = −y, which takes view β and fan angle γ to 90° − β and −γ."""
    return images.flip(0, 1).transpose(0, 1)


def _half_turn(images: torch.Tensor) -> torch.Tensor:
    return images.flip(0, 1)


def _reverse_every_second(octants: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Views and cells of the mirrored octants run backwards."""
    return [part.flip(0, 1) if octant % 2 else part for octant, part in enumerate(octants)]
