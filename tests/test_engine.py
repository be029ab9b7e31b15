import io
import math
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console
from torch import nn

from pipeline.engine import DivergenceError, OptimizerPlan, Progress, ResumeStore, write_curves
from pipeline.engine.ema import WeightAverage
from pipeline.engine.loop import _step_seed
from pipeline.errors import PipelineError
from pipeline.objectives import Score, Turn
from tests import training_setup
from tests.ct_cases import write_cases
from tests.training_setup import STEPS, Recorder, denoiser, digest, gan, run


@pytest.fixture
def cases(tmp_path):
    return write_cases(tmp_path / "cases")


class LostProcessError(Exception):
    pass


class Interrupter(Recorder):
    """Stops the training at a step, as a lost process would."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def log_metrics(self, values, step=None):
        super().log_metrics(values, step)
        if step >= self.step:
            raise LostProcessError


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("step", [6, 13, 24])
def test_an_interrupted_training_ends_with_the_same_weights_and_curves(tmp_path, cases, step, bf16):
    straight = run(denoiser(cases), ResumeStore(tmp_path / "a", "key"), bf16=bf16)
    store = ResumeStore(tmp_path / "b", "key")
    with pytest.raises(LostProcessError):
        run(denoiser(cases), store, log=Interrupter(step), bf16=bf16)
    resumed = run(denoiser(cases), store, bf16=bf16)
    assert digest(resumed) == digest(straight)
    assert resumed.rows == straight.rows
    assert (resumed.best_score, resumed.last_score) == (straight.best_score, straight.last_score)


def test_an_interrupted_gan_ends_with_the_same_weights(tmp_path):
    straight = run(gan(), ResumeStore(tmp_path / "a", "key"))
    store = ResumeStore(tmp_path / "b", "key")
    with pytest.raises(LostProcessError):
        run(gan(), store, log=Interrupter(11))
    assert digest(run(gan(), store)) == digest(straight)


@pytest.mark.slow
def test_a_training_killed_by_signal_9_ends_with_the_same_weights(tmp_path):
    def start(folder, wait_s):
        (tmp_path / folder).mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", training_setup.__name__, str(tmp_path / folder), str(wait_s)]
        )

    assert start("straight", 0).wait(60) == 0
    killed = start("killed", 0.2)
    state = tmp_path / "killed" / "resume" / "state.safetensors"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.kill()
    killed.wait(10)
    assert state.exists()
    assert not (tmp_path / "killed" / "digest").exists()
    assert start("killed", 0).wait(60) == 0
    straight, resumed = ((tmp_path / folder / "digest").read_text() for folder in ("straight", "killed"))
    assert resumed == straight


def test_a_finished_state_only_hands_out_its_results(tmp_path, cases):
    store = ResumeStore(tmp_path / "a", "key")
    first = run(denoiser(cases), store)
    log = Recorder()
    assert digest(run(denoiser(cases), store, log=log)) == digest(first)
    assert log.values == []
    store.remove()
    assert not store.folder.exists()


def test_the_best_weights_on_validation_are_kept_beside_the_last(tmp_path, cases):
    outcome = run(denoiser(cases), ResumeStore(tmp_path / "a", "key"))
    scores = [row["validation_psnr_db"] for row in outcome.rows if "validation_psnr_db" in row]
    assert outcome.best_score.value == max(scores)
    assert outcome.last_score.value == scores[-1]


def test_the_averaged_weights_are_what_is_kept(tmp_path, cases):
    averaged = run(denoiser(cases), ResumeStore(tmp_path / "a", "key"))
    raw = run(denoiser(cases), ResumeStore(tmp_path / "b", "key"), ema_decay=None)
    assert digest(averaged) != digest(raw)


def test_weight_average_by_hand():
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    average = WeightAverage(network, decay=0.5)
    nn.init.constant_(network.weight, 1.0)
    average.update(network, step=0)  # decay 1/10
    assert average.network.weight.item() == pytest.approx(0.9)
    average.update(network, step=100)  # decay 0.5
    assert average.network.weight.item() == pytest.approx(0.95)


def test_learning_rate_by_hand():
    plan = OptimizerPlan(1.0, warmup_steps=4, final_fraction=0.1)
    assert [plan.learning_rate_at(step, 105) for step in (0, 3, 4, 104)] == pytest.approx([0.25, 1, 1, 0.1])
    assert plan.learning_rate_at(54, 105) == pytest.approx(0.55)
    assert OptimizerPlan(1.0).learning_rate_at(50, 100) == 1


def test_steps_draw_different_numbers():
    seeds = {_step_seed(seed, step) for seed in range(3) for step in range(100)}
    assert len(seeds) == 300


class Diverging:
    """Turns bad at a step."""

    product = "denoiser"

    def __init__(self, objective, step):
        self._objective, self._step = objective, step
        self.validate = objective.validate

    def turns(self, networks, batch, *, step, generator):
        for turn in self._objective.turns(networks, batch, step=step, generator=generator):
            yield Turn(turn.network, turn.loss * (math.nan if step == self._step else 1))


def test_nan_stops_in_one_line_and_keeps_the_last_good_state(tmp_path, cases):
    objective, *rest = denoiser(cases)
    store = ResumeStore(tmp_path / "a", "key")
    with pytest.raises(
        DivergenceError, match=r"denoiser_loss is nan at step 10; the state of step 8 is kept"
    ) as error:
        run((Diverging(objective, 9), *rest), store)
    assert "\n" not in str(error.value)
    state = store.load()
    assert state.facts["step"] == 8
    assert all(value.isfinite().all() for value in state.tensors.values())


def test_a_state_of_other_settings_is_refused(tmp_path, cases):
    run(denoiser(cases), ResumeStore(tmp_path / "a", "key"), steps=4)
    with pytest.raises(PipelineError, match="resume state of other settings"):
        ResumeStore(tmp_path / "a", "other").load()


def test_a_damaged_state_is_refused_in_one_line(tmp_path):
    store = ResumeStore(tmp_path, "key")
    store.path.write_bytes(b"not tensors")
    with pytest.raises(PipelineError, match="damaged resume state") as error:
        store.load()
    assert "\n" not in str(error.value)


def test_curves_leave_unmeasured_cells_empty(tmp_path):
    write_curves(tmp_path / "curves.csv", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "psnr": 30.0}])
    assert (tmp_path / "curves.csv").read_text() == "step,loss,psnr\n1,0.5,\n2,0.25,30.0\n"


def test_progress_writes_ten_plain_lines_where_there_is_no_terminal():
    out = io.StringIO()
    with Progress("redcnn", Console(file=out, width=200)) as progress:
        progress.begin(step=0, steps=50, batch_size=4)
        progress.best(Score("psnr_db", 36.4, "redcnn", higher_is_better=True))
        for step in range(1, 51):
            progress.advance(step, 0.5)
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("redcnn: step 5 of 50, ")
    assert all(part in lines[-1] for part in ("samples/s", "loss 0.5", "best psnr_db 36.4", "s left"))


def test_the_engine_leaves_torch_as_it_was(tmp_path, cases):
    before = torch.are_deterministic_algorithms_enabled()
    run(denoiser(cases), ResumeStore(tmp_path / "a", "key"), steps=2)
    assert torch.are_deterministic_algorithms_enabled() == before


def test_steps_count(tmp_path, cases):
    log = Recorder()
    outcome = run(denoiser(cases), ResumeStore(tmp_path / "a", "key"), log=log)
    assert outcome.rows[-1]["step"] == STEPS
    assert {name for _, values in log.values for name in values} >= {"denoiser_loss", "learning_rate"}
