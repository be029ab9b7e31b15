"""Views of an output folder, made from its `series.json` files; the next run writes what is deleted again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.dicom import Verdict
from pipeline.inference.output.journal import (
    OUTPUT_MISSING,
    Json,
    Marker,
    SeriesRecord,
    finished,
    write_json,
    write_text,
)
from pipeline.inference.output.page import render_journal

JOURNAL: Final = "journal.jsonl"
SUMMARY: Final = "summary.json"
PAGE: Final = "journal.html"


def rebuild_views(target: Path, marker: Marker, unfinished: Sequence[Json]) -> tuple[SeriesRecord, ...]:
    """Write journal, summary and page: a line per series, then what belongs to none.

    A series that failed in the last run has the line of that failure, although its folder may still hold an
    earlier result.

    Args:
        target: the folder; `locks.target_lock` is held.
        marker: its marker.
        unfinished: journal lines of what the last run left unfinished.

    Returns:
        The records of all series that are there in full.

    Raises:
        OSError: a view cannot be written; it stays as it was.
    """
    found = [(record, record.intact(folder)) for folder, record in finished(target)]
    newly_failed = {(line["study"], line["series"]) for line in unfinished}
    kept = [(record, whole) for record, whole in found if (record.study, record.series) not in newly_failed]
    lines = [*(_line(record, is_whole=whole) for record, whole in kept), *unfinished]
    head = marker.to_json()
    write_text(target / JOURNAL, "".join(json.dumps(line, sort_keys=True) + "\n" for line in [head, *lines]))
    write_json(target / SUMMARY, head | _summary(lines))
    write_text(target / PAGE, render_journal(target, marker, lines))
    return tuple(record for record, whole in found if whole)


def _line(record: SeriesRecord, *, is_whole: bool) -> Json:
    """The record in short; `files` are the source's, as of a series that is not finished."""
    line = record.to_json()
    del line["outputs"]
    line["files"] = line.pop("source_files")
    if not is_whole:
        line["verdict"], line["reason_codes"] = Verdict.FAILED, [OUTPUT_MISSING]
    return line


def _summary(lines: Sequence[Json]) -> Json:
    verdicts = Counter(str(line["verdict"]) for line in lines)
    reasons = Counter(code for line in lines for code in line["reason_codes"])
    return {
        "verdicts": dict(sorted(verdicts.items())),
        "reason_codes": dict(sorted(reasons.items())),
        "slices": sum(line["shape"][0] for line in lines if "shape" in line),
    }
