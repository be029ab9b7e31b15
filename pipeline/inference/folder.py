"""A folder of DICOM in, a folder of derived series out: nothing lost, nothing half-written, restartable."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pipeline.dicom import Discovery, Verdict, check_is_folder, discover
from pipeline.errors import DataError
from pipeline.inference.journal import STAGING, Marker, finished, open_target, rebuild_views, sole_writer
from pipeline.inference.outcomes import FINISHED, Outcome, Plan, plan_series, stray_file
from pipeline.inference.pseudonyms import Pseudonyms
from pipeline.inference.series_run import SeriesRun
from pipeline.inference.treatment import Treatment
from pipeline.inference.workers import carry_out_all


class Observer(Protocol):
    """Who is told what happens; the command line draws a progress bar from it."""

    def looked_at(self, files: int) -> None:
        """`files` headers have been read so far."""

    def planned(self, slices: int) -> None:
        """So many slices will be worked on; a slice counts once per pass of the treatment."""

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
    workers: int = 1,
) -> tuple[Outcome, ...]:
    """Treat every CT series below `source`; results land in `target/<study>/<series>/`, each folder whole.

    A series that an earlier run finished, from the same files with the same recipe and with all its outputs
    in place, is kept. Whatever happens to one series, the next one is processed.

    Args:
        source: folder with DICOM files of any name and depth.
        target: new, empty, or written by an earlier run; not inside `source`.
        treatment: what is done to each series.
        pseudonyms: names for studies and series.
        now: the time of this run.
        fixed_clock: date and time for the written files; None takes the start of the first run into `target`.
        observer: is told what happens.
        workers: series worked on side by side, in processes of their own if more than one.

    Returns:
        One outcome per stray file and per series, in the order in which they were settled.

    Raises:
        DataError: a folder cannot be used, another run writes to `target`, or there is no CT in `source`.
        OSError: the views of `target` cannot be written.
    """
    check_folders(source, target)
    discovery = discover(source, on_file=observer.looked_at)
    plans = [plan_series(entry, treatment, pseudonyms) for entry in discovery.series]
    _check_anything_to_do(source, discovery, plans)
    strays = [stray_file(finding) for finding in discovery.findings]
    with sole_writer(target, command=treatment.command):
        marker = open_target(
            target, now=fixed_clock or now, key_id=pseudonyms.key_id, command=treatment.command
        )
        run = SeriesRun(target, treatment, pseudonyms, fixed_clock or marker.started)
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
        observer.planned(sum(plan.passes for plan in plans))
        with closing(carry_out_all(run, plans, workers=workers, on_slices=observer.advanced)) as as_completed:
            for outcome in as_completed:
                outcomes.append(outcome)
                observer.settled(outcome)
    finally:
        shutil.rmtree(run.target / STAGING, ignore_errors=True)
        unfinished = [outcome.journal_line() for outcome in outcomes if outcome.verdict not in FINISHED]
        rebuild_views(run.target, marker, unfinished)
        whole = [record for folder, record in finished(run.target) if record.intact(folder)]
        run.treatment.write_views(run.target, whole)
    return tuple(outcomes)
