"""Test cases by where they come from and how they were scanned, and the scores of each group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final

import numpy as np
import pandas as pd

from pipeline.data import read_fingerprint
from pipeline.dose.spectrum import kernel_gain, window_frequencies
from pipeline.projector import Kernel
from pipeline.stages.evaluation.context import INPUT, RESTORED, Metrics
from pipeline.stages.evaluation.restoration.low_doses import Scan
from pipeline.stages.evaluation.restoration.scores import (
    NORMAL_DOSE,
    SCORES,
    gains,
    over_patients,
)

GROUPINGS: Final = ("source", "anatomy", "kernel", "texture", "thickness", "scan")
UNKNOWN: Final = "unknown"
THICKNESSES_MM: Final = (2.0, 4.0)
NOISE_PEAKS_PER_MM: Final = (0.3, 0.45)
"""Body kernels peak at about 0.23 /mm, lung and bone kernels above 0.5 /mm."""


def groups_of(scan: Scan) -> dict[str, str]:
    """The group that a case belongs to in each of the `GROUPINGS`.

    `kernel` and `thickness` are those of the headers; `texture` is that of the kernel which the noise is made
    with, by the frequency where it is strongest; `scan` tells assumed scans apart.

    Raises:
        DataError: what ingest notes of a case is missing.
    """
    noted = read_fingerprint([scan.case])
    thickness_mm = noted["slice_thickness_mm"]
    peak_per_mm = noise_peak_per_mm(scan.acquisition.kernel, scan.case.pixel_mm)
    return {
        "source": scan.case.source or UNKNOWN,
        "anatomy": scan.case.anatomy,
        "kernel": " ".join(noted["kernels"]) or UNKNOWN,
        "texture": _band(peak_per_mm, NOISE_PEAKS_PER_MM, ("smooth", "medium", "sharp")),
        "thickness": UNKNOWN if thickness_mm is None else _thickness(thickness_mm[0]),
        "scan": scan.origin,
    }


def in_turn(scans: Sequence[Scan]) -> list[Scan]:
    """Another order: from all sources in turn, and of each source from all its kernels in turn.

    So the first few are of as many sources and kernels as there are.

    Raises:
        DataError: as `groups_of`.
    """
    by_source: dict[str, dict[str, list[Scan]]] = {}
    for scan in scans:
        groups = groups_of(scan)
        by_source.setdefault(groups["source"], {}).setdefault(groups["kernel"], []).append(scan)
    return _dealt([_dealt(list(by_kernel.values())) for by_kernel in by_source.values()])


def noise_peak_per_mm(kernel: Kernel, pixel_mm: float) -> float:
    """Frequency at which back-projected noise of a kernel, |f| W(f)², is strongest, up to the Nyquist one."""
    frequency = window_frequencies(pixel_mm).numpy()
    return float(frequency[np.argmax(frequency * kernel_gain(kernel, pixel_mm) ** 2)])


def group_table(scores: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Scores against the normal dose by group, convention and method.

    Args:
        scores: of `score_rows` at one dose, with a column for each of the `GROUPINGS`.
        generator: of the bootstrap intervals.
    """
    against = scores[scores["reference"] == NORMAL_DOSE]
    lines = []
    for grouping in GROUPINGS:
        for (group, name), rows in against.groupby([grouping, "convention"], sort=True):
            gained = gains(rows, generator)
            for method, own in rows.groupby("method", sort=False):
                line: dict[str, Any] = {"by": grouping, "group": group, "convention": name, "method": method}
                line |= {
                    "patients": own["patient"].nunique(),
                    "slices": len(own),
                    **{score: over_patients(own, score, generator).mean for score in SCORES},
                }
                if method != INPUT:
                    gain = gained[str(method)]
                    low, high = gain.interval or (None, None)
                    line |= {"gain_db": gain.mean, "gain_95_low_db": low, "gain_95_high_db": high}
                lines.append(line)
    return pd.DataFrame(lines)


def summarise_groups(table: pd.DataFrame) -> Metrics:
    """By group and convention: patients, slices, the PSNR of input and network, and the gain."""
    metrics: Metrics = {}
    for (grouping, group), rows in table.groupby(["by", "group"], sort=False):
        own: Metrics = {"patients": int(rows["patients"].iloc[0]), "slices": int(rows["slices"].iloc[0])}
        for name, under in rows.groupby("convention", sort=False):
            by_method = under.set_index("method").to_dict("index")
            own[str(name)] = {
                "input_psnr_db": by_method[INPUT]["psnr_db"],
                "restored_psnr_db": by_method[RESTORED]["psnr_db"],
                "gain_db": by_method[RESTORED]["gain_db"],
            }
        metrics.setdefault(f"by_{grouping}", {})[str(group)] = own
    return metrics


def _dealt(lists: Sequence[Sequence[Scan]]) -> list[Scan]:
    """The first of each, the second of each, and so on."""
    return [scan for layer in zip_longest(*lists) for scan in layer if scan is not None]


def _thickness(thickness_mm: float) -> str:
    low, high = THICKNESSES_MM
    names = (f"below {low:g} mm", f"{low:g} to {high:g} mm", f"above {high:g} mm")
    return _band(thickness_mm, THICKNESSES_MM, names)


def _band(value: float, edges: tuple[float, float], names: tuple[str, str, str]) -> str:
    low, high = edges
    if value < low:
        return names[0]
    return names[1] if value <= high else names[2]
