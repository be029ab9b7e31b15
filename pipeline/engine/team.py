"""The processes that train one network together, one for each GPU, as torchrun or SLURM starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from pipeline.engine.memory import is_out_of_memory
from pipeline.errors import ConfigError, PipelineError

Value = TypeVar("Value")

_PATIENCE: Final = timedelta(minutes=30)
"""How long a process waits for the others, e.g. while the first one validates."""
_LAST_WORDS: Final = timedelta(seconds=5)
"""How long the leader, when it fails, waits for those that fail as it does."""


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
    def leader_first(self) -> Iterator[None]:
        """Around what the leader alone does (`if team.leads`): if it fails there, the others stop with it.

        Raises:
            PipelineError: the leader failed, or another process is gone.
        """
        try:
            yield
        except Exception as failure:
            with suppress(PipelineError):
                self.share(_first_line(failure))
            raise
        reason = self.share("")
        if reason:
            raise PipelineError(f"process {self.rank} of {self.size} stops: the first one failed ({reason})")

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as lost:
            if is_out_of_memory(lost):
                raise
            raise PipelineError(
                f"process {self.rank} of {self.size} stops: another one is gone, whose own message says why "
                f"({_first_line(lost)})"
            ) from None


@contextmanager
def join_team() -> Iterator[Team]:
    """Join the processes that torchrun or srun started beside this one; a team of one without them.

    Communication is NCCL between GPUs and gloo between CPUs. Where several processes fail with the same
    `PipelineError`, one of them raises it, and the others leave quietly with its exit code.

    Raises:
        ConfigError: the launcher's environment variables cannot be used, or processes share a GPU.
        PipelineError: the others cannot be reached.
    """
    team, address = _torchrun() or _slurm() or (Team(), "")
    if team.size == 1:
        yield team
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(gpu_index(team))
    store = _meet(team, address, "nccl" if cuda else "gloo")
    try:
        if cuda:
            gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
            check_gpus_differ(store, team, str(gpu.uuid))
        yield team
    except BaseException as failure:
        if not cuda:  # NCCL would wait for the others; the launcher ends them, and the end of this process it
            dist.destroy_process_group()
        if isinstance(failure, PipelineError) and _is_said(store, team, str(failure)):
            raise SystemExit(failure.exit_code) from None
        raise
    dist.destroy_process_group()


def _meet(team: Team, address: str, backend: str) -> Store:
    """Begin to talk; returns the notes that all processes read and write."""
    try:
        store, _, _ = next(rendezvous(f"tcp://{address}", team.rank, team.size, timeout=_PATIENCE))
        dist.init_process_group(
            backend,
            store=PrefixStore("team", store),
            rank=team.rank,
            world_size=team.size,
            timeout=_PATIENCE,
        )
        everybody = [f"met/{rank}" for rank in range(team.size)]
        store.set(everybody[team.rank], "")
        store.wait(everybody)  # one that left now would break off the others' start
    except (RuntimeError, ValueError) as failure:
        raise PipelineError(
            f"process {team.rank} of {team.size} cannot reach the others at {address} "
            f"({_first_line(failure)}); is MASTER_PORT free?"
        ) from None
    return PrefixStore("ldct", store)


def check_gpus_differ(store: Store, team: Team, gpu: str) -> None:
    """Compare the GPUs of all processes: NCCL wants one for each, and only their UUIDs tell them apart.

    Args:
        store: common to the team.
        team: to compare.
        gpu: UUID of this process's GPU.

    Raises:
        ConfigError: in every process, where two have the same GPU.
    """
    store.set(f"gpu/{team.rank}", gpu)
    count = len({store.get(f"gpu/{rank}") for rank in range(team.size)})
    if count < team.size:
        raise ConfigError(
            f"{team.size} processes share {count} {'GPU' if count == 1 else 'GPUs'}: start {count}, "
            "one for each GPU"
        )


def _is_said(store: Store, team: Team, line: str) -> bool:
    """Whether another process ends with the same line already; no where nobody can be asked."""
    first = True
    with suppress(RuntimeError):
        first = store.add(f"said/{line}", 1) == 1
        store.set(f"ended/{team.rank}", "")
        if team.leads:  # the store may end with it
            store.wait([f"ended/{rank}" for rank in range(team.size)], _LAST_WORDS)
    return not first


def gpu_index(team: Team) -> int:
    """Which of the visible GPUs this process trains on.

    Raises:
        ConfigError: there are more processes than GPUs.
    """
    visible = torch.cuda.device_count()
    if visible == 1 and team.size > 1:
        return 0  # its own, if the launcher shows each process one alone; `join_team` compares them
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
