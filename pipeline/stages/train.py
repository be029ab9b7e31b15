"""`train`: settings and ingested cases to a bundle, its curves and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from torch import Tensor

from pipeline.bundle import Bundle, save_bundle
from pipeline.config.labels import load_labels
from pipeline.config.layout import EXPERIMENT, PHANTOMS, Layout
from pipeline.config.train import TrainSettings, load_train_settings
from pipeline.data import data_digest, read_cases
from pipeline.engine import (
    Hardware,
    Outcome,
    Progress,
    ResumeStore,
    Team,
    choose_hardware,
    exact,
    join_team,
    train,
    write_curves,
)
from pipeline.manifest import code_sha256, digest_of, file_sha256
from pipeline.objectives import Score
from pipeline.stages.earlier import check_ingested
from pipeline.stages.families import Training, build_plan, build_training
from pipeline.tracking import Run, project_root, register_bundle, start_run, write_run_json

RUN_FILE: Final = "run.json"
LAST_FILE: Final = "last.safetensors"
ROOMS: Final = (
    "data",
    "degradations",
    "dose",
    "engine",
    "losses",
    "metrics",
    "models",
    "objectives",
    "projector",
    "transforms",
)
CODE: Final = ("hu.py", "stages/families/**/*.py", *(f"{room}/*.py" for room in ROOMS))
"""What decides the weights: a resume state of other code is not continued."""
LIBRARIES: Final = ("lightning-fabric", "monai", "numpy", "scipy")
"""What computes them beside torch: nor is one of another release."""


def run(name: str, preset: str) -> None:
    """Train the model `name` of a preset, or continue a training of it that was killed.

    Started by torchrun or srun, each process takes its share of every batch, and the first one writes.

    Raises:
        ConfigError: the settings cannot be used.
        DataError: the ingested cases cannot be used.
        DivergenceError: the training diverged.
        PipelineError: out of memory, the same training is running here already, or another process of the
            team is gone or, where it leads, failed.
    """
    layout = Layout(preset)
    with join_team() as team, exact(), ExitStack() as opened:
        config = layout.config(name)
        settings = load_train_settings(config)
        check_ingested(layout)
        hardware = choose_hardware(settings.precision, team)
        training = build_training(settings, layout.cases, device=hardware.device)
        digest = data_digest(layout.cases)
        key = _resume_key(config, settings, digest, training, hardware, team)
        store = ResumeStore(project_root() / ".ldct" / "resume" / f"{preset}-{name}-{key[:16]}", key)
        console = Console(stderr=True, quiet=not team.leads, soft_wrap=True, highlight=False)
        for remark in training.remarks:
            console.print(remark, markup=False)
        with team.leader_first():
            if team.leads:
                opened.enter_context(store.claimed())
            tracked = opened.enter_context(_run_of(team, layout, name, config, digest, store))
            if team.leads:
                write_run_json(tracked, store.folder / RUN_FILE)
                tracked.log_params(settings.model_dump())
        outcome = _train(name, settings, training, hardware, store, tracked, team, Progress(name, console))
        if team.leads:
            bundle = replace(
                training.bundle,
                name=name,
                precision="bf16" if hardware.bf16 else "fp32",
                config_digest=file_sha256(config),
                data_digest=digest,
            )
            _write(layout, name, bundle, training, outcome, tracked, bf16=hardware.bf16)


def _run_of(
    team: Team, layout: Layout, name: str, config: Path, digest: str, store: ResumeStore
) -> AbstractContextManager[Run]:
    """The leader's run; the others track nothing."""
    if not team.leads:
        return nullcontext(Run())
    return start_run(
        experiment=EXPERIMENT,
        name=f"{layout.preset}-{name}",
        stage=f"train@{name}",
        config=config,
        data_digest=digest,
        resume_run_id=_interrupted_run(store),
    )


def _train(
    name: str,
    settings: TrainSettings,
    training: Training,
    hardware: Hardware,
    store: ResumeStore,
    tracked: Run,
    team: Team,
    progress: Progress,
) -> Outcome:
    return train(
        training.objective,
        training.networks,
        training.batches,
        build_plan(name, settings, training.objective.product),
        hardware=hardware,
        store=store,
        log=tracked,
        progress=progress,
        team=team,
    )


def _write(
    layout: Layout,
    name: str,
    bundle: Bundle,
    training: Training,
    outcome: Outcome,
    tracked: Run,
    *,
    bf16: bool,
) -> None:
    """Write and register the weights with what they came from."""
    folder = layout.model(name)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (layout.bundle(name), folder / LAST_FILE):
        old.unlink(missing_ok=True)  # if this is killed below, no old weights stand beside the new run
    write_run_json(tracked, folder / RUN_FILE, training=bundle.training)
    write_curves(folder / "curves.csv", outcome.rows)
    training.objective.draw(outcome.networks, folder / "samples.png", bf16=bf16)
    _save(folder / LAST_FILE, bundle, outcome.last_score, outcome.last_tensors)
    best = _save(layout.bundle(name), bundle, outcome.best_score, outcome.best_tensors)
    tracked.log_artifact(folder / "curves.csv")
    tracked.log_artifact(folder / "samples.png")
    register_bundle(
        tracked,
        layout.bundle(name),
        kind=_registered_kind(best),
        model_hash=best.model_hash,
        score=outcome.best_score.value,
        higher_is_better=outcome.best_score.higher_is_better,
        convention=f"{outcome.best_score.metric}/{outcome.best_score.convention}",
        data_digest=bundle.data_digest,
        phantoms_alone=_saw_phantoms_alone(layout, bundle),
    )


def _saw_phantoms_alone(layout: Layout, bundle: Bundle) -> bool:
    """Whether all cases but those of sources that were left out are of studies that `simulate` made."""
    left_out = bundle.training.get("left_out", ())
    sources = {case.source for case in read_cases(layout.cases)}.difference(left_out)
    return all(source.startswith(PHANTOMS) for source in sources)


def _save(path: Path, blank: Bundle, score: Score, tensors: Mapping[str, Tensor]) -> Bundle:
    entry = {"metric": score.metric, "value": score.value, "convention": score.convention, **score.details}
    bundle = replace(blank, score=entry, tensors=tensors)
    save_bundle(path, bundle)
    return bundle


def _registered_kind(bundle: Bundle) -> str:
    """`denoiser` for low dose, else e.g. `denoiser-blur`, which `ldct predict` never takes by itself.

    One that a source was left out for, to be scored on it, is `denoiser-without-<source>`.
    """
    degradations = [step["kind"] for step in bundle.training.get("degradation", ())]
    left_out = [f"without-{source}" for source in bundle.training.get("left_out", ())]
    return "-".join([bundle.kind, *degradations, *left_out])


def _interrupted_run(store: ResumeStore) -> str | None:
    """Run id of the training that left a resume state, if its run file is there."""
    try:
        run_id: str | None = json.loads((store.folder / RUN_FILE).read_text(encoding="utf-8"))["run_id"]
    except (OSError, ValueError, KeyError):
        return None
    return run_id


def _resume_key(
    config: Path, settings: TrainSettings, digest: str, training: Training, hardware: Hardware, team: Team
) -> str:
    """Digest of everything that decides the weights; a batch may come in the same parts to another team."""
    device = hardware.device
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}"
    parts = team.size * settings.accumulate
    arithmetic = f"bf16 {hardware.bf16}, compile {hardware.compile}, {torch.get_num_threads()} threads"
    return digest_of(
        {
            "config": file_sha256(config),
            "settings": json.dumps(settings.model_dump(mode="json"), sort_keys=True),  # with all defaults
            "labels": load_labels().model_dump_json() if training.bundle.labels else "",
            "data": digest,
            "training": digest_of(dict(training.bundle.training)),  # e.g. the encoder of a feature loss
            "code": code_sha256(CODE),
            "libraries": ", ".join(f"{library} {version(library)}" for library in LIBRARIES),
            "machine": f"torch {torch.__version__}, {processor}, {arithmetic}, {parts} parts",
        }
    )
