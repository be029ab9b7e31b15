"""A training that is killed at any moment ends with the weights of one that was not."""

import random
import time

import pytest

from tests.ct_cases import write_cases
from tests.training_setup import PROCESSES, train_in_process

KILLS = 4
LONGEST_S = 2.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["denoiser", "gan", "micro-batches"])
def test_a_training_killed_at_random_moments_ends_with_the_same_weights(tmp_path, kind):
    """With averaged weights, clipping and a schedule; `kill -9` may hit it while it writes its state."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        write_cases(folder / "cases")
    finish(straight, kind)
    moments = random.Random(0)  # noqa: S311
    for _ in range(KILLS):
        process = start(killed, kind, wait_s=0.15)
        time.sleep(moments.uniform(0.5, LONGEST_S))
        process.kill()
        process.join()
    finish(killed, kind)
    assert (killed / "result").read_text() == (straight / "result").read_text()


def start(folder, kind, wait_s=0.0):
    process = PROCESSES.Process(target=train_in_process, args=(folder, kind, wait_s))
    process.start()
    return process


def finish(folder, kind):
    process = start(folder, kind)
    process.join(120)
    assert process.exitcode == 0
