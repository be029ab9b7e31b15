"""`ldct inspect FOLDER`: what a folder of DICOM holds, and what each series is fit for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console, Group
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from pipeline.dicom import Code, Task, Verdict
from pipeline.inference.inspection import (
    NAMED,
    Defect,
    Inspection,
    Judgement,
    SeriesSummary,
    inspect_folder,
)
from pipeline.inference.outcomes import UNFIT

_HEADINGS: Final = ("#", "series", "image", "dose", "verdict")
_FOLDER_WIDTH: Final = 16
"""So few characters of a line the names of folders can do with."""
_BORDERS_WIDTH: Final = 3 * len(_HEADINGS) + 1

_JSON_FORMAT: Final = 1
"""Rises when a key of `--json` changes its meaning or goes."""

_STYLES: Final = {
    Verdict.DONE: "green",
    Verdict.SLICEWISE: "yellow",
    Verdict.SKIPPED: "dim",
    Verdict.REFUSED: "red",
    Verdict.FAILED: "red",
}


def run(folder: Path, *, as_json: bool = False) -> int:
    """Read the headers below `folder` and print a table of its series, or JSON.

    Args:
        folder: searched to any depth.
        as_json: print one JSON object instead of the table.

    Returns:
        Exit code: 0 every CT series can be denoised, 3 some series or files are refused or failed, 1 no
        series can be denoised.

    Raises:
        DataError: the folder is missing or a file.
    """
    found = _inspect(folder)
    console = Console(highlight=False)
    if as_json:
        console.out(_json(found), highlight=False)
    else:
        _show(found, console)
    return found.exit_code


def _inspect(folder: Path) -> Inspection:
    """With a count of files on standard error where that is a terminal; standard output holds the result."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.completed} files read"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("files", total=None)
        return inspect_folder(folder, on_file=lambda count: progress.update(task, completed=count))


def _json(found: Inspection) -> str:
    document = {"format": _JSON_FORMAT, "exit_code": found.exit_code, **asdict(found)}
    return json.dumps(document, indent=2, allow_nan=False)


def _show(found: Inspection, console: Console) -> None:
    if found.series:
        rows = [_row(one) for one in found.series]
        wide = _width(rows) <= console.width
        console.print(_table(rows) if wide else _blocks(rows))
    for line in (*_defects(found), *_strays(found), _total(found)):
        console.print(line, markup=False, soft_wrap=True)


def _row(one: SeriesSummary) -> list[Text]:
    """The cells of a series under `_HEADINGS`."""
    return [Text(str(one.number)), _what(one), _grid(one), _dose(one), _verdicts(one)]


def _width(rows: Sequence[Sequence[Text]]) -> int:
    """Characters that a table needs at least: only folder names may be broken within a word."""
    return _BORDERS_WIDTH + sum(_column_width(rows, column) for column in range(len(_HEADINGS)))


def _column_width(rows: Sequence[Sequence[Text]], column: int) -> int:
    if column == _HEADINGS.index("series"):
        return _FOLDER_WIDTH
    words = [word for row in rows for word in row[column].plain.split()]
    return max(map(len, [_HEADINGS[column], *words]))


def _table(rows: Sequence[Sequence[Text]]) -> Table:
    table = Table(show_lines=True, box=box.HORIZONTALS)
    for column, heading in enumerate(_HEADINGS):
        table.add_column(heading, min_width=_column_width(rows, column), overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _blocks(rows: Sequence[Sequence[Text]]) -> Group:
    """For terminals too narrow for a table, which would lose its last column there."""
    lines: list[Text] = []
    for number, *cells in rows:
        lines += [Text("series ") + number, *filter(None, cells), Text()]
    return Group(*lines)


def _what(one: SeriesSummary) -> Text:
    scan = " ".join(filter(None, [one.modality, one.body_part]))
    scanner = ", ".join(filter(None, [one.manufacturer, one.kernel and f"kernel {one.kernel}"]))
    folder = f"{one.folder} (part {one.part})" if one.part else one.folder
    frames = f"frames of {one.files} {'file' if one.files == 1 else 'files'}" if one.multi_frame else ""
    return _lines(folder, scan, frames, scanner, one.transfer_syntax)


def _grid(one: SeriesSummary) -> Text:
    """Slices, rows and columns with the spacing in the same order; the step between slices only of a grid."""
    steps_mm = [f"{step:.3g}" for step in (one.slice_spacing_mm, *(one.pixel_spacing_mm or ())) if step]
    spacing = f"{' x '.join(steps_mm)} mm" if steps_mm else "no pixel spacing"
    thickness = "" if one.slice_thickness_mm is None else f"{one.slice_thickness_mm:.3g} mm thick"
    grid = "regular grid" if one.no_grid is None else f"no grid: {one.no_grid}"
    return _lines(f"{one.slices} x {one.rows} x {one.columns}", spacing, thickness, grid)


def _dose(one: SeriesSummary) -> Text:
    """Silent about images that are no CT scan."""
    if not one.is_ct:
        return Text()
    voltage = "no kVp" if one.kvp is None else f"{one.kvp:g} kVp"
    if one.exposure_mas is None:
        return _lines(voltage, "no mAs")
    least, most = f"{one.exposure_mas.least:.4g}", f"{one.exposure_mas.most:.4g}"
    spread = "" if least == most else f"{least} to {most}"
    return _lines(voltage, f"{one.exposure_mas.mean:.4g} mAs", spread)


def _verdicts(one: SeriesSummary) -> Text:
    """Tasks with one verdict for one reason share a line."""
    tasks: dict[Judgement, list[Task]] = {}
    for task, judgement in one.tasks.items():
        tasks.setdefault(judgement, []).append(task)
    lines = []
    for judgement, alike in tasks.items():
        reason = f"{judgement.verdict} {judgement.code or ''}".rstrip()
        lines.append(Text(reason, style=_STYLES[judgement.verdict]))
        if len(tasks) > 1:
            lines.append(Text(f"for {', '.join(alike)}"))
    return Text("\n").join(lines)


def _lines(*parts: str) -> Text:
    return Text("\n".join(filter(None, parts)))


def _defects(found: Inspection) -> Iterator[str]:
    """Series with the same code and message share a line; what is no CT scan has its code in the table."""
    alike: dict[tuple[Code, str], list[tuple[int, Defect]]] = {}
    for one in filter(lambda series: series.is_ct, found.series):
        for defect in one.defects:
            alike.setdefault((defect.code, defect.message), []).append((one.number, defect))
    for (code, message), group in alike.items():
        series = _first_of([str(number) for number, _ in group], len(group))
        names = [name for _, defect in group for name in defect.files]
        files = _first_of(names, sum(defect.file_count for _, defect in group))
        yield f"series {series}  {code}  {message}; files: {files}"


def _strays(found: Inspection) -> Iterator[str]:
    for defect in found.other_files:
        verdict = defect.verdicts[Task.DENOISE]
        example = f"; {defect.message}" if verdict in UNFIT else ""
        yield f"{verdict}  {defect.code}  files: {_first_of(defect.files, defect.file_count)}{example}"


def _first_of(names: Sequence[str], count: int) -> str:
    rest = count - len(names[:NAMED])
    return f"{', '.join(names[:NAMED])}{f' and {rest} more' if rest else ''}"


def _total(found: Inspection) -> str:
    counts = Counter(one.tasks[Task.DENOISE].verdict for one in found.series)
    series = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    strays = sum(one.file_count for one in found.other_files)
    total = (
        f"inspect: {found.files} files, {strays} of them no image; {len(found.series)} series, "
        f"to denoise: {series or 'none'}"
    )
    if not found.has_ct:
        return f"{total}; no CT here, name a folder that holds CT images"
    return total if found.can_denoise else f"{total}; ldct predict would do nothing here, see above why"
