"""Find the series in a folder from headers alone: any file name, any depth, no file stops the others."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.dicom.defects import format_defects, is_localizer
from pipeline.dicom.geometry import Geometry
from pipeline.dicom.headers import SliceHeader, read_header
from pipeline.dicom.pixels import Rescale
from pipeline.dicom.stacking import has_duplicate_positions, same_orientation, stack_slices
from pipeline.dicom.verdicts import Code, Finding, Observation, Task, file_finding, gravest
from pipeline.errors import DataError


@dataclass(frozen=True)
class SeriesEntry:
    """One stack of parallel slices of a series, known by its headers.

    `files` and `sop_instance_uids` are in order along the slice normal. A series that holds several stacks
    (another matrix, orientation or acquisition, a localizer) gives one entry for each, numbered by `part`.
    `pixel_spacing_mm` is between rows and between columns. `rescales` and `exposure_mas` are one per slice.
    `patient_key` is PatientID, to tell patients apart: it belongs in no output.
    """

    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    part: int
    files: tuple[Path, ...]
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

    Hidden files and folders are passed over, links to folders are not followed, DICOMDIR is ignored.

    Args:
        folder: where to look.
        on_file: called with the number of files read so far.

    Raises:
        DataError: the folder is missing or a file.
    """
    check_is_folder(folder)
    slices: list[SliceHeader] = []
    findings: list[Finding] = []

    def note_unreadable(error: OSError) -> None:
        findings.append(_unreadable_folder(error))

    for count, path in enumerate(_files(folder, note_unreadable), start=1):
        header = read_header(path)
        if isinstance(header, SliceHeader):
            slices.append(header)
        elif header is not None:
            findings.append(header)
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


def _files(folder: Path, on_unreadable_folder: Callable[[OSError], None]) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, onerror=on_unreadable_folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and _may_be_file(path):
                yield path


def _may_be_file(path: Path) -> bool:
    """Also true where permission to look is lacking: then reading it reports that."""
    try:
        return path.is_file()
    except PermissionError:
        return True


def _unreadable_folder(error: OSError) -> Finding:
    folder = Path(error.filename)
    message = f"{folder.name}: the folder cannot be read ({error.strerror}); make it readable"
    return file_finding(Code.UNREADABLE, message, folder)


def _series(slices: Iterable[SliceHeader]) -> Iterator[SeriesEntry]:
    by_uid: dict[tuple[str, Path | None], list[SliceHeader]] = defaultdict(list)
    for header in slices:
        by_uid[header.series_uid, None if header.series_uid else header.path.parent].append(header)
    for group in by_uid.values():
        stacks = sorted(_split(group), key=len, reverse=True)
        for part, stack in enumerate(stacks):
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
