"""`ldct simulate validate`: run the proofs of the dose physics, print them, write the page."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline import __version__
from pipeline.dose.validation import Check, Measure, proofs
from pipeline.figures import CurvePanel, Panel, save_curve_panels, save_panels
from pipeline.hu import HUWindow
from pipeline.report import Picture, render
from pipeline.report.encoding import for_page
from pipeline.report.validation import figure, validation_page
from pipeline.stages.bars import progress

SEED = 0
PLOTS_IN_A_ROW = 3
IMAGES_IN_A_ROW = 4


def run(target: Path) -> int:
    """Run every check; write `validation.json` and `validation.html` to the folder.

    Returns:
        Exit code: 0 when all checks hold, 1 when one fails.
    """
    target.mkdir(parents=True, exist_ok=True)
    out = Console(highlight=False, soft_wrap=True)
    checks: list[Check] = []
    for proof in progress(proofs(SEED), "proving the physics"):
        check = proof()
        out.print(_line(check), markup=False)
        checks.append(check)
    passed = all(check.passed for check in checks)
    _write(target / "validation.json", json.dumps(_report(checks), indent=2, ensure_ascii=False) + "\n")
    page = validation_page(checks, {check.key: _pictures(check) for check in checks}, __version__)
    _write(target / "validation.html", render(page))
    out.print(f"page: {target / 'validation.html'}", markup=False)
    return 0 if passed else 1


def _line(check: Check) -> str:
    verdict, worst = "holds " if check.passed else "FAILED", check.worst
    return (
        f"{verdict}  {check.title:<34}  {figure(worst.value):>9}  limit {worst.limit:<14}  "
        f"{check.quantity}: {worst.what}"
    )


def _report(checks: Sequence[Check]) -> dict[str, Any]:
    """Everything measured, for machines; what is not finite becomes null."""
    return {
        "version": __version__,
        "seed": SEED,
        "passed": all(check.passed for check in checks),
        "checks": [
            {
                "key": check.key,
                "title": check.title,
                "quantity": check.quantity,
                "passed": check.passed,
                "measures": [_numbers(measure) for measure in check.measures],
            }
            for check in checks
        ],
    }


def _numbers(measure: Measure) -> dict[str, Any]:
    numbers = {"value": measure.value, "low": measure.low, "high": measure.high}
    finite = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
    rest = {"standard_error": measure.standard_error, "holds": measure.holds}
    return {"what": measure.what, **finite, **rest}


def _pictures(check: Check) -> list[Picture]:
    """Plots with one kind of x axis share a picture, and so do all images of noise."""
    with tempfile.TemporaryDirectory() as scratch:
        png = Path(scratch) / "picture.png"
        pictures = []
        for x_label, plots in groupby(check.plots, key=lambda plot: plot.x_label):
            panels = [CurvePanel(plot.title, plot.curves, plot.references) for plot in plots]
            save_curve_panels(png, panels, x_label=x_label, columns=PLOTS_IN_A_ROW)
            pictures.append(_picture(png, "; ".join(panel.title for panel in panels), x_label))
        if check.images:
            panels_of_images = [
                Panel(image.hu, HUWindow(-image.limit_hu, image.limit_hu), image.title, diverging=True)
                for image in check.images
            ]
            rows = [
                panels_of_images[first : first + IMAGES_IN_A_ROW]
                for first in range(0, len(panels_of_images), IMAGES_IN_A_ROW)
            ]
            save_panels(png, rows)
            pictures.append(_picture(png, "; ".join(image.title for image in check.images)))
        return pictures


def _picture(png: Path, shown: str, x_label: str = "") -> Picture:
    caption = f"{shown}, against {x_label}" if x_label else shown
    return Picture(for_page(png.read_bytes()), alt=caption, caption=caption)


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
