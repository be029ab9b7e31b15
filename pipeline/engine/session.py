"""Everything that changes during a training, and its way to a resume state and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pipeline.engine.curves import Row
from pipeline.engine.ema import WeightAverage
from pipeline.engine.plan import Plan
from pipeline.engine.resume import State
from pipeline.objectives import Networks, Score, Turn


class Session:
    """Networks, optimizers, averaged weights, best weights, curves and the number of steps done.

    Args:
        networks: freshly built, by name; moved to the device and to channels-last in place.
        product: name of the network that is kept.
        plan: the training.
        fabric: device and precision.
    """

    def __init__(self, networks: Networks, product: str, plan: Plan, fabric: Fabric) -> None:
        self._fabric = fabric
        self._plan = plan
        self._product = product
        self._networks = dict(networks)
        self._optimizers: dict[str, Optimizer] = {}
        self.wrapped: dict[str, nn.Module] = {}
        for name, network in networks.items():
            settings = plan.optimizers[name]
            optimizer = AdamW(
                network.to(memory_format=torch.channels_last).parameters(),  # type: ignore[call-overload]
                lr=settings.learning_rate,
                betas=settings.betas,
                weight_decay=settings.weight_decay,
            )
            self.wrapped[name], self._optimizers[name] = fabric.setup(network.train(), optimizer)
        average = None if plan.ema_decay is None else WeightAverage(networks[product], plan.ema_decay)
        self._average = average
        self.step = 0
        self.best_score: Score | None = None
        self.last_score: Score | None = None
        self.best_tensors: dict[str, Tensor] = {}
        self.rows: list[Row] = []

    @property
    def kept(self) -> nn.Module:
        """The product as it is validated and kept: the averaged copy where there is one."""
        return self._networks[self._product] if self._average is None else self._average.network

    def validated(self) -> Networks:
        """The networks by name, the product as it is kept; not wrapped for training."""
        return {**self._networks, self._product: self.kept}

    def kept_tensors(self) -> dict[str, Tensor]:
        """A copy of the weights of `kept`, on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.kept.state_dict().items()}

    def take(self, turn: Turn) -> None:
        """Backward, clipping and one optimizer step of a turn."""
        network, optimizer = self.wrapped[turn.network], self._optimizers[turn.network]
        settings = self._plan.optimizers[turn.network]
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(self.step, self._plan.steps)
        optimizer.zero_grad()
        self._fabric.backward(turn.loss)
        if self._plan.clip_norm is not None:
            self._fabric.clip_gradients(
                network, optimizer, max_norm=self._plan.clip_norm, error_if_nonfinite=False
            )
        optimizer.step()

    def finish_step(self) -> None:
        """All turns of a batch are taken."""
        if self._average is not None:
            self._average.update(self._networks[self._product], self.step)
        self.step += 1

    def learning_rate(self) -> float:
        """Learning rate of the product in the step before."""
        return float(self._optimizers[self._product].param_groups[0]["lr"])

    def state(self) -> State:
        """All that `restore` needs."""
        tensors = {f"best/{name}": value for name, value in self.best_tensors.items()}
        for name, network in self._networks.items():
            tensors |= {f"network/{name}/{key}": value for key, value in network.state_dict().items()}
            for index, parameter in enumerate(network.parameters()):
                moments = self._optimizers[name].state[parameter]
                tensors |= {f"optimizer/{name}/{index}/{key}": value for key, value in moments.items()}
        if self._average is not None:
            average = self._average.network.state_dict()
            tensors |= {f"average/{key}": value for key, value in average.items()}
        facts = {
            "step": self.step,
            "rows": self.rows,
            "best_score": self.best_score and asdict(self.best_score),
            "last_score": self.last_score and asdict(self.last_score),
        }
        return State(facts, tensors)

    def restore(self, state: State) -> None:
        """Go back to a saved state."""
        self.step = state.facts["step"]
        self.rows = list(state.facts["rows"])
        self.best_score, self.last_score = (
            None if score is None else Score(**score)
            for score in (state.facts["best_score"], state.facts["last_score"])
        )
        self.best_tensors = _below(state.tensors, "best/")
        for name, network in self._networks.items():
            network.load_state_dict(_below(state.tensors, f"network/{name}/"))
            for index, parameter in enumerate(network.parameters()):
                moments = _below(state.tensors, f"optimizer/{name}/{index}/")
                self._optimizers[name].state[parameter] = {
                    key: _laid_out_as(parameter, value) for key, value in moments.items()
                }
        if self._average is not None:
            self._average.network.load_state_dict(_below(state.tensors, "average/"))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment with the parameter's strides and device (a step counter stays as it is, on the CPU)."""
    return value if value.shape != parameter.shape else torch.empty_like(parameter.data).copy_(value)
