"""Lower doses of an ingested case's normal-dose slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.data.cases import Case
from pipeline.data.noise_textures import Texture
from pipeline.dose.field_of_view import field_of_view
from pipeline.dose.insertion import Acquisition, insert_noise
from pipeline.dose.realisations import NoiseRealisations
from pipeline.projector.patches import FilteredViews

_SEEDS: Final = 2**31


def low_dose_slice(
    case: Case,
    index: int,
    acquisition: Acquisition,
    *,
    dose_fraction: float,
    generator: torch.Generator,
) -> npt.NDArray[np.float32]:
    """One slice at a lower dose, by the full insertion of `ldct simulate dose`: for validation.

    Two things that `ldct simulate dose` knows are not ingested: padding inside the inscribed circle (see
    `visible_pixels`), and the slice thickness, so no noise is shared between slices.

    Args:
        case: with a normal dose.
        index: of the slice.
        acquisition: of the case.
        dose_fraction: share of the normal dose.
        generator: the same state gives the same noise; its device is where it is computed.

    Returns:
        `(rows, columns)` HU.

    Raises:
        ValueError: the dose fraction is not between 0 and 1.
    """
    hu = normal_dose_hu(case, slice(index, index + 1), generator.device)
    seed = int(torch.randint(_SEEDS, (1,), generator=generator, device=generator.device))
    (low_dose,) = insert_noise(
        hu,
        acquisition,
        dose_fractions=[dose_fraction],
        slice_index=index,
        seed=seed,
        visible=visible_pixels(hu),
    )
    image: npt.NDArray[np.float32] = low_dose[0].cpu().numpy()
    return image


@dataclass(frozen=True)
class SliceNoise:
    """Noise drawn for one slice, to be looked at anywhere in it.

    Attributes:
        realisations: that it was drawn by.
        views: the noise in filtered views.
        visible: (rows, columns) bool, pixels that show something.
    """

    realisations: NoiseRealisations
    views: FilteredViews
    visible: Tensor

    def windows_hu(self, corners: Tensor, side: int) -> Tensor:
        """(K, side, side) HU from these first rows and columns, (K, 2), on; zero where nothing is shown."""
        shape = (self.visible.shape[0], self.visible.shape[1])
        noise_hu = self.realisations.patches_hu(self.views, corners, side, shape)
        steps = torch.arange(side, device=corners.device)
        rows, columns = (first[:, None] + steps for first in corners.unbind(1))
        return noise_hu * self.visible[rows[:, :, None], columns[:, None, :]]


class CaseNoise:
    """Draws noise for a case's slices; what it is drawn from is computed once and stays.

    On a GPU the host waits when a slice is drawn for the first time, and not afterwards.

    Args:
        case: with a normal dose.
        acquisition: of the case.
        side: pixels along an edge of the largest window.
        device: where the noise is drawn.
    """

    def __init__(self, case: Case, acquisition: Acquisition, *, side: int, device: torch.device) -> None:
        self._case = case
        self._noise = NoiseRealisations(acquisition, side=side)
        self._device = device
        self._kept: dict[int, _Kept] = {}
        self._masks: list[Tensor] = []
        self.resident = True
        """Whether line integrals stay in the device's memory; else in the host's, page-locked for a GPU."""

    @property
    def bytes_kept(self) -> int:
        """Size of the line integrals of all slices."""
        return self._case.shape[0] * self._noise.bytes_per_slice

    def draw(
        self, index: int, dose_fraction: float, texture: Texture, *, generator: torch.Generator
    ) -> SliceNoise:
        """The noise that a dose lacks in one slice, new at every call.

        Args:
            index: of the slice.
            dose_fraction: share of the normal dose.
            texture: of the noise.
            generator: on the device.
        """
        if index not in self._kept:
            self._kept[index] = self._keep(index)
        kept = self._kept[index]
        rays = kept.rays.to(self._device, non_blocking=True)
        (drawn,) = self._noise.draw(rays[None], [dose_fraction], generator=generator)
        views = FilteredViews.of(drawn * texture.scale, self._noise.beam, kernel=texture.kernel)
        return SliceNoise(self._noise, views, kept.visible)

    def _keep(self, index: int) -> _Kept:
        """Of one slice, projected alone, so that its last bits do not depend on others."""
        hu = normal_dose_hu(self._case, slice(index, index + 1), self._device)
        visible = visible_pixels(hu)
        rays = self._noise.line_integrals(hu, visible)[0]
        if not self.resident:
            rays = rays.cpu().pin_memory() if self._device.type == "cuda" else rays.cpu()
        mask = next((mask for mask in self._masks if torch.equal(mask, visible[0])), None)
        if mask is None:
            mask = visible[0]
            self._masks.append(mask)
        return _Kept(rays, mask)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is kept: a loading process draws no noise."""
        return vars(self) | {"_kept": {}, "_masks": []}


@dataclass(frozen=True)
class _Kept:
    """Of a slice.

    Attributes:
        rays: line integrals, float16, on the device or on the host; see `NoiseRealisations.line_integrals`.
        visible: (rows, columns) bool on the device, shared by slices that show the same pixels.
    """

    rays: Tensor
    visible: Tensor


def visible_pixels(hu: Tensor) -> Tensor:
    """`(N, rows, columns)` bool, pixels of these slices that show something and get noise.

    Ingested volumes hold air (-1000 HU) in place of padding. Here that counts as padding only outside the
    circle inscribed in the matrix, where a slice holds one single value. Padding inside of it (a narrower
    field of view, a removed table or face) cannot be told from air and gets the noise of air.
    """
    return field_of_view(hu, torch.zeros_like(hu, dtype=torch.bool))


def normal_dose_hu(
    case: Case, slices: slice | list[int] | npt.NDArray[np.int64], device: torch.device
) -> Tensor:
    """(N, rows, columns) float32 HU of some slices."""
    return torch.from_numpy(case.normal_dose()[slices].astype(np.float32)).to(device)
