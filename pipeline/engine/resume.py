"""Resume states: what a killed training needs to go on to the very same weights.

A state is one safetensors file (weights, averages, optimizer moments, best weights so far) whose metadata
holds one JSON entry (step, best score, curves). Random numbers and the order of samples depend on the seed
and the step alone, so there is no generator to save. No pickle.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.bundle import save_tensors
from pipeline.errors import PipelineError

_METADATA_KEY: Final = "ldct-resume"
_FILE: Final = "state.safetensors"
_LOCK: Final = "lock"
_NO_FLOCK: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})


@dataclass(frozen=True)
class State:
    """One saved moment of a training.

    Attributes:
        facts: plain JSON values.
        tensors: by name.
    """

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class ResumeStore:
    """The folder of one training's resume state.

    Attributes:
        folder: belongs to this training alone; its name holds a part of `key`.
        key: digest of settings, data and code; a state of another key is refused.
    """

    folder: Path
    key: str

    @property
    def path(self) -> Path:
        """The state file."""
        return self.folder / _FILE

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Have the folder for this process alone, around a training and the writing of its results.

        It is removed at the end, and after a failure if there is no state in it. The lock is a `flock`: a
        process that is killed leaves none. A file system without locks keeps nobody out.

        Raises:
            PipelineError: another process trains the same here.
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _LOCK, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise PipelineError(
                f"this training is already running here (its lock: {lock.lock_file}); wait for it or stop it"
            ) from None
        except OSError as failure:
            if failure.errno not in _NO_FLOCK:
                raise
        try:
            yield
        except BaseException:
            if not self.path.is_file():
                self.remove()
            raise
        else:
            self.remove()
        finally:
            lock.release()

    def load(self) -> State | None:
        """The saved state, or None when there is none.

        Raises:
            PipelineError: the file is damaged or belongs to another training.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as archive:
                facts = json.loads((archive.metadata() or {})[_METADATA_KEY])
                tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as broken:
            reason = " ".join(str(broken).split())
            raise PipelineError(
                f"{self.path}: damaged resume state ({reason}); delete it to start afresh"
            ) from None
        if facts.get("key") != self.key:
            raise PipelineError(
                f"{self.path}: resume state of other settings, data or code; delete it to start afresh"
            )
        return State(facts, tensors)

    def save(self, state: State) -> None:
        """Replace the saved state, whole or not at all."""
        facts = json.dumps({**state.facts, "key": self.key})  # in order: the curves' columns have one
        save_tensors(self.path, state.tensors, {_METADATA_KEY: facts})

    def remove(self) -> None:
        """Forget the state, when the training's results are written."""
        shutil.rmtree(self.folder, ignore_errors=True)
