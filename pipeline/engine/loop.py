"""The training loop, on Lightning Fabric.

The engine owns devices, precision, backward, clipping, steps, schedules, weight averages, validation,
checkpoints, resuming, logging and progress; an objective says which loss each network minimises.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline.engine.curves import Row
from pipeline.engine.hardware import Hardware, deterministic
from pipeline.engine.plan import Plan
from pipeline.engine.progress import Progress
from pipeline.engine.resume import ResumeStore
from pipeline.engine.session import Session
from pipeline.errors import PipelineError
from pipeline.objectives import Batch, Networks, Objective, Score


class DivergenceError(PipelineError):
    """A loss or score became infinite or not a number."""


class MetricLog(Protocol):
    """Where the curves go while the training runs."""

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record values at a step."""


@dataclass(frozen=True)
class Outcome:
    """What a training leaves.

    Attributes:
        best_score: best validation score.
        best_tensors: weights with that score.
        last_score: validation score after the last step.
        last_tensors: weights after the last step.
        networks: by name, the product with its best weights, in evaluation mode.
        rows: the curves.
    """

    best_score: Score
    best_tensors: Mapping[str, Tensor]
    last_score: Score
    last_tensors: Mapping[str, Tensor]
    networks: Networks
    rows: Sequence[Row]


def train(
    objective: Objective,
    networks: Mapping[str, nn.Module],
    samples: Dataset[dict[str, Tensor]],
    plan: Plan,
    *,
    hardware: Hardware,
    store: ResumeStore,
    log: MetricLog,
    progress: Progress,
) -> Outcome:
    """Train networks, from the store's resume state where there is one.

    The result depends on the arguments alone: on one machine, a training that was killed and continued ends
    with the same weights, bit for bit, as one that was not.

    Args:
        objective: losses and validation.
        networks: freshly built, by name.
        samples: sample `i` of the run at index `i`.
        plan: the training.
        hardware: device and precision.
        store: where resume states lie; the caller removes it when the results are safe.
        log: receives the curves as they grow.
        progress: shows them.

    Raises:
        DivergenceError: a loss or score is not finite; the last good resume state is kept.
    """
    fabric = lightning(hardware)
    session = Session(networks, objective.product, plan, fabric)
    state = store.load()
    if state is not None:
        session.restore(state)
    loop = _Loop(objective, session, plan, hardware, store, log, progress)
    with deterministic(), progress:
        progress.begin(step=session.step, steps=plan.steps, batch_size=plan.batch_size)
        if session.best_score is not None:
            progress.best(session.best_score)
        for batch in _batches(
            samples, plan, first_step=session.step, pin_memory=hardware.device.type == "cuda"
        ):
            loop.run_step(fabric.to_device(batch))
    return _outcome(session, objective.product)


def lightning(hardware: Hardware) -> Fabric:
    """Fabric for one device; bfloat16 is mixed: float32 weights, moments and losses."""
    device = hardware.device.type
    precision = MixedPrecision("bf16-mixed", device) if hardware.bf16 else Precision()
    return Fabric(accelerator=device, devices=1, plugins=precision)


class _Loop:
    """One step after the other, and what happens every so many steps."""

    def __init__(
        self,
        objective: Objective,
        session: Session,
        plan: Plan,
        hardware: Hardware,
        store: ResumeStore,
        log: MetricLog,
        progress: Progress,
    ) -> None:
        self._objective = objective
        self._session = session
        self._plan = plan
        self._hardware = hardware
        self._store = store
        self._log = log
        self._progress = progress
        self._pending: list[dict[str, Tensor]] = []

    def run_step(self, batch: Batch) -> None:
        session, plan = self._session, self._plan
        self._pending.append(self._train_on(batch))
        last = session.step == plan.steps
        validating = last or session.step % plan.validate_every == 0
        saving = last or session.step % plan.checkpoint_every == 0
        loss = None
        if validating or saving or session.step % plan.log_every == 0:
            loss = self._flush_logs()
        if validating:
            self._validate()
        if saving:
            self._store.save(session.state())
        self._progress.advance(session.step, loss)

    def _train_on(self, batch: Batch) -> dict[str, Tensor]:
        """All turns of a batch; returns what they logged, still on the device."""
        session = self._session
        generator = torch.Generator(self._hardware.device)
        generator.manual_seed(_step_seed(self._plan.seed, session.step))
        logs: dict[str, Tensor] = {}
        for turn in self._objective.turns(session.wrapped, batch, step=session.step, generator=generator):
            session.take(turn)
            logs[f"{turn.network}_loss"] = turn.loss.detach()
            logs |= turn.logs
        session.finish_step()
        return logs

    def _flush_logs(self) -> float | None:
        """Average the steps since the last point of the curves; returns the product's loss."""
        if not self._pending:
            return None
        names = list(self._pending[0])
        means = torch.stack([torch.stack([logs[name].float() for name in names]) for logs in self._pending])
        self._pending.clear()
        values: dict[str, float] = dict(zip(names, means.mean(dim=0).tolist(), strict=True))
        self._record(values | {"learning_rate": self._session.learning_rate()})
        return values[f"{self._objective.product}_loss"]

    def _validate(self) -> None:
        networks = self._session.validated()
        modes = {name: network.training for name, network in networks.items()}
        for network in networks.values():
            network.eval()
        score = self._objective.validate(networks, bf16=self._hardware.bf16)
        for name, network in networks.items():
            network.train(modes[name])
        self._record({f"validation_{score.metric}": score.value, **_prefixed(score.details)})
        self._session.last_score = score
        if score.beats(self._session.best_score):
            self._session.best_score = score
            self._session.best_tensors = self._session.kept_tensors()
            self._progress.best(score)

    def _record(self, values: Mapping[str, float]) -> None:
        step = self._session.step
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergenceError(self._farewell(name, value, step))
        rows = self._session.rows
        if rows and rows[-1]["step"] == step:
            rows[-1] = {**rows[-1], **values}
        else:
            rows.append({"step": step, **values})
        self._log.log_metrics(values, step=step)

    def _farewell(self, name: str, value: float, step: int) -> str:
        state = self._store.load()
        kept = (
            f"the state of step {state.facts['step']} is kept in {self._store.path}"
            if state
            else "no state is kept"
        )
        return (
            f"{self._plan.name}: {name} is {value} at step {step}; {kept}; lower the learning rate (optim.lr)"
        )


def _prefixed(details: Mapping[str, float]) -> dict[str, float]:
    return {f"validation_{name}": value for name, value in details.items()}


def _step_seed(seed: int, step: int) -> int:
    """Seed of one step's random numbers; neighbouring steps share nothing."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _batches(
    samples: Dataset[dict[str, Tensor]], plan: Plan, *, first_step: int, pin_memory: bool
) -> DataLoader[dict[str, Tensor]]:
    size = plan.batch_size
    indices = [list(range(step * size, (step + 1) * size)) for step in range(first_step, plan.steps)]
    return DataLoader(samples, batch_sampler=indices, num_workers=plan.workers, pin_memory=pin_memory)


def _outcome(session: Session, product: str) -> Outcome:
    if session.best_score is None or session.last_score is None:
        raise ValueError("a training needs at least one step")
    best = copy.deepcopy(session.kept)
    best.load_state_dict(session.best_tensors)
    networks = {**session.validated(), product: best}
    return Outcome(
        best_score=session.best_score,
        best_tensors=session.best_tensors,
        last_score=session.last_score,
        last_tensors=session.kept_tensors(),
        networks={name: network.eval() for name, network in networks.items()},
        rows=session.rows,
    )
