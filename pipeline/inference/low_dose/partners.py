"""One series in a second pass: noise for all doses at once, written, read back and measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.archives.identity import names_a_patient
from pipeline.dicom import CTSlice, DerivedSeriesWriter, SeriesEntry, read_slices, simulated_dose
from pipeline.dose.field_of_view import field_of_view
from pipeline.dose.insertion import insert_noise
from pipeline.hu import body_region
from pipeline.inference.low_dose.method import Method
from pipeline.inference.low_dose.pairs import (
    NORMAL_DOSE,
    Simulated,
    SimulatedDose,
    dose_folder,
)
from pipeline.inference.low_dose.scan_model import ScanModel
from pipeline.inference.output.journal import PREVIEW
from pipeline.inference.output.pseudonyms import Pseudonyms
from pipeline.inference.preview import save_dose_preview
from pipeline.inference.read_back import check_slice
from pipeline.inference.survey import Survey
from pipeline.inference.treatment import Measured, Stopwatch
from pipeline.inference.untouched import link_files
from pipeline.manifest import folder_sha256

PATIENT_BY_STUDY: Final = "PATIENT_BY_STUDY"
"""Reason code of a series whose PatientID is empty or a placeholder: its study stands for the patient."""

_IMAGES_AT_ONCE: Final = 16
"""Slices times doses that are reconstructed together; what peak memory is proportional to."""

Images = npt.NDArray[np.float32]


class PartnerWriter:
    """Writes the partners of one series into `folder`; memory does not grow with its length.

    Args:
        entry: the source series.
        folder: empty; gets `normal_dose/`, a folder per dose and the preview.
        clock: date and time that the written files carry.
        method: doses and seed.
        survey: the first pass over the series.
        model: the scan that the noise is computed for.
        watch: is told the time of each step.
    """

    def __init__(
        self,
        entry: SeriesEntry,
        folder: Path,
        clock: datetime,
        method: Method,
        survey: Survey,
        model: ScanModel,
        watch: Stopwatch,
    ) -> None:
        self._entry = entry
        self._folder = folder
        self._doses = method.dose_fractions
        self._survey = survey
        self._model = model
        self._watch = watch
        self._seed = method.series_seed(entry.series_uid, survey.pixel_digests)
        self._middle = len(entry.files) // 2
        self._chunk_slices = max(1, _IMAGES_AT_ONCE // len(self._doses))
        self._shown: list[Images] = []
        self._sample: list[Images] = []
        self._writers = tuple(
            DerivedSeriesWriter(
                entry,
                survey.content_digests,
                folder / dose_folder(dose),
                derivation=model.derivation(method),
                purpose=simulated_dose(dose),
                now=clock,
            )
            for dose in self._doses
        )

    def write_chunks(self) -> Iterator[int]:
        """Write chunk after chunk, and yield the number of slices of each.

        Raises:
            SeriesError: a slice cannot be read, or cannot be written again.
            DataError: what was written reads back differently.
        """
        first = 0
        with closing(read_slices(self._entry)) as source:
            while chunk := self._next(source):
                with self._watch.step("insert"):
                    low_dose_hu = self._insert(chunk, first).cpu().numpy()
                self._keep(chunk, low_dose_hu, first)
                self._write(chunk, low_dose_hu, first)
                first += len(chunk)
                yield len(chunk)

    def conclude(self, pseudonyms: Pseudonyms) -> Measured:
        """Link the normal dose, draw the preview, and say what came out."""
        with self._watch.step("link"):
            link_files(self._entry.files, self._folder / NORMAL_DOSE)
        with self._watch.step("preview"):
            save_dose_preview(
                self._folder / PREVIEW, self._shown[0], self._shown[1], self._doses, self._entry.body_part
            )
        with self._watch.step("measure"):
            simulated = self._simulated(pseudonyms)
        noise = {dose.folder: dose.achieved_sd_hu for dose in simulated.doses}
        return Measured(
            noise_sd_hu={"before": self._model.measured_sd_hu(self._survey.hu), **noise},
            timings_s=self._watch.timings_s(),
            reason_codes=tuple(simulated.warnings),
            simulated=simulated.to_json(),
        )

    def _next(self, source: Iterator[CTSlice]) -> list[CTSlice]:
        with self._watch.step("read"):
            return list(islice(source, self._chunk_slices))

    def _insert(self, chunk: Sequence[CTSlice], first: int) -> torch.Tensor:
        """(doses, slices, rows, columns) HU."""
        device = self._model.exposure.device
        hu = torch.from_numpy(np.stack([one.hu for one in chunk])).to(device)
        padding = torch.from_numpy(np.stack([one.padding for one in chunk])).to(device)
        return insert_noise(
            hu,
            self._model.acquisition,
            dose_fractions=self._doses,
            slice_index=first,
            seed=self._seed,
            exposure=self._model.exposure[first : first + len(chunk)],
            thickness_over_increment=self._model.thickness_over_increment,
            visible=field_of_view(hu, padding),
        )

    def _keep(self, chunk: Sequence[CTSlice], low_dose_hu: Images, first: int) -> None:
        """Remember the slices that are measured and shown."""
        for number, one in enumerate(chunk):
            if first + number in self._survey.indices:
                self._sample.append(low_dose_hu[:, number].copy())
            if first + number == self._middle:
                self._shown = [one.hu, low_dose_hu[:, number].copy()]

    def _write(self, chunk: Sequence[CTSlice], low_dose_hu: Images, first: int) -> None:
        for writer, images in zip(self._writers, low_dose_hu, strict=True):
            for index, (one, hu) in enumerate(zip(chunk, images, strict=True), start=first):
                with self._watch.step("write"):
                    path = writer.write(index, one, hu)
                with self._watch.step("check"):
                    check_slice(path, one, hu, index=index, slices=len(self._entry.files))

    def _warnings(self) -> dict[str, str]:
        """By reason code, in the order in which they are told."""
        if names_a_patient(self._entry.patient_key):
            return dict(self._model.warnings)
        by_study = "no PatientID tells the patient, so the study stands for one in the split"
        return {**self._model.warnings, PATIENT_BY_STUDY: by_study}

    def _simulated(self, pseudonyms: Pseudonyms) -> Simulated:
        entry, model = self._entry, self._model
        kernel = model.acquisition.kernel
        known = names_a_patient(entry.patient_key)
        patient = ("id", entry.patient_key) if known else ("study", entry.study_uid or entry.series_uid)
        achieved = np.stack(self._sample, axis=1)
        return Simulated(
            patient=pseudonyms.name("patient", *patient),
            anatomy=body_region(entry.body_part),
            photons_per_ray=model.acquisition.flux.photons_per_ray,
            flux_from=model.flux_from,
            kernel_from=model.kernel_from,
            kernel_cutoff_per_mm=None if np.isinf(kernel.cutoff_per_mm) else kernel.cutoff_per_mm,
            kernel_boost=kernel.boost,
            kernel_distance=model.kernel_distance,
            uniform_regions=len(model.regions),
            warnings=self._warnings(),
            normal_dose_sha256=folder_sha256(self._folder / NORMAL_DOSE),
            doses=tuple(
                SimulatedDose(
                    dose_fraction=dose,
                    folder=dose_folder(dose),
                    sha256=folder_sha256(self._folder / dose_folder(dose)),
                    predicted_sd_hu=model.predicted_sd_hu(dose),
                    achieved_sd_hu=model.measured_sd_hu(images),
                )
                for dose, images in zip(self._doses, achieved, strict=True)
            ),
        )
