"""Short trainings through the product's engine, each kept until its settings or its code change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.bundle import save_tensors
from pipeline.config.lab import Training
from pipeline.data.batches import Batches
from pipeline.engine import OptimizerPlan, Plan, ResumeStore, choose_hardware, train
from pipeline.lab.progress import LabProgress, quiet
from pipeline.manifest import code_sha256, digest_of
from pipeline.models import build_model
from pipeline.objectives import Objective

_ENTRY: Final = "ldct-lab"
_ROOMS: Final = (
    "data",
    "degradations",
    "dose",
    "engine",
    "lab",
    "losses",
    "metrics",
    "models",
    "objectives",
    "projector",
    "simulate",
    "transforms",
)
_CODE: Final = ("hu.py", *(f"{room}/*.py" for room in _ROOMS))
"""What decides a training beside its settings."""


@dataclass(frozen=True)
class Run:
    """A training of the lab.

    Attributes:
        name: for messages, e.g. `RED30 with skips, seed 1`.
        model: name in `MODELS`.
        arguments: of its constructor.
        seed: of weights, patches and noise.
        facts: all else that decides the result (data, noise), for the digest.
        validate_every: steps between scores.
        cost: time of a step, in any unit that all runs share.
    """

    name: str
    model: str
    arguments: Mapping[str, Any]
    seed: int
    facts: Mapping[str, Any]
    validate_every: int
    cost: float


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        network: with its last weights, in evaluation mode.
        rows: the curves: `step`, `denoiser_loss`, and where validated `validation_psnr_db`.
        first_layer_gradients: norm of the first layer's gradient at every step, before clipping.
    """

    network: nn.Module
    rows: list[dict[str, float]]
    first_layer_gradients: list[float]


class Bench:
    """Trains, or takes a finished training of the same settings and code from its folder.

    Args:
        folder: where finished trainings lie.
        progress: is told of every step.
        fresh: train anew what is there.
    """

    def __init__(self, folder: Path, progress: LabProgress, *, fresh: bool = False) -> None:
        self._folder = folder
        self._progress = progress
        self._fresh = fresh
        self._seen: set[Path] = set()

    def run(
        self,
        run: Run,
        training: Training,
        objective: Objective,
        batches: Batches,
        *,
        start: Mapping[str, Tensor] | None = None,
    ) -> Trained:
        """The trained network of a run.

        Args:
            run: what to train.
            training: how.
            objective: losses and validation.
            batches: data.
            start: first weights, in place of those that the seed draws.
        """
        network = first_network(run)
        if start is not None:
            network.load_state_dict(start)
        path = self._folder / f"{_digest(run, training)[:24]}.safetensors"
        seen = path in self._seen
        self._seen.add(path)
        if path.is_file() and (seen or not self._fresh):
            if not seen:
                self._progress.skip(run.name, run.cost * training.steps)
            return _load(path, network)
        store = ResumeStore(path.with_suffix(".running"), key="none: a training of the lab is short")
        trained = self._train(run, training, objective, batches, network, store)
        curves = {"rows": trained.rows, "first_layer_gradients": trained.first_layer_gradients}
        save_tensors(path, trained.network.state_dict(), {_ENTRY: json.dumps(curves)})
        return trained

    def _train(
        self,
        run: Run,
        training: Training,
        objective: Objective,
        batches: Batches,
        network: nn.Module,
        store: ResumeStore,
    ) -> Trained:
        gradients: list[float] = []
        first = next(network.parameters())
        handle = first.register_hook(lambda g: gradients.append(float(g.norm())))  # type: ignore[no-untyped-call]
        store.remove()
        try:
            outcome = train(
                objective,
                {objective.product: network},
                batches,
                _plan(run, training, objective.product),
                hardware=choose_hardware("fp32"),
                store=store,
                log=self._progress.log(run.name, run.cost, steps=training.steps),
                progress=quiet(run.name),
            )
        finally:
            handle.remove()
            store.remove()
        network.load_state_dict(outcome.last_tensors)
        return Trained(network.cpu().eval(), [dict(row) for row in outcome.rows], gradients)


def first_network(run: Run) -> nn.Module:
    """The network before its first step, the same for a seed; torch's own generator stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        return build_model(run.model, **run.arguments)


def _plan(run: Run, training: Training, product: str) -> Plan:
    return Plan(
        name=run.name,
        steps=training.steps,
        batch_size=training.batch_size,
        optimizers={
            product: OptimizerPlan(
                training.learning_rate,
                warmup_steps=training.warmup_steps,
                final_fraction=training.final_fraction,
            )
        },
        seed=run.seed,
        validate_every=run.validate_every,
        checkpoint_every=training.steps,
        log_every=training.log_every,
        clip_norm=1.0,
    )


def _digest(run: Run, training: Training) -> str:
    kept = {name: getattr(training, name) for name in Training.model_fields}
    decides = asdict(replace(run, name="", cost=0))
    settings = json.dumps([decides, kept], sort_keys=True, default=str)
    return digest_of({"run": settings, "code": _code_sha256()})


@cache
def _code_sha256() -> str:
    return code_sha256(_CODE)


def _load(path: Path, network: nn.Module) -> Trained:
    with safe_open(path, framework="pt") as archive:
        curves = json.loads((archive.metadata() or {})[_ENTRY])
        network.load_state_dict({name: archive.get_tensor(name) for name in archive.keys()})  # noqa: SIM118
    return Trained(network.eval(), curves["rows"], curves["first_layer_gradients"])
