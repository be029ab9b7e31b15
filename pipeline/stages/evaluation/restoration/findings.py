"""Everything that is found on made low doses, slice by slice; tables, pictures and means come of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from pipeline.config.evaluate import RestorationSettings
from pipeline.metrics import Convention
from pipeline.stages.evaluation.context import INPUT, RESTORED, Metrics, Slice
from pipeline.stages.evaluation.restoration.groups import (
    GROUPINGS,
    group_table,
    groups_of,
    summarise_groups,
)
from pipeline.stages.evaluation.restoration.low_doses import Scan
from pipeline.stages.evaluation.restoration.pictures import (
    Example,
    draw_before_and_after,
    draw_methods,
    draw_spectra,
)
from pipeline.stages.evaluation.restoration.scores import (
    NORMAL_DOSE,
    limits,
    require_finite,
    save_table,
    score_rows,
    summarise_scores,
    tissue_rows,
    worst_patient_bias,
)
from pipeline.stages.evaluation.restoration.texture import summarise_texture, texture_rows
from pipeline.stages.evaluation.restoration.tuning import at_grid_end
from pipeline.stages.evaluation.restoration.verdicts import ROUNDING_DB, below_input_verdict, verdict

FULL: Final = "full"
"""Convention by which a slice counts as worse than its input."""
WORST_DRAWN: Final = 3
BIAS: Final = f"bias_against_{NORMAL_DOSE}_hu"
Rows = list[dict[str, Any]]


class Findings:
    """Rows of tables, and the slices to be drawn: the worst of each dose, and one of each source.

    Args:
        conventions: to score under, `full` among them; the first decides verdicts.
    """

    def __init__(self, conventions: Sequence[Convention]) -> None:
        self._conventions = tuple(conventions)
        self._scores: Rows = []
        self._tissue: Rows = []
        self._texture: Rows = []
        self._spectra: Rows = []
        self._worst: dict[float, list[tuple[float, Example]]] = defaultdict(list)
        self._of_source: dict[float, dict[str, Example]] = defaultdict(dict)

    def add(self, scan: Scan, dose_fraction: float, outputs: Mapping[int, Mapping[str, Slice]]) -> None:
        """Score slices of one case at one dose.

        Args:
            scan: of the case.
            dose_fraction: of the input.
            outputs: by the index of each slice, what each method makes of it, (H, W) HU.

        Raises:
            DataError: an output is not finite.
        """
        case, groups = scan.case, groups_of(scan)
        where = {"dose_fraction": dose_fraction, "source": groups["source"]}
        for index, images in outputs.items():
            require_finite(case, index, dose_fraction, images)
            rows = score_rows(case, index, images, self._conventions)
            self._scores += [{**where, **groups, **row} for row in rows]
            self._tissue += [{**where, **row} for row in tissue_rows(case, index, images)]
            self._remember(_gain_db(rows), Example(case, index, dose_fraction, images, case.case_id))
        middle = list(outputs)[len(outputs) // 2]
        shown = Example(case, middle, dose_fraction, outputs[middle], groups["source"])
        self._of_source[dose_fraction].setdefault(groups["source"], shown)
        stacks = {name: [images[name] for images in outputs.values()] for name in outputs[middle]}
        found = texture_rows(case, list(outputs), stacks)
        self._texture += [{**where, **row} for row in found.table]
        self._spectra += [{**where, **row} for row in found.spectra]

    def report(
        self,
        folder: Path,
        amounts: Mapping[float, Mapping[str, float]],
        settings: RestorationSettings,
        *,
        seed: int,
    ) -> Metrics:
        """Write tables and pictures, and sum up.

        Args:
            folder: exists.
            amounts: of each baseline at each dose.
            settings: that they were tuned by.
            seed: of the bootstrap intervals.
        """
        scores, generator = pd.DataFrame(self._scores), np.random.default_rng(seed)
        gains_db = _slice_gains(scores)
        below = gains_db[gains_db["gain_db"] < -ROUNDING_DB]
        groups = {dose: group_table(_at(scores, dose), generator) for dose in amounts}
        doses = {
            _key(dose): {
                **limits([(dose, "shared")]),
                "baselines": dict(amount),
                "baselines_at_grid_end": at_grid_end(amount, settings),
                "slices_below_input": len(_at(below, dose)),
                "worst_gain_db": float(_at(gains_db, dose)["gain_db"].min()),
                **self._means(dose, generator),
                **summarise_groups(groups[dose]),
            }
            for dose, amount in amounts.items()
        }
        grouped = pd.concat([table.assign(dose_fraction=dose) for dose, table in groups.items()])
        self._save(folder, {"slices": scores, "worst": gains_db, "groups": grouped})
        self._draw(folder)
        slices = len(gains_db) // len(amounts)
        counts = {dose: len(_at(below, dose)) for dose in amounts}
        return {
            "verdict": below_input_verdict(counts, slices, FULL),
            "patients": scores["patient"].nunique(),
            "slices": slices,
            "conventions": {chosen.name: chosen.describe() for chosen in self._conventions},
            "by_patient": {name: found.pop("by_patient") for name, found in doses.items()},
            "doses": doses,
            "below_input": _listed(below),
        }

    def _means(self, dose_fraction: float, generator: np.random.Generator) -> Metrics:
        """Over patients, of one dose."""
        scores, tissue, texture = (
            _at(pd.DataFrame(rows), dose_fraction) for rows in (self._scores, self._tissue, self._texture)
        )
        first = self._conventions[0].name
        means = summarise_scores(scores, tissue, generator, primary=first)
        return {
            "verdict": verdict(means[f"against_{NORMAL_DOSE}"][first], first),
            **means,
            f"worst_patient_{BIAS}": worst_patient_bias(tissue, BIAS),
            "noise_texture": summarise_texture(texture, generator),
        }

    def _save(self, folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
        """These tables, and the rows as they are."""
        rows = {"tissue": self._tissue, "texture": self._texture, "spectra": self._spectra}
        for name, table in {**tables, **{name: pd.DataFrame(own) for name, own in rows.items()}}.items():
            save_table(table, folder / f"{name}.csv")

    def _remember(self, gain_db: float, example: Example) -> None:
        """Keep a slice while it is among the worst of its dose."""
        worst = self._worst[example.dose_fraction]
        worst.append((gain_db, example))
        worst.sort(key=lambda one: one[0])
        del worst[WORST_DRAWN:]

    def _draw(self, folder: Path) -> None:
        for dose, worst in self._worst.items():
            titled = [replace(one, title=f"{one.title}, {gain_db:+.2f} dB") for gain_db, one in worst]
            draw_before_and_after(folder / f"worst_{_key(dose)}.png", titled)
            of_sources = list(self._of_source[dose].values())
            draw_before_and_after(folder / f"panels_{_key(dose)}.png", of_sources)
            draw_methods(folder / f"methods_{_key(dose)}.png", of_sources)
            spectra = _at(pd.DataFrame(self._spectra), dose)
            if len(spectra):
                draw_spectra(folder / f"spectra_{_key(dose)}.png", spectra)


def _gain_db(rows: Rows) -> float:
    """Of the network, against the normal dose under `full`."""
    psnr_db = {
        row["method"]: float(row["psnr_db"])
        for row in rows
        if row["convention"] == FULL and row["reference"] == NORMAL_DOSE
    }
    return psnr_db[RESTORED] - psnr_db[INPUT]


def _slice_gains(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per dose and slice with the gain under `full`, the worst first."""
    rows = scores[(scores["convention"] == FULL) & (scores["reference"] == NORMAL_DOSE)]
    index = ["dose_fraction", *GROUPINGS, "case", "slice"]
    wide = rows.pivot_table(index=index, columns="method", values="psnr_db")[[INPUT, RESTORED]]
    named = wide.rename(columns={INPUT: "input_psnr_db", RESTORED: "restored_psnr_db"})
    named["gain_db"] = named["restored_psnr_db"] - named["input_psnr_db"]
    return named.reset_index().rename_axis(columns=None).sort_values("gain_db", kind="stable")


def _listed(slice_gains: pd.DataFrame) -> Metrics:
    """Gain by dose and slice."""
    listed: Metrics = {}
    for row in slice_gains.to_dict("records"):
        name = f"{row['case']}/{row['slice']}"
        listed.setdefault(_key(row["dose_fraction"]), {})[name] = float(row["gain_db"])
    return listed


def _at(table: pd.DataFrame, dose_fraction: float) -> pd.DataFrame:
    return table if table.empty else table[table["dose_fraction"] == dose_fraction]


def _key(dose_fraction: float) -> str:
    return f"dose_{dose_fraction:g}"
