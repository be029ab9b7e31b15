"""One series carried out: treated in a staging folder, recorded, and published by one rename."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pipeline.dicom import Verdict
from pipeline.errors import DataError
from pipeline.inference.failures import judge_failure
from pipeline.inference.outcomes import EARLIER_RESULT, FINISHED, Outcome, Plan
from pipeline.inference.output.checksums import sha256_of_files
from pipeline.inference.output.journal import RECORD, SeriesRecord, read_record, write_json
from pipeline.inference.output.locks import series_lock
from pipeline.inference.output.pseudonyms import Pseudonyms
from pipeline.inference.output.staging import (
    check_there,
    has_result,
    publish,
    settle_outputs,
    staging_folder,
    withdraw,
)
from pipeline.inference.source_files import SourceFiles
from pipeline.inference.treatment import OnSlices, Stopwatch, Treatment, UnfitSeriesError


@dataclass(frozen=True)
class SeriesRun:
    """What all series of one run share; picklable if its treatment is.

    Attributes:
        target: folder of the results, which is ours.
        treatment: what is done to each series.
        pseudonyms: keys for what source files hold.
        clock: date and time that the written files carry.
        verify: read finished series and their sources again instead of believing size and time.
    """

    target: Path
    treatment: Treatment
    pseudonyms: Pseudonyms
    clock: datetime
    verify: bool = False

    def carry_out(self, plan: Plan, on_slices: OnSlices) -> Outcome | None:
        """Finish one series, or say why not; nothing that happens to it reaches the others.

        What an earlier run made of it is removed if it is refused now, and kept, with `EARLIER_RESULT`, if it
        failed: then nobody knows whether the next attempt will.

        Args:
            plan: of the series.
            on_slices: told of `plan.passes` slices in all, however the series ends.

        Returns:
            The outcome; None, and no slices told of, where another run is working on the series.
        """
        if plan.planned.verdict not in FINISHED and not self._has_earlier_result(plan.planned):
            return plan.planned
        rest = plan.passes

        def advance(slices: int) -> None:
            nonlocal rest
            rest -= slices
            on_slices(slices)

        try:
            check_there(self.target)
            with series_lock(self.target, str(plan.planned.series)) as is_ours:
                if not is_ours:
                    rest = 0
                    return None
                return self._settle(plan, advance)
        except Exception as error:  # noqa: BLE001  nor does a folder that is gone or read-only
            return self.noting_earlier_result(self._without_result(plan, error))
        finally:
            on_slices(rest)

    def noting_earlier_result(self, outcome: Outcome) -> Outcome:
        """The outcome of a series; one that failed tells whether there is a result of an earlier run."""
        if outcome.verdict != Verdict.FAILED or not self._has_earlier_result(outcome):
            return outcome
        return replace(
            outcome,
            reason_codes=(*outcome.reason_codes, EARLIER_RESULT),
            message=f"{outcome.message}; the earlier result is kept",
        )

    def _has_earlier_result(self, outcome: Outcome) -> bool:
        return has_result(self.target, str(outcome.study), str(outcome.series))

    def _settle(self, plan: Plan, advance: OnSlices) -> Outcome:
        """Finish the series, or see to what an earlier run made of it; its lock is held."""
        outcome = self._finish(plan, advance) if plan.planned.verdict in FINISHED else plan.planned
        if outcome.verdict in FINISHED or not self._has_earlier_result(outcome):
            return outcome
        if outcome.verdict != Verdict.FAILED:
            withdraw(self.target, str(outcome.study), str(outcome.series))
        return self.noting_earlier_result(outcome)

    def _finish(self, plan: Plan, advance: OnSlices) -> Outcome:
        try:
            return self._keep_or_finish(plan, advance)
        except Exception as error:  # noqa: BLE001  one series never stops the batch
            return self._without_result(plan, error)

    def _keep_or_finish(self, plan: Plan, advance: OnSlices) -> Outcome:
        _check_unchanged(plan.source)
        folder = self.target / str(plan.planned.study) / str(plan.planned.series)
        record = read_record(folder)
        if record is not None and self._is_still_true(record, folder, plan.source):
            return self._outcome(plan, record, reused=True)
        staged = staging_folder(self.target, str(plan.planned.series))
        try:
            record = self._treat(plan, staged, advance)
            check_there(self.target)
            publish(staged, folder)
        except BaseException:  # a full disk must not stay full for the next series
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return self._outcome(plan, record, reused=False)

    def _is_still_true(self, record: SeriesRecord, folder: Path, source: SourceFiles) -> bool:
        """Whether the series was finished from these files with this recipe, and everything is in place."""
        return (
            record.input_key == source.key(self.pseudonyms)
            and record.recipe == self.treatment.recipe
            and record.intact(folder)
            and not (self.verify and self._differs(record, folder, source))
        )

    def _differs(self, record: SeriesRecord, folder: Path, source: SourceFiles) -> bool:
        """Whether a source or an output no longer holds what it held when the series was finished."""
        written = sha256_of_files(folder / output.path for output in record.outputs)
        return (
            written != [output.sha256 for output in record.outputs]
            or source.sha256(self.pseudonyms) != record.source_sha256
        )

    def _outcome(self, plan: Plan, record: SeriesRecord, *, reused: bool) -> Outcome:
        return replace(
            plan.planned,
            reason_codes=record.reason_codes,
            reused=reused,
            remark=self.treatment.remark(record),
        )

    def _treat(self, plan: Plan, staged: Path, advance: OnSlices) -> SeriesRecord:
        """Write the results into `staged`, bring them to the disk, then write the record beside them."""
        watch = Stopwatch()
        measured = self.treatment.treat(
            plan.entry, staged, grid=plan.grid, clock=self.clock, on_slices=advance
        )
        with watch.step("store"):
            source_sha256 = plan.source.sha256(self.pseudonyms)
            _check_unchanged(plan.source)
            outputs = settle_outputs(staged)
        record = SeriesRecord(
            study=str(plan.planned.study),
            series=str(plan.planned.series),
            verdict=plan.planned.verdict,
            reason_codes=plan.planned.reason_codes + measured.reason_codes,
            input_key=plan.source.key(self.pseudonyms),
            source_files=len(plan.source),
            source_sha256=source_sha256,
            recipe=self.treatment.recipe,
            clock=self.clock.isoformat(),
            shape=(len(plan.entry.files), plan.entry.rows, plan.entry.columns),
            noise_sd_hu=measured.noise_sd_hu,
            volumes_ml=measured.volumes_ml,
            timings_s={**measured.timings_s, **watch.timings_s()},
            outputs=outputs,
            unfamiliar=measured.unfamiliar,
            simulated=measured.simulated,
        )
        write_json(staged / RECORD, record.to_json())
        return record

    def _without_result(self, plan: Plan, error: Exception) -> Outcome:
        verdict, code, message = judge_failure(error, plan.source, self.target)
        details = error.details if isinstance(error, UnfitSeriesError) and error.code == code else ()
        return replace(plan.planned, verdict=verdict, reason_codes=(code, *details), message=message)


def _check_unchanged(source: SourceFiles) -> None:
    """What was read must be what was found, and what the input key stands for."""
    changed = source.changed()
    if changed is not None:
        raise DataError(f"{changed.name}: changed since the run began; run again")
