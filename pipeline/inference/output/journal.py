"""What lies in an output folder: a marker, and a `series.json` per finished series.

`series.json` is the truth; it appears together with its series, by one rename, and the views (`views.py`) are
made from it. Nothing here names a patient, a source file or a UID.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from pipeline.dicom import Verdict
from pipeline.errors import DataError
from pipeline.inference.output.checksums import sync_files
from pipeline.inference.output.locks import LOCK, SERIES_LOCKS, target_lock

SCHEMA: Final = 2
MARKER: Final = ".ldct.json"
STAGING: Final = ".staging"
RECORD: Final = "series.json"
PREVIEW: Final = "preview.png"
OUTPUT_MISSING: Final = "OUTPUT_MISSING"
"""Reason code of a finished series whose files are gone, or of another size."""

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
    """A file of a finished series.

    Attributes:
        path: inside the series folder.
        bytes: its size.
        sha256: of its content, in hexadecimal digits.
    """

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SeriesRecord:
    """Content of `series.json`.

    Attributes:
        study: pseudonym, name of the outer folder.
        series: pseudonym, name of the series folder.
        verdict: `done`, or `slicewise` for a series that is no regular grid.
        reason_codes: why it is not simply `done`.
        input_key: digest of the source files (SOPInstanceUID, size, modification time).
        source_files: their number.
        source_sha256: keyed digest of what they hold.
        recipe: everything that decides the result: model hashes, strength, precision, versions.
        clock: date and time that the written files carry.
        shape: slices, rows, columns.
        noise_sd_hu: noise before and after, where it could be measured; of simulated doses in each folder.
        volumes_ml: volume of each segment.
        timings_s: seconds per step.
        outputs: every other file of the folder.
        unfamiliar: what is unlike the training of the networks, in words; absent where nothing is.
        simulated: how a lower dose was simulated, see `low_dose.pairs.Simulated`; absent from other records.
    """

    study: str
    series: str
    verdict: Verdict
    reason_codes: tuple[str, ...]
    input_key: str
    source_files: int
    source_sha256: str
    recipe: Mapping[str, Any]
    clock: str
    shape: tuple[int, int, int]
    noise_sd_hu: Mapping[str, float | None]
    volumes_ml: Mapping[str, float]
    timings_s: Mapping[str, float]
    outputs: tuple[Output, ...]
    unfamiliar: tuple[str, ...] = ()
    simulated: Mapping[str, Any] | None = None

    def to_json(self) -> Json:
        """The content of the file."""
        content = asdict(self)
        for name in ("unfamiliar", "simulated"):
            if not content[name]:
                del content[name]
        return content

    def intact(self, folder: Path) -> bool:
        """Whether every output is still there, with its size."""
        return all(_size(folder / output.path) == output.bytes for output in self.outputs)


_RECORDS: Final = TypeAdapter(SeriesRecord)


def open_target(target: Path, *, now: datetime, key_id: str, command: str) -> Marker:
    """Make `target` ours, or read its marker; two runs that start at once both get the same one.

    Raises:
        DataError: the folder holds something else, cannot be written, was written under another pseudonym
            secret or by another version, or its marker cannot be used.
    """
    _check_ours_or_empty(target, command)
    path = target / MARKER
    try:
        target.mkdir(parents=True, exist_ok=True)
        with target_lock(target):
            if not path.exists():
                write_json(path, Marker(now, key_id, command).to_json())
                sync_files([target])
        marker = _read_marker(path, command)
        (target / SERIES_LOCKS).mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: {cannot_write(error)}; name another folder") from None
    if marker.key_id != key_id:
        raise DataError(
            f"{target}: its pseudonyms were made with another secret ({marker.key_id}, here it is {key_id}); "
            "run from the project that wrote it, or name a new folder"
        )
    return marker


def cannot_write(error: OSError) -> str:
    """Why a folder takes no results, in words."""
    return f"cannot write here ({error.strerror or type(error).__name__})"


def read_record(folder: Path) -> SeriesRecord | None:
    """The record of a finished series folder; None where there is none that can be trusted."""
    try:
        return _RECORDS.validate_json((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return None


def finished(target: Path) -> Iterator[tuple[Path, SeriesRecord]]:
    """Finished series folders and their records, in the order of their names."""
    for path in sorted(target.glob(f"[!.]*/[!.]*/{RECORD}")):
        record = read_record(path.parent)
        if record is not None:
            yield path.parent, record


def write_json(path: Path, content: Json) -> None:
    """Write readable JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; no other process may write it meanwhile.

    What a killed run leaves of it has a name that the next one takes again.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _size(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _signature(command: str) -> str:
    """The marker's key that tells the command."""
    return f"ldct_{command.replace(' ', '_')}"


def _check_ours_or_empty(target: Path, command: str) -> None:
    """Another run may be making the folder: it writes the lock first, then the marker, then all else."""
    first = {LOCK, f".{MARKER}.part"}
    others = target.is_dir() and any(path.name not in first for path in target.iterdir())
    if others and not (target / MARKER).exists():
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
