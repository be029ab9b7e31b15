"""The training loop, on Lightning Fabric.

The engine owns devices, precision, backward, clipping, steps, schedules, weight averages, validation,
checkpoints, resuming, logging and progress; an objective says which loss each network minimises.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from pipeline.data.batches import Batches
from pipeline.engine.curves import Row
from pipeline.engine.feed import Feed, LoadedPart
from pipeline.engine.hardware import Hardware, exact
from pipeline.engine.journal import DivergenceError, Journal, Means, MetricLog
from pipeline.engine.memory import memory_advice
from pipeline.engine.pace import Pace
from pipeline.engine.plan import Plan
from pipeline.engine.progress import Progress
from pipeline.engine.resume import ResumeStore
from pipeline.engine.session import Session
from pipeline.engine.team import Team
from pipeline.engine.turns import take_turns
from pipeline.objectives import Networks, Objective, Score

_ALONE: Final = Team()


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
    batches: Batches,
    plan: Plan,
    *,
    hardware: Hardware,
    store: ResumeStore,
    log: MetricLog,
    progress: Progress,
    team: Team = _ALONE,
) -> Outcome:
    """Train networks, from the store's resume state where there is one.

    The result depends on the arguments alone: on one machine, a training that was killed and continued ends
    with the same weights, bit for bit, as one that was not. In a team every process ends with the same
    weights; its leader alone reads and writes the store, validates and logs.

    Args:
        objective: losses and validation.
        networks: freshly built, by name.
        batches: what each step trains on.
        plan: the training.
        hardware: device and precision.
        store: where resume states lie; the caller removes it when the results are safe.
        log: receives the curves as they grow.
        progress: shows them.
        team: the processes that share each batch.

    Raises:
        ConfigError: the batch cannot be cut into equal parts.
        DivergenceError: a loss, gradient or score is not finite; the last good resume state is kept.
        PipelineError: out of memory, a resume state that cannot be used, or another process of the team is
            gone or, where it leads, failed.
    """
    with exact(), progress:
        session = Session(networks, objective.product, plan, hardware, team)
        with team.leader_first():
            state = store.load() if team.leads else None
            if state is not None:
                session.restore(state)
        session.agree()
        progress.begin(step=session.step, steps=plan.steps)
        if session.best_score is not None:
            progress.best(session.best_score)
        pace = Pace(plan.batch_size)
        feed = Feed(batches, plan, team=team, device=hardware.device, first_step=session.step, pace=pace)
        loop = _Loop(objective, session, plan, hardware, store, log, progress, pace, team)
        with memory_advice(loop.memory_advice):
            try:
                for parts in feed:
                    loop.run_step(parts)
            except (KeyboardInterrupt, SystemExit):  # Ctrl-C and SIGTERM
                progress.stopped(loop.last_words())
                raise
        return _outcome(session, objective.product)


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
        pace: Pace,
        team: Team,
    ) -> None:
        self._objective = objective
        self._session = session
        self._plan = plan
        self._hardware = hardware
        self._store = store
        self._journal = Journal(session.rows, log)
        self._progress = progress
        self._pace = pace
        self._team = team
        self._kept_step = session.step
        self._means = Means()
        self._samples = "its samples"
        self._validating = False

    def run_step(self, parts: Sequence[LoadedPart]) -> None:
        session, plan = self._session, self._plan
        self._samples = _described(parts)
        self._means.add(take_turns(self._objective, session, parts))
        self._pace.step_done()
        last = session.step == plan.steps
        validating = last or session.step % plan.validate_every == 0
        saving = last or session.step % plan.checkpoint_every == 0
        try:
            if validating or saving or session.step % plan.log_every == 0:
                self._log_means()
            if validating:
                self._validate()
        except DivergenceError as diverged:
            raise DivergenceError(self._farewell(diverged)) from None
        if saving:
            with self._team.leader_first():
                if self._team.leads:
                    self._store.save(session.state())
            self._kept_step = session.step
        if validating or saving:
            self._pace.restart()
        self._progress.advance(session.step)

    def _log_means(self) -> None:
        """Average the steps since the last point of the curves, over the team."""
        means = self._means.take()
        self._team.add_up(list(means.values()))
        values = torch.stack(list(means.values())) / self._team.size
        losses = dict(zip(means, values.tolist(), strict=True))  # the one place that waits for the device
        speed, rates = self._pace.speed(), self._session.learning_rates()
        self._journal.record(losses | rates, step=self._session.step, speed=speed)
        loss = losses.get(f"{self._objective.product}_loss")
        self._progress.measured(loss, learning_rate=rates["learning_rate"], speed=speed)
        self._pace.restart()

    def _validate(self) -> None:
        self._validating = True
        with self._team.leader_first():
            score = self._score() if self._team.leads else None
        self._validating = False
        score = self._team.share(score)
        if score is None:
            raise ValueError("the leader of a team has a score")
        session = self._session
        details = {f"validation_{name}": value for name, value in score.details.items()}
        self._journal.record({f"validation_{score.metric}": score.value, **details}, step=session.step)
        session.last_score = score
        if score.beats(session.best_score):
            session.best_score = score
            session.best_tensors = session.kept_tensors()
            self._progress.best(score)

    def _score(self) -> Score:
        """Score of the networks in evaluation mode, with a picture for the log."""
        networks, bf16 = self._session.validated(), self._hardware.bf16
        modes = {name: network.training for name, network in networks.items()}
        for network in networks.values():
            network.eval()
        score = self._objective.validate(networks, bf16=bf16)
        self._journal.picture(self._objective, networks, step=self._session.step, bf16=bf16)
        for name, network in networks.items():
            network.train(modes[name])
        return score

    def _farewell(self, diverged: DivergenceError) -> str:
        kept = f"{self._kept()} in {self._store.path}" if self._kept_step else self._kept()
        return f"{self._plan.name}: {diverged}; {kept}; lower {self._to_lower(diverged.names)}"

    def _to_lower(self, wrong: Sequence[str]) -> str:
        """Settings behind values that are not finite; which network went first is not known."""
        product, networks = self._objective.product, list(self._plan.optimizers)
        guilty = [name for name in networks if any(value.startswith(f"{name}_") for value in wrong)]
        rates = [
            f"{name} ({'optim.lr' if name == product else f'adversarial.optim.lr or {name}_optim.lr'})"
            for name in guilty or [product]
        ]
        advice = f"the learning rate of {' and of '.join(rates)}"
        if not self._session.rows and any(f"{name}_loss" in wrong for name in networks):
            advice += (
                ", or, if the loss is not finite at the first step, the weights in losses or adversarial"
            )
        return advice

    def last_words(self) -> str:
        """Where a training stands that is stopped from outside."""
        again = "to continue" if self._kept_step else "to start afresh"
        return (
            f"{self._plan.name}: stopped at step {self._session.step}; {self._kept()}: "
            f"run the same command again {again}"
        )

    def _kept(self) -> str:
        return f"the state of step {self._kept_step} is kept" if self._kept_step else "no state is kept"

    def memory_advice(self) -> str:
        """What to change when the memory is too small for what happens now."""
        plan = self._plan
        if self._validating:
            return (
                f"{plan.name}: out of memory on {self._hardware.device} while validating on whole slices; "
                "choose a smaller network (model.arguments)"
            )
        return (
            f"{plan.name}: out of memory on {self._hardware.device} with batch_size {plan.batch_size}, "
            f"accumulate {plan.accumulate}, {self._samples}: lower batch_size, or raise accumulate: same "
            "result, less memory"
        )


def _described(parts: Sequence[LoadedPart]) -> str:
    """What goes through the network at once."""
    largest = max(parts[0].batch.values(), key=Tensor.numel)
    return f"{len(largest)} samples of {'x'.join(str(side) for side in largest.shape[2:])} at a time"


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
