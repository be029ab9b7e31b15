"""What a series is like, as far as it decides whether a network fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.dicom import SeriesEntry
from pipeline.hu import body_region
from pipeline.inference.survey import Survey


@dataclass(frozen=True, kw_only=True)
class SeriesFacts:
    """What a series is like.

    Attributes:
        pixel_spacing_mm: between rows and between columns, where known.
        slice_thicknesses_mm: nominal, every one that a slice of the sample names.
        kernels: reconstruction kernels, cleaned (`identity.shown`), every one that a slice of it names.
        noise_sd_hu: of the source images (`metrics.noise.global_noise_sd_hu`), where there is soft tissue.
        region: of the body by its headers (`hu.body_region`); `unknown` where they do not tell.
        description: SeriesDescription, cleaned; where vendors name their reconstruction.
        metal_mm2: the largest area of metal in any slice, where the spacing is known.
        hu: (n, rows, columns) HU of a sample of its slices.
        visible: (n, rows, columns) bool, true where a slice shows something: no padding.
    """

    pixel_spacing_mm: tuple[float, float] | None
    slice_thicknesses_mm: tuple[float, ...]
    kernels: tuple[str, ...]
    noise_sd_hu: float | None
    region: str
    description: str | None
    metal_mm2: float | None
    hu: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]


def facts_of(entry: SeriesEntry, survey: Survey, noise_sd_hu: float | None) -> SeriesFacts:
    """What headers and pixels tell of a series.

    Args:
        entry: the series.
        survey: the first pass over it.
        noise_sd_hu: measured in its sample.
    """
    spacing_mm = entry.pixel_spacing_mm
    return SeriesFacts(
        pixel_spacing_mm=spacing_mm,
        slice_thicknesses_mm=survey.slice_thicknesses_mm,
        kernels=survey.kernels,
        noise_sd_hu=noise_sd_hu,
        region=body_region(entry.body_part),
        description=entry.series_description,
        metal_mm2=None if spacing_mm is None else survey.metal_pixels * spacing_mm[0] * spacing_mm[1],
        hu=survey.hu,
        visible=survey.visible,
    )
