"""Noise texture before and after: power spectra in uniform tissue against that of the normal dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from pipeline.data import Case
from pipeline.data.low_dose_slices import visible_pixels
from pipeline.dose.regions import FEWEST_REGIONS, uniform_regions
from pipeline.metrics.nps import RadialNPS, detrended, radial_nps, texture_distance
from pipeline.stages.evaluation.context import Metrics, Slice
from pipeline.stages.evaluation.restoration.scores import NORMAL_DOSE, over_patients, slice_hu

TEXTURE_COLUMNS: Final = (
    "noise_sd_hu",
    "peak_per_mm",
    "peak_shift_per_mm",
    "mean_per_mm",
    "mean_shift_per_mm",
    "l1_distance",
)
"""Few regions leave a peak uncertain by bins, and hardly the mean frequency (f_av of AAPM TG-233)."""


@dataclass(frozen=True)
class TextureRows:
    """Of one case at one dose.

    Attributes:
        table: a row per method, the normal dose among them.
        spectra: a row per method and frequency.
    """

    table: list[dict[str, Any]]
    spectra: list[dict[str, Any]]


def texture_rows(case: Case, indices: Sequence[int], outputs: Mapping[str, Sequence[Slice]]) -> TextureRows:
    """Radial noise power spectra of a case's slices, all in the same regions, chosen on the normal dose.

    Args:
        case: that the slices are of.
        indices: of the slices.
        outputs: what each method makes of each of them, (H, W) HU.

    Returns:
        Rows; none where fewer than four regions of uniform tissue are found.
    """
    normal_dose = np.stack([slice_hu(case.normal_dose(), index) for index in indices])
    padding = ~visible_pixels(torch.from_numpy(normal_dose)).numpy()
    regions = uniform_regions(normal_dose, padding, case.pixel_mm)
    if len(regions) < FEWEST_REGIONS:
        return TextureRows([], [])
    cut = {NORMAL_DOSE: regions.cut(normal_dose)}
    cut |= {method: regions.cut(np.stack(images)) for method, images in outputs.items()}
    spectra = {method: radial_nps(some, case.pixel_mm) for method, some in cut.items()}
    own = {"patient": case.patient_id, "case": case.case_id, "regions": len(regions)}
    table = [
        {**own, "method": method, **_texture(some, spectra[method], spectra[NORMAL_DOSE])}
        for method, some in cut.items()
    ]
    return TextureRows(
        table,
        [
            {**own, "method": method, "frequency_per_mm": frequency, "normalised_nps_mm": power}
            for method, nps in spectra.items()
            for frequency, power in zip(nps.frequency_per_mm, nps.normalised_mm, strict=True)
        ],
    )


def summarise_texture(table: pd.DataFrame, generator: np.random.Generator) -> Metrics:
    """Means over patients by method, and how many regions they come from; empty without any."""
    if table.empty:
        return {}
    return {
        str(method): {
            "regions": int(rows["regions"].sum()),
            **{column: over_patients(rows, column, generator).mean for column in TEXTURE_COLUMNS},
        }
        for method, rows in table.groupby("method", sort=False)
    }


def _texture(regions_hu: npt.NDArray[Any], nps: RadialNPS, normal_dose: RadialNPS) -> dict[str, float]:
    return {
        "noise_sd_hu": float(np.sqrt(np.mean(detrended(regions_hu.astype(np.float64)) ** 2))),
        "peak_per_mm": nps.peak_per_mm,
        "peak_shift_per_mm": nps.peak_per_mm - normal_dose.peak_per_mm,
        "mean_per_mm": _mean_per_mm(nps),
        "mean_shift_per_mm": _mean_per_mm(nps) - _mean_per_mm(normal_dose),
        "l1_distance": texture_distance(nps, normal_dose),
    }


def _mean_per_mm(nps: RadialNPS) -> float:
    """Frequency averaged over the normalised spectrum."""
    return float(nps.frequency_per_mm @ nps.normalised_mm) * nps.step_per_mm
