"""What lies in an output folder: a marker, a `series.json` per finished series, and views made from them.

`series.json` is the truth; it appears together with its series, by one rename. `journal.jsonl` and
`summary.json` are views: delete them and the next run writes them again. Nothing here names a patient, a
source file or a UID.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from pipeline.errors import DataError

SCHEMA: Final = 1
MARKER: Final = ".ldct.json"
STAGING: Final = ".staging"
LOCK: Final = ".lock"
RECORD: Final = "series.json"
JOURNAL: Final = "journal.jsonl"
SUMMARY: Final = "summary.json"

Json = dict[str, Any]


@dataclass(frozen=True)
class Marker:
    """Says that a folder is ours.

    Attributes:
        started: start of the first run, and the date and time in all files: a later run repeats its bytes.
        key_id: which secret the pseudonyms were made with.
        command: which command wrote it, e.g. `predict`.
    """

    started: datetime
    key_id: str
    command: str

    def to_json(self) -> Json:
        """The marker file's content, and the head of the journal."""
        return {_signature(self.command): SCHEMA, "started": self.started.isoformat(), "key_id": self.key_id}


@dataclass(frozen=True)
class Output:
    """A file of a finished series: its path inside the series folder and its size."""

    path: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class SeriesRecord:
    """Content of `series.json`.

    Attributes:
        study: pseudonym, name of the outer folder.
        series: pseudonym, name of the series folder.
        verdict: `done`, or `slicewise` for a series that is no regular grid.
        reason_codes: why it is not simply `done`.
        input_key: digest of the source files (SOPInstanceUID, size, modification time).
        recipe: everything that decides the result: model hashes, strength, precision, versions.
        clock: date and time that the written files carry.
        shape: slices, rows, columns.
        noise_sd_hu: noise before and after, where it could be measured; of simulated doses in each folder.
        volumes_ml: volume of each segment.
        timings_s: seconds per step.
        outputs: every other file of the folder.
        simulated: how a lower dose was simulated, see `pairs.Simulated`; absent from other records.
    """

    study: str
    series: str
    verdict: str
    reason_codes: tuple[str, ...]
    input_key: str
    recipe: Mapping[str, Any]
    clock: str
    shape: tuple[int, int, int]
    noise_sd_hu: Mapping[str, float | None]
    volumes_ml: Mapping[str, float]
    timings_s: Mapping[str, float]
    outputs: tuple[Output, ...]
    simulated: Mapping[str, Any] | None = None

    def to_json(self) -> Json:
        """The content of the file."""
        content = asdict(self)
        if self.simulated is None:
            del content["simulated"]
        return content

    def intact(self, folder: Path) -> bool:
        """Whether every output is still there, with its size."""
        return all(
            (folder / output.path).is_file() and (folder / output.path).stat().st_size == output.bytes
            for output in self.outputs
        )

    def journal_line(self, folder: Path) -> Json:
        """The record in short, as the journal shows it."""
        line = self.to_json()
        outputs = line.pop("outputs")
        line["files"] = len(outputs)
        if not self.intact(folder):
            line["verdict"], line["reason_codes"] = "failed", ["OUTPUT_MISSING"]
        return line


@contextmanager
def sole_writer(target: Path, *, command: str) -> Iterator[None]:
    """Keep other runs out of `target`, which is made if absent.

    The empty lock file stays: while one run removed it, two others could both hold a lock of that name.

    Raises:
        DataError: the folder holds something else, or another run writes to it.
    """
    _check_ours_or_empty(target, command)
    target.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise DataError(
            f"{target}: another run is writing to it; wait for it, or name another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def open_target(target: Path, *, now: datetime, key_id: str, command: str) -> Marker:
    """Make `target` ours, or read the marker of an earlier run; `sole_writer` holds it.

    Raises:
        DataError: the folder was written under another pseudonym secret, or its marker cannot be used.
    """
    path = target / MARKER
    if not path.exists():
        write_json(path, Marker(now, key_id, command).to_json())
    marker = _read_marker(path, command)
    if marker.key_id != key_id:
        raise DataError(
            f"{target}: its pseudonyms were made with another secret ({marker.key_id}, here it is {key_id}); "
            "run from the project that wrote it, or name a new folder"
        )
    return marker


def read_record(folder: Path) -> SeriesRecord | None:
    """The record of a finished series folder; None where there is none that can be trusted."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        content["outputs"] = tuple(Output(**output) for output in content["outputs"])
        content["shape"] = tuple(content["shape"])
        content["reason_codes"] = tuple(content["reason_codes"])
        return SeriesRecord(**content)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def finished(target: Path) -> Iterator[tuple[Path, SeriesRecord]]:
    """Finished series folders and their records, in the order of their names."""
    for path in sorted(target.glob(f"[!.]*/[!.]*/{RECORD}")):
        record = read_record(path.parent)
        if record is not None:
            yield path.parent, record


def rebuild_views(target: Path, marker: Marker, unfinished: Sequence[Json]) -> None:
    """Write `journal.jsonl` and `summary.json`: finished series, then what the last run left unfinished."""
    lines = [record.journal_line(folder) for folder, record in finished(target)]
    lines.extend(unfinished)
    head = marker.to_json()
    write_text(target / JOURNAL, "".join(json.dumps(line, sort_keys=True) + "\n" for line in [head, *lines]))
    summary = {
        **head,
        "verdicts": dict(sorted(Counter(line["verdict"] for line in lines).items())),
        "reason_codes": dict(
            sorted(Counter(code for line in lines for code in line["reason_codes"]).items())
        ),
        "slices": sum(line["shape"][0] for line in lines if "shape" in line),
    }
    write_json(target / SUMMARY, summary)


def write_json(path: Path, content: Json) -> None:
    """Write readable JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _signature(command: str) -> str:
    """The marker's key that tells the command."""
    return f"ldct_{command.replace(' ', '_')}"


def _check_ours_or_empty(target: Path, command: str) -> None:
    ours = (target / MARKER).exists()
    if not ours and target.is_dir() and any(path.name != LOCK for path in target.iterdir()):
        raise DataError(f"{target}: not empty and not written by ldct {command}; name a new or empty folder")


def _read_marker(path: Path, command: str) -> Marker:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        signature = _signature(command)
        if signature not in content:
            raise DataError(f"{path.parent}: not written by ldct {command}; name a new or empty folder")
        if content[signature] != SCHEMA:
            raise DataError(
                f"{path.parent}: written with schema {content[signature]}, this version of ldct {command} "
                f"writes {SCHEMA}; name a new folder"
            )
        return Marker(datetime.fromisoformat(content["started"]), str(content["key_id"]), command)
    except (ValueError, KeyError, TypeError) as damaged:
        raise DataError(f"{path}: damaged ({damaged}); name a new folder") from None
