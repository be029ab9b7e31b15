"""What a data set is like, in numbers: a model can later say whether an input is unlike its training."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.data.cases import Case
from pipeline.errors import DataError
from pipeline.hu import LOWEST_HU

FINGERPRINT: Final = "fingerprint.json"
STATISTICS: Final = "statistics.json"
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
    """The fingerprint of some cases: counts, and [lowest, highest] of what varies.

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


def write_statistics(case: Case, statistics: CaseStatistics) -> None:
    """Write `statistics.json` into the folder of a case, atomically."""
    values = {**asdict(statistics), "hu_counts": statistics.hu_counts.tolist()}
    _write(case.folder / STATISTICS, json.dumps(values))


def read_statistics(case: Case) -> CaseStatistics:
    """`statistics.json` of an ingested case.

    Raises:
        DataError: it is missing or damaged.
    """
    found = _read(case.folder / STATISTICS, {field.name for field in fields(CaseStatistics)})
    counts = np.asarray(found["hu_counts"], np.int64)
    return CaseStatistics(**{**found, "kernels": tuple(found["kernels"]), "hu_counts": counts})


def read_fingerprint(cases: Sequence[Case]) -> dict[str, Any]:
    """The fingerprint of ingested cases, e.g. of those that a network is trained on; see `describe`.

    Raises:
        DataError: a case's `statistics.json` is missing or damaged.
    """
    return describe([(case, read_statistics(case)) for case in cases])


def write_fingerprint(folder: Path, sha256: str, roles: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `fingerprint.json` atomically: digest of the data, and what the cases of each role are like."""
    _write(folder / FINGERPRINT, json.dumps({"sha256": sha256, "roles": roles}, indent=2))


def data_digest(folder: Path) -> str:
    """SHA-256 of everything ingested into a folder: volumes, roles and index.

    Raises:
        DataError: `fingerprint.json` is missing or damaged.
    """
    return str(_read(folder / FINGERPRINT, {"sha256", "roles"})["sha256"])


def _read(path: Path, keys: Set[str]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `ldct ingest` first for this preset") from None
    except ValueError:
        raise DataError(f"{path}: not what ingest writes; run `ldct ingest` again for this preset") from None
    if not isinstance(found, dict) or found.keys() != keys:
        raise DataError(f"{path}: not what ingest writes; run `ldct ingest` again for this preset")
    return found


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


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
