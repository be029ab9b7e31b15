"""The processes that train one network together, one for each GPU, as torchrun or SLURM starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from torch import Tensor

from pipeline.errors import ConfigError, PipelineError

Value = TypeVar("Value")

_PATIENCE: Final = timedelta(minutes=30)
"""How long a process waits for the others, e.g. while the first one validates."""


@dataclass(frozen=True)
class Team:
    """This process among those that train together; alone unless `join_team` says otherwise.

    Attributes:
        rank: which of them this is; 0 leads: it alone validates, logs and writes.
        size: how many they are.
        local_rank: which of those on this machine; the number of its GPU.

    Raises:
        ValueError: no such rank.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"no rank {self.rank} in a team of {self.size}")

    @property
    def leads(self) -> bool:
        """Whether this process validates, logs and writes."""
        return self.rank == 0

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their sums over the team, with a single all-reduce.

        Raises:
            PipelineError: another process is gone.
        """
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._together():
            dist.all_reduce(flat)
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, added in zip(tensors, sums, strict=True):
            tensor.copy_(added.view(tensor.shape))

    def share(self, value: Value) -> Value:
        """The value that the leader has; tensors in it must be on the CPU.

        Raises:
            PipelineError: another process is gone.
        """
        if self.size == 1:
            return value
        shared: list[Any] = [value if self.leads else None]
        with self._together():
            dist.broadcast_object_list(shared, src=0)
        result: Value = shared[0]
        return result

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as lost:
            raise PipelineError(
                f"process {self.rank} of {self.size} stops: another one is gone, whose own message says why "
                f"({_first_line(lost)})"
            ) from None


@contextmanager
def join_team() -> Iterator[Team]:
    """Join the processes that torchrun or srun started beside this one; a team of one without them.

    Communication is NCCL between GPUs and gloo between CPUs.

    Raises:
        ConfigError: the launcher's environment variables cannot be used.
        PipelineError: the others cannot be reached.
    """
    team, address = _torchrun() or _slurm() or (Team(), "")
    if team.size == 1:
        yield team
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(gpu_index(team))
    try:
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            init_method=f"tcp://{address}",
            rank=team.rank,
            world_size=team.size,
            timeout=_PATIENCE,
        )
    except (RuntimeError, ValueError) as failure:
        raise PipelineError(
            f"process {team.rank} of {team.size} cannot reach the others at {address} "
            f"({_first_line(failure)}); is MASTER_PORT free?"
        ) from None
    try:
        yield team
    except BaseException:
        if not cuda:  # NCCL would wait for the others; the launcher ends them, and the end of this process it
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def gpu_index(team: Team) -> int:
    """Which of the visible GPUs this process trains on.

    Raises:
        ConfigError: there are more processes than GPUs.
    """
    visible = torch.cuda.device_count()
    if visible == 1 and team.size > 1:
        return 0  # the launcher shows each process its own GPU alone
    if team.local_rank >= visible:
        raise ConfigError(
            f"process {team.local_rank + 1} on this machine has no GPU, {visible} are visible: "
            f"start {visible} processes"
        )
    return team.local_rank


def _torchrun() -> tuple[Team, str] | None:
    """Team and address from the variables that torchrun sets."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    rank = _number("RANK")
    team = _team(rank, _number("WORLD_SIZE"), _number("LOCAL_RANK", rank))
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing and team.size > 1:
        raise ConfigError(
            f"WORLD_SIZE is {team.size}, but {' and '.join(missing)} not set; start with torchrun"
        )
    return team, f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def _slurm() -> tuple[Team, str] | None:
    """Team and address from the variables that srun sets; a batch script without srun is one process."""
    if "SLURM_STEP_NUM_TASKS" not in os.environ:
        return None
    team = _team(_number("SLURM_PROCID"), _number("SLURM_STEP_NUM_TASKS"), _number("SLURM_LOCALID"))
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "127.0.0.1")
    host = os.environ.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)
    port = _number("MASTER_PORT", 15000 + _number("SLURM_JOB_ID", 0) % 10000)
    return team, f"{host}:{port}"


def _team(rank: int, size: int, local_rank: int) -> Team:
    try:
        return Team(rank, size, local_rank)
    except ValueError as impossible:
        raise ConfigError(f"the launcher's variables contradict each other: {impossible}") from None


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r}, not a number; start with torchrun or srun")
    return int(text)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip()
