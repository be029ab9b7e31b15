"""Find the series in a folder from headers alone: any file name, any depth, no file stops the others."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from pipeline.dicom.defects import format_defects, is_localizer
from pipeline.dicom.geometry import Geometry
from pipeline.dicom.headers import SliceHeader, read_header
from pipeline.dicom.pixels import Rescale
from pipeline.dicom.sandbox import SandboxError, sandbox
from pipeline.dicom.stacking import has_duplicate_positions, same_orientation, stack_slices
from pipeline.dicom.verdicts import Code, Finding, Observation, Task, file_finding, gravest
from pipeline.errors import DataError

_BATCH_FILES: Final = 16
"""Headers parsed at a time: enough to hide the way to the sandbox, few to parse again if one crashes it."""


@dataclass(frozen=True)
class SeriesEntry:
    """One stack of parallel slices of a series, known by its headers.

    `files`, `frames` and `sop_instance_uids` are in order along the slice normal. A multi-frame file stands
    there once for each of its frames, which are numbered from 0; the frame of a single-frame file is None. A
    series that holds several stacks (another matrix, orientation or acquisition, a localizer) gives one entry
    for each, numbered by `part`; so do patients who share the identifiers of study and series.
    `pixel_spacing_mm` is between rows and between columns. `rescales` and `exposure_mas` are one per slice.
    `patient_key` is PatientID, to tell patients apart: it belongs in no output.
    """

    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    part: int
    files: tuple[Path, ...]
    frames: tuple[int | None, ...]
    sop_instance_uids: tuple[str, ...]
    geometry: Geometry | None
    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float] | None
    slice_thickness_mm: float | None
    kernel: str | None
    kvp: float | None
    rescales: tuple[Rescale | None, ...]
    exposure_mas: tuple[float | None, ...]
    manufacturer: str | None
    body_part: str | None
    series_description: str | None
    patient_key: str = field(repr=False)
    transfer_syntax_uid: str
    observations: tuple[Observation, ...]

    @property
    def is_multi_frame(self) -> bool:
        """Whether any of its slices is a frame of a multi-frame file."""
        return any(frame is not None for frame in self.frames)

    def finding(self, task: Task) -> Finding | None:
        """The gravest finding for `task`; None when the series is fit as a whole volume."""
        return gravest(self.observations, task)


@dataclass(frozen=True)
class Discovery:
    """Everything found in a folder: its series, and a finding for each file or folder that gave no image."""

    series: tuple[SeriesEntry, ...]
    findings: tuple[Finding, ...]


def discover(folder: Path, *, on_file: Callable[[int], None] | None = None) -> Discovery:
    """Read every header below `folder` and group the images into stacks.

    Headers are parsed in a sandbox. Hidden files and folders are passed over, and so is what is no file
    (pipes, sockets, devices); DICOMDIR is ignored. Links to files are read like files. Links to folders are
    not followed: they could lead in a circle, or out of the folder. Such a link is a finding, lest what it
    leads to be missed, and so is a link to nothing, since the file meant is missing.

    Images of two patients or two studies are never one series, even where their SeriesInstanceUID is one:
    a patient or study that only some files name is another one.

    Args:
        folder: where to look.
        on_file: called with the number of files read so far.

    Raises:
        DataError: the folder is missing or a file.
    """
    check_is_folder(folder)
    slices: list[SliceHeader] = []
    findings: list[Finding] = []
    for count, read in enumerate(_read_headers(_files(folder, findings.append)), start=1):
        if isinstance(read, Finding):
            findings.append(read)
        elif read is not None:
            slices.extend(read)
        if on_file is not None:
            on_file(count)
    return Discovery(tuple(_series(slices)), tuple(findings))


def check_is_folder(folder: Path) -> None:
    """Refuse what cannot be searched for DICOM files.

    Raises:
        DataError: the folder is missing or a file.
    """
    if folder.is_file():
        raise DataError(f"{folder}: a file; name the folder that it lies in")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name a folder that holds DICOM files")


def _files(folder: Path, report: Callable[[Finding], None]) -> Iterator[Path]:
    """The files below `folder`, one folder after the other, each in the order of names."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            report(_unreadable_folder(here, error))
            continue
        seen = [entry for entry in entries if not entry.name.startswith(".")]
        waiting.extend(Path(entry) for entry in reversed(seen) if entry.is_dir(follow_symlinks=False))
        for entry in seen:
            if entry.is_symlink() and _is_folder(entry):
                report(_linked_folder(Path(entry)))
            elif _leads_nowhere(entry):
                report(_dead_link(Path(entry)))
            elif _may_be_file(entry):
                yield Path(entry)


def _unreadable_folder(folder: Path, error: OSError) -> Finding:
    message = f"{folder.name}: the folder cannot be read ({error.strerror}); make it readable"
    return file_finding(Code.UNREADABLE, message, folder)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is, or leads to, a folder; False where that cannot be told."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _linked_folder(path: Path) -> Finding:
    message = f"{path.name}: a link to a folder, which is not followed; name its target as IN, or copy it"
    return file_finding(Code.LINKED_FOLDER, message, path)


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to nothing, or in a circle: the file that should be there is missing."""
    try:
        return entry.is_symlink() and not Path(entry).exists()
    except OSError:  # its target lies where nobody may look: reading it reports that
        return False


def _dead_link(path: Path) -> Finding:
    message = f"{path.name}: a link to a file that is not there; bring that back or delete the link"
    return file_finding(Code.UNREADABLE, message, path)


def _may_be_file(entry: os.DirEntry[str]) -> bool:
    """Also true where that cannot be told: then reading it reports why."""
    try:
        return entry.is_file()
    except OSError:
        return True


def _read_headers(paths: Iterator[Path]) -> Iterator[tuple[SliceHeader, ...] | Finding | None]:
    """What `read_header` says to each file; one that ends its parser takes no other with it."""
    batches = iter(lambda: tuple(islice(paths, _BATCH_FILES)), ())
    with closing(sandbox().ordered(_parse_all, ((batch,) for batch in batches))) as parsed:
        for (batch,), future in parsed:
            try:
                yield from future.result()
            except SandboxError:
                yield from map(_parse_alone, batch)


def _parse_all(paths: Sequence[Path]) -> list[tuple[SliceHeader, ...] | Finding | None]:
    return [read_header(path) for path in paths]


def _parse_alone(path: Path) -> tuple[SliceHeader, ...] | Finding | None:
    try:
        return sandbox().submit(read_header, path).result()
    except SandboxError as death:
        message = f"{path.name}: the parser of its header {death}; copy the file again"
        return file_finding(Code.UNREADABLE, message, path)


def _series(slices: Iterable[SliceHeader]) -> Iterator[SeriesEntry]:
    """The stacks of each patient, study and series, numbered within each study and series."""
    by_uid: dict[tuple[str, str, Path | None], dict[str, list[SliceHeader]]] = defaultdict(dict)
    for header in slices:
        folder = None if header.series_uid else header.path.parent
        patients = by_uid[header.study_uid, header.series_uid, folder]
        patients.setdefault(header.patient_id, []).append(header)
    for patients in by_uid.values():
        stacks = [stack for series in patients.values() for stack in _split(series)]
        for part, stack in enumerate(sorted(stacks, key=len, reverse=True)):
            yield _entry(stack, part)


def _split(series: Sequence[SliceHeader]) -> Iterator[list[SliceHeader]]:
    """The stacks of one series; slices that are alone with their orientation stay together."""
    by_format: dict[object, list[SliceHeader]] = defaultdict(list)
    for header in series:
        spacing = header.pixel_spacing_mm
        key = (
            header.modality,
            header.sop_class_uid,
            is_localizer(header),
            header.rows,
            header.columns,
            spacing and (round(spacing[0], 3), round(spacing[1], 3)),
        )
        by_format[key].append(header)
    for group in by_format.values():
        orientations = _by_orientation(group)
        alone = [stack[0] for stack in orientations if len(stack) == 1]
        if alone:
            yield alone
        for stack in orientations:
            if len(stack) > 1:
                yield from _by_acquisition(stack)


def _by_orientation(slices: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    stacks: list[list[SliceHeader]] = []
    for header in slices:
        for stack in stacks:
            if same_orientation(header, stack[0]):
                stack.append(header)
                break
        else:
            stacks.append([header])
    return stacks


def _by_acquisition(stack: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Phases that repeat positions are told apart by AcquisitionNumber, if it tells them all apart."""
    if not has_duplicate_positions(stack):
        return [stack]
    phases: dict[int | None, list[SliceHeader]] = defaultdict(list)
    for header in stack:
        phases[header.acquisition].append(header)
    if None in phases or any(has_duplicate_positions(phase) for phase in phases.values()):
        return [stack]
    return list(phases.values())


def _entry(slices: Sequence[SliceHeader], part: int) -> SeriesEntry:
    first = slices[0]
    observations = format_defects(slices)
    stack = stack_slices(slices)
    return SeriesEntry(
        series_uid=first.series_uid,
        study_uid=first.study_uid,
        frame_of_reference_uid=first.frame_of_reference_uid,
        modality=first.modality,
        part=part,
        files=tuple(header.path for header in stack.slices),
        frames=tuple(header.frame for header in stack.slices),
        sop_instance_uids=tuple(header.sop_instance_uid for header in stack.slices),
        geometry=stack.geometry,
        rows=first.rows,
        columns=first.columns,
        pixel_spacing_mm=first.pixel_spacing_mm,
        slice_thickness_mm=first.slice_thickness_mm,
        kernel=first.kernel,
        kvp=first.kvp,
        rescales=tuple(header.rescale for header in stack.slices),
        exposure_mas=tuple(header.exposure_mas for header in stack.slices),
        manufacturer=first.manufacturer,
        body_part=first.body_part,
        series_description=first.series_description,
        patient_key=first.patient_id,
        transfer_syntax_uid=first.transfer_syntax_uid,
        observations=(*stack.observations, *observations),
    )
