"""`ldct report`: gather what a preset has produced into one HTML page."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console

from pipeline import __version__, tracking
from pipeline.bundle import KINDS, Bundle, load_bundle
from pipeline.config.layout import EXPERIMENT, Layout
from pipeline.config.preset import CONFIGS, model_names
from pipeline.errors import DataError
from pipeline.figures import save_curves
from pipeline.report import Page, Picture, Section, render, sections
from pipeline.report.tables import words
from pipeline.tracking.provenance import provenance_tags

LIBRARIES: Final = ("torch", "monai", "pydicom", "highdicom", "scikit-image", "mlflow", "dvc")
PRESET: Final = CONFIGS / "preset.yaml"
TASK: Final = "task"
PICTURES_OF_CASES: Final = 6
PREVIEWS: Final = 8


def run(preset: str) -> None:
    """Write `reports/<preset>/report.html` and log it to MLflow; what has not been made is named as missing.

    Raises:
        BundleError: a bundle is damaged.
        DataError: a results file is damaged.
        TrackingError: the MLflow store cannot be used.
    """
    layout = Layout(preset)
    fingerprint = _read_json(layout.cases / "fingerprint.json")
    with tracking.start_run(
        experiment=EXPERIMENT,
        name=f"report-{preset}",
        stage="report",
        config=PRESET,
        data_digest="" if fingerprint is None else fingerprint["sha256"],
    ) as tracked:
        page = Page(
            title=f"Low-dose CT, preset {preset}",
            subtitle=f"ldct-pipeline {__version__}: what ran, on what, and what came out",
            sections=list(_sections(layout, fingerprint)),
        )
        _write(layout.report, render(page))
        tracked.log_artifact(layout.report)
    Console(highlight=False, soft_wrap=True).print(f"report: {layout.report}")


def _sections(layout: Layout, fingerprint: dict[str, Any] | None) -> Iterator[Section]:
    configs = sorted((CONFIGS / layout.preset).glob("*.yaml"))
    bundles = {name: _bundle(layout.bundle(name)) for name in model_names(layout.preset)}
    digests = {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in configs}
    yield sections.what_ran(_environment(layout.preset), digests)
    yield _data(layout, fingerprint)
    for name in sorted(bundles, key=lambda name: (_rank(bundles[name]), name)):
        yield _training(layout, name, bundles[name])
        yield _evaluation(layout, name)
    yield _evaluation(layout, TASK)
    yield _predictions(layout)


def _bundle(path: Path) -> Bundle | None:
    return load_bundle(path) if path.exists() else None


def _rank(bundle: Bundle | None) -> int:
    """Denoisers first, as in `bundle.KINDS`; what is not trained yet comes last."""
    return len(KINDS) if bundle is None else KINDS.index(bundle.kind)


def _environment(preset: str) -> dict[str, Any]:
    origin = provenance_tags("report", PRESET, "")
    changes = " with uncommitted changes" if origin.get("git.dirty") == "true" else ""
    return {
        "preset": preset,
        "git commit": origin.get("git.sha", "not under git") + changes,
        "Python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _data(layout: Layout, fingerprint: dict[str, Any] | None) -> Section:
    pictures = sorted((layout.cases / "qc").glob("*.png"))
    shown = [sections.picture(path.read_bytes(), path.stem) for path in _spread(pictures, PICTURES_OF_CASES)]
    return sections.data(fingerprint, shown, len(pictures) - len(shown))


def _training(layout: Layout, name: str, bundle: Bundle | None) -> Section:
    score = (
        None
        if bundle is None
        else {
            **bundle.score,
            "parameters": sum(tensor.numel() for tensor in bundle.tensors.values()),
            "architecture": bundle.architecture,
            "arguments": bundle.arguments,
            "model hash": bundle.model_hash,
        }
    )
    curves = layout.model(name) / "curves.csv"
    pictures = _curves(curves) if curves.exists() else []
    samples = layout.model(name) / "samples.png"
    if samples.exists():
        pictures.append(
            sections.picture(samples.read_bytes(), f"{name}: pictures drawn at the end of training")
        )
    return sections.training(name, score, pictures)


def _evaluation(layout: Layout, name: str) -> Section:
    found = sorted(layout.evaluation(name).glob("*.png"))
    pictures = [sections.evaluation_picture(path.read_bytes(), name, path.stem) for path in found]
    return sections.evaluation(name, _read_json(layout.metrics(name)), pictures)


def _predictions(layout: Layout) -> Section:
    path = layout.predictions / "journal.jsonl"
    if not path.exists():
        return sections.predictions(None, [])
    _, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    previews = _spread(sorted(layout.predictions.glob("*/*/preview.png")), PREVIEWS)
    return sections.predictions(
        lines, [sections.picture(preview.read_bytes(), preview.parent.name) for preview in previews]
    )


def _curves(path: Path) -> list[Picture]:
    """A small picture for each quantity that training logged."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    pictures = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in [column for column in (rows[0] if rows else {}) if column != "step"]:
            points = [(float(row["step"]), float(row[name])) for row in rows if row[name]]
            steps, values = [step for step, _ in points], [value for _, value in points]
            png = Path(scratch) / "curve.png"
            save_curves(png, {name: (steps, values)}, x_label="step", y_label=words(name))
            pictures.append(sections.picture(png.read_bytes(), words(name), is_wide=False))
    return pictures


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of the paths, evenly spread."""
    if len(paths) <= most:
        return list(paths)
    return [paths[index * (len(paths) - 1) // (most - 1)] for index in range(most)]


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as damaged:
        raise DataError(f"{path}: damaged ({damaged}); run its stage again") from None
    return content


def _write(path: Path, html: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(html, encoding="utf-8")
    part.replace(path)
