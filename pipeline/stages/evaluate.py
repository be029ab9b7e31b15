"""`evaluate`: bundles and test cases to metrics, tables and pictures, also in the training's MLflow run."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from pipeline.bundle import Bundle
from pipeline.config import load_settings
from pipeline.config.evaluate import EvaluateSettings
from pipeline.config.labels import load_labels
from pipeline.config.layout import EXPERIMENT, Layout
from pipeline.stages.earlier import check_ingested, trained_bundle
from pipeline.stages.evaluation.context import Context, Metrics, scored_cases
from pipeline.stages.evaluation.generative import evaluate_gan, evaluate_vae
from pipeline.stages.evaluation.restoration import evaluate_made, evaluate_stored
from pipeline.stages.evaluation.segmentation import evaluate_segmentation, evaluate_task
from pipeline.tracking import Run, reopen_run, start_run
from pipeline.tracking.provenance import provenance_tags

TASK: Final = "task"
DECIMALS: Final = 4
FORBIDDEN: Final = r"[^\w.\- ]"
"""Characters that some MLflow refuses in the name of a metric."""
NOT_TRACKED: Final = ("by_patient", "by_case", "below_input")
"""In the JSON only, at whatever depth: an experiment tracker needs no patients."""


def run(name: str, preset: str) -> None:
    """Score the model `name` of a preset, or `task`: segmentation before and after denoising.

    Raises:
        BundleError: weights are missing, damaged or of another kind.
        ConfigError: the settings cannot be used.
        DataError: the ingested cases cannot be used.
    """
    layout = Layout(preset)
    settings = load_settings(layout.config("evaluate"), EvaluateSettings)
    bundle = trained_bundle(layout, settings.task.segmenter if name == TASK else name)
    denoiser = trained_bundle(layout, settings.task.denoiser, "denoiser") if name == TASK else None
    check_ingested(layout)
    test, validation = scored_cases(bundle, layout.cases)
    context = Context(settings=settings, test=test, validation=validation, folder=layout.evaluation(name))
    layout.metrics(name).unlink(missing_ok=True)  # no old scores beside new tables if this is killed
    _make_empty(context.folder)
    metrics = rounded(_evaluate(bundle, denoiser, layout, context))
    _write_json(layout.metrics(name), metrics)
    _track(name, bundle, layout, metrics)
    for line in _remarks(metrics, layout.config("evaluate")):
        _say(f"{name}: {line}")


def _evaluate(bundle: Bundle, denoiser: Bundle | None, layout: Layout, context: Context) -> Metrics:
    """Scores of a model, or of a segmenter with a denoiser before it."""
    if denoiser is not None:
        return evaluate_task(bundle, denoiser, load_labels(), context)
    if bundle.kind == "denoiser" and context.settings.restoration.low_dose is not None:
        return {**_scored(bundle, layout.config("evaluate")), **evaluate_made(bundle, context)}
    if bundle.kind == "denoiser":
        return evaluate_stored(bundle, context)
    if bundle.kind == "segmenter":
        return evaluate_segmentation(bundle, load_labels(), context)
    if bundle.kind == "vae":
        return evaluate_vae(bundle, context)
    return evaluate_gan(bundle, context)


def _scored(bundle: Bundle, config: Path) -> Metrics:
    """What the scores are of: the card tells by it whether they are of these weights and settings."""
    settings = provenance_tags("evaluate", config, bundle.data_digest)["config.sha256"]
    return {"model_hash": bundle.model_hash, "settings_sha256": settings}


def _remarks(metrics: Metrics, config: Path) -> Iterator[str]:
    """What a user should read at once: verdicts, those of each dose too, and grids that are too narrow."""
    if "verdict" in metrics:
        yield str(metrics["verdict"])
    for dose, scores in metrics.get("doses", {}).items():
        for remark in _remarks(scores, config):
            yield f"{dose}: {remark}"
    for baseline, value in metrics.get("baselines_at_grid_end", {}).items():
        yield f"{baseline}: {value:g} is the end of its grid; widen {config}"


def _track(name: str, bundle: Bundle, layout: Layout, metrics: Metrics) -> None:
    """Log scores, tables and pictures, and which settings and commit they were made from."""
    stage, config = f"evaluate@{name}", layout.config("evaluate")
    made_from = provenance_tags(stage, config, bundle.data_digest)
    with _run(name, stage, config, bundle, layout) as tracked:
        tracked.set_tags(
            {f"evaluate.{key}": made_from[key] for key in ("config.sha256", "git.sha") if key in made_from}
        )
        tracked.log_metrics(dict(numbers(metrics, "test")))
        tracked.log_artifact(layout.evaluation(name), folder="evaluation")


def _run(name: str, stage: str, config: Path, bundle: Bundle, layout: Layout) -> AbstractContextManager[Run]:
    """The training's run; a run of its own for `task`, which belongs to two trainings."""
    run_name, digest = f"{layout.preset}-{name}", bundle.data_digest
    if name == TASK:
        return start_run(experiment=EXPERIMENT, name=run_name, stage=stage, config=config, data_digest=digest)
    run_json = layout.model(name) / "run.json"
    return reopen_run(
        run_json, experiment=EXPERIMENT, name=run_name, stage=stage, config=config, data_digest=digest
    )


def rounded(value: Any) -> Any:
    """Numbers of nested dictionaries to four decimals; what is not finite becomes None (JSON's null)."""
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return round(value, DECIMALS) if math.isfinite(value) else None
    return value


def numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """The numbers of nested dictionaries, their keys joined by slashes; MLflow's characters only.

    What is `NOT_TRACKED` is passed over.
    """
    for key, value in values.items():
        if key in NOT_TRACKED:
            continue
        name = f"{prefix}/{re.sub(FORBIDDEN, '_', key)}"
        if isinstance(value, Mapping):
            yield from numbers(value, name)
        elif isinstance(value, int | float):
            yield name, float(value)


def _say(line: str) -> None:
    Console(stderr=True).print(line, highlight=False, soft_wrap=True)


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _write_json(path: Path, values: Metrics) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)
