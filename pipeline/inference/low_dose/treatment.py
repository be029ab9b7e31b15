"""The treatment: each series gets a derived partner per dose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from pipeline import __version__
from pipeline.dicom import CTSlice, Geometry, SeriesEntry, Task
from pipeline.dose.field_of_view import field_of_view
from pipeline.inference.low_dose.method import Method
from pipeline.inference.low_dose.pairs import Simulated, write_pairs
from pipeline.inference.low_dose.partners import PartnerWriter
from pipeline.inference.low_dose.scan_model import model_scan
from pipeline.inference.output.journal import SeriesRecord
from pipeline.inference.output.pseudonyms import Pseudonyms
from pipeline.inference.survey import Visible, survey_series
from pipeline.inference.treatment import Measured, OnSlices, Stopwatch


@dataclass(frozen=True, kw_only=True)
class LowDose:
    """Partners at lower doses for every series of a folder.

    A series is read twice and never held: memory is bounded by a chunk of slices and a sample of them.

    Attributes:
        method: how the noise is computed.
        pseudonyms: names for patients.
        device: where it is computed.
    """

    method: Method
    pseudonyms: Pseudonyms
    device: torch.device

    command = "simulate dose"
    tasks = (Task.SIMULATE,)

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that decides the written files, as JSON."""
        return {
            **self.method.to_json(),
            "engine": f"torch-{self.device.type}",
            "product_version": __version__,
        }

    def passes(self, slices: int, *, segmentable: bool) -> int:  # noqa: ARG002 (the interface of all treatments)
        """Every slice once, all doses together."""
        return slices

    def treat(
        self,
        entry: SeriesEntry,
        folder: Path,
        *,
        grid: Geometry | None,
        clock: datetime,
        on_slices: OnSlices,
    ) -> Measured:
        """Write `normal_dose/`, a folder per dose and a preview (see `inference.treatment.Treatment`)."""
        watch = Stopwatch()
        with watch.step("survey"):
            survey = survey_series(entry, _in_field_of_view)
        with watch.step("calibrate"):
            model = model_scan(entry, grid, survey, self.method, self.device)
        partners = PartnerWriter(entry, folder, clock, self.method, survey, model, watch)
        for slices in partners.write_chunks():
            on_slices(slices)
        return partners.conclude(self.pseudonyms)

    def remark(self, record: SeriesRecord) -> str:
        """`SD 10.1 → 20.3 HU (predicted 20.2) at 25 %` and so on for each dose, then the warnings."""
        simulated = Simulated.from_json(record.simulated or {})
        before = record.noise_sd_hu["before"]
        partners = ", ".join(
            f"{_sd(dose.achieved_sd_hu)} HU (predicted {_sd(dose.predicted_sd_hu)}) "
            f"at {100 * dose.dose_fraction:g} %"
            for dose in simulated.doses
        )
        noise = "SD not measured" if before is None else f"SD {_sd(before)} → {partners}"
        warned = (code for code in record.reason_codes if code in simulated.warnings)
        return "; ".join([noise, *(f"{code} {simulated.warnings[code]}" for code in warned)])

    def write_views(self, target: Path, finished: Sequence[SeriesRecord]) -> None:
        """The manifest of the pairs."""
        write_pairs(target, finished, seed=self.method.seed)


def _in_field_of_view(one: CTSlice) -> Visible:
    hu, padding = torch.from_numpy(one.hu[None]), torch.from_numpy(one.padding[None])
    visible: Visible = field_of_view(hu, padding)[0].numpy()
    return visible


def _sd(hu: float | None) -> str:
    return "?" if hu is None else f"{hu:.1f}"
