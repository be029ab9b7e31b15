"""A folder of DICOM in, a folder of derived series out: nothing lost, nothing half-written, restartable."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pipeline.dicom import Discovery, Verdict, check_is_folder, discover
from pipeline.errors import DataError
from pipeline.inference.outcomes import (
    FINISHED,
    VIEWS_NOT_WRITTEN,
    Outcome,
    Plan,
    plan_series,
    stray_file,
)
from pipeline.inference.output.journal import STAGING, Marker, cannot_write, open_target
from pipeline.inference.output.locks import target_lock
from pipeline.inference.output.pseudonyms import Pseudonyms
from pipeline.inference.output.staging import check_there, clear_staging, probe
from pipeline.inference.output.views import rebuild_views
from pipeline.inference.series_run import SeriesRun
from pipeline.inference.treatment import Treatment
from pipeline.inference.workers import carry_out_all


class Observer(Protocol):
    """Who is told what happens; the command line draws a progress bar from it."""

    def looked_at(self, files: int) -> None:
        """`files` headers have been read so far."""

    def planned(self, slices: int, series: int) -> None:
        """So many slices of so many series will be worked on; a slice counts once per pass."""

    def advanced(self, slices: int) -> None:
        """So many more of them are dealt with: processed, found done, or given up."""

    def waiting(self, series: int) -> None:
        """All others are through, and other runs into the same folder are working on `series` more."""

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
    workers: int = 1,
    verify: bool = False,
) -> tuple[Outcome, ...]:
    """Treat every CT series below `source`; results land in `target/<study>/<series>/`, each folder whole.

    A series that an earlier run finished, from the same files with the same recipe and with all its outputs
    in place, is kept. Whatever happens to one series, the next one is processed. Runs into the same `target`
    at the same time share the work.

    Args:
        source: folder with DICOM files of any name and depth.
        target: new, empty, or written by an earlier run; `check_folders` finds no fault with the two.
        treatment: what is done to each series.
        pseudonyms: names for studies and series.
        now: the time of this run.
        fixed_clock: date and time for the written files; None takes the start of the first run into `target`.
        observer: is told what happens.
        workers: series worked on side by side, in processes of their own if more than one.
        verify: read the files of finished series and their sources again; what differs is done again.

    Returns:
        One outcome per stray file and per series, in the order in which they were settled; one more, failed,
        where the views of `target` could not be written.

    Raises:
        DataError: a folder cannot be used, or there is no CT in `source`.
    """
    discovery = discover(source, on_file=observer.looked_at)
    plans = [
        _placed(plan_series(entry, treatment, pseudonyms), source, entry.files) for entry in discovery.series
    ]
    _check_anything_to_do(source, discovery, plans)
    strays = [
        replace(stray_file(finding), place=_place(source, finding.files)) for finding in discovery.findings
    ]
    marker = open_target(target, now=fixed_clock or now, key_id=pseudonyms.key_id, command=treatment.command)
    run = SeriesRun(target, treatment, pseudonyms, fixed_clock or marker.started, verify)
    return _settle_all(run, marker, strays, plans, workers=workers, observer=observer)


def check_folders(source: Path, target: Path) -> None:
    """Refuse folders inside each other (results must never become input) and a target that cannot be written.

    Raises:
        DataError: `source` is missing or a file, one of them holds the other, or `target` is a file or not
            writable.
    """
    check_is_folder(source)
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
        probe(nearest)
    except OSError as error:
        raise DataError(f"{target}: {cannot_write(error)}; name another folder") from None


def _placed(plan: Plan, source: Path, files: Sequence[Path]) -> Plan:
    """The plan, with the innermost folder of its files."""
    place = _place(source, [path.parent for path in files])
    return replace(plan, planned=replace(plan.planned, place=place))


def _place(source: Path, paths: Sequence[Path]) -> str:
    """The innermost path that holds them all, relative to `source`; nothing for `source` itself."""
    shown = os.path.relpath(os.path.commonpath(paths), source)
    return "" if shown == os.curdir else shown


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
    run: SeriesRun,
    marker: Marker,
    strays: Sequence[Outcome],
    plans: Sequence[Plan],
    *,
    workers: int,
    observer: Observer,
) -> tuple[Outcome, ...]:
    """Carry out every plan, and leave the views of the folder true however that ends."""
    outcomes = list(strays)
    try:
        for outcome in strays:
            observer.settled(outcome)
        observer.planned(
            sum(plan.passes for plan in plans), sum(plan.planned.verdict in FINISHED for plan in plans)
        )
        with closing(
            carry_out_all(
                run, plans, workers=workers, on_slices=observer.advanced, on_waiting=observer.waiting
            )
        ) as as_completed:
            for outcome in as_completed:
                outcomes.append(outcome)
                observer.settled(outcome)
    finally:
        lost = _update_views(run, marker, outcomes)
        if lost is not None:
            outcomes.append(lost)
            observer.settled(lost)
    return tuple(outcomes)


def _update_views(run: SeriesRun, marker: Marker, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Tidy up, and make the views true; an outcome where that fails, for the results themselves are there."""
    unfinished = [outcome.journal_line() for outcome in outcomes if outcome.verdict not in FINISHED]
    try:
        check_there(run.target)
        with target_lock(run.target):
            clear_staging(run.target)
            whole = rebuild_views(run.target, marker, unfinished)
            run.treatment.write_views(run.target, whole)
    except OSError as error:
        _leave_no_remains(run.target)
        return Outcome(
            study=None,
            series=None,
            verdict=Verdict.FAILED,
            reason_codes=(VIEWS_NOT_WRITTEN,),
            files=0,
            message=f"{run.target}: {cannot_write(error)}; what is finished stays, run again",
        )
    return None


def _leave_no_remains(target: Path) -> None:
    """Of a folder that was removed while a series was being written into it; others are not empty."""
    for folder in (target / STAGING, target):
        with suppress(OSError):
            folder.rmdir()
