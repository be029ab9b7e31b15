"""`ldct manifest conform`: does this copy of the challenge give the published scores of doing nothing?

Reads, pairs and scores patient L506 (3 mm, kernel B30) as `ingest` and `evaluate` would, without a network.
If the three numbers agree, HU, pairing and metrics are those of the literature, and scores may stand beside
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import track

from pipeline.data.pairs import read_pair
from pipeline.dicom import SeriesEntry
from pipeline.errors import DataError
from pipeline.manifest import ManifestCase, read_manifest
from pipeline.metrics import convention, psnr, rmse_hu, ssim

CASE: Final = "L506-3mm-B30"
"""What `ldct manifest scan` makes of the challenge's folder names; its PatientID may be anyone's."""
CONVENTION: Final = "redcnn-legacy"
_CASES_NAMED: Final = 12


@dataclass(frozen=True)
class Published:
    """A score of the untouched low dose, mean over all slices of the case.

    Attributes:
        name: of the score.
        unit: as printed.
        value: as the public RED-CNN code prints it for L506, 3 mm, B30.
        tolerance: its four decimals and the float32 of the public code (1e-5 apart from float64).
    """

    name: str
    unit: str
    value: float
    tolerance: float

    def agrees(self, measured: float) -> bool:
        """Whether a measured score is the published one."""
        return abs(measured - self.value) <= self.tolerance


PUBLISHED: Final = (
    Published("PSNR", " dB", 29.2489, 0.0005),
    Published("SSIM", "", 0.8759, 0.0001),
    Published("RMSE", " HU", 14.2416, 0.0005),
)


def run(manifest: Path, root: Path, case_id: str = CASE) -> int:
    """Print the measured scores of a case beside the published ones, and a verdict.

    Args:
        manifest: folder with `cases.csv`.
        root: what its paths are relative to.
        case_id: the case that is patient L506 at 3 mm with kernel B30.

    Returns:
        Exit code: 0 all three agree, 1 they do not.

    Raises:
        DataError: the manifest has no such case, or its series cannot be read or are no pair.
    """
    console = Console(highlight=False, soft_wrap=True)
    case = _find(manifest, read_manifest(manifest), case_id)
    normal_dose, low_dose = read_pair(case, root)
    console.print(f"{case.case_id}  {_describe(normal_dose.entry)}", markup=False)
    scores = identity_scores(low_dose.hu, normal_dose.hu, progress=console.is_terminal)
    agreed = [published.agrees(score) for published, score in zip(PUBLISHED, scores, strict=True)]
    for published, score, agrees in zip(PUBLISHED, scores, agreed, strict=True):
        unit, word = published.unit, "agrees" if agrees else "DIFFERS"
        console.print(
            f"{published.name}  measured {score:.4f}{unit}, published {published.value:.4f}{unit} "
            f"± {published.tolerance:g}: {word}",
            markup=False,
        )
    console.print(_verdict(all(agreed), low_dose.entry), markup=False)
    return 0 if all(agreed) else 1


def identity_scores(
    low_dose_hu: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    normal_dose_hu: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    *,
    progress: bool = False,
) -> tuple[float, float, float]:
    """PSNR (dB), SSIM and RMSE (HU) of the low dose itself, each the mean over all slices.

    So does the public RED-CNN code (`measure.py`, `solver.py` of github.com/SSinyu/RED-CNN): the mean of the
    slices' RMSE, not the root of their mean.

    Args:
        low_dose_hu: (slices, rows, columns) HU.
        normal_dose_hu: the same shape, HU.
        progress: draw a bar.
    """
    chosen = convention(CONVENTION)
    pairs = track(
        zip(low_dose_hu, normal_dose_hu, strict=True),
        "scoring slices",
        total=len(low_dose_hu),
        transient=True,
        disable=not progress,
    )
    scores = [[score(low, normal, chosen) for score in (psnr, ssim, rmse_hu)] for low, normal in pairs]
    psnr_db, structure, error_hu = np.mean(scores, axis=0)
    return float(psnr_db), float(structure), float(error_hu)


def _find(manifest: Path, cases: Sequence[ManifestCase], case_id: str) -> ManifestCase:
    found = next((case for case in cases if case.case_id == case_id), None)
    if found is not None:
        return found
    names = [case.case_id for case in cases]
    more = f" and {len(names) - _CASES_NAMED} more" if len(names) > _CASES_NAMED else ""
    raise DataError(
        f"{manifest / 'cases.csv'}: no case {case_id}; it has {', '.join(names[:_CASES_NAMED])}{more}; "
        "if one of them is patient L506 of the challenge, 3 mm, B30, name it with --case"
    )


def _describe(entry: SeriesEntry) -> str:
    thickness = (
        "thickness unknown" if entry.slice_thickness_mm is None else f"{entry.slice_thickness_mm:g} mm"
    )
    return f"{len(entry.files)} slices, {thickness}, kernel {entry.kernel or 'unknown'}"


def _verdict(conforms: bool, entry: SeriesEntry) -> str:
    if conforms:
        return f"conforms: {CONVENTION} scores of this copy compare with published ones"
    return (
        f"does not conform: not patient L506 at 3 mm with kernel B30 (it is {_describe(entry)}), or changed "
        "on the way; do not put scores of this copy beside published ones"
    )
