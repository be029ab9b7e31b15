"""One case from DICOM to memory-mappable volumes."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.data.cases import Case
from pipeline.data.pairs import (
    check_ct_numbers,
    check_same_anatomy,
    grid_distance_mm,
    grid_of,
    grid_tolerance_mm,
    read_normal_dose,
    read_pair,
)
from pipeline.data.volumes import read_affine, read_volume, write_volume
from pipeline.dicom import CTSeries, Geometry
from pipeline.errors import DataError
from pipeline.manifest import ManifestCase, file_sha256

_INT16: Final = np.iinfo(np.int16)


@dataclass(frozen=True)
class IngestedCase:
    """A case on disk, with what only its headers know.

    Attributes:
        case: as the index will list it.
        kernels: reconstruction kernels of its series, where named.
        slice_thickness_mm: nominal thickness of the normal-dose slices, where named.
        digests: SHA-256 of each file written, by its path below the data folder.
    """

    case: Case
    kernels: tuple[str, ...]
    slice_thickness_mm: float | None
    digests: dict[str, str]


def ingest_case(
    listed: ManifestCase, role: str, root: Path, folder: Path, *, source: str, mask_values: Set[int]
) -> IngestedCase:
    """Read a case, check it and write `<case_id>/{normal_dose,low_dose,mask,truth}.nii` below `folder`.

    Of low dose, mask and truth it writes what the manifest names.

    Args:
        listed: the row of the manifest.
        role: role in the chosen split.
        root: what the manifest's paths are relative to.
        folder: the data folder.
        source: name of the manifest.
        mask_values: values that a mask may have.

    Raises:
        DataError: see `read_pair`; or HU do not fit 16 bits, mask or truth are not on the series' grid, the
            mask has another value, or the truth is a mask or another patient's.
    """
    series = _read(listed, root)
    normal_dose = series["normal_dose"]
    grid = grid_of(normal_dose.entry)
    volumes: dict[str, npt.NDArray[Any]] = {name: _whole_hu(name, one) for name, one in series.items()}
    if listed.mask is not None:
        volumes["mask"] = _companion(root / listed.mask, grid, np.uint8)
        _check_mask_values(root / listed.mask, volumes["mask"], mask_values)
    if listed.truth is not None:
        volumes["truth"] = _companion(root / listed.truth, grid, np.int16)
        check_ct_numbers("truth", volumes["truth"])
        check_same_anatomy("truth", normal_dose_hu=normal_dose.hu, other_hu=volumes["truth"])
    case = Case(
        case_id=listed.case_id,
        patient_id=listed.patient_id,
        role=role,
        anatomy=listed.anatomy,
        dose_fraction=listed.dose_fraction,
        noise=listed.noise,
        spacing_mm=grid.spacing_mm,
        shape=grid.shape,
        folder=folder / listed.case_id,
        has_mask=listed.mask is not None,
        has_truth=listed.truth is not None,
        has_low_dose=listed.low_dose is not None,
        source=source,
    )
    case.folder.mkdir(parents=True)
    for name, volume in volumes.items():
        write_volume(case.folder / f"{name}.nii", volume, grid.affine_ras, volume.dtype)
    kernels = tuple(one.entry.kernel for one in series.values() if one.entry.kernel)
    digests = {f"{case.case_id}/{name}.nii": file_sha256(case.folder / f"{name}.nii") for name in volumes}
    return IngestedCase(case, kernels, normal_dose.entry.slice_thickness_mm, digests)


def _read(listed: ManifestCase, root: Path) -> dict[str, CTSeries]:
    """The series that the manifest names, by the name of their volume."""
    if listed.low_dose is None:
        return {"normal_dose": read_normal_dose(listed, root)}
    return dict(zip(("normal_dose", "low_dose"), read_pair(listed, root), strict=True))


def _whole_hu(name: str, series: CTSeries) -> npt.NDArray[np.int16]:
    """HU rounded to whole numbers; CT numbers beyond 16 bits are a wrong rescale, not metal."""
    lowest, highest = float(series.hu.min()), float(series.hu.max())
    if not (_INT16.min <= lowest and highest <= _INT16.max):
        raise DataError(
            f"{name} has values from {lowest:g} to {highest:g} HU, beyond 16 bits; check its rescale slope"
        )
    return np.rint(series.hu).astype(np.int16)


def _check_mask_values(path: Path, mask: npt.NDArray[Any], known: Set[int]) -> None:
    unknown = sorted(set(np.unique(mask).tolist()) - known)
    if unknown:
        raise DataError(
            f"{path}: mask values {', '.join(map(str, unknown))} are not in configs/labels.yaml; "
            "name them there, or correct the mask"
        )


def _companion(path: Path, grid: Geometry, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """A NIfTI volume that must lie on the grid of the series."""
    volume = read_volume(path)
    if volume.shape != grid.shape:
        raise DataError(f"{path}: shape {volume.shape}, but the series has {grid.shape}; resample it")
    apart_mm = grid_distance_mm(read_affine(path), grid.affine_ras, grid.shape)
    if not apart_mm <= grid_tolerance_mm(grid):
        raise DataError(f"{path}: up to {apart_mm:.2f} mm off the grid of the series; resample it")
    with np.errstate(invalid="ignore"):
        stored = np.asarray(volume).astype(dtype)
    if not np.array_equal(stored, volume):
        raise DataError(f"{path}: values are not whole numbers within {np.dtype(dtype)}; convert it")
    return stored
