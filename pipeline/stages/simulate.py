"""Simulate: phantom patients, scanned at two doses and written as a scanner would."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from pipeline import __version__
from pipeline.config import Layout, load_settings
from pipeline.config.clock import fixed_clock
from pipeline.config.simulate import Patients, Region, SimulateSettings
from pipeline.data.volumes import write_volume
from pipeline.dicom import Geometry, deterministic_uid, write_ct_series
from pipeline.dose.scanner import Scanner
from pipeline.manifest import ManifestCase, folder_sha256, write_manifest, write_split
from pipeline.projector import ParallelBeam
from pipeline.simulate import REGIONS, Phantom, make_phantom
from pipeline.simulate.painting import Factors
from pipeline.stages.processes import in_processes

_SPLIT = "holdout"
_INCOMING = "incoming"
_KVP = 120.0
_ROTATION_S = 0.5


@dataclass(frozen=True)
class Job:
    """One patient to make; what a worker is told."""

    patient_id: str
    region: Region
    role: str
    entropy: tuple[int, int]
    settings: SimulateSettings
    study_datetime: datetime
    folder: Path


def run(preset: str) -> None:
    """Make a preset's phantom patients, their manifest and the incoming low-dose series.

    Earlier outputs go first and the manifest comes last, so an interrupted run is never taken for data.

    Raises:
        ConfigError: a setting or `SOURCE_DATE_EPOCH` is invalid.
    """
    layout = Layout(preset)
    settings = load_settings(layout.config("simulate"), SimulateSettings)
    jobs = _jobs(settings, layout)
    for output in (layout.manifest, layout.simulated, layout.incoming):
        shutil.rmtree(output, ignore_errors=True)
    layout.simulated.mkdir(parents=True)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    factors = {}
    done = track(
        in_processes(_simulate, jobs, settings.workers, _compute_alone),
        "simulate",
        total=len(jobs),
        console=console,
        disable=not console.is_terminal,
    )
    for job, known in done:
        factors[job.patient_id] = known
        if not console.is_terminal:
            console.print(f"simulate: {job.patient_id} ({len(factors)} of {len(jobs)})", markup=False)
    pairs = [job for job in jobs if job.role != _INCOMING]
    _write_factors(
        layout.simulated / "factors.csv", {job.patient_id: factors[job.patient_id] for job in pairs}
    )
    write_manifest(layout.manifest, [_manifest_case(job) for job in pairs])
    write_split(layout.manifest, _SPLIT, {job.patient_id: job.role for job in pairs})
    console.print(f"simulate: {len(pairs)} pairs in {layout.simulated}", markup=False)


def _jobs(settings: SimulateSettings, layout: Layout) -> list[Job]:
    """Every patient, numbered through each region; the seed of one does not depend on how many there are."""
    study_datetime = _study_datetime(settings.study_datetime)
    numbers = dict.fromkeys(REGIONS, 0)
    jobs = []
    for role in Patients.model_fields:
        parent = layout.incoming if role == _INCOMING else layout.simulated
        for region, count in getattr(settings.patients, role).model_dump().items():
            for _ in range(count):
                numbers[region] += 1
                patient_id = f"phantom-{region}-{numbers[region]:03d}"
                entropy = (REGIONS.index(region), numbers[region])
                folder = parent / patient_id
                jobs.append(Job(patient_id, region, role, entropy, settings, study_datetime, folder))
    return jobs


def _study_datetime(default: datetime) -> datetime:
    """The injected clock where it is set, else the setting."""
    clock = fixed_clock(os.environ)
    return default if clock is None else clock.replace(tzinfo=None)


def _compute_alone() -> None:
    torch.set_num_threads(1)  # the processes share the cores


def _simulate(job: Job) -> Factors:
    """Make, scan and write one patient."""
    settings, protocol = job.settings, job.settings.protocols[job.region]
    spacing_mm = (protocol.slice_increment_mm, protocol.pixel_mm, protocol.pixel_mm)
    shape = (protocol.slices, settings.matrix, settings.matrix)
    anatomy, normal_noise, low_noise = (
        np.random.default_rng(seed) for seed in np.random.SeedSequence((settings.seed, *job.entropy)).spawn(3)
    )
    phantom = make_phantom(job.region, anatomy, shape=shape, spacing_mm=spacing_mm)
    beam = ParallelBeam(settings.matrix, protocol.pixel_mm, settings.views)
    scanner = Scanner(beam, protocol.photons_per_ray, settings.hann_cutoff)
    line_integrals = scanner.measure(phantom.hu)
    low_scan = scanner.expose(line_integrals, settings.dose_fraction, low_noise)
    geometry = _geometry(spacing_mm, shape)
    if job.role == _INCOMING:
        (low_dose,) = scanner.reconstruct([low_scan])
        _write_series(job, job.folder, low_dose, geometry, settings.dose_fraction)
        return phantom.factors
    normal_scan = scanner.expose(line_integrals, 1.0, normal_noise)
    normal_dose, low_dose, truth = scanner.reconstruct([normal_scan, low_scan, line_integrals])
    _write_series(job, job.folder / "normal_dose", normal_dose, geometry, 1.0)
    _write_series(job, job.folder / "low_dose", low_dose, geometry, settings.dose_fraction)
    _write_truth(job.folder, phantom, truth, geometry)
    return phantom.factors


def _geometry(spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]) -> Geometry:
    """Axial slices of a patient on the back, head first, centred on the gantry axis."""
    corner = [-(count - 1) / 2 * step for count, step in zip(shape[1:], spacing_mm[1:], strict=True)]
    return Geometry(
        origin_mm=(corner[1], corner[0], 0.0),
        row_cosines=(1.0, 0.0, 0.0),
        column_cosines=(0.0, 1.0, 0.0),
        spacing_mm=spacing_mm,
        shape=shape,
    )


def _write_series(
    job: Job,
    folder: Path,
    hu: np.ndarray[tuple[int, ...], np.dtype[np.floating]],
    geometry: Geometry,
    dose: float,
) -> None:
    settings, protocol = job.settings, job.settings.protocols[job.region]
    exposure_mas = protocol.exposure_mas * dose
    identity = _identity(job)
    name = "normal dose" if dose == 1 else f"{100 * dose:.4g}% dose"
    write_ct_series(
        hu,
        geometry,
        folder,
        patient_id=job.patient_id,
        study_uid=deterministic_uid(identity, "study"),
        series_uid=deterministic_uid(identity, "series", repr(dose)),
        frame_of_reference_uid=deterministic_uid(identity, "frame of reference"),
        uid_seed=identity,
        series_number=1 if dose == 1 else 2,
        series_description=f"{job.region} phantom, {name}",
        study_datetime=job.study_datetime,
        body_part=job.region.upper(),
        kernel=f"HANN{100 * settings.hann_cutoff:.0f}",
        kvp=_KVP,
        tube_current_ma=exposure_mas / _ROTATION_S,
        exposure_mas=exposure_mas,
        slice_thickness_mm=settings.slice_thickness_mm,
        comment=f"Dose fraction {dose:g}, seed {settings.seed}.",
    )


def _identity(job: Job) -> str:
    """Canonical text of all that decides a patient's images but their dose, as a part of deterministic UIDs.

    So one UID never names two contents: presets share seeds and patient ids, and protocols get edited.
    """
    settings = job.settings
    return json.dumps(
        {
            "patient_id": job.patient_id,
            "entropy": [settings.seed, *job.entropy],
            "protocol": settings.protocols[job.region].model_dump(),
            "matrix": settings.matrix,
            "views": settings.views,
            "hann_cutoff": settings.hann_cutoff,
            "slice_thickness_mm": settings.slice_thickness_mm,
            "study_datetime": job.study_datetime.isoformat(),
            "product_version": __version__,
        },
        sort_keys=True,
    )


def _write_truth(
    folder: Path,
    phantom: Phantom,
    truth_hu: np.ndarray[tuple[int, ...], np.dtype[np.floating]],
    geometry: Geometry,
) -> None:
    write_volume(folder / "labels.nii", phantom.labels, geometry.affine_ras, np.uint8)
    write_volume(folder / "truth.nii", np.rint(truth_hu), geometry.affine_ras, np.int16)


def _write_factors(path: Path, factors: dict[str, Factors]) -> None:
    """One row per patient; a factor that a region does not have stays empty."""
    columns = list(dict.fromkeys(name for known in factors.values() for name in known))
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["patient_id", *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"patient_id": patient_id, **known} for patient_id, known in factors.items())
    temporary.replace(path)


def _manifest_case(job: Job) -> ManifestCase:
    return ManifestCase(
        case_id=job.patient_id,
        patient_id=job.patient_id,
        anatomy=job.region,
        dose_fraction=job.settings.dose_fraction,
        noise="independent",
        normal_dose=f"{job.patient_id}/normal_dose",
        low_dose=f"{job.patient_id}/low_dose",
        mask=f"{job.patient_id}/labels.nii",
        truth=f"{job.patient_id}/truth.nii",
        normal_dose_sha256=folder_sha256(job.folder / "normal_dose"),
        low_dose_sha256=folder_sha256(job.folder / "low_dose"),
    )
