"""Ingest: the cases that manifests list, read, checked and stored in HU, with a picture per case."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from pipeline.config import Layout, load_settings
from pipeline.config.ingest import IngestSettings, SourceSettings
from pipeline.config.labels import load_labels
from pipeline.data.cases import INDEX, Case, write_index
from pipeline.data.fingerprint import (
    CaseStatistics,
    count_hu,
    read_fingerprint,
    write_fingerprint,
    write_statistics,
)
from pipeline.data.ingestion import ingest_case
from pipeline.errors import ConfigError, DataError
from pipeline.figures import Panel, save_panels
from pipeline.hu import HUWindow, display_window
from pipeline.manifest import ROLES, ManifestCase, digest_of, file_sha256, read_manifest, read_split
from pipeline.metrics.noise import global_noise_sd_hu
from pipeline.stages.processes import in_processes


@dataclass(frozen=True)
class Job:
    """What a worker is told."""

    source: SourceSettings
    listed: ManifestCase
    role: str
    root: Path
    mask_values: frozenset[int]
    colours: Mapping[int, tuple[int, int, int]]


@dataclass(frozen=True)
class Ingested:
    """What a worker reports of a case that it stored."""

    case: Case
    digests: dict[str, str]


def run(preset: str) -> None:
    """Ingest the sources of a preset into `data/<preset>/cases`, all of them or nothing.

    Raises:
        ConfigError: a setting is unknown or invalid, or names an environment variable that is not set; two
            sources have one name; or the label table is invalid.
        DataError: a manifest or split is invalid, two sources list one case id or one patient, or a case
            cannot be used.
    """
    layout = Layout(preset)
    config = layout.config("ingest")
    settings = load_settings(config, IngestSettings)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    jobs = _jobs(config, settings.sources)
    with _staged(layout.cases) as folder:
        outcomes = track(
            in_processes(partial(_ingest, folder), jobs, settings.workers),
            "ingest",
            total=len(jobs),
            console=console,
            disable=not console.is_terminal,
        )
        done: dict[str, Ingested] = {}
        for job, outcome in outcomes:
            if isinstance(outcome, Ingested):
                done[job.listed.case_id] = outcome
            else:
                console.print(f"{job.listed.case_id}: {outcome}", style="red", markup=False)
        _check_complete(jobs, done)
        _write_summary(folder, [done[job.listed.case_id] for job in jobs])
    console.print(f"ingest: {len(jobs)} cases in {layout.cases}", markup=False)


def _jobs(config: Path, sources: Sequence[SourceSettings]) -> list[Job]:
    """A job for each case, in the order of sources and manifests."""
    labels = load_labels()
    colours = {label.value: label.rgb for label in labels.labels}
    mask_values = frozenset((*colours, *labels.outside))
    _check_names(config, sources)
    jobs = []
    for source in sources:
        root = _resolve_root(config, source.root)
        cases = read_manifest(source.manifest)
        roles = read_split(source.manifest, source.split, cases)
        jobs += [Job(source, case, roles[case.case_id], root, mask_values, colours) for case in cases]
    _check_case_ids(jobs)
    _check_patients(jobs)
    return jobs


def _check_names(config: Path, sources: Sequence[SourceSettings]) -> None:
    first: dict[str, SourceSettings] = {}
    for source in sources:
        other = first.setdefault(source.name, source)
        if other is not source:
            raise ConfigError(
                f"{config}: sources: {other.manifest} and {source.manifest} are both called {source.name}; "
                "name each once, or copy one manifest to a folder of another name"
            )


def _check_case_ids(jobs: Sequence[Job]) -> None:
    """Within a manifest they are unique already; capitals do not count."""
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(job.listed.case_id.lower(), job)
        if other is not job:
            raise DataError(
                f"case {job.listed.case_id} is in {other.source.manifest} and in {job.source.manifest}; "
                "give it another case_id in one of them"
            )


def _check_patients(jobs: Sequence[Job]) -> None:
    """Within a manifest a patient has one role already (`read_split`)."""
    first: dict[str, Job] = {}
    for job in jobs:
        patient = job.listed.patient_id
        other = first.setdefault(patient, job)
        if other.source is not job.source:
            raise DataError(
                f"patient {patient} is in {other.source.manifest} ({other.role}) and in "
                f"{job.source.manifest} ({job.role}); if they are different people, rename one (patient_id), "
                "else list all cases of the patient in one manifest, with one role"
            )


def _check_complete(jobs: Sequence[Job], done: Mapping[str, Ingested]) -> None:
    bad = [job for job in jobs if job.listed.case_id not in done]
    if bad:
        manifests = dict.fromkeys(str(job.source.manifest / "cases.csv") for job in bad)
        raise DataError(
            f"{', '.join(manifests)}: {len(bad)} of {len(jobs)} cases cannot be used, each named above; "
            "repair or remove them (nothing was written)"
        )


def _resolve_root(config: Path, root: str) -> Path:
    if root.startswith("$"):
        value = os.environ.get(root[1:], "")
        if not value:
            raise ConfigError(f"{config}: root: {root} is not set; export {root[1:]}=<folder of the images>")
        root = value
    if not Path(root).is_dir():
        raise ConfigError(f"{config}: root: {root} is no folder; name the folder of the manifest's images")
    return Path(root)


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder that takes the place of `target` only when everything in it is complete."""
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _ingest(folder: Path, job: Job) -> Ingested | str:
    """Store one case and look at it, or say in one line why it cannot be used; runs in a worker process."""
    try:
        stored = ingest_case(
            job.listed, job.role, job.root, folder, source=job.source.name, mask_values=job.mask_values
        )
    except DataError as bad:
        return str(bad)
    case = stored.case
    _save_picture(folder / "qc" / f"{case.case_id}.png", case, job.colours)
    normal_dose = case.normal_dose().astype(np.float32)
    low_dose = case.low_dose().astype(np.float32) if case.has_low_dose else None
    statistics = CaseStatistics(
        kernels=stored.kernels,
        slice_thickness_mm=stored.slice_thickness_mm,
        noise_sd_hu={
            "normal_dose": global_noise_sd_hu(normal_dose, normal_dose),
            "low_dose": None if low_dose is None else global_noise_sd_hu(normal_dose, low_dose),
        },
        hu_counts=count_hu(case.normal_dose()),
    )
    write_statistics(case, statistics)
    return Ingested(case, stored.digests)


def _write_summary(folder: Path, cases: Sequence[Ingested]) -> None:
    write_index(folder, [one.case for one in cases])
    digests = {name: digest for one in cases for name, digest in one.digests.items()}
    sha256 = digest_of({**digests, INDEX: file_sha256(folder / INDEX)})
    by_role = {role: [one.case for one in cases if one.case.role == role] for role in ROLES}
    roles = {role: read_fingerprint(some) for role, some in by_role.items() if some}
    write_fingerprint(folder, sha256, roles)


def _save_picture(path: Path, case: Case, colours: Mapping[int, tuple[int, int, int]]) -> None:
    """The middle slice: normal dose; low dose and their difference; the mask; as far as there are any."""
    middle = case.shape[0] // 2
    window = display_window(case.anatomy)
    normal_dose = case.normal_dose()[middle]
    panels = [Panel(normal_dose, window, "normal dose")]
    if case.has_low_dose:
        low_dose = case.low_dose()[middle]
        difference = low_dose.astype(np.float32) - normal_dose
        limit = max(10.0, float(np.percentile(np.abs(difference), 99)))
        panels += [
            Panel(low_dose, window, f"low dose ({case.dose_fraction:.0%})"),
            Panel(difference, HUWindow(-limit, limit), "low - normal dose", diverging=True),
        ]
    if case.has_mask:
        labels = case.mask()[middle]
        panels.append(Panel(normal_dose, window, "mask", labels=labels, colours=colours))
    path.parent.mkdir(exist_ok=True)
    save_panels(
        path, [panels], title=f"{case.case_id}: {case.anatomy}, slice {middle + 1} of {case.shape[0]}"
    )
