"""The first pass over a series: what has to be known of all its slices before one of them can be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.dicom import SeriesEntry, read_slices
from pipeline.dose.field_of_view import field_of_view

_SAMPLE_SLICES: Final = 8


@dataclass(frozen=True)
class Survey:
    """What the first pass keeps.

    Attributes:
        pixel_digests: of every slice.
        shown: (rows, columns) bool, pixels that any slice shows.
        indices: of the slices in the sample, evenly spread over the series.
        hu: (sample, rows, columns) HU.
        visible: (sample, rows, columns) bool, pixels that the slice shows.
        step_hu: HU between neighbouring stored values, of the coarsest slice in the sample.
    """

    pixel_digests: tuple[str, ...]
    shown: npt.NDArray[np.bool_]
    indices: tuple[int, ...]
    hu: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]
    step_hu: float


def survey_series(entry: SeriesEntry) -> Survey:
    """Read every slice once, keep a sample of at most 8.

    Raises:
        SeriesError: a slice cannot be read.
    """
    count = len(entry.files)
    spread = np.linspace(0, count - 1, min(count, _SAMPLE_SLICES)).round().astype(int)
    indices = tuple(int(index) for index in np.unique(spread))
    shown = np.zeros((entry.rows, entry.columns), np.bool_)
    digests, hu, visible, steps_hu = [], [], [], []
    for index, one in enumerate(read_slices(entry)):
        here = field_of_view(torch.from_numpy(one.hu[None]), torch.from_numpy(one.padding[None]))[0].numpy()
        shown |= here
        digests.append(one.pixel_digest)
        if index in indices:
            hu.append(one.hu)
            visible.append(here)
            steps_hu.append(abs(float(one.header.RescaleSlope)))
    return Survey(tuple(digests), shown, indices, np.stack(hu), np.stack(visible), max(steps_hu))
