"""`ldct manifest`: write the manifest of a folder of scans, and check one against its files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipeline import tracking
from pipeline.data.archives import (
    Layout,
    Pair,
    Scan,
    check_manifest,
    make_splits,
    manifest_case,
    patients_in_both,
    scan_archive,
)
from pipeline.errors import DataError
from pipeline.inference.output.pseudonyms import Pseudonyms, load_secret, secret_path
from pipeline.manifest import ManifestCase, write_manifest, write_split

_DONE: Final = 0
_NOTHING: Final = 1
_SOME_REFUSED: Final = 3


def scan(folder: Path, target: Path) -> int:
    """Write the manifest of the pairs below `folder` and print a line per series.

    Args:
        folder: root of the scans; the manifest's paths are relative to it.
        target: the manifest folder.

    Returns:
        Exit code: 0 all pairs told, 3 some series refused, 1 no pair.

    Raises:
        DataError: the folder is missing; or `target` is a manifest already, or holds the pseudonym secret.
    """
    cases_csv = target / "cases.csv"
    if cases_csv.exists():
        raise DataError(f"{cases_csv}: a manifest already; remove it, or name another folder")
    console = Console(highlight=False, soft_wrap=True)
    secret = secret_path(os.environ, root=tracking.project_root(), apart_from=(target,))
    pseudonyms = Pseudonyms(load_secret(secret))
    with _progress(console) as (progress, task):
        found = scan_archive(
            folder,
            pseudonym=pseudonyms.name,
            on_file=lambda count: progress.update(task, description="files", completed=count),
        )
        progress.update(task, description="digests", completed=0, total=len(found.pairs))
        cases = []
        for pair in found.pairs:
            cases.append(manifest_case(pair, folder))
            progress.advance(task)
            console.print(_line(pair), markup=False)
    _print_rest(console, found)
    if not cases:
        console.print("manifest: no pairs, nothing written")
        return _NOTHING
    layouts = {pair.case_id: pair.layout for pair in found.pairs}
    splits = make_splits(cases, layouts)
    for name, roles in splits.items():
        write_split(target, name, roles)
    write_manifest(target, cases)
    _print_notes(console, found, cases, layouts)
    console.print(
        f"manifest: {len(cases)} pairs, {len(found.refused)} refused, {len(found.unpaired)} unpaired, "
        f"{found.skipped} not CT; splits: {', '.join(splits)}; wrote {target}",
        markup=False,
    )
    return _SOME_REFUSED if found.refused else _DONE


def check(manifest: Path, root: Path) -> int:
    """Check a manifest against the images below `root` and print a line per fault.

    Returns:
        Exit code: 0 sound (there may be warnings), 1 faults.

    Raises:
        DataError: `cases.csv` cannot be read, or `root` is missing.
    """
    console = Console(highlight=False, soft_wrap=True)
    faults = warnings = 0
    with _progress(console) as (progress, task):
        for remark in check_manifest(
            manifest,
            root,
            on_case=lambda done, total: progress.update(
                task, description="cases", completed=done, total=total
            ),
        ):
            faults += remark.is_fault
            warnings += not remark.is_fault
            kind = "fault  " if remark.is_fault else "warning"
            console.print(f"{kind}  {remark.about}  {remark.message}", markup=False)
    console.print(f"manifest: {faults} faults, {warnings} warnings in {manifest}", markup=False)
    return _NOTHING if faults else _DONE


@contextmanager
def _progress(console: Console) -> Iterator[tuple[Progress, TaskID]]:
    """A bar where the output is a terminal."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        yield progress, progress.add_task("files", total=None)


def _line(pair: Pair) -> str:
    return (
        f"pair      {pair.case_id}  {pair.anatomy}, {100 * pair.dose_fraction:g} % dose, {pair.noise} noise "
        f"({pair.layout}): {pair.normal_dose.folder} + {pair.low_dose.folder}"
    )


def _print_rest(console: Console, found: Scan) -> None:
    for refusal in found.refused:
        console.print(f"refused   {', '.join(refusal.places)}  {refusal.reason}", markup=False)
    for series in found.unpaired:
        console.print(f"unpaired  {series.folder}", markup=False)


def _print_notes(
    console: Console, found: Scan, cases: list[ManifestCase], layouts: Mapping[str, Layout]
) -> None:
    shared = patients_in_both(cases, layouts)
    if shared is not None:
        console.print(
            "note: 13 of the 20 challenge test patients are in the TCIA collection too; ids in both here: "
            f"{', '.join(shared) or 'none'}; the published splits need a manifest per collection",
            markup=False,
        )
    if Layout.GENERIC in layouts.values():
        console.print(
            "note: ids are pseudonyms, but cases.csv holds the archive's own paths; keep it out of git "
            "unless no path names a person"
        )
    if found.nameless:
        console.print(
            "note: PatientID names nobody in some studies, so each of these counts as a patient of its own; "
            "where several are one person's, correct patient_id and the splits, then run ldct manifest check"
        )
