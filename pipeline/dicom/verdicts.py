"""What each defect of a series means for each task: one table, mirrored in docs/dicom.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pipeline.errors import DataError


class Task(StrEnum):
    """What a series is wanted for."""

    DENOISE = "denoise"
    SEGMENT = "segment"
    INGEST = "ingest"
    SIMULATE = "simulate"


class Verdict(StrEnum):
    """How a series ends.

    `done` meets no obstacle, `skipped` is never an error (not a CT image), `slicewise` is processed slice by
    slice without a 3-D grid, `refused` is readable but unfit, `failed` is damaged.
    """

    DONE = "done"
    SLICEWISE = "slicewise"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


class Code(StrEnum):
    """Stable reason codes."""

    NOT_DICOM = "NOT_DICOM"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    UNREADABLE = "UNREADABLE"
    LINKED_FOLDER = "LINKED_FOLDER"
    NOT_CT = "NOT_CT"
    LOCALIZER = "LOCALIZER"
    MISSING_UID = "MISSING_UID"
    DUPLICATE_UID = "DUPLICATE_UID"
    MULTI_FRAME = "MULTI_FRAME"
    ENHANCED = "ENHANCED"
    NOT_HU = "NOT_HU"
    INEXACT_HU = "INEXACT_HU"
    UNUSUAL_BITS = "UNUSUAL_BITS"
    TOO_LARGE = "TOO_LARGE"
    UNSUPPORTED_TRANSFER_SYNTAX = "UNSUPPORTED_TRANSFER_SYNTAX"
    CORRUPT_PIXEL_DATA = "CORRUPT_PIXEL_DATA"
    DUPLICATE_POSITION = "DUPLICATE_POSITION"
    NO_GEOMETRY = "NO_GEOMETRY"
    IMAGE_ORIENTATION_INCONSISTENT = "IMAGE_ORIENTATION_INCONSISTENT"
    GANTRY_TILT = "GANTRY_TILT"
    MISSING_SLICE = "MISSING_SLICE"
    SLICE_INCREMENT_INCONSISTENT = "SLICE_INCREMENT_INCONSISTENT"
    TOO_FEW_SLICES = "TOO_FEW_SLICES"
    DENOISED = "DENOISED"
    PROCESSED = "PROCESSED"
    LOSSY = "LOSSY"
    NOT_AXIAL = "NOT_AXIAL"
    NON_SQUARE_PIXELS = "NON_SQUARE_PIXELS"


def _for_all(verdict: Verdict) -> Mapping[Task, Verdict]:
    return MappingProxyType(dict.fromkeys(Task, verdict))


_NEEDS_GRID: Final = MappingProxyType({**_for_all(Verdict.SLICEWISE), Task.INGEST: Verdict.REFUSED})
"""Networks and simulated noise are 2-D and work in native slices; a stored volume needs a regular grid."""

_NEEDS_SCAN_NOISE: Final = MappingProxyType({**_for_all(Verdict.DONE), Task.SIMULATE: Verdict.REFUSED})
"""Missing noise is computed from a scan's own projections and noise; whatever else takes the images as is."""

VERDICTS: Final[Mapping[Code, Mapping[Task, Verdict]]] = MappingProxyType(
    {
        Code.NOT_DICOM: _for_all(Verdict.SKIPPED),
        Code.NOT_AN_IMAGE: _for_all(Verdict.SKIPPED),
        Code.UNREADABLE: _for_all(Verdict.FAILED),
        Code.LINKED_FOLDER: _for_all(Verdict.SKIPPED),
        Code.NOT_CT: _for_all(Verdict.SKIPPED),
        Code.LOCALIZER: _for_all(Verdict.SKIPPED),
        Code.MISSING_UID: _for_all(Verdict.REFUSED),
        Code.DUPLICATE_UID: MappingProxyType({**_for_all(Verdict.DONE), Task.SEGMENT: Verdict.REFUSED}),
        Code.MULTI_FRAME: _for_all(Verdict.REFUSED),
        Code.ENHANCED: MappingProxyType({**_for_all(Verdict.REFUSED), Task.DENOISE: Verdict.DONE}),
        Code.NOT_HU: _for_all(Verdict.REFUSED),
        Code.INEXACT_HU: _for_all(Verdict.REFUSED),
        Code.UNUSUAL_BITS: _for_all(Verdict.REFUSED),
        Code.TOO_LARGE: _for_all(Verdict.REFUSED),
        Code.UNSUPPORTED_TRANSFER_SYNTAX: _for_all(Verdict.REFUSED),
        Code.CORRUPT_PIXEL_DATA: _for_all(Verdict.FAILED),
        Code.DUPLICATE_POSITION: _for_all(Verdict.REFUSED),
        Code.NO_GEOMETRY: MappingProxyType({**_for_all(Verdict.REFUSED), Task.DENOISE: Verdict.SLICEWISE}),
        Code.IMAGE_ORIENTATION_INCONSISTENT: MappingProxyType(
            {**_NEEDS_GRID, Task.SIMULATE: Verdict.REFUSED}
        ),
        Code.GANTRY_TILT: _NEEDS_GRID,
        Code.MISSING_SLICE: _NEEDS_GRID,
        Code.SLICE_INCREMENT_INCONSISTENT: _NEEDS_GRID,
        Code.TOO_FEW_SLICES: _NEEDS_GRID,
        Code.DENOISED: MappingProxyType({**_for_all(Verdict.REFUSED), Task.SEGMENT: Verdict.DONE}),
        Code.PROCESSED: _NEEDS_SCAN_NOISE,
        Code.LOSSY: _NEEDS_SCAN_NOISE,
        Code.NOT_AXIAL: _NEEDS_SCAN_NOISE,
        Code.NON_SQUARE_PIXELS: _NEEDS_SCAN_NOISE,
    }
)

_GRAVEST_FIRST: Final = (Verdict.SKIPPED, Verdict.FAILED, Verdict.REFUSED, Verdict.SLICEWISE)


@dataclass(frozen=True)
class Observation:
    """A defect seen in some files, before it is known what they are wanted for."""

    code: Code
    message: str
    files: tuple[Path, ...]

    def finding(self, task: Task) -> Finding:
        """What the defect means for `task`."""
        return Finding(VERDICTS[self.code][task], self.code, self.message, self.files)


@dataclass(frozen=True)
class Finding:
    """A verdict with its stable reason code, one line for people, and the files concerned.

    The message names values and the way out; it never holds patient identity or raw DICOM text.
    """

    verdict: Verdict
    code: Code
    message: str
    files: tuple[Path, ...]


class SeriesError(DataError):
    """A series that cannot be used; `finding` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(f"{finding.code}: {finding.message}")
        self.finding = finding

    def __reduce__(self) -> tuple[type[SeriesError], tuple[Finding]]:
        """Pickled by its finding, to leave the sandbox: an exception is else made again from its message."""
        return SeriesError, (self.finding,)


def gravest(observations: Iterable[Observation], task: Task) -> Finding | None:
    """The finding that decides: skipped before failed before refused before slicewise, then first seen.

    Defects that do not hinder `task` do not count.
    """
    findings = [
        finding
        for finding in (observation.finding(task) for observation in observations)
        if finding.verdict != Verdict.DONE
    ]
    return min(findings, key=lambda finding: _GRAVEST_FIRST.index(finding.verdict), default=None)


def file_finding(code: Code, message: str, *files: Path) -> Finding:
    """A finding about files whose verdict is the same for every task."""
    (verdict,) = set(VERDICTS[code].values())
    return Finding(verdict, code, message, files)
