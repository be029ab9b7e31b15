"""What a folder holds and what each series is fit for, told from headers; nothing here names a patient."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.dicom import (
    VERDICTS,
    Code,
    Finding,
    SeriesEntry,
    Task,
    Verdict,
    discover,
    transfer_syntax_name,
)
from pipeline.dicom.elements import printable
from pipeline.inference.outcomes import FINISHED, UNFIT

NAMED: Final = 3
"""So many files of a defect are named; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What becomes of a series in one task; `code` is None where nothing hinders it."""

    verdict: Verdict
    code: Code | None


@dataclass(frozen=True, kw_only=True)
class Defect:
    """A reason code, what it means for each task, and the files concerned.

    Attributes:
        code: stable reason code.
        verdicts: what the code means for each task.
        message: one line with values and the way out.
        file_count: how many files are concerned.
        files: the first of them, relative to the folder inspected.
    """

    code: Code
    verdicts: dict[Task, Verdict]
    message: str
    file_count: int
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """mAs over the slices that tell it."""

    mean: float
    least: float
    most: float
    slices: int


@dataclass(frozen=True, kw_only=True)
class SeriesSummary:
    """One stack of slices of a series; each attribute is a key of `--json`.

    Attributes:
        number: counts from 1 in the order of the file paths.
        folder: the innermost folder that holds all its files, relative to the folder inspected.
        part: 0, and further where several stacks have the identifiers of one study and series.
        modality: DICOM Modality, `unknown` without one.
        body_part: BodyPartExamined.
        manufacturer: of the scanner.
        kernel: ConvolutionKernel.
        transfer_syntax: name of the encoding of the first slice, `unknown` for one that DICOM does not have.
        multi_frame: whether its slices are frames of enhanced CT images.
        files: number of files.
        slices: number of slices; of frames where it is multi-frame.
        rows: of the matrix.
        columns: of the matrix.
        pixel_spacing_mm: between rows and between columns.
        slice_spacing_mm: step of the regular grid; None where the slices form none.
        no_grid: why they form none.
        slice_thickness_mm: SliceThickness of the first slice.
        kvp: tube voltage in kV.
        exposure_mas: mAs of the slices; None where no slice tells.
        tasks: verdict and reason code for each task.
        defects: everything seen, even what hinders no task.
    """

    number: int
    folder: str
    part: int
    modality: str
    body_part: str | None
    manufacturer: str | None
    kernel: str | None
    transfer_syntax: str
    multi_frame: bool
    files: int
    slices: int
    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float] | None
    slice_spacing_mm: float | None
    no_grid: Code | None
    slice_thickness_mm: float | None
    kvp: float | None
    exposure_mas: Exposure | None
    tasks: dict[Task, Judgement]
    defects: tuple[Defect, ...]

    @property
    def is_ct(self) -> bool:
        """Whether it is a CT scan; localizers and dose pages are none."""
        return self.tasks[Task.DENOISE].verdict != Verdict.SKIPPED


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A folder: its series, and by reason code the files that are no image.

    Attributes:
        files: number of files read.
        series: in the order of their paths.
        other_files: one defect per reason code; its message is that of the first file.
    """

    files: int
    series: tuple[SeriesSummary, ...]
    other_files: tuple[Defect, ...]

    @property
    def has_ct(self) -> bool:
        """Whether any series is a CT scan."""
        return any(one.is_ct for one in self.series)

    @property
    def can_denoise(self) -> bool:
        """Whether any series can be denoised, in a volume or slice by slice."""
        return any(one.tasks[Task.DENOISE].verdict in FINISHED for one in self.series)

    @property
    def exit_code(self) -> int:
        """That of `ldct predict` with a denoiser, as far as headers foretell it.

        0 every CT series can be denoised, 3 some series or files are refused or failed, 1 none can.
        """
        if not self.can_denoise:
            return 1
        verdicts = {one.tasks[Task.DENOISE].verdict for one in self.series}
        verdicts |= {one.verdicts[Task.DENOISE] for one in self.other_files}
        return 0 if verdicts.isdisjoint(UNFIT) else 3


def inspect_folder(folder: Path, *, on_file: Callable[[int], None]) -> Inspection:
    """Describe every series below `folder` from headers alone.

    Args:
        folder: searched to any depth.
        on_file: called with the number of files read so far.

    Raises:
        DataError: the folder is missing or a file.
    """
    files = 0

    def count(so_far: int) -> None:
        nonlocal files
        files = so_far
        on_file(so_far)

    found = discover(folder, on_file=count)
    series = tuple(_summary(entry, number, folder) for number, entry in enumerate(found.series, start=1))
    return Inspection(files=files, series=series, other_files=_by_code(found.findings, folder))


def _summary(entry: SeriesEntry, number: int, folder: Path) -> SeriesSummary:
    """One line per key."""
    regular = entry.geometry is not None
    common = os.path.commonpath([path.parent for path in entry.files])
    return SeriesSummary(
        number=number,
        folder=_shown(Path(common), folder),
        part=entry.part,
        modality=entry.modality,
        body_part=entry.body_part,
        manufacturer=entry.manufacturer,
        kernel=entry.kernel,
        transfer_syntax=transfer_syntax_name(entry.transfer_syntax_uid),
        multi_frame=entry.is_multi_frame,
        files=len(set(entry.files)),
        slices=len(entry.files),
        rows=entry.rows,
        columns=entry.columns,
        pixel_spacing_mm=entry.pixel_spacing_mm,
        slice_spacing_mm=entry.geometry.spacing_mm[0] if entry.geometry else None,
        no_grid=None if regular else entry.observations[0].code,  # the first one is that of the positions
        slice_thickness_mm=entry.slice_thickness_mm,
        kvp=entry.kvp,
        exposure_mas=_exposure(entry.exposure_mas),
        tasks={task: _judgement(entry.finding(task)) for task in Task},
        defects=tuple(_defect(one.code, one.message, one.files, folder) for one in entry.observations),
    )


def _judgement(finding: Finding | None) -> Judgement:
    if finding is None:
        return Judgement(verdict=Verdict.DONE, code=None)
    return Judgement(verdict=finding.verdict, code=finding.code)


def _exposure(exposure_mas: Iterable[float | None]) -> Exposure | None:
    known = [value for value in exposure_mas if value is not None]
    if not known:
        return None
    mean = sum(value / len(known) for value in known)  # a sum of hostile values could be infinite
    return Exposure(mean=mean, least=min(known), most=max(known), slices=len(known))


def _by_code(findings: Iterable[Finding], folder: Path) -> tuple[Defect, ...]:
    groups: dict[Code, list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.code].append(finding)
    return tuple(
        _defect(code, group[0].message, [path for one in group for path in one.files], folder)
        for code, group in sorted(groups.items())
    )


def _defect(code: Code, message: str, files: Sequence[Path], folder: Path) -> Defect:
    return Defect(
        code=code,
        verdicts=dict(VERDICTS[code]),
        message=printable(message),
        file_count=len(files),
        files=tuple(_shown(path, folder) for path in files[:NAMED]),
    )


def _shown(path: Path, folder: Path) -> str:
    return printable(str(path.relative_to(folder)))
