"""Ingested cases: `index.csv` and the volumes that it lists."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.data.volumes import read_affine, read_volume
from pipeline.errors import DataError
from pipeline.manifest import ROLES

INDEX: Final = "index.csv"
_COLUMNS: Final = {
    "case_id": "string",
    "source": "string",
    "patient_id": "string",
    "anatomy": "string",
    "dose_fraction": "float64",
    "noise": "string",
    "role": "string",
    "slices": "int64",
    "rows": "int64",
    "columns": "int64",
    "slice_spacing_mm": "float64",
    "row_spacing_mm": "float64",
    "column_spacing_mm": "float64",
    "has_low_dose": "bool",
    "has_mask": "bool",
    "has_truth": "bool",
}


@dataclass(frozen=True)
class Case:
    """One ingested case; the volumes are memory maps, opened when asked for.

    Attributes:
        case_id: as in the manifest.
        patient_id: pseudonym.
        role: `train`, `validation` or `test`.
        anatomy: region, e.g. `chest`.
        dose_fraction: dose of the low-dose volume over that of the normal-dose volume.
        noise: `independent` or `shared`.
        spacing_mm: step between slices, rows and columns.
        shape: slices, rows and columns.
        folder: where the NIfTI files are.
        has_mask: whether organ labels exist.
        has_truth: whether the noise-free volume exists.
        has_low_dose: whether the low-dose volume exists.
        source: the data set that it is from, by the name of its manifest's folder.
    """

    case_id: str
    patient_id: str
    role: str
    anatomy: str
    dose_fraction: float
    noise: str
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    folder: Path
    has_mask: bool
    has_truth: bool
    has_low_dose: bool = True
    source: str = ""

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel: the mean of the row and the column step, which differ in few series."""
        _, row_step, column_step = self.spacing_mm
        return (row_step + column_step) / 2

    def normal_dose(self) -> npt.NDArray[np.int16]:
        """(slices, rows, columns) HU at normal dose."""
        return self._volume("normal_dose")

    def low_dose(self) -> npt.NDArray[np.int16]:
        """(slices, rows, columns) HU at low dose.

        Raises:
            DataError: the case has no low dose.
        """
        if not self.has_low_dose:
            raise DataError(
                f"case {self.case_id} has no low dose; train with `low_dose` or `degradation`, which make it "
                "from the normal dose, or name a low_dose series in cases.csv and ingest again"
            )
        return self._volume("low_dose")

    def mask(self) -> npt.NDArray[np.uint8]:
        """(slices, rows, columns) organ labels.

        Raises:
            ValueError: the case has no mask.
        """
        if not self.has_mask:
            raise ValueError(f"case {self.case_id} has no mask")
        return self._volume("mask")

    def truth(self) -> npt.NDArray[np.int16]:
        """(slices, rows, columns) noise-free HU.

        Raises:
            ValueError: the case has no truth.
        """
        if not self.has_truth:
            raise ValueError(f"case {self.case_id} has no truth")
        return self._volume("truth")

    def affine(self) -> npt.NDArray[np.float64]:
        """(4, 4), from indices (column, row, slice) to RAS millimetres."""
        return read_affine(self.folder / "normal_dose.nii")

    def _volume(self, name: str) -> npt.NDArray[Any]:
        path = self.folder / f"{name}.nii"
        volume = read_volume(path)
        if volume.shape != self.shape:
            raise DataError(
                f"{path}: shape {volume.shape}, but the index says {self.shape}; "
                "run `ldct ingest` again for this preset"
            )
        return volume


def write_index(folder: Path, cases: Sequence[Case]) -> None:
    """Write `index.csv` atomically, one line per case in the given order."""
    table = pd.DataFrame([_row(case) for case in cases], columns=list(_COLUMNS))
    temporary = folder / f".{INDEX}.{os.getpid()}.tmp"
    table.to_csv(temporary, index=False, lineterminator="\n")
    temporary.replace(folder / INDEX)


def read_cases(folder: Path, role: str | None = None) -> tuple[Case, ...]:
    """Read the cases of an ingested folder, all of them or those of one role, in index order.

    Raises:
        DataError: the index is missing or not one of ours, or no case has the role.
        ValueError: the role is unknown.
    """
    if role is not None and role not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
    path = folder / INDEX
    try:
        table = pd.read_csv(path, dtype=_COLUMNS, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `ldct ingest` first for this preset") from None
    except (ValueError, UnicodeDecodeError) as broken:
        raise DataError(
            f"{path}: not an index of cases ({' '.join(str(broken).split())}); "
            "run `ldct ingest` again for this preset"
        ) from None
    if list(table.columns) != list(_COLUMNS):
        raise DataError(
            f"{path}: columns differ from {','.join(_COLUMNS)}; run `ldct ingest` again for this preset"
        )
    cases = tuple(_case(folder, row) for row in table.to_dict("records"))
    chosen = tuple(case for case in cases if role in (None, case.role))
    if not chosen:
        raise DataError(
            f"{path}: no case{f' with role {role}' if role else ''}; see the split of the manifest"
        )
    return chosen


def _row(case: Case) -> dict[str, Any]:
    slices, rows, columns = case.shape
    slice_step, row_step, column_step = case.spacing_mm
    return {
        "case_id": case.case_id,
        "source": case.source,
        "patient_id": case.patient_id,
        "anatomy": case.anatomy,
        "dose_fraction": case.dose_fraction,
        "noise": case.noise,
        "role": case.role,
        "slices": slices,
        "rows": rows,
        "columns": columns,
        "slice_spacing_mm": slice_step,
        "row_spacing_mm": row_step,
        "column_spacing_mm": column_step,
        "has_low_dose": case.has_low_dose,
        "has_mask": case.has_mask,
        "has_truth": case.has_truth,
    }


def _case(folder: Path, row: dict[Any, Any]) -> Case:
    return Case(
        case_id=row["case_id"],
        patient_id=row["patient_id"],
        role=row["role"],
        anatomy=row["anatomy"],
        dose_fraction=row["dose_fraction"],
        noise=row["noise"],
        spacing_mm=(row["slice_spacing_mm"], row["row_spacing_mm"], row["column_spacing_mm"]),
        shape=(row["slices"], row["rows"], row["columns"]),
        folder=folder / row["case_id"],
        has_low_dose=row["has_low_dose"],
        has_mask=row["has_mask"],
        has_truth=row["has_truth"],
        source=row["source"],
    )
