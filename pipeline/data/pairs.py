"""The series of one case, read and proved to be a pair: the same voxels of the same patient at two doses."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from pipeline.data.series import find_series
from pipeline.dicom import CTSeries, Geometry, SeriesEntry, read_series
from pipeline.errors import DataError
from pipeline.manifest import ManifestCase
from pipeline.metrics.noise import global_noise_sd_hu

_GRID_TOLERANCE: Final = 0.1
"""Largest distance between the same voxel of two grids, as a fraction of the smallest voxel step."""

_LEAST_CORRELATION: Final = 0.9
"""Pairs of the demo have 0.998 and more, two patients of one protocol 0.65 and less."""
_COMPARED_SLICES: Final = 5
_SMOOTHING_PIXELS: Final = 2.0
_BODY_ABOVE_HU: Final = -500.0
_UNIFORM_BELOW_HU: Final = 1.0
_LEAST_NOISE_RATIO: Final = 0.9
"""Noise of the low over that of the normal dose; at equal noise the measure varies by a few per cent."""

_MOST_LABELS: Final = 256
"""Distinct values of a mask; so few, and 0 the lowest, are no CT numbers, for air is around every body."""
_VALUES_NAMED: Final = 6


def read_pair(case: ManifestCase, root: Path) -> tuple[CTSeries, CTSeries]:
    """Read the normal-dose and the low-dose series of a case.

    Slices are matched by position along the normal, never by file name (the readers sort both series so).

    Args:
        case: names the folders or files, and their digests where they are known.
        root: what they are relative to.

    Raises:
        DataError: see `find_series`; or a series is damaged, or the two are on different grids, are masks,
            are the same images, show other anatomy, or are swapped.
    """
    if case.low_dose is None:
        raise DataError("no low_dose series; fill it in, or simulate the low dose first")
    normal_dose = find_series(root / case.normal_dose, case.normal_dose_sha256)
    low_dose = find_series(root / case.low_dose, case.low_dose_sha256)
    check_pair(grid_of(normal_dose), grid_of(low_dose))
    pair = read_series(normal_dose), read_series(low_dose)
    check_ct_numbers("normal_dose", pair[0].hu)
    check_ct_numbers("low_dose", pair[1].hu)
    if np.array_equal(pair[0].hu, pair[1].hu):
        raise DataError("normal_dose and low_dose are the same images; check the paths in cases.csv")
    check_same_anatomy("low_dose", normal_dose_hu=pair[0].hu, other_hu=pair[1].hu)
    check_not_swapped(pair[0].hu, pair[1].hu)
    return pair


def read_normal_dose(case: ManifestCase, root: Path) -> CTSeries:
    """Read the normal-dose series of a case that has no low dose.

    Args:
        case: names the folder or file, and its digest where it is known.
        root: what it is relative to.

    Raises:
        DataError: see `find_series`; or the series is damaged, or a mask.
    """
    series = read_series(find_series(root / case.normal_dose, case.normal_dose_sha256))
    check_ct_numbers("normal_dose", series.hu)
    return series


def grid_of(entry: SeriesEntry) -> Geometry:
    """The grid of a series that is fit for ingest.

    Raises:
        ValueError: it has none.
    """
    if entry.geometry is None:
        raise ValueError("a series without a regular grid is not fit for ingest")
    return entry.geometry


def check_pair(normal_dose: Geometry, low_dose: Geometry) -> None:
    """Check count, matrix, voxel steps, orientation and position, in this order.

    Raises:
        DataError: the first of them that differs, with both values.
    """
    way_out = "repair the series, or remove the case from cases.csv"
    if normal_dose.shape[0] != low_dose.shape[0]:
        raise DataError(
            f"normal_dose has {normal_dose.shape[0]} slices, low_dose has {low_dose.shape[0]}; "
            f"a pair needs equal counts: {way_out}"
        )
    if normal_dose.shape != low_dose.shape:
        raise DataError(
            f"normal_dose has slices of {_times(normal_dose.shape[1:])}, low_dose of "
            f"{_times(low_dose.shape[1:])}; a pair needs one matrix: {way_out}"
        )
    if not np.allclose(normal_dose.spacing_mm, low_dose.spacing_mm, rtol=1e-3, atol=0):
        raise DataError(
            f"normal_dose has steps of {_mm(normal_dose.spacing_mm)} (slice, row, column), low_dose of "
            f"{_mm(low_dose.spacing_mm)}; a pair needs equal spacing: {way_out}"
        )
    apart_mm = grid_distance_mm(normal_dose.affine_ras, low_dose.affine_ras, normal_dose.shape)
    if apart_mm > grid_tolerance_mm(normal_dose):
        raise DataError(
            f"the two grids are up to {apart_mm:.2f} mm apart (normal_dose starts at "
            f"{_mm(normal_dose.origin_mm)}, low_dose at {_mm(low_dose.origin_mm)}); "
            f"a pair needs one position and orientation: {way_out}"
        )


def check_ct_numbers(name: str, hu: npt.NDArray[Any]) -> None:
    """Refuse labels where CT numbers should be: few values, the lowest of them 0, the background.

    One uniform value passes: it may be a phantom of water.

    Args:
        name: what the volume is called in the manifest.
        hu: (slices, rows, columns) HU.

    Raises:
        DataError: the volume looks like labels.
    """
    if hu.min() != 0:
        return
    values = np.unique(hu)
    if not 1 < len(values) <= _MOST_LABELS:
        return
    shown = ", ".join(f"{value:g}" for value in values[:_VALUES_NAMED])
    more = f", … ({len(values)} of them)" if len(values) > _VALUES_NAMED else ""
    raise DataError(
        f"{name} holds only the values {shown}{more}: a mask, not CT numbers; check the paths in cases.csv"
    )


def check_same_anatomy(name: str, *, normal_dose_hu: npt.NDArray[Any], other_hu: npt.NDArray[Any]) -> None:
    """Refuse a volume of another patient: scanners give the same grid to many.

    Args:
        name: what the other volume is called in the manifest.
        normal_dose_hu: (slices, rows, columns) HU.
        other_hu: the same shape, HU.

    Raises:
        DataError: the two are less alike than one body with two noises.
    """
    correlation = anatomy_correlation(normal_dose_hu, other_hu)
    if correlation < _LEAST_CORRELATION:
        raise DataError(
            f"normal_dose and {name} do not show the same anatomy (correlation {correlation:.2f}, "
            f"at least {_LEAST_CORRELATION} expected); check the paths in cases.csv"
        )


def check_not_swapped(normal_dose_hu: npt.NDArray[Any], low_dose_hu: npt.NDArray[Any]) -> None:
    """Refuse a low dose that is less noisy than its normal dose: a network would learn to add noise.

    Args:
        normal_dose_hu: (slices, rows, columns) HU.
        low_dose_hu: the same shape, HU.

    Raises:
        DataError: the low dose has clearly less noise; without soft tissue to measure it in, nothing is said.
    """
    normal_sd_hu = global_noise_sd_hu(normal_dose_hu, normal_dose_hu)
    low_sd_hu = global_noise_sd_hu(normal_dose_hu, low_dose_hu)
    if normal_sd_hu is None or low_sd_hu is None:
        return
    if low_sd_hu < _LEAST_NOISE_RATIO * normal_sd_hu:
        raise DataError(
            f"low_dose has less noise than normal_dose (SD {low_sd_hu:.1f} and {normal_sd_hu:.1f} HU); "
            "if they are swapped in cases.csv, swap them back, else remove the case"
        )


def anatomy_correlation(one_hu: npt.NDArray[Any], other_hu: npt.NDArray[Any]) -> float:
    """Pearson correlation of a few smoothed slices where either volume has a body.

    Two uniform bodies, or none, count as alike (1); a uniform one and one with structure do not (0).

    Args:
        one_hu: (slices, rows, columns) HU.
        other_hu: the same shape, HU.
    """
    slices = np.unique(np.linspace(0, len(one_hu) - 1, _COMPARED_SLICES).round().astype(int))
    sigma = (0.0, _SMOOTHING_PIXELS, _SMOOTHING_PIXELS)
    one, other = (gaussian_filter(volume[slices].astype(np.float64), sigma) for volume in (one_hu, other_hu))
    body = (one > _BODY_ABOVE_HU) | (other > _BODY_ABOVE_HU)
    if not body.any():
        return 1.0
    uniform = [bool(volume[body].std() < _UNIFORM_BELOW_HU) for volume in (one, other)]
    if any(uniform):
        return float(all(uniform))
    return float(np.corrcoef(one[body], other[body])[0, 1])


def grid_distance_mm(
    one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> float:
    """Largest distance between the same voxel of two grids.

    Args:
        one: (4, 4) affine from indices (column, row, slice) to mm.
        other: the other affine.
        shape: slices, rows, columns of both.
    """
    ends = [(0, count - 1) for count in reversed(shape)]
    corners = np.array(
        [(*corner, 1) for corner in product(*ends)], dtype=np.float64
    )  # the extremes are corners
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


def grid_tolerance_mm(grid: Geometry) -> float:
    """How far apart two grids may be and still count as one."""
    return _GRID_TOLERANCE * min(grid.spacing_mm)


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def _mm(values: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ") mm"
