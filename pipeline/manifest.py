"""Case lists and splits: which series belong to which case, and which case trains, validates or tests.

A manifest is a folder, `data_manifests/<dataset>/`, with `cases.csv` and `splits/<name>.csv`.
It holds pseudonyms and relative paths only, so it can be published while the images stay where they are.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from pipeline.errors import DataError

ROLES: Final = ("train", "validation", "test")
NOISE_KINDS: Final = ("independent", "shared")
RESERVED_NAMES: Final = frozenset({"qc", "index.csv", "fingerprint.json"})
"""What ingest writes beside the case folders, so no case may be called so."""

_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SPLIT_COLUMNS: Final = ("case_id", "role")
_HELD_OUT_FRACTION: Final = 0.3
"""Patients that validate or test, half of them each."""


@dataclass(frozen=True)
class ManifestCase:
    """One row of `cases.csv`: a patient study at one or two doses.

    Attributes:
        case_id: unique, and safe as a folder name.
        patient_id: pseudonym; all cases of a patient share it, because splits are made by patient.
        anatomy: region, e.g. `chest`; like the two ids it becomes part of names of files and metrics.
        dose_fraction: dose of `low_dose` over dose of `normal_dose`, in (0, 1]; like `noise` it says nothing
            where there is no low dose.
        noise: `independent` (two scans) or `shared` (the low dose was made from the normal dose).
        normal_dose: folder of the normal-dose series, relative to the data root; or the file of a series of
            one slice, which may lie among others.
        low_dose: the same for the low-dose series.
        mask: NIfTI file of organ labels on the grid of `normal_dose`.
        truth: NIfTI file of noise-free HU on the grid of `normal_dose`.
        normal_dose_sha256: `series_sha256` of the normal dose; checked on ingest when given.
        low_dose_sha256: the same for the low dose.

    Raises:
        ValueError: a value is not allowed.
    """

    case_id: str
    patient_id: str
    anatomy: str
    dose_fraction: float
    noise: str
    normal_dose: str
    low_dose: str | None = None
    mask: str | None = None
    truth: str | None = None
    normal_dose_sha256: str | None = None
    low_dose_sha256: str | None = None

    def __post_init__(self) -> None:
        for name in ("case_id", "patient_id", "anatomy"):
            _check_safe_name(name, getattr(self, name))
        if self.case_id.lower() in RESERVED_NAMES:
            raise ValueError(f"case_id {self.case_id!r} is a name that ingest uses itself; choose another")
        if not 0 < self.dose_fraction <= 1:
            raise ValueError(f"dose_fraction must be in (0, 1], got {self.dose_fraction}")
        if self.noise not in NOISE_KINDS:
            raise ValueError(f"noise must be one of {', '.join(NOISE_KINDS)}, got {self.noise!r}")
        for name in ("normal_dose", "low_dose", "mask", "truth"):
            path = getattr(self, name)
            if path is not None:
                _check_relative(name, path)
        for name in ("normal_dose_sha256", "low_dose_sha256"):
            digest = getattr(self, name)
            if digest is not None and not _SHA256.fullmatch(digest):
                raise ValueError(f"{name} must be 64 lower-case hexadecimal digits or empty, got {digest!r}")


COLUMNS: Final = tuple(field.name for field in fields(ManifestCase))
_OPTIONAL_COLUMNS: Final = frozenset(("low_dose", "mask", "truth", "normal_dose_sha256", "low_dose_sha256"))


def write_manifest(folder: Path, cases: Sequence[ManifestCase]) -> None:
    """Write `cases.csv` into a manifest folder, making the folder when needed.

    Raises:
        ValueError: there are no cases, or two share a case_id.
    """
    if not cases:
        raise ValueError("a manifest needs at least one case")
    twice = _first_repeat(case.case_id for case in cases)
    if twice is not None:
        raise ValueError(f"case_id {twice} appears twice")
    rows = [
        {name: "" if value is None else str(value) for name, value in asdict(case).items()} for case in cases
    ]
    _write_rows(folder / "cases.csv", COLUMNS, rows)


def read_manifest(folder: Path) -> tuple[ManifestCase, ...]:
    """Read and check `cases.csv` of a manifest folder, in file order.

    Raises:
        DataError: the file is missing, empty or not CSV; a column is missing or unknown; a row holds a value
            that is not allowed, a path outside the root or a case_id seen before.
    """
    path = folder / "cases.csv"
    cases = []
    for line, row in _read_rows(path, COLUMNS):
        try:
            cases.append(_parse_case(row))
        except ValueError as bad:
            raise DataError(f"{path}: line {line}: {bad}") from None
    if not cases:
        raise DataError(f"{path}: no cases below the header; add one line per case")
    twice = _first_repeat(case.case_id for case in cases)
    if twice is not None:
        raise DataError(
            f"{path}: case_id {twice} appears twice (capitals do not count); give each case its own id"
        )
    return tuple(cases)


def write_split(folder: Path, name: str, roles: Mapping[str, str]) -> None:
    """Write `splits/<name>.csv` of a manifest folder.

    Args:
        folder: the manifest folder.
        name: split name, e.g. `holdout`.
        roles: role of each case_id.

    Raises:
        ValueError: a role is not `train`, `validation` or `test`.
    """
    for case_id, role in roles.items():
        if role not in ROLES:
            raise ValueError(f"role of {case_id} must be one of {', '.join(ROLES)}, got {role!r}")
    rows = [{"case_id": case_id, "role": role} for case_id, role in roles.items()]
    _write_rows(_split_path(folder, name), _SPLIT_COLUMNS, rows)


def read_split(folder: Path, name: str, cases: Sequence[ManifestCase]) -> dict[str, str]:
    """Read and check `splits/<name>.csv`: the role of every case, in the order of `cases`.

    Raises:
        DataError: the file is missing or not CSV; it names an unknown role or case, misses a case or names it
            twice; or a patient's cases have different roles.
    """
    path = _split_path(folder, name)
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in path.parent.glob("*.csv"))) or "none"
        raise DataError(f"{path}: no such split; splits of this manifest: {known}")
    roles: dict[str, str] = {}
    for line, row in _read_rows(path, _SPLIT_COLUMNS):
        case_id, role = row["case_id"], row["role"]
        if role not in ROLES:
            raise DataError(f"{path}: line {line}: role must be one of {', '.join(ROLES)}, got {role!r}")
        if case_id in roles:
            raise DataError(
                f"{path}: line {line}: case {case_id} appears twice; a case has one role in a split"
            )
        roles[case_id] = role
    _check_same_cases(path, roles, cases)
    _check_patients_disjoint(path, roles, cases)
    return {case.case_id: roles[case.case_id] for case in cases}


def holdout_roles(cases: Sequence[ManifestCase], seed: int) -> dict[str, str]:
    """A hold-out split: of each anatomy about 70 % of the patients train, 15 % validate, 15 % test.

    All cases of a patient get one role; a patient of several anatomies counts for the first by name.
    Of 1 patient in all the role is train; of 2, train and validation; from 3 on every role has one. The order
    of the cases does not matter.

    Args:
        cases: the rows of a manifest.
        seed: the same seed and patients give the same split.

    Returns:
        Role of each case_id, in the order of `cases`.
    """
    anatomy: dict[str, str] = {}
    for case in cases:
        anatomy[case.patient_id] = min(case.anatomy, anatomy.get(case.patient_id, case.anatomy))
    shuffled = sorted(anatomy, key=lambda patient: (anatomy[patient], digest_of({patient: str(seed)})))
    roles = dict(zip(shuffled, _holdout_sequence(len(shuffled)), strict=True))
    return {case.case_id: roles[case.patient_id] for case in cases}


def series_sha256(path: Path) -> str:
    """Digest of what a manifest names as a series: `file_sha256` of a file, `folder_sha256` of a folder.

    Raises:
        DataError: there is neither, or the folder holds no file.
    """
    return file_sha256(path) if path.is_file() else folder_sha256(path)


def folder_sha256(folder: Path) -> str:
    """Digest of the files in a folder and below: their relative names and contents, nothing else.

    Hidden files do not count: viewers and file managers leave them behind.

    Raises:
        DataError: the folder is missing or holds no file.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    digests = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if not digests:
        raise DataError(f"{folder}: the folder holds no files")
    return digest_of(digests)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def code_sha256(patterns: Iterable[str]) -> str:
    """Digest of this package's modules that match these glob patterns, e.g. `models/*.py`."""
    package = Path(__file__).parent
    files = [file for pattern in patterns for file in package.glob(pattern)]
    return digest_of({str(file.relative_to(package)): file_sha256(file) for file in files})


def digest_of(digests: Mapping[str, str]) -> str:
    """One digest of named digests; the order of the mapping does not matter."""
    whole = hashlib.sha256()
    for name in sorted(digests):
        whole.update(f"{name}\0{digests[name]}\n".encode())
    return whole.hexdigest()


def _holdout_sequence(count: int) -> list[str]:
    """Roles of `count` patients in order of anatomy: the held-out ones evenly spread, in turn."""
    held_out = max(round(_HELD_OUT_FRACTION * count), min(count - 1, 2))
    roles = ["train"] * count
    for index in range(held_out):
        roles[(2 * index + 1) * count // (2 * held_out)] = ("validation", "test")[index % 2]
    return roles


def _check_safe_name(field: str, name: str) -> None:
    if not _SAFE_NAME.fullmatch(name):
        raise ValueError(
            f"{field} {name!r} is no safe name; use 1 to 100 letters, digits, '.', '_' and '-', "
            "a letter or digit first"
        )


def _check_relative(name: str, path: str) -> None:
    parts = PurePosixPath(path).parts
    if (
        not parts
        or PurePosixPath(path).is_absolute()
        or PureWindowsPath(path).anchor
        or ".." in parts
        or "\\" in path
    ):
        raise ValueError(
            f"{name} {path!r} must be a path below the data root: relative, with '/' and without '..'"
        )


def _parse_case(row: Mapping[str, str]) -> ManifestCase:
    row = row if row["low_dose"] else {**row, **_alone(row)}
    values = {name: text or None if name in _OPTIONAL_COLUMNS else text for name, text in row.items()}
    try:
        dose_fraction = float(row["dose_fraction"])
    except ValueError:
        raise ValueError(f"dose_fraction must be a number in (0, 1], got {row['dose_fraction']!r}") from None
    return ManifestCase(**{**values, "dose_fraction": dose_fraction})  # type: ignore[arg-type]


def _alone(row: Mapping[str, str]) -> dict[str, str]:
    """What a case without a low dose may leave empty: it is its own and only dose."""
    return {"dose_fraction": row["dose_fraction"] or "1", "noise": row["noise"] or "shared"}


def _check_same_cases(path: Path, roles: Mapping[str, str], cases: Sequence[ManifestCase]) -> None:
    known = {case.case_id for case in cases}
    unknown = [case_id for case_id in roles if case_id not in known]
    if unknown:
        raise DataError(f"{path}: {_some(unknown)} not in cases.csv; remove the line or add the case")
    missing = [case.case_id for case in cases if case.case_id not in roles]
    if missing:
        raise DataError(f"{path}: no role for {_some(missing)} of cases.csv; add one line per case")


def _check_patients_disjoint(path: Path, roles: Mapping[str, str], cases: Sequence[ManifestCase]) -> None:
    first: dict[str, ManifestCase] = {}
    for case in cases:
        other = first.setdefault(case.patient_id, case)
        if roles[case.case_id] != roles[other.case_id]:
            raise DataError(
                f"{path}: patient {case.patient_id} is in {roles[other.case_id]} (case {other.case_id}) "
                f"and {roles[case.case_id]} (case {case.case_id}); give all cases of a patient one role"
            )


def _split_path(folder: Path, name: str) -> Path:
    if not _SAFE_NAME.fullmatch(name):
        raise DataError(f"split name {name!r} is no safe file name; use letters, digits, '.', '_' and '-'")
    return folder / "splits" / f"{name}.csv"


def _first_repeat(case_ids: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for case_id in case_ids:
        if case_id.lower() in seen:
            return case_id
        seen.add(case_id.lower())
    return None


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{'case' if len(names) == 1 else 'cases'} {', '.join(names[:limit])}{more}"


def _read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, cells without surrounding blanks) of a CSV file with exactly these columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark first
    except FileNotFoundError:
        raise DataError(f"{path}: no such manifest file; `data_manifests/README.md` describes it") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; save it as CSV in UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [cell.strip() for cell in next(reader, [])]
    _check_header(path, header, columns)
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise DataError(f"{path}: line {reader.line_num}: {len(cells)} values for {len(header)} columns")
        yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))


def _check_header(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    if not header:
        raise DataError(f"{path}: the file is empty; its first line must be {','.join(columns)}")
    missing = [name for name in columns if name not in header]
    unknown = [name for name in header if name not in columns]
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    complaints = [
        f"{what} column {', '.join(map(repr, names))}"
        for what, names in (("missing", missing), ("unknown", unknown), ("repeated", twice))
        if names
    ]
    if complaints:
        raise DataError(f"{path}: {'; '.join(complaints)}; the columns are {','.join(columns)}")


def _write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
