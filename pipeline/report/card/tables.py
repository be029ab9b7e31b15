"""What the tables beside the scores add to them: `worst.csv` and `texture.csv` of an evaluation."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import Final

from pipeline.report.card.scores import RESTORED, Scores

ROUNDED_DB: Final = 5e-4
"""Scores and tables are rounded apart."""


def lowest_gains(worst_csv: str, scores: Scores | None) -> dict[tuple[float, str], float]:
    """Lowest gain of a slice by dose fraction and how its scan was found; none where of other scores.

    Args:
        worst_csv: every slice at every dose with its `gain_db` and `scan`.
        scores: of the same evaluation; their `worst_gain_db` proves that the table is of them.
    """
    lowest: dict[tuple[float, str], float] = {}
    for row in csv.DictReader(io.StringIO(worst_csv)):
        key = float(row["dose_fraction"]), row["scan"]
        lowest[key] = min(lowest.get(key, float("inf")), float(row["gain_db"]))
    for dose, own in ({} if scores is None else scores.by_dose).items():
        found = [gain_db for (at, _), gain_db in lowest.items() if at == dose]
        told = own.worst_gain_db
        if told is None or not found or abs(min(found) - told) > ROUNDED_DB:
            return {}
    return lowest


def squares_of(texture_csv: str, scores: Scores | None) -> dict[str, int]:
    """Squares of the noise spectra by source at the highest dose; none where of other scores.

    Args:
        texture_csv: `regions` of each case, source, dose and method.
        scores: of the same evaluation; the sum of their squares proves that the table is of them.
    """
    if scores is None:
        return {}
    highest, own = next(iter(scores.by_dose.items()))
    counts: Counter[str] = Counter()
    for row in csv.DictReader(io.StringIO(texture_csv)):
        if float(row["dose_fraction"]) == highest and row["method"] == RESTORED:
            counts[row["source"]] += int(row["regions"])
    measured = own.noise_texture.get(RESTORED)
    return dict(counts) if measured is not None and counts.total() == measured.regions else {}
