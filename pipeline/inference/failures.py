"""What a series failed of: verdict, reason code and a line for people."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.dicom import SeriesError, Verdict
from pipeline.errors import PipelineError
from pipeline.inference.outcomes import (
    DISK_FULL,
    NOT_WRITABLE,
    SOURCE_CHANGED,
    SOURCE_VANISHED,
    UNEXPECTED_ERROR,
)
from pipeline.inference.output.journal import cannot_write
from pipeline.inference.output.staging import check_there, probe
from pipeline.inference.source_files import SourceFiles
from pipeline.inference.treatment import UnfitSeriesError

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def judge_failure(error: Exception, source: SourceFiles, target: Path) -> tuple[Verdict, str, str]:
    """Verdict, reason code and message; a source file that is gone or changed explains whatever went wrong.

    Args:
        error: what ended the work on the series.
        source: its files, as they were when the run began.
        target: folder of the results.
    """
    if (vanished := source.vanished()) is not None:
        message = f"{vanished.name}: gone since the run began; bring it back, run again"
        return Verdict.FAILED, SOURCE_VANISHED, message
    if (changed := source.changed()) is not None:
        return Verdict.FAILED, SOURCE_CHANGED, f"{changed.name}: changed since the run began; run again"
    if any(isinstance(cause, OSError) and cause.errno in _NO_SPACE for cause in _causes(error)):
        return Verdict.FAILED, DISK_FULL, "no space left for the results; free some and run again"
    if isinstance(error, SeriesError):
        return error.finding.verdict, str(error.finding.code), error.finding.message
    if isinstance(error, UnfitSeriesError):
        return Verdict.REFUSED, error.code, str(error)
    if isinstance(error, OSError) and (reason := _why_not_writable(target)) is not None:
        return Verdict.FAILED, NOT_WRITABLE, f"{target}: {reason}; make it writable and run again"
    return Verdict.FAILED, UNEXPECTED_ERROR, _explain(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it arose from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _why_not_writable(target: Path) -> str | None:
    """Why the folder takes no results at all, in words; None where it does."""
    try:
        check_there(target)
        probe(target)
    except OSError as error:
        return cannot_write(error)
    return None


def _explain(error: Exception) -> str:
    """One line without the error's own text where that could quote a header."""
    if isinstance(error, PipelineError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
