"""One step: the turns of an objective, on all parts of the batch in lockstep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.engine.feed import LoadedPart
from pipeline.engine.session import Session
from pipeline.objectives import Objective, Turn

Logs = dict[str, Tensor]


def take_turns(objective: Objective, session: Session, parts: Sequence[LoadedPart]) -> Logs:
    """Take every turn of one step and return what they logged, still on the device.

    A turn is taken on all parts before the next one begins: each part's gradient is added up and its memory
    freed before the next part's forward pass. Losses are means over samples and the parts are equal, so the
    mean of the parts' gradients is the gradient of the whole batch.

    Raises:
        ValueError: the objective took other turns on one part than on another.
    """
    pending = [
        objective.turns(session.wrapped, part.batch, step=session.step, generator=part.generator)
        for part in parts
    ]
    logs: Logs = {}
    while True:
        buffers = _Buffers(session, several=len(parts) > 1)
        turns: list[tuple[str, Logs]] = []
        for position, iterator in enumerate(pending):
            buffers.before(position)
            turn = next(iterator, None)
            if turn is not None:
                turns.append(_add_gradient(session, turn, first=position == 0))
            buffers.after(position)
        names = {name for name, _ in turns}
        if not turns:
            break
        if len(names) > 1 or len(turns) < len(parts):
            raise ValueError("turns must depend on the step alone, not on the part of the batch")
        (name,) = names
        norm = session.take_step(name)
        logs |= _mean([values for _, values in turns]) | {f"{name}_gradient_norm": norm}
    session.finish_step()
    return logs


def _add_gradient(session: Session, turn: Turn, *, first: bool) -> tuple[str, Logs]:
    if first:
        session.begin_turn(turn.network)
    session.backward(turn.loss)
    return turn.network, {f"{turn.network}_loss": turn.loss.detach(), **turn.logs}


def _mean(logs: Sequence[Logs]) -> Logs:
    if len(logs) == 1:
        return logs[0]
    return {name: torch.stack([values[name].float() for values in logs]).mean() for name in logs[0]}


class _Buffers:
    """What a forward pass changes besides the gradients moves once in a turn: with the first part.

    So all parts of a process meet the same network. What follows from the weights alone (vectors of spectral
    normalisation) is also the same in all processes of a team; statistics of data (batch normalisation) would
    be those of each process's own first part, and the leader's are kept.
    """

    def __init__(self, session: Session, *, several: bool) -> None:
        self._buffers = session.buffers() if several else []
        self._before = [buffer.clone() for buffer in self._buffers]
        self._after: list[Tensor] = []

    def before(self, position: int) -> None:
        """As the first part found them."""
        if position:
            self._put(self._before)

    def after(self, position: int) -> None:
        """As the first part left them."""
        if position == 0:
            self._after = [buffer.clone() for buffer in self._buffers]
        else:
            self._put(self._after)

    def _put(self, values: Sequence[Tensor]) -> None:
        for buffer, value in zip(self._buffers, values, strict=True):
            buffer.data.copy_(value)  # of .data: a graph that is still open may hold the buffer
