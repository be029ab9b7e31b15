"""`evaluate`: bundles and test cases to metrics, tables and pictures, also in the training's MLflow run."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.console import Console

from pipeline.bundle import Bundle, load_bundle
from pipeline.config import load_settings
from pipeline.config.evaluate import EvaluateSettings
from pipeline.config.labels import load_labels
from pipeline.config.layout import EXPERIMENT, Layout
from pipeline.config.train import GANSettings, VAESettings, load_train_settings
from pipeline.data import read_cases
from pipeline.errors import ConfigError
from pipeline.stages.evaluation.context import Context, Metrics
from pipeline.stages.evaluation.generative import evaluate_gan, evaluate_vae
from pipeline.stages.evaluation.restoration import evaluate_restoration
from pipeline.stages.evaluation.segmentation import evaluate_segmentation, evaluate_task
from pipeline.tracking import Run, reopen_run, start_run

TASK: Final = "task"
DECIMALS: Final = 4
Family = TypeVar("Family", VAESettings, GANSettings)


def run(name: str, preset: str) -> None:
    """Score the model `name` of a preset, or `task`: segmentation before and after denoising.

    Raises:
        BundleError: weights are missing, damaged or of another kind.
        ConfigError: the settings cannot be used.
        DataError: the ingested cases cannot be used.
    """
    layout = Layout(preset)
    settings = load_settings(layout.config("evaluate"), EvaluateSettings)
    context = Context(
        settings=settings,
        test=read_cases(layout.cases, "test"),
        validation=read_cases(layout.cases, "validation"),
        folder=layout.evaluation(name),
    )
    bundle = load_bundle(layout.bundle(settings.task.segmenter if name == TASK else name))
    _make_empty(context.folder)
    metrics = rounded(_evaluate(name, bundle, layout, context))
    with _tracked(name, bundle, layout) as tracked:
        tracked.log_metrics(dict(numbers(metrics, "test")))
        tracked.log_artifact(context.folder, folder="evaluation")
    _write_json(layout.metrics(name), metrics)
    if "verdict" in metrics:
        Console(stderr=True).print(f"{name}: {metrics['verdict']}", highlight=False, soft_wrap=True)


def _evaluate(name: str, bundle: Bundle, layout: Layout, context: Context) -> Metrics:
    if name == TASK:
        denoiser = load_bundle(layout.bundle(context.settings.task.denoiser), "denoiser")
        return evaluate_task(bundle, denoiser, load_labels(), context)
    if bundle.kind == "denoiser":
        return evaluate_restoration(bundle, context)
    if bundle.kind == "segmenter":
        return evaluate_segmentation(bundle, load_labels(), context)
    if bundle.kind == "vae":
        return evaluate_vae(bundle, _training(name, layout, VAESettings), context)
    return evaluate_gan(bundle, _training(name, layout, GANSettings), context)


def _training(name: str, layout: Layout, family: type[Family]) -> Family:
    """The settings that a model was trained with."""
    path = layout.config(name)
    settings = load_train_settings(path)
    if not isinstance(settings, family):
        raise ConfigError(f"{path}: family {settings.family} does not fit {layout.bundle(name)}; train again")
    return settings


def _tracked(name: str, bundle: Bundle, layout: Layout) -> AbstractContextManager[Run]:
    """The training's run; a run of its own for `task`, which belongs to two trainings."""
    run_name, stage, config = f"{layout.preset}-{name}", f"evaluate@{name}", layout.config("evaluate")
    digest = bundle.data_digest
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
    """The numbers of nested dictionaries, their keys joined by slashes."""
    for key, value in values.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Mapping):
            yield from numbers(value, name)
        elif isinstance(value, int | float):
            yield name, float(value)


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _write_json(path: Path, values: Metrics) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)
