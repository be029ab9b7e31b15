"""What a denoiser leaves of lesions and edges: detectability and TTF, their tables and their picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from pipeline.config.evaluate import RestorationSettings
from pipeline.errors import DataError
from pipeline.stages.evaluation.context import Metrics
from pipeline.stages.evaluation.restoration.detectability import detectability
from pipeline.stages.evaluation.restoration.groups import in_turn
from pipeline.stages.evaluation.restoration.low_doses import Scan
from pipeline.stages.evaluation.restoration.observed_pictures import draw_observed
from pipeline.stages.evaluation.restoration.scenes import Restore
from pipeline.stages.evaluation.restoration.scores import save_table
from pipeline.stages.evaluation.restoration.sharpness import ttf_of
from pipeline.stages.evaluation.restoration.whole_bar import Bar

ALL_CASES: Final = "all"
NOT_MEASURED: Final = "not_measured"


def observe(
    scans: Sequence[Scan],
    methods: Mapping[str, Restore],
    settings: RestorationSettings,
    folder: Path,
    *,
    seed: int,
    bar: Bar,
) -> Metrics:
    """Look for lesions and edges as far as the settings ask for it; tables and a picture go to the folder.

    Args:
        scans: of the test cases.
        methods: `input` as it is, `restored`, and others.
        settings: with low doses that are made.
        folder: exists.
        seed: of the bootstrap intervals.
        bar: goes through the cases.

    Returns:
        `detectability` and `ttf`, each as its function gives it, or with why it is `not_measured`.
    """
    ordered = in_turn(scans)
    metrics: Metrics = {}
    if (lesion := settings.detectability) is not None:
        found = _unless_impossible(lambda: detectability(ordered, methods, lesion, seed=seed, bar=bar))
        metrics["detectability"] = found
        if NOT_MEASURED not in found:
            save_table(pd.DataFrame(detectability_rows(found)), folder / "detectability.csv")
    if (edges := settings.sharpness) is not None and settings.low_dose is not None:
        doses = settings.low_dose.dose_fractions
        found = _unless_impossible(
            lambda: ttf_of(ordered, methods, edges, dose_fractions=doses, seed=seed, bar=bar)
        )
        metrics["ttf"] = found
        if NOT_MEASURED not in found:
            save_table(pd.DataFrame(ttf_rows(found)), folder / "ttf.csv")
    measured = {name: found for name, found in metrics.items() if NOT_MEASURED not in found}
    if measured:
        path = folder / "observed.png"
        draw_observed(path, detectability=measured.get("detectability"), ttf=measured.get("ttf"))
    return metrics


def detectability_rows(found: Metrics) -> Iterator[dict[str, Any]]:
    """A row per case, dose, observer and method; `all` cases together come first."""
    everyone = {ALL_CASES: {"source": ALL_CASES, "by_dose": found["by_dose"]}}
    for case, of_case in (everyone | found["by_case"]).items():
        for dose, observers in of_case["by_dose"].items():
            for observer, methods in observers.items():
                for method, values in methods.items():
                    where = {"case": case, "source": of_case["source"], "dose_fraction": float(dose)}
                    yield {**where, "observer": observer, "method": method, **values}


def ttf_rows(found: Metrics) -> Iterator[dict[str, Any]]:
    """A row per case, dose, contrast and method."""
    for case, doses in found["by_case"].items():
        for dose, contrasts in doses.items():
            for contrast, methods in contrasts.items():
                for method, values in methods.items():
                    where = {"case": case, "dose_fraction": float(dose), "disc_hu": float(contrast)}
                    yield {**where, "method": method, **values}


def _unless_impossible(look: Callable[[], Metrics]) -> Metrics:
    """All scores are not lost for want of uniform tissue."""
    try:
        return look()
    except DataError as impossible:
        return {NOT_MEASURED: str(impossible)}
