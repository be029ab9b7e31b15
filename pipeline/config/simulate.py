"""Settings of `ldct simulate`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.base import Settings

Region = Literal["head", "chest", "abdomen"]


class PatientCounts(Settings):
    """How many phantoms of each region."""

    head: int = Field(ge=0)
    chest: int = Field(ge=0)
    abdomen: int = Field(ge=0)


class Patients(Settings):
    """How many phantoms for which purpose.

    Attributes:
        train, validation, test: roles of the split `holdout`, at both doses with labels and truth.
        incoming: low-dose series alone, for `ldct predict`.
    """

    train: PatientCounts
    validation: PatientCounts
    test: PatientCounts
    incoming: PatientCounts


class Protocol(Settings):
    """How a region is scanned.

    Attributes:
        slices: slices per patient.
        slice_increment_mm: from slice to slice.
        pixel_mm: side of a pixel.
        photons_per_ray: photons per detector cell and view without a patient, at normal dose.
        exposure_mas: what the DICOM header states for the normal dose.
    """

    slices: int = Field(ge=1)
    slice_increment_mm: float = Field(gt=0)
    pixel_mm: float = Field(gt=0)
    photons_per_ray: float = Field(gt=0)
    exposure_mas: float = Field(gt=0)


class SimulateSettings(Settings):
    """Which phantoms to make and how to scan them.

    Attributes:
        seed: the same seed gives the same bytes.
        study_datetime: date and time in the DICOM headers; `SOURCE_DATE_EPOCH` in the environment (seconds,
            UTC) comes first.
        patients: how many of each region and role.
        protocols: the scan of each region.
        matrix: rows and columns.
        views: projections over 180°, a multiple of four.
        hann_cutoff: reconstruction kernel: where its Hann window ends, in units of the Nyquist frequency.
        dose_fraction: dose of the low-dose scan over that of the normal-dose scan.
        slice_thickness_mm: what the DICOM header states.
        workers: processes that make patients side by side.
    """

    seed: int = Field(ge=0)
    study_datetime: datetime
    patients: Patients
    protocols: dict[Region, Protocol]
    matrix: int = Field(ge=32, le=1024)
    views: int = Field(ge=4, multiple_of=4)
    hann_cutoff: float = Field(gt=0)
    dose_fraction: float = Field(gt=0, lt=1)
    slice_thickness_mm: float = Field(gt=0)
    workers: int = Field(ge=1)

    @field_validator("study_datetime")
    @classmethod
    def _without_zone(cls, value: datetime) -> datetime:
        if value.tzinfo is not None:
            raise ValueError("give the time without a zone, e.g. 2025-01-01 08:00:00")
        return value

    @model_validator(mode="after")
    def _check_counts(self) -> SimulateSettings:
        for role in ("train", "validation", "test"):
            if not sum(getattr(self.patients, role).model_dump().values()):
                raise ValueError(f"patients.{role} has no phantom; give one region a count of 1 or more")
        for role in Patients.model_fields:
            counts = getattr(self.patients, role).model_dump()
            for region, count in counts.items():
                if count and region not in self.protocols:
                    raise ValueError(f"patients.{role} has {region} phantoms, but protocols has no {region}")
        return self
