"""How a series ends, foreseen from its headers and settled by the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from pipeline.dicom import Finding, Geometry, SeriesEntry, Task, Verdict
from pipeline.inference.output.journal import Json
from pipeline.inference.output.pseudonyms import Pseudonyms
from pipeline.inference.source_files import SourceFiles
from pipeline.inference.treatment import Treatment

FINISHED: Final = frozenset({Verdict.DONE, Verdict.SLICEWISE})
UNFIT: Final = frozenset({Verdict.REFUSED, Verdict.FAILED})
UNEXPECTED_ERROR: Final = "UNEXPECTED_ERROR"
"""Reason code of a series that failed for a reason no other code names."""
DISK_FULL: Final = "DISK_FULL"
"""Reason code of a series whose results did not fit."""
NOT_WRITABLE: Final = "NOT_WRITABLE"
"""Reason code of a series whose results had no folder to go to: read-only, or gone since the run began."""
SOURCE_VANISHED: Final = "SOURCE_VANISHED"
"""Reason code of a series with a file that was there when the run began."""
SOURCE_CHANGED: Final = "SOURCE_CHANGED"
"""Reason code of a series with a file that was another when the run began."""
EARLIER_RESULT: Final = "EARLIER_RESULT"
"""Reason code of a failed series of which the result of an earlier run is kept."""
VIEWS_NOT_WRITTEN: Final = "VIEWS_NOT_WRITTEN"
"""Reason code of a run whose journal is not that of its results."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one series, or one stray file, ended.

    Attributes:
        study: pseudonym of its study; None for a stray file.
        series: pseudonym of the series; None for a stray file.
        verdict: `done`, `slicewise`, `skipped`, `refused` or `failed`.
        reason_codes: stable codes; empty when simply done.
        files: number of source files; 0 for the views of the folder.
        message: for the terminal only, as it may name source files.
        reused: an earlier run had finished it.
        remark: the result in a few words, for the terminal, with the codes that it explains.
        place: innermost folder of its files, or the stray file, inside the input; for the terminal only.
    """

    study: str | None
    series: str | None
    verdict: Verdict
    reason_codes: tuple[str, ...]
    files: int
    message: str = ""
    reused: bool = False
    remark: str = ""
    place: str = ""

    def journal_line(self) -> Json:
        """What the journal may hold: pseudonyms, codes and counts."""
        line = asdict(self)
        del line["message"], line["reused"], line["remark"], line["place"]
        return line


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 all done, 3 some refused or failed, 1 nothing done; what is skipped as no CT image does not count."""
    verdicts = {outcome.verdict for outcome in outcomes}
    if verdicts.isdisjoint(FINISHED):
        return 1
    return 0 if verdicts.isdisjoint(UNFIT) else 3


@dataclass(frozen=True)
class Plan:
    """What will be done with one series.

    Attributes:
        entry: the series.
        source: its files, as they were when its headers had been read.
        planned: the outcome if all goes well; without a finished verdict nothing is done.
        grid: its regular grid, if it has one.
        passes: slices to work on, counted once per pass of the treatment.
    """

    entry: SeriesEntry
    source: SourceFiles
    planned: Outcome
    grid: Geometry | None
    passes: int


def plan_series(entry: SeriesEntry, treatment: Treatment, pseudonyms: Pseudonyms) -> Plan:
    """Foresee the verdict of a series from its headers, and name it."""
    finding, verdict = _judge(entry, treatment.tasks)
    source = SourceFiles.of(entry)
    outcome = Outcome(
        study=pseudonyms.name("study", entry.study_uid or entry.series_uid),
        series=_series_name(entry, pseudonyms),
        verdict=verdict,
        reason_codes=() if finding is None else (str(finding.code),),
        files=len(source),
        message="" if finding is None else finding.message,
    )
    if verdict not in FINISHED:
        return Plan(entry, source, outcome, grid=None, passes=0)
    passes = treatment.passes(len(entry.files), segmentable=entry.finding(Task.SEGMENT) is None)
    return Plan(entry, source, outcome, entry.geometry, passes)


def _series_name(entry: SeriesEntry, pseudonyms: Pseudonyms) -> str:
    """Other studies and patients may hold the same SeriesInstanceUID."""
    return pseudonyms.name("series", entry.study_uid, entry.patient_key, entry.series_uid, str(entry.part))


def _judge(entry: SeriesEntry, tasks: Sequence[Task]) -> tuple[Finding | None, Verdict]:
    """A series that is no regular grid is worked on in its native slices, but not segmented."""
    for task in tasks:
        finding = entry.finding(task)
        if finding is None:
            continue
        if finding.verdict == Verdict.SLICEWISE and tasks[0] == Task.SEGMENT:
            return finding, Verdict.REFUSED
        if finding.verdict == Verdict.SLICEWISE or task != tasks[0]:
            return finding, Verdict.SLICEWISE
        return finding, finding.verdict
    return None, Verdict.DONE


def stray_file(finding: Finding) -> Outcome:
    """The outcome of files that belong to no series."""
    return Outcome(
        study=None,
        series=None,
        verdict=finding.verdict,
        reason_codes=(str(finding.code),),
        files=len(finding.files),
        message=finding.message,
    )
