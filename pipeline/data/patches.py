"""Training samples from ingested cases: sample `i` of a run depends on the seed and `i` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms.compose import Compose
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.cases import Case
from pipeline.transforms import centred_view, resample_image, resample_labels, seeded
from pipeline.transforms.grid import grid_size

Sample = dict[str, Tensor]


class SliceOrder:
    """All slices of all cases in a new random order every epoch.

    Args:
        slices: number of slices of each case.
        seed: seed of the order.
    """

    def __init__(self, slices: Sequence[int], seed: int) -> None:
        self._starts = np.cumsum([0, *slices])
        self._seed = seed
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.arange(0)

    def __getitem__(self, index: int) -> tuple[int, int]:
        """Case and slice of sample `index`."""
        total = int(self._starts[-1])
        epoch, position = divmod(index, total)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(total)
        chosen = self._order[position]
        case = int(np.searchsorted(self._starts, chosen, side="right")) - 1
        return case, int(chosen - self._starts[case])


class LabelledSlices(Dataset[Sample]):
    """Normal-dose slices at one pixel step: `image` (1, S, S) float32 HU and `classes` (1, S, S) int64.

    Args:
        cases: training cases with masks.
        transform: see `pipeline.transforms.labelled_slices`.
        input_spacing_mm: pixel step that the network is trained on.
        class_of_label: (256,) class of each mask value.
        seed: seed of the run.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        transform: Compose,
        *,
        input_spacing_mm: float,
        class_of_label: npt.NDArray[np.uint8],
        seed: int,
    ) -> None:
        self._volumes = [(case.normal_dose(), case.mask()) for case in cases]
        self._sizes = [
            grid_size(
                (case.shape[1], case.shape[2]), (case.spacing_mm[1], case.spacing_mm[2]), input_spacing_mm
            )
            for case in cases
        ]
        self._order = SliceOrder([case.shape[0] for case in cases], seed)
        self._transform = transform
        self._class_of_label = class_of_label
        self._seed = seed

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the run."""
        case, position = self._order[index]
        image, mask = (volume[position] for volume in self._volumes[case])
        sample = {
            "image": resample_image(slice_hu(image), self._sizes[case]),
            "classes": resample_labels(torch.from_numpy(self._class_of_label[mask])[None], self._sizes[case]),
        }
        return seeded(self._transform, sample, seed=self._seed, index=index)


class CentredSlices(Dataset[Sample]):
    """Whole normal-dose slices, body in the centre: `image` (1, S, S) float32 HU.

    Args:
        cases: training cases.
        transform: see `pipeline.transforms.generative_slices`.
        image_size: pixels per side.
        field_of_view_mm: side of the square that they show.
        seed: seed of the run.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        transform: Compose,
        *,
        image_size: int,
        field_of_view_mm: float,
        seed: int,
    ) -> None:
        self._cases = cases
        self._image_size = image_size
        self._field_of_view_mm = field_of_view_mm
        self._order = SliceOrder([case.shape[0] for case in cases], seed)
        self._transform = transform
        self._seed = seed

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the run."""
        case, position = self._order[index]
        sample = {"image": self._views[case][position]}
        return seeded(self._transform, sample, seed=self._seed, index=index)

    @cached_property
    def _views(self) -> list[Tensor]:
        """The small views of all cases, made once, when the first sample is asked for."""
        return [
            centred_slices(case, image_size=self._image_size, field_of_view_mm=self._field_of_view_mm)
            for case in self._cases
        ]


def centred_slices(case: Case, *, image_size: int, field_of_view_mm: float) -> Tensor:
    """All normal-dose slices of a case as (slices, 1, S, S) float32 HU with the body in the centre."""
    views = [
        centred_view(
            slice_hu(image),
            (case.spacing_mm[1], case.spacing_mm[2]),
            field_of_view_mm=field_of_view_mm,
            image_size=image_size,
        )
        for image in case.normal_dose()
    ]
    return torch.stack(views)


def slice_hu(image: npt.NDArray[np.int16]) -> Tensor:
    """(1, H, W) float32 HU of one stored slice."""
    return torch.from_numpy(image.astype(np.float32))[None]


def spread_slices(slices: int, count: int) -> list[int]:
    """At most `count` slice indices, evenly spread, without the two ends where they can be left out."""
    count = min(count, slices)
    return [int((position + 0.5) * slices / count) for position in range(count)]


def class_lookup(
    classes: Sequence[str], values: Mapping[str, int], outside: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """The class of each mask value, (256,): 0 outside the body, 1 for the body, 2, … for `classes`.

    A value that is no label would count as body; ingest refuses masks that have one.

    Args:
        classes: names of the labels that are classes of their own, in order.
        values: mask value of each label.
        outside: mask values that are not the body (air, table).

    Raises:
        ValueError: a class is not a label, or appears twice.
    """
    unknown = [name for name in classes if name not in values]
    if unknown:
        raise ValueError(f"unknown label {', '.join(unknown)}; known: {', '.join(values)}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"a label appears twice in {', '.join(classes)}")
    lookup = np.ones(256, np.uint8)
    lookup[list(outside)] = 0
    for index, name in enumerate(classes, start=2):
        lookup[values[name]] = index
    return lookup
