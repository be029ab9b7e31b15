"""`ldct report`: gather what a preset has produced into one HTML page."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console

from pipeline import __version__, tracking
from pipeline.bundle import KINDS, Bundle, load_bundle
from pipeline.config.layout import EXPERIMENT, Layout
from pipeline.config.preset import CONFIGS, model_names, trainable_names
from pipeline.figures import save_curve_panels
from pipeline.report import Page, Picture, Section, render, sections
from pipeline.report.curves import curve_panels
from pipeline.report.encoding import for_page
from pipeline.report.summary import is_denoiser, summary
from pipeline.stages.scores import read_json
from pipeline.tracking.provenance import provenance_tags

LIBRARIES: Final = ("torch", "monai", "pydicom", "highdicom", "scikit-image", "mlflow", "dvc")
PRESET: Final = CONFIGS / "preset.yaml"
TASK: Final = "task"
PICTURES_OF_CASES: Final = 6
PREVIEWS: Final = 8
LEAD_PICTURES: Final = ("panels", "methods")
SHOWN_ABOVE: Final = "One more picture stands in the summary."


def run(preset: str) -> None:
    """Write `reports/<preset>/report.html` and log it to MLflow; what has not been made is named as missing.

    Raises:
        BundleError: a bundle is damaged.
        DataError: a results file is damaged.
        TrackingError: the MLflow store cannot be used.
    """
    layout = Layout(preset)
    fingerprint = read_json(layout.cases / "fingerprint.json")
    with tracking.start_run(
        experiment=EXPERIMENT,
        name=f"report-{preset}",
        stage="report",
        config=PRESET,
        data_digest="" if fingerprint is None else fingerprint["sha256"],
    ) as tracked:
        page = Page(
            title=f"Low-dose CT, preset {preset}",
            subtitle=f"ldct-pipeline {__version__}: what came out, how it was trained, on what",
            sections=list(_sections(layout, fingerprint)),
        )
        _write(layout.report, render(page))
        tracked.log_artifact(layout.report)
    Console(highlight=False, soft_wrap=True).print(f"report: {layout.report}")


def _sections(layout: Layout, fingerprint: dict[str, Any] | None) -> Iterator[Section]:
    """Summary, results, training, data, provenance; a picture of the summary is not shown twice.

    The models of the preset are all listed, recipes where they are trained.
    """
    own = model_names(layout.preset)
    recipes = [
        name for name in trainable_names(layout.preset) if name not in own and layout.bundle(name).exists()
    ]
    found = {name: _bundle(layout.bundle(name)) for name in (*own, *recipes)}
    bundles = {name: found[name] for name in sorted(found, key=lambda name: (_rank(found[name]), name))}
    scores = {name: read_json(layout.metrics(name)) for name in (*bundles, TASK)}
    journal = _journal(layout.predictions / "journal.jsonl")
    previews = sorted(layout.predictions.glob("*/*/preview.png"))
    lead = _lead(layout, scores)
    pictures = [_evaluation_picture(path) for path in lead]
    yield summary(scores, journal, pictures + [_preview(path) for path in previews[:1]])
    for name in scores:
        yield _evaluation(layout, name, scores[name], lead)
    note = SHOWN_ABOVE if previews else ""
    yield sections.predictions(journal, [_preview(path) for path in _spread(previews[1:], PREVIEWS)], note)
    for name, bundle in bundles.items():
        yield _training(layout, name, bundle)
    yield _data(layout, fingerprint)
    yield _provenance(layout, fingerprint, bundles)


def _bundle(path: Path) -> Bundle | None:
    return load_bundle(path) if path.exists() else None


def _rank(bundle: Bundle | None) -> int:
    """Denoisers first, as in `bundle.KINDS`; what is not trained yet comes last."""
    return len(KINDS) if bundle is None else KINDS.index(bundle.kind)


def _lead(layout: Layout, scores: Mapping[str, Any]) -> list[Path]:
    """The one picture people came for: a denoiser's before and after."""
    names = [name for name, found in scores.items() if is_denoiser(found)]
    paths = [layout.evaluation(name) / f"{stem}.png" for name in names for stem in LEAD_PICTURES]
    return [path for path in paths if path.exists()][:1]


def _evaluation(
    layout: Layout, name: str, scores: dict[str, Any] | None, shown_above: Sequence[Path]
) -> Section:
    found = sorted(layout.evaluation(name).glob("*.png"))
    pictures = [_evaluation_picture(path) for path in found if path not in shown_above]
    return sections.evaluation(name, scores, pictures, SHOWN_ABOVE if set(found) & set(shown_above) else "")


def _training(layout: Layout, name: str, bundle: Bundle | None) -> Section:
    score = (
        None
        if bundle is None
        else {
            **bundle.score,
            "parameters": sum(tensor.numel() for tensor in bundle.tensors.values()),
            "architecture": bundle.architecture,
            "arguments": bundle.arguments,
        }
    )
    pictures = _curves(name, layout.model(name) / "curves.csv")
    samples = layout.model(name) / "samples.png"
    if samples.exists():
        pictures.append(_picture(samples, f"{name}: pictures drawn at the end of training"))
    return sections.training(name, score, pictures)


def _data(layout: Layout, fingerprint: dict[str, Any] | None) -> Section:
    found = sorted((layout.cases / "qc").glob("*.png"))
    shown = [_picture(path, path.stem) for path in _spread(found, PICTURES_OF_CASES)]
    return sections.data(fingerprint, shown, len(found) - len(shown))


def _provenance(
    layout: Layout, fingerprint: dict[str, Any] | None, bundles: Mapping[str, Bundle | None]
) -> Section:
    origin = provenance_tags("report", PRESET, "")
    changes = " with uncommitted changes" if origin.get("git.dirty") == "true" else ""
    facts = {
        "preset": layout.preset,
        "git commit": origin.get("git.sha", "not under git") + changes,
        "Python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    configs = sorted((CONFIGS / layout.preset).glob("*.yaml"))
    settings = {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in configs}
    digests = {} if fingerprint is None else {"cases": str(fingerprint["sha256"])}
    digests |= {f"model {name}": bundle.model_hash for name, bundle in bundles.items() if bundle is not None}
    return sections.provenance(facts, settings, digests)


def _journal(path: Path) -> list[dict[str, Any]] | None:
    """The lines of the journal without its head."""
    if not path.exists():
        return None
    _, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return lines


def _curves(name: str, path: Path) -> list[Picture]:
    """One picture of all quantities that training logged."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        panels = curve_panels(list(csv.DictReader(stream)))
    if not panels:
        return []
    with tempfile.TemporaryDirectory() as scratch:
        png = Path(scratch) / "curves.png"
        save_curve_panels(png, panels, x_label="step")
        caption = f"{name}, training curves: {', '.join(panel.title for panel in panels)}"
        return [_picture(png, caption)]


def _evaluation_picture(path: Path) -> Picture:
    return sections.evaluation_picture(for_page(path.read_bytes()), path.parent.name, path.stem)


def _preview(path: Path) -> Picture:
    return _picture(path, f"prediction, {path.parent.name}: source, result, difference and segments")


def _picture(path: Path, caption: str) -> Picture:
    return sections.picture(for_page(path.read_bytes()), caption)


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of the paths, evenly spread."""
    if len(paths) <= most:
        return list(paths)
    return [paths[index * (len(paths) - 1) // (most - 1)] for index in range(most)]


def _write(path: Path, html: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(html, encoding="utf-8")
    part.replace(path)
