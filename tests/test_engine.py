import io
import math
import time
from functools import partial

import pytest
import torch
from rich.console import Console
from torch import nn

from pipeline.data.batches import Part, SampleBatches
from pipeline.engine import (
    DivergenceError,
    OptimizerPlan,
    Plan,
    Progress,
    ResumeStore,
    Team,
    choose_hardware,
    write_curves,
)
from pipeline.engine.ema import WeightAverage
from pipeline.engine.feed import Feed, part_seed
from pipeline.engine.memory import memory_advice
from pipeline.engine.pace import Pace, Speed
from pipeline.engine.resume import State
from pipeline.errors import PipelineError
from pipeline.models.precision import ieee_float32
from pipeline.objectives import Score, Turn
from tests.ct_cases import write_cases
from tests.training_setup import (
    PROCESSES,
    STEPS,
    Recorder,
    Squares,
    denoiser,
    digest,
    gan,
    run,
    train_with_loaders,
)


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
    seeds = {part_seed(seed, Part(step)) for seed in range(3) for step in range(100)}
    parts = {part_seed(0, Part(step, index, 4)) for step in range(100) for index in range(4)}
    assert (len(seeds), len(parts)) == (300, 400)


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


@pytest.mark.parametrize(
    ("network", "step", "advice"),
    [
        ("generator", 10, r"lower the learning rate of generator \(optim\.lr\)$"),
        (
            "discriminator",
            10,
            r"learning rate of discriminator \(adversarial\.optim\.lr or discriminator_optim\.lr\)$",
        ),
        (
            "generator",
            1,
            r"no state is kept; .* \(optim\.lr\), or, if .* at the first step, the weights in losses or",
        ),
    ],
)
def test_divergence_names_the_rate_of_the_network_that_diverged(tmp_path, network, step, advice):
    objective, *rest = gan()

    class Late(Diverging):
        product = "generator"

        def turns(self, networks, batch, *, step, generator):
            for turn in self._objective.turns(networks, batch, step=step, generator=generator):
                bad = step == self._step and turn.network == network
                logged = turn.loss.detach() * (math.nan if bad else 1)
                yield Turn(turn.network, turn.loss, {f"{network}_loss": logged} if bad else {})

    with pytest.raises(DivergenceError, match=f"{network}_loss is nan at step {step}; .*{advice}"):
        run((Late(objective, step - 1), *rest), ResumeStore(tmp_path / "a", "key"), log_every=1)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(
    ("at", "words"),
    [
        (2, "stopped at step 2; no state is kept: run the same command again to start afresh"),
        (6, "stopped at step 6; the state of step 4 is kept: run the same command again to continue"),
    ],
)
def test_a_training_stopped_from_outside_says_where_it_stands(tmp_path, cases, stop, at, words):
    class Stopping(Recorder):
        def log_metrics(self, values, step=None):
            super().log_metrics(values, step)
            if step == at:
                raise stop

    out = io.StringIO()
    with pytest.raises(type(stop)) as raised:
        run(
            denoiser(cases),
            ResumeStore(tmp_path / "a", "key"),
            log=Stopping(),
            progress=Progress("tiny", Console(file=out)),
        )
    assert raised.value is stop
    assert out.getvalue().splitlines()[-1] == f"tiny: {words}"


def test_one_training_has_the_folder_for_itself_and_leaves_no_empty_one(tmp_path):
    store = ResumeStore(tmp_path / "a", "key")
    with store.claimed():
        with (
            pytest.raises(PipelineError, match=r"already running here \(its lock: .*a/lock\)"),
            ResumeStore(tmp_path / "a", "key").claimed(),
        ):
            pass
        assert store.folder.exists()
    assert not store.folder.exists()
    with pytest.raises(LostProcessError), store.claimed():
        raise LostProcessError
    assert not store.folder.exists()
    store.save(State({"step": 1}, {"weight": torch.zeros(1)}))
    with pytest.raises(LostProcessError), store.claimed():
        raise LostProcessError
    with store.claimed():
        assert store.load().facts["step"] == 1


@pytest.mark.slow
def test_a_killed_training_leaves_no_lock(tmp_path):
    store = ResumeStore(tmp_path / "a", "key")
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=claim_for_ever, args=(store, theirs))
    process.start()
    assert ours.poll(120)
    with pytest.raises(PipelineError, match="already running"), store.claimed():
        pass
    process.kill()
    process.join()
    with store.claimed():
        pass


def claim_for_ever(store, pipe):
    with store.claimed():
        pipe.send("claimed")
        time.sleep(600)


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


class Exploding(Diverging):
    """Its gradient turns bad at a step, its loss a step later."""

    def turns(self, networks, batch, *, step, generator):
        for turn in self._objective.turns(networks, batch, step=step, generator=generator):
            if step == self._step:
                turn.loss.register_hook(lambda gradient: gradient * math.inf)
            yield turn


def test_a_gradient_that_is_not_finite_stops_before_its_weights_are_saved(tmp_path, cases):
    objective, *rest = denoiser(cases)
    store = ResumeStore(tmp_path / "a", "key")
    with pytest.raises(DivergenceError, match="denoiser_gradient_norm is nan at step 8; the state of step 4"):
        run((Exploding(objective, 7), *rest), store)
    assert all(value.isfinite().all() for value in store.load().tensors.values())


class Greedy(Diverging):
    """Runs out of memory as a device does."""

    def __init__(self, objective, error):
        self.validate = objective.validate
        self._error = error

    def turns(self, *_, **__):
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_to_lower(tmp_path, cases, error):
    objective, *rest = denoiser(cases)
    with pytest.raises(PipelineError) as said:
        run((Greedy(objective, error), *rest), ResumeStore(tmp_path / "a", "key"))
    assert str(said.value) == (
        "tiny: out of memory on cpu with batch_size 2, accumulate 1, 2 samples of 24x24 at a time: "
        "lower batch_size, or raise accumulate: same result, less memory"
    )


def test_the_cpus_own_out_of_memory_is_recognised():
    with pytest.raises(PipelineError, match="advice"), memory_advice(lambda: "advice"):
        torch.empty(2**48)


def test_other_errors_stay_what_they_are(tmp_path, cases):
    objective, *rest = denoiser(cases)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run((Greedy(objective, RuntimeError("shapes differ")), *rest), ResumeStore(tmp_path / "a", "key"))


def test_terms_that_appear_later_are_averaged_over_the_steps_that_have_them(tmp_path, cases):
    objective, *rest = denoiser(cases)

    class Ramped(Diverging):
        def turns(self, networks, batch, *, step, generator):
            for turn in self._objective.turns(networks, batch, step=step, generator=generator):
                late = {"adversarial": torch.tensor(float(step))} if step >= 3 else {}
                yield Turn(turn.network, turn.loss, late)

    log = Recorder()
    outcome = run((Ramped(objective, 0), *rest), ResumeStore(tmp_path / "a", "key"), steps=8, log=log)
    late = {row["step"]: row.get("adversarial") for row in outcome.rows}
    assert late == {2: None, 4: 3.0, 6: 4.5, 8: 6.5}


def test_speed_goes_to_the_log_and_not_to_the_curves(tmp_path):
    log = Recorder()
    outcome = run(gan(), ResumeStore(tmp_path / "a", "key"), log=log, steps=4)
    _, first = log.values[0]
    assert first["samples_per_second"] > 0
    assert 0 <= first["data_wait_percent"] <= 100
    assert {"learning_rate", "discriminator_learning_rate", "generator_gradient_norm"} <= set(outcome.rows[0])
    assert "samples_per_second" not in outcome.rows[0]


def test_time_without_data_is_waiting():
    class Slow(Squares):
        def __getitem__(self, index):
            time.sleep(0.02)
            return super().__getitem__(index)

    plan = Plan(
        name="slow",
        steps=4,
        batch_size=2,
        optimizers={},
        seed=0,
        validate_every=4,
        checkpoint_every=4,
        log_every=4,
    )
    pace = Pace(batch_size=2)
    feed = Feed(
        SampleBatches(Slow(), 2), plan, team=Team(), device=torch.device("cpu"), first_step=0, pace=pace
    )
    for _ in feed:
        time.sleep(0.02)
        pace.step_done()
    speed = pace.speed()
    assert speed.data_wait_percent == pytest.approx(100 * 2 / 3, abs=15)
    assert speed.samples_per_second == pytest.approx(2 / 0.06, rel=0.3)


def test_worker_processes_give_the_same_weights(tmp_path):
    """In processes of their own: the loader's signal handlers would stay behind in this one."""
    write_cases(tmp_path / "cases")
    for workers in (0, 1):
        process = PROCESSES.Process(target=train_with_loaders, args=(tmp_path, workers))
        process.start()
        process.join(240)
        assert process.exitcode == 0
    assert (tmp_path / "digest 1").read_text() == (tmp_path / "digest 0").read_text()


def test_pictures_of_each_validation_go_to_a_log_that_somebody_reads(tmp_path, cases):
    live, dead = Recorder(is_live=True), Recorder()
    outcomes = [
        run(denoiser(cases), ResumeStore(tmp_path / str(number), "key"), steps=12, log=log)
        for number, log in enumerate((live, dead))
    ]
    assert [name for name, _ in live.pictures] == ["validation/step_000006.png", "validation/step_000012.png"]
    assert all(content.startswith(b"\x89PNG") for _, content in live.pictures)
    assert dead.pictures == []
    assert digest(outcomes[0]) == digest(outcomes[1])


def test_a_compiled_training_keeps_plain_names_and_the_same_weights(tmp_path, cases, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain = run(denoiser(cases), ResumeStore(tmp_path / "a", "key"), steps=4, ema_decay=None)
    store = ResumeStore(tmp_path / "b", "key")
    compiled = run(denoiser(cases), store, steps=4, ema_decay=None, compiled=True)
    assert list(compiled.best_tensors) == list(plain.best_tensors)
    assert set(store.load().tensors) == set(ResumeStore(tmp_path / "a", "key").load().tensors)
    for name, weight in plain.last_tensors.items():
        assert torch.allclose(compiled.last_tensors[name], weight, atol=1e-6), name


def test_only_the_product_is_compiled_and_only_its_training_passes(tmp_path, monkeypatch):
    compiled = []

    def stand_in(model, **options):
        compiled.append(type(model).__name__)
        return compile_for_real(model, **options | {"backend": "eager"})

    compile_for_real = torch.compile
    monkeypatch.setattr(torch, "compile", stand_in)
    objective, networks, *rest = gan()
    outcome = run((objective, networks, *rest), ResumeStore(tmp_path / "a", "key"), steps=2, compiled=True)
    assert set(compiled) == {"DCGANGenerator"}
    assert {type(network).__name__ for network in outcome.networks.values()} == {
        "DCGANGenerator",
        "DCGANDiscriminator",
    }


def test_cpus_are_not_compiled_for():
    assert not choose_hardware("fp32").compile


def test_float32_is_ieee_inside_and_torch_is_as_it_was_outside():
    def switches():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = switches()
    torch.set_float32_matmul_precision("high")
    try:
        with ieee_float32():
            assert switches() == ("highest", False)
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert torch.backends.cudnn.conv.fp32_precision != "tf32"
        assert switches() == ("high", before[1])
    finally:
        torch.set_float32_matmul_precision(before[0])
    assert switches() == before


def test_curves_leave_unmeasured_cells_empty(tmp_path):
    write_curves(tmp_path / "curves.csv", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "psnr": 30.0}])
    assert (tmp_path / "curves.csv").read_text() == "step,loss,psnr\n1,0.5,\n2,0.25,30.0\n"


def test_progress_writes_ten_plain_lines_where_there_is_no_terminal():
    out = io.StringIO()
    with Progress("redcnn", Console(file=out, width=200)) as progress:
        progress.begin(step=0, steps=50)
        progress.best(Score("psnr_db", 36.4, "redcnn", higher_is_better=True))
        for step in range(1, 51):
            progress.measured(0.5, learning_rate=1e-3, speed=Speed(80, 2.9 if step < 50 else 3.1))
            progress.advance(step)
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("redcnn: step 5 of 50, ")
    said = ("80 samples/s", "lr 0.001", "loss 0.5", "best psnr_db 36.4")
    assert all(part in line for part in said for line in lines)
    assert all(line.endswith(" 1 s left") for line in lines[:-1])
    assert lines[-1].endswith("done after 0 s")
    assert "3 % waiting for data" in lines[-1]
    assert "waiting" not in lines[-2]


@pytest.mark.parametrize(("log_every", "told"), [(1, [2, 3, 4]), (2, [2, 4]), (50, [4])])
def test_a_short_training_tells_only_what_it_just_measured(tmp_path, cases, log_every, told):
    out = io.StringIO()
    run(
        denoiser(cases),
        ResumeStore(tmp_path / "a", "key"),
        steps=4,
        log_every=log_every,
        progress=Progress("tiny", Console(file=out, width=200)),
    )
    lines = out.getvalue().splitlines()
    assert [line.split(", ")[0] for line in lines] == [f"tiny: step {step} of 4" for step in told]
    assert all("loss" in line and ", 0 s left" not in line for line in lines)
    assert "best psnr_db" in lines[-1]


def test_the_engine_leaves_torch_as_it_was(tmp_path, cases):
    before = torch.are_deterministic_algorithms_enabled()
    run(denoiser(cases), ResumeStore(tmp_path / "a", "key"), steps=2)
    assert torch.are_deterministic_algorithms_enabled() == before


def test_steps_count(tmp_path, cases):
    log = Recorder()
    outcome = run(denoiser(cases), ResumeStore(tmp_path / "a", "key"), log=log)
    assert outcome.rows[-1]["step"] == STEPS
    assert {name for _, values in log.values for name in values} >= {"denoiser_loss", "learning_rate"}
