"""Pairs of a normal dose and simulated lower doses: what `series.json` says of them, and their manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.dicom import Verdict
from pipeline.inference.output.journal import Json, SeriesRecord
from pipeline.manifest import ManifestCase, holdout_roles, write_manifest, write_split

NORMAL_DOSE: Final = "normal_dose"
MANIFEST: Final = "manifest"
SPLIT: Final = "holdout"


@dataclass(frozen=True)
class SimulatedDose:
    """One low-dose partner.

    Attributes:
        dose_fraction: dose over the normal dose.
        folder: its folder below the series folder.
        sha256: `folder_sha256` of that folder.
        predicted_sd_hu: plain SD in uniform tissue that the physics foretells: root of the normal dose's
            squared and that of the added noise squared; None where there is no such tissue.
        achieved_sd_hu: the same, measured in the images before they are rounded to stored values.
    """

    dose_fraction: float
    folder: str
    sha256: str
    predicted_sd_hu: float | None
    achieved_sd_hu: float | None


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """How the lower doses of one series were simulated: `simulated` in its `series.json`.

    Attributes:
        patient: pseudonym, from PatientID where that tells patients apart, else from the study.
        anatomy: body part, lower case, safe in file names.
        photons_per_ray: at the centre of the beam, at normal dose and mean exposure, without attenuation.
        flux_from: `image`, `tags` or `given`.
        kernel_from: `image`, `given`, or `assumed` where the image does not tell.
        kernel_cutoff_per_mm: where the apodisation of the ramp ends; None: never.
        kernel_boost: share by which it raises high frequencies (`projector.Kernel`).
        kernel_distance: L1 misfit of the kernel's noise spectrum; None for a kernel that was not fitted.
        uniform_regions: regions of uniform tissue that noise was measured in.
        warnings: what a reader of the result has to know, by reason code.
        normal_dose_sha256: `folder_sha256` of the normal dose.
        doses: the partners, in the order asked for.
    """

    patient: str
    anatomy: str
    photons_per_ray: float
    flux_from: str
    kernel_from: str
    kernel_cutoff_per_mm: float | None
    kernel_boost: float
    kernel_distance: float | None
    uniform_regions: int
    warnings: Mapping[str, str]
    normal_dose_sha256: str
    doses: tuple[SimulatedDose, ...]

    def to_json(self) -> Json:
        """As `series.json` holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Simulated:
        """What `to_json` wrote."""
        doses = tuple(SimulatedDose(**dose) for dose in content["doses"])
        return cls(**{**content, "doses": doses})


def dose_folder(dose_fraction: float) -> str:
    """`dose_0.25`: where the partner at a quarter of the dose lies."""
    return f"dose_{dose_fraction:g}"


def write_pairs(target: Path, finished: Sequence[SeriesRecord], *, seed: int) -> None:
    """Write the manifest of all pairs in `target`, or remove it when there is none.

    A series that is no regular grid has partners but no case: `ldct ingest` stores volumes. Both files are
    written aside and then renamed, so that a full disk leaves those of the last run.

    Args:
        target: folder that the manifest lies in, and that its paths are relative to.
        finished: records of the series that are there in full.
        seed: of the hold-out split, see `manifest.holdout_roles`.
    """
    manifest = target / MANIFEST / "cases.csv"
    split = target / MANIFEST / "splits" / f"{SPLIT}.csv"
    cases = [case for record in finished if record.verdict == Verdict.DONE for case in _cases_of(record)]
    if not cases:
        for path in (split, manifest):
            path.unlink(missing_ok=True)
        return
    staged = target / f".{MANIFEST}"
    shutil.rmtree(staged, ignore_errors=True)  # of a run that was killed; only one at a time writes the views
    try:
        write_manifest(staged, cases)
        write_split(staged, SPLIT, holdout_roles(cases, seed))
        split.parent.mkdir(parents=True, exist_ok=True)
        split.unlink(missing_ok=True)  # a split that is missing is noticed, one of other cases may not be
        (staged / manifest.name).replace(manifest)
        (staged / "splits" / split.name).replace(split)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _cases_of(record: SeriesRecord) -> Iterator[ManifestCase]:
    """A case per dose."""
    simulated = Simulated.from_json(record.simulated or {})
    parent = f"{record.study}/{record.series}"
    for dose in simulated.doses:
        yield ManifestCase(
            case_id=f"{record.series}-d{100 * dose.dose_fraction:g}",
            patient_id=simulated.patient,
            anatomy=simulated.anatomy,
            dose_fraction=dose.dose_fraction,
            noise="shared",
            normal_dose=f"{parent}/{NORMAL_DOSE}",
            low_dose=f"{parent}/{dose.folder}",
            normal_dose_sha256=simulated.normal_dose_sha256,
            low_dose_sha256=dose.sha256,
        )
