"""One series carried out: treated in a staging folder, recorded, and published by one rename."""

from __future__ import annotations

import errno
import os
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from pipeline.dicom import SeriesEntry, SeriesError, Verdict
from pipeline.errors import PipelineError
from pipeline.inference.journal import RECORD, STAGING, Output, SeriesRecord, read_record, write_json
from pipeline.inference.outcomes import (
    DISK_FULL,
    FINISHED,
    SOURCE_VANISHED,
    UNEXPECTED_ERROR,
    Outcome,
    Plan,
)
from pipeline.inference.pseudonyms import Pseudonyms
from pipeline.inference.treatment import OnSlices, Treatment, UnfitSeriesError

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class SeriesRun:
    """What all series of one run share; picklable if its treatment is."""

    target: Path
    treatment: Treatment
    pseudonyms: Pseudonyms
    clock: datetime

    def carry_out(self, plan: Plan, on_slices: OnSlices) -> Outcome:
        """Finish one series, or say why not; nothing that happens to it reaches the others.

        Args:
            plan: of the series.
            on_slices: told of `plan.passes` slices in all, however the series ends.
        """
        if plan.planned.verdict not in FINISHED:
            return plan.planned
        rest = plan.passes

        def advance(slices: int) -> None:
            nonlocal rest
            rest -= slices
            on_slices(slices)

        try:
            return self._keep_or_finish(plan, advance)
        except Exception as error:  # noqa: BLE001  one series never stops the batch
            return _without_result(plan, error)
        finally:
            on_slices(rest)

    def _keep_or_finish(self, plan: Plan, advance: OnSlices) -> Outcome:
        folder = self.target / str(plan.planned.study) / str(plan.planned.series)
        key = input_key(plan.entry, self.pseudonyms)
        record = read_record(folder)
        if (
            record is not None
            and record.input_key == key
            and record.recipe == self.treatment.recipe
            and record.intact(folder)
        ):
            return self._outcome(plan, record, reused=True)
        staged = self.target / STAGING / str(plan.planned.series)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        try:
            record = self._treat(plan, key, staged, advance)
            _sync_tree(staged)
            _publish(staged, folder)
        except BaseException:  # a full disk must not stay full for the next series
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return self._outcome(plan, record, reused=False)

    def _outcome(self, plan: Plan, record: SeriesRecord, *, reused: bool) -> Outcome:
        return replace(
            plan.planned,
            reason_codes=record.reason_codes,
            reused=reused,
            remark=self.treatment.remark(record),
        )

    def _treat(self, plan: Plan, key: str, staged: Path, advance: OnSlices) -> SeriesRecord:
        measured = self.treatment.treat(
            plan.entry, staged, grid=plan.grid, clock=self.clock, on_slices=advance
        )
        record = SeriesRecord(
            study=str(plan.planned.study),
            series=str(plan.planned.series),
            verdict=str(plan.planned.verdict),
            reason_codes=plan.planned.reason_codes + measured.reason_codes,
            input_key=key,
            recipe=self.treatment.recipe,
            clock=self.clock.isoformat(),
            shape=(len(plan.entry.files), plan.entry.rows, plan.entry.columns),
            noise_sd_hu=measured.noise_sd_hu,
            volumes_ml=measured.volumes_ml,
            timings_s=measured.timings_s,
            outputs=tuple(_outputs(staged)),
            simulated=measured.simulated,
        )
        write_json(staged / RECORD, record.to_json())
        return record


def _without_result(plan: Plan, error: Exception) -> Outcome:
    verdict, code, message = _judge(error, plan.entry.files)
    return replace(plan.planned, verdict=verdict, reason_codes=(code,), message=message)


def _is_gone(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _judge(error: Exception, files: Sequence[Path]) -> tuple[Verdict, str, str]:
    """Verdict, reason code and message; a file that is gone explains whatever else went wrong."""
    vanished = next((path.name for path in files if _is_gone(path)), None)
    if vanished is not None:
        return (
            Verdict.FAILED,
            SOURCE_VANISHED,
            f"{vanished}: gone since the run began; bring it back, run again",
        )
    if isinstance(error, SeriesError):
        return error.finding.verdict, str(error.finding.code), error.finding.message
    if isinstance(error, UnfitSeriesError):
        return Verdict.REFUSED, error.code, str(error)
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return Verdict.FAILED, DISK_FULL, "no space left for the results; free some and run again"
    return Verdict.FAILED, UNEXPECTED_ERROR, _explain(error)


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
