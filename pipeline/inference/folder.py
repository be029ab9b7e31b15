"""A folder of DICOM in, a folder of derived series out: nothing lost, nothing half-written, restartable."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pipeline.dicom import Discovery, SeriesEntry, SeriesError, Verdict, discover
from pipeline.errors import DataError, PipelineError
from pipeline.inference.journal import (
    RECORD,
    STAGING,
    Marker,
    Output,
    SeriesRecord,
    open_target,
    read_record,
    rebuild_views,
    sole_writer,
    write_json,
)
from pipeline.inference.networks import OnSlices
from pipeline.inference.one_series import treat_series
from pipeline.inference.outcomes import FINISHED, UNEXPECTED_ERROR, Outcome, Plan, plan_series, stray_file
from pipeline.inference.pseudonyms import Pseudonyms
from pipeline.inference.treatment import Treatment


class Observer(Protocol):
    """Who is told what happens; the command line draws a progress bar from it."""

    def looked_at(self, files: int) -> None:
        """`files` headers have been read so far."""

    def planned(self, slices: int) -> None:
        """So many slices will go through a network; a slice counts once per network."""

    def advanced(self, slices: int) -> None:
        """So many more of them are dealt with: processed, found done, or given up."""

    def settled(self, outcome: Outcome) -> None:
        """A series or a stray file has its verdict."""


def run_folder(
    source: Path,
    target: Path,
    treatment: Treatment,
    *,
    pseudonyms: Pseudonyms,
    now: datetime,
    fixed_clock: datetime | None,
    observer: Observer,
) -> tuple[Outcome, ...]:
    """Treat every CT series below `source`; results land in `target/<study>/<series>/`, each folder whole.

    A series that an earlier run finished, from the same files with the same recipe and with all its outputs
    in place, is kept. Whatever happens to one series, the next one is processed.

    Args:
        source: folder with DICOM files of any name and depth.
        target: new, empty, or written by an earlier run; not inside `source`.
        treatment: the networks and how they are applied.
        pseudonyms: names for studies and series.
        now: the time of this run.
        fixed_clock: date and time for the written files; None takes the start of the first run into `target`.
        observer: is told what happens.

    Returns:
        One outcome per stray file and per series, in the order in which they were settled.

    Raises:
        DataError: a folder cannot be used, another run writes to `target`, or there is no CT in `source`.
    """
    check_folders(source, target)
    discovery = discover(source, on_file=observer.looked_at)
    plans = [plan_series(entry, treatment.tasks, pseudonyms) for entry in discovery.series]
    _check_anything_to_do(source, discovery, plans)
    strays = [stray_file(finding) for finding in discovery.findings]
    with sole_writer(target):
        marker = open_target(target, now=fixed_clock or now, key_id=pseudonyms.key_id)
        run = _Run(target, treatment, pseudonyms, fixed_clock or marker.started, observer)
        return _settle_all(run, marker, strays, plans)


def check_folders(source: Path, target: Path) -> None:
    """Refuse folders inside each other (results must never become input) and a target that cannot be written.

    Raises:
        DataError: `source` is missing, one of them holds the other, or `target` is a file or not writable.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; name a folder that holds DICOM files")
    results, images = target.resolve(), source.resolve()
    if results.is_relative_to(images) or images.is_relative_to(results):
        raise DataError(f"{target}: overlaps the input {source}; name a separate folder for the results")
    _check_writable(target)


def _check_writable(target: Path) -> None:
    """Try a nameless file in `target`, or in the nearest folder above it that exists; nothing stays."""
    try:
        if target.is_file():
            raise DataError(f"{target}: a file; name a folder for the results")
        nearest = next(folder for folder in (target, *target.parents) if folder.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{target}: cannot write here ({reason}); name another folder") from None


def _check_anything_to_do(source: Path, discovery: Discovery, plans: Sequence[Plan]) -> None:
    if not plans and not discovery.findings:
        raise DataError(f"{source}: no DICOM files here; name a folder that holds CT images")
    verdicts = [plan.planned.verdict for plan in plans] + [finding.verdict for finding in discovery.findings]
    if all(verdict == Verdict.SKIPPED for verdict in verdicts):
        raise DataError(
            f"{source}: no CT series here, only {len(plans)} other series and "
            f"{len(discovery.findings)} other files; name a folder that holds CT images"
        )


def _settle_all(
    run: _Run, marker: Marker, strays: Sequence[Outcome], plans: Sequence[Plan]
) -> tuple[Outcome, ...]:
    """Carry out every plan, and leave the views of the folder true however that ends."""
    outcomes = list(strays)
    try:
        for outcome in strays:
            run.observer.settled(outcome)
        run.observer.planned(sum(plan.passes for plan in plans))
        for plan in plans:
            outcomes.append(run.carry_out(plan))
            run.observer.settled(outcomes[-1])
    finally:
        shutil.rmtree(run.target / STAGING, ignore_errors=True)
        unfinished = [outcome.journal_line() for outcome in outcomes if outcome.verdict not in FINISHED]
        rebuild_views(run.target, marker, unfinished)
    return tuple(outcomes)


@dataclass(frozen=True)
class _Run:
    """What all series of one run share."""

    target: Path
    treatment: Treatment
    pseudonyms: Pseudonyms
    clock: datetime
    observer: Observer

    def carry_out(self, plan: Plan) -> Outcome:
        """Finish one series, or say why not; nothing that happens to it reaches the others."""
        if plan.planned.verdict not in FINISHED:
            return plan.planned
        rest = plan.passes

        def advance(slices: int) -> None:
            nonlocal rest
            rest -= slices
            self.observer.advanced(slices)

        try:
            key = input_key(plan.entry, self.pseudonyms)
            if self._is_finished(plan, key):
                return replace(plan.planned, reused=True)
            return self._finish(plan, key, advance)
        except SeriesError as error:
            finding = error.finding
            return replace(
                plan.planned,
                verdict=finding.verdict,
                reason_codes=(str(finding.code),),
                message=finding.message,
            )
        except Exception as error:  # noqa: BLE001  one series never stops the batch
            return replace(
                plan.planned,
                verdict=Verdict.FAILED,
                reason_codes=(UNEXPECTED_ERROR,),
                message=_explain(error),
            )
        finally:
            self.observer.advanced(rest)

    def _folder(self, plan: Plan) -> Path:
        return self.target / str(plan.planned.study) / str(plan.planned.series)

    def _is_finished(self, plan: Plan, key: str) -> bool:
        folder = self._folder(plan)
        record = read_record(folder)
        return (
            record is not None
            and record.input_key == key
            and record.recipe == self.treatment.recipe
            and record.intact(folder)
        )

    def _finish(self, plan: Plan, key: str, advance: OnSlices) -> Outcome:
        staged = self.target / STAGING / str(plan.planned.series)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        measured = treat_series(
            plan.entry, self.treatment, staged, grid=plan.grid, clock=self.clock, on_slices=advance
        )
        outcome = replace(plan.planned, reason_codes=plan.planned.reason_codes + measured.reason_codes)
        record = SeriesRecord(
            study=str(plan.planned.study),
            series=str(plan.planned.series),
            verdict=str(outcome.verdict),
            reason_codes=outcome.reason_codes,
            input_key=key,
            recipe=self.treatment.recipe,
            clock=self.clock.isoformat(),
            shape=(len(plan.entry.files), plan.entry.rows, plan.entry.columns),
            noise_sd_hu=measured.noise_sd_hu,
            volumes_ml=measured.volumes_ml,
            timings_s=measured.timings_s,
            outputs=tuple(_outputs(staged)),
        )
        write_json(staged / RECORD, asdict(record))
        _sync_tree(staged)
        _publish(staged, self._folder(plan))
        return outcome


def input_key(entry: SeriesEntry, pseudonyms: Pseudonyms) -> str:
    """Changes when a source file is added, removed, replaced or touched."""
    stats = [(uid, path.stat()) for uid, path in zip(entry.sop_instance_uids, entry.files, strict=True)]
    return pseudonyms.digest(*sorted(f"{uid} {stat.st_size} {stat.st_mtime_ns}" for uid, stat in stats))


def _outputs(folder: Path) -> list[Output]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [Output(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def _publish(staged: Path, folder: Path) -> None:
    """Rename the staged folder into place, so that no watcher sees half a series."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.replace(staged.with_name(f"{staged.name}.replaced"))
    staged.replace(folder)
    _sync(folder.parent)


def _sync_tree(folder: Path) -> None:
    """Bring every file and name below `folder` to the disk, so that a rename after it is safe."""
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: Exception) -> str:
    """One line without the error's own text where that could quote a header."""
    if isinstance(error, PipelineError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
