"""Everything that changes during a training, and its way to a resume state and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pipeline.engine.curves import Row
from pipeline.engine.ema import WeightAverage
from pipeline.engine.hardware import Hardware, lightning
from pipeline.engine.plan import Plan
from pipeline.engine.resume import State
from pipeline.engine.team import Team
from pipeline.objectives import Networks, Score

_ALONE: Final = Team()


class Session:
    """Networks, optimizers, averaged weights, best weights, curves and the number of steps done.

    Args:
        networks: freshly built, by name; moved to the device and to channels-last in place.
        product: name of the network that is kept.
        plan: the training.
        hardware: device, precision, and whether the product's training passes are compiled.
        team: the processes that share each batch.
    """

    def __init__(
        self, networks: Networks, product: str, plan: Plan, hardware: Hardware, team: Team = _ALONE
    ) -> None:
        self._fabric = lightning(hardware)
        self._plan = plan
        self._product = product
        self._team = team
        self._networks = dict(networks)
        self._optimizers: dict[str, Optimizer] = {}
        self.wrapped: dict[str, nn.Module] = {}
        for name, network in networks.items():
            settings = plan.optimizers[name]
            network.to(hardware.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            optimizer = AdamW(
                [weight for weight in network.parameters() if weight.requires_grad],
                lr=settings.learning_rate,
                betas=settings.betas,
                weight_decay=settings.weight_decay,
                fused=True,
            )
            # compiled graphs have no second derivative, which a discriminator's penalty may need
            compiled = hardware.compile and name == product
            module = cast(nn.Module, torch.compile(network)) if compiled else network
            self.wrapped[name], self._optimizers[name] = self._fabric.setup(module, optimizer)
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

    def buffers(self) -> list[Tensor]:
        """Buffers of the networks in training."""
        return [buffer for network in self._networks.values() for buffer in network.buffers()]

    def begin_turn(self, name: str) -> None:
        """Forget a network's gradient and set the learning rate of this step."""
        optimizer = self._optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = self._plan.optimizers[name].learning_rate_at(self.step, self._plan.steps)
        optimizer.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one part of the batch."""
        parts = self._team.size * self._plan.accumulate
        self._fabric.backward(loss / parts if parts > 1 else loss)

    def take_step(self, name: str) -> Tensor:
        """Add up a network's gradient over the team, clip it and step; returns its norm before clipping."""
        network, optimizer = self.wrapped[name], self._optimizers[name]
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        self._team.add_up(gradients)
        if self._plan.clip_norm is None:
            norm = torch.nn.utils.get_total_norm(gradients)
        else:
            clipped = self._fabric.clip_gradients(
                network, optimizer, max_norm=self._plan.clip_norm, error_if_nonfinite=False
            )
            norm = cast(Tensor, clipped)
        optimizer.step()
        return norm.detach()

    def finish_step(self) -> None:
        """All turns of a batch are taken."""
        if self._average is not None:
            self._average.update(self._networks[self._product], self.step)
        self.step += 1

    def learning_rates(self) -> dict[str, float]:
        """Of the step before: `learning_rate` is the product's, that of any other network has its name."""
        return {
            "learning_rate" if name == self._product else f"{name}_learning_rate": float(
                optimizer.param_groups[0]["lr"]
            )
            for name, optimizer in self._optimizers.items()
        }

    def agree(self) -> None:
        """Give the whole team the leader's state."""
        if self._team.size > 1:
            self.restore(self._team.share(self.state()))

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
        return State(facts, {name: value.detach().cpu() for name, value in tensors.items()})

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
    """A moment with the parameter's device and strides, or the step counter on the parameter's device."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter.data).copy_(value)
