"""Runs in processes of their own, which the tests of restarting start, watch and kill."""

import functools
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import DataError
from pipeline.inference import preview
from pipeline.inference.outcomes import exit_code
from pipeline.inference.terminal import Terminal
from tests.batch_cases import restoration, run
from tests.predict_cases import Copying, Silent


@functools.cache
def server():
    """Processes that start at once: forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def predict(source, target):
    """Denoise and segment; the picture is drawn plainly, as a figure with axes takes longer than all else."""
    preview.save_panels = _save_plainly
    sys.exit(exit_code(run(source, target, restoration(nifti=True))))


def copy(source, target, treatment, options=None):
    """Run a `Copying`, and end as `ldct` would."""
    sys.exit(exit_code(run(source, target, treatment, **(options or {}))))


def show(source, target):
    """Run a `Copying` that prints its lines."""
    with Terminal("predict") as terminal:
        copied = run(source, target, Copying(), observer=terminal)
    sys.exit(exit_code(copied))


def copy_until(step, calls, source, target, treatment):
    """Run a `Copying`, and be killed in place of call number `calls` to `step`."""
    owner, name = step.rsplit(".", 1)
    owner = {"os": os, "pathlib.Path": Path}[owner]
    original, count = getattr(owner, name), itertools.count()

    def counted(*arguments, **options):
        if next(count) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, counted)
    copy(source, target, treatment)


def _save_plainly(path, rows):
    """All panels of a picture as one PNG."""
    hu = np.concatenate([panel.image for row in rows for panel in row], axis=1)
    Image.fromarray(np.clip(hu / 8 + 128, 0, 255).astype(np.uint8)).save(path)


class AtFirstOutcome(Silent):
    """Does something once, when the first series is settled."""

    def __init__(self, action):
        super().__init__()
        self._actions = [action]

    def settled(self, _):
        while self._actions:
            self._actions.pop()()


def on_a_small_disk(source, disk):
    """What becomes of runs into `disk`, which takes all series but one.

    In turn: as it is; with other settings and not a byte free; freed again; turned read-only after a series;
    still read-only; writable again.
    """
    target = disk / "out"
    yield _tell(source, target, setting=0)
    ballast = _fill(disk)
    yield _tell(source, target, setting=1)
    ballast.unlink()
    yield _tell(source, target, setting=0)
    yield _tell(source, target, setting=2, observer=AtFirstOutcome(lambda: _remount(disk, "ro")))
    yield _tell(source, target, setting=3)
    _remount(disk, "rw")
    yield _tell(source, target, setting=2)


def _tell(source, target, *, setting, observer=None):
    try:
        outcomes = run(source, target, Copying(setting=setting), observer=observer)
    except DataError as error:
        return {"error": str(error)}
    return {
        "exit code": exit_code(outcomes),
        "outcomes": sorted([str(one.verdict), *one.reason_codes] for one in outcomes),
        "kept": sum(one.reused for one in outcomes),
        "messages": sorted({one.message for one in outcomes if one.message}),
        "files": sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()),
    }


def _fill(disk):
    path = disk / "ballast"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, bytes(4096))
    except OSError:
        return path
    finally:
        os.close(descriptor)


def _remount(disk, mode):
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)


if __name__ == "__main__":
    if sys.argv[1] == "show":
        show(*map(Path, sys.argv[2:]))
    print(json.dumps(list(on_a_small_disk(*map(Path, sys.argv[1:])))))  # noqa: T201 (for the test to read)
