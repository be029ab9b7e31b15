"""The first pass over a series: what has to be known of all its slices before one of them can be written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.dicom import CTSlice, SeriesEntry, read_slices
from pipeline.dicom.elements import number_of
from pipeline.dicom.headers import kernel_of
from pipeline.metrics.noise import slices_looked_at

METAL_HU: Final = 2500.0
"""Above all bone; the enamel of teeth alone reaches as far, and dense barium."""

Visible = npt.NDArray[np.bool_]
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Survey:
    """What the first pass keeps.

    Attributes:
        pixel_digests: of every slice, see `CTSlice.pixel_digest`.
        content_digests: of every slice, see `CTSlice.content_digest`.
        shown: (rows, columns) bool, pixels that any slice shows.
        indices: of the slices in the sample, evenly spread over the series.
        hu: (sample, rows, columns) HU.
        visible: (sample, rows, columns) bool, pixels that the slice shows.
        step_hu: HU between neighbouring stored values, of the coarsest slice in the sample.
        highest_stored: the highest value that a pixel of any slice can store.
        metal_pixels: of `METAL_HU` and above that are shown, in the slice with most of them.
        kernels: reconstruction kernels that the sample names, cleaned (`identity.shown`), each once.
        slice_thicknesses_mm: nominal slice thicknesses that the sample names, each once.
    """

    pixel_digests: tuple[str, ...]
    content_digests: tuple[str, ...]
    shown: Visible
    indices: tuple[int, ...]
    hu: npt.NDArray[np.float32]
    visible: Visible
    step_hu: float
    highest_stored: int
    metal_pixels: int
    kernels: tuple[str, ...]
    slice_thicknesses_mm: tuple[float, ...]


def not_padding(one: CTSlice) -> Visible:
    """(rows, columns) bool: what a slice shows is whatever is no padding."""
    return ~one.padding


def survey_series(entry: SeriesEntry, visible: Callable[[CTSlice], Visible] = not_padding) -> Survey:
    """Read every slice once, keep those that the noise is measured in (`slices_looked_at`).

    Args:
        entry: the series.
        visible: which pixels of a slice count as shown.

    Raises:
        SeriesError: a slice cannot be read.
    """
    indices = tuple(slices_looked_at(len(entry.files)).tolist())
    seen = np.zeros((entry.rows, entry.columns), np.bool_)
    pixel_digests: list[str] = []
    content_digests: list[str] = []
    sample: list[CTSlice] = []
    highest_stored = metal_pixels = 0
    with closing(read_slices(entry)) as slices:
        for index, one in enumerate(slices):
            shown = visible(one)
            seen |= shown
            pixel_digests.append(one.pixel_digest)
            content_digests.append(one.content_digest)
            highest_stored = max(highest_stored, _highest_stored(one))
            metal_pixels = max(metal_pixels, int(np.count_nonzero(shown & (one.hu >= METAL_HU))))
            if index in indices:
                sample.append(one)
    return Survey(
        pixel_digests=tuple(pixel_digests),
        content_digests=tuple(content_digests),
        shown=seen,
        indices=indices,
        hu=np.stack([one.hu for one in sample]),
        visible=np.stack([visible(one) for one in sample]),
        step_hu=max(abs(float(one.header.RescaleSlope)) for one in sample),
        highest_stored=highest_stored,
        metal_pixels=metal_pixels,
        kernels=_distinct(kernel_of(one.header) for one in sample),
        slice_thicknesses_mm=_distinct(number_of(one.header, "SliceThickness") for one in sample),
    )


def _highest_stored(one: CTSlice) -> int:
    is_signed = int(one.header.PixelRepresentation) == 1
    return int(2 ** (int(one.header.BitsStored) - is_signed) - 1)


def _distinct(values: Iterable[_Value | None]) -> tuple[_Value, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))
