"""What a data set is like, in numbers: a model can later say whether an input is unlike its training."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.data.cases import Case
from pipeline.errors import DataError
from pipeline.hu import LOWEST_HU

FINGERPRINT: Final = "fingerprint.json"
HU_BINS: Final = 4096
PERCENTILES: Final = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)


@dataclass(frozen=True)
class CaseStatistics:
    """What one case adds to the fingerprint.

    Attributes:
        kernels: reconstruction kernels of its series, where the headers name them.
        slice_thickness_mm: nominal thickness, where the headers name it.
        noise_sd_hu: noise SD of `normal_dose` and `low_dose` in soft tissue; None where there is too little
            of it, or no low dose.
        hu_counts: (4096,) voxels of the normal dose per HU from -1024 on; the end bins hold what is beyond.
    """

    kernels: tuple[str, ...]
    slice_thickness_mm: float | None
    noise_sd_hu: dict[str, float | None]
    hu_counts: npt.NDArray[np.int64]


def count_hu(volume: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
    """The histogram of `CaseStatistics.hu_counts`."""
    bins = np.clip(volume.astype(np.int32) - LOWEST_HU, 0, HU_BINS - 1)
    return np.bincount(bins.ravel(), minlength=HU_BINS)


def describe(cases: Sequence[tuple[Case, CaseStatistics]]) -> dict[str, Any]:
    """The fingerprint of some cases (of one role): counts, and [lowest, highest] of what varies.

    Dose fractions and kinds of noise are those of the cases with a low dose.
    """
    paired = [case for case, _ in cases if case.has_low_dose]
    spacing = np.array([case.spacing_mm for case, _ in cases])
    thickness = [found.slice_thickness_mm for _, found in cases if found.slice_thickness_mm is not None]
    return {
        "cases": len(cases),
        "patients": len({case.patient_id for case, _ in cases}),
        "slices": sum(case.shape[0] for case, _ in cases),
        "anatomies": _counts(case.anatomy for case, _ in cases),
        "dose_fractions": _counts(f"{case.dose_fraction:g}" for case in paired),
        "noise": _counts(case.noise for case in paired),
        "kernels": _counts(kernel for _, found in cases for kernel in set(found.kernels)),
        "slice_spacing_mm": _range(spacing[:, 0]),
        "row_spacing_mm": _range(spacing[:, 1]),
        "column_spacing_mm": _range(spacing[:, 2]),
        "slice_thickness_mm": _range(thickness),
        "noise_sd_hu": {
            dose: _range([sd for _, found in cases if (sd := found.noise_sd_hu[dose]) is not None])
            for dose in ("normal_dose", "low_dose")
        },
        "normal_dose_hu_percentiles": _percentiles(np.sum([found.hu_counts for _, found in cases], axis=0)),
    }


def write_fingerprint(folder: Path, sha256: str, roles: dict[str, dict[str, Any]]) -> None:
    """Write `fingerprint.json` atomically: digest of the data, and what the cases of each role are like."""
    temporary = folder / f".{FINGERPRINT}.{os.getpid()}.tmp"
    text = json.dumps({"sha256": sha256, "roles": roles}, indent=2)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(folder / FINGERPRINT)


def read_fingerprint(folder: Path, role: str = "train") -> dict[str, Any]:
    """What the cases of one role are like; empty when there are none.

    Raises:
        DataError: `fingerprint.json` is missing or damaged.
    """
    found: dict[str, Any] = _read(folder)["roles"].get(role, {})
    return found


def data_digest(folder: Path) -> str:
    """SHA-256 of everything ingested into a folder: volumes, roles and index.

    Raises:
        DataError: `fingerprint.json` is missing or damaged.
    """
    return str(_read(folder)["sha256"])


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FINGERPRINT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `ldct ingest` first") from None
    except ValueError:
        raise DataError(f"{path}: not a fingerprint; run `ldct ingest` again") from None
    if not isinstance(found, dict) or not {"sha256", "roles"} <= found.keys():
        raise DataError(f"{path}: not a fingerprint; run `ldct ingest` again")
    return found


def _counts(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _range(values: Any) -> list[float] | None:
    """Lowest and highest, to 0.001; None for no values."""
    return [round(float(min(values)), 3), round(float(max(values)), 3)] if len(values) else None


def _percentiles(counts: npt.NDArray[np.int64]) -> dict[str, int]:
    """The lowest HU that at least p percent of the voxels do not exceed."""
    cumulated = np.cumsum(counts)
    indices = np.searchsorted(cumulated, np.array(PERCENTILES) / 100 * cumulated[-1])
    return {f"{p:g}": int(index) + LOWEST_HU for p, index in zip(PERCENTILES, indices, strict=True)}
