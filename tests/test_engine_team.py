"""A batch in parts: micro-batches of one process, and processes that train together."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from pipeline.data.batches import SampleBatches
from pipeline.engine import ResumeStore, Team, join_team
from pipeline.engine import team as team_module
from pipeline.engine.team import check_gpus_differ, gpu_index
from pipeline.errors import ConfigError, PipelineError
from pipeline.objectives import Turn
from tests.ct_cases import write_cases
from tests.training_setup import PROCESSES, Recorder, denoiser, digest, gan, run, train_in_team

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SLURM = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_ID": "1234567",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*LAUNCHERS, *SLURM):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cases(tmp_path):
    return write_cases(tmp_path / "cases")


def start_team(folder, size, kind, wait_s=0.0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        PROCESSES.Process(target=train_in_team, args=(folder, kind, wait_s, rank, size, port))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def results(folder, size, kind):
    """What each process of a team leaves; one alone takes two micro-batches."""
    if not folder.exists():
        write_cases(folder / "cases")
    for process in start_team(folder, size, kind):
        process.join(120)
        assert process.exitcode == 0
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


def wait_for_a_state(folder):
    state = folder / "resume" / "state.safetensors"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert state.exists()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return results(tmp_path_factory.mktemp("two") / "denoiser", 2, "denoiser")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["denoiser", "gan"])
def test_two_processes_train_as_one_process_with_two_micro_batches_does(tmp_path, two, kind):
    leader, other = two if kind == "denoiser" else results(tmp_path / "team", 2, kind)
    (alone,) = results(tmp_path / "alone", 1, kind)
    assert leader["weights"] == other["weights"] == alone["weights"]
    assert leader["rows"] == other["rows"]
    for row, expected in zip(leader["rows"], alone["rows"], strict=True):
        assert row == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_leader_alone_validates_draws_and_writes(two):
    leader, other = two
    assert leader["pictures"] == ["validation/step_000004.png", "validation/step_000008.png"]
    assert (leader["validated"], leader["saved"]) == (2, 2)
    assert (other["validated"], other["saved"], other["pictures"]) == (0, 0, [])


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_others_with_one_line(tmp_path, lost):
    write_cases(tmp_path / "cases")
    processes = start_team(tmp_path, 2, "denoiser", wait_s=0.3)
    wait_for_a_state(tmp_path)
    processes[lost].kill()
    for process in processes:
        process.join(30)
    left = 1 - lost
    assert processes[left].exitcode == 1
    error = (tmp_path / f"{left}.txt").read_text()
    assert error.startswith(f"process {left} of 2 stops: another one is gone")
    assert "\n" not in error


@pytest.mark.slow
def test_a_leader_that_fails_while_the_others_wait_says_so_to_them(tmp_path):
    write_cases(tmp_path / "cases")
    for process in start_team(tmp_path, 2, "failing leader"):
        process.join(60)
        assert process.exitcode == 1
    assert (tmp_path / "0.txt").read_text() == "no space left"
    line = "process 1 of 2 stops: the first one failed (no space left)"
    assert (tmp_path / "1.txt").read_text() == line


@pytest.mark.slow
def test_a_fault_that_all_processes_have_is_said_once(tmp_path):
    write_cases(tmp_path / "cases")
    processes = start_team(tmp_path, 3, "common fault")
    for process in processes:
        process.join(60)
    assert sorted(process.exitcode for process in processes) == [1, 2, 2]  # the test's one, and ConfigError's
    (said,) = tmp_path.glob("*.txt")
    assert said.read_text() == "steps: wrong"


@pytest.mark.slow
def test_a_killed_team_ends_with_the_same_weights(tmp_path, two):
    folder = tmp_path / "killed"
    write_cases(folder / "cases")
    processes = start_team(folder, 2, "denoiser", wait_s=0.3)
    wait_for_a_state(folder)
    for process in processes:
        process.kill()
        process.join()
    assert not (folder / "0.json").exists()
    resumed, _ = results(folder, 2, "denoiser")
    assert (resumed["weights"], resumed["rows"]) == (two[0]["weights"], two[0]["rows"])


def test_micro_batches_change_the_weights_by_rounding_only(tmp_path, cases):
    """Where the objective draws no numbers, the gradient of the batch is the mean of its parts'."""
    outcomes = [
        run(denoiser(cases, 4), ResumeStore(tmp_path / str(parts), "key"), batch_size=4, accumulate=parts)
        for parts in (1, 2, 4)
    ]
    whole, *cut = outcomes
    for outcome in cut:
        for name, weight in whole.last_tensors.items():
            assert torch.allclose(outcome.last_tensors[name], weight, atol=1e-5), name
        losses = [[row["denoiser_loss"] for row in rows.rows] for rows in (whole, outcome)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("setup", [denoiser, gan])
def test_an_interrupted_training_in_micro_batches_ends_with_the_same_weights(tmp_path, cases, setup):
    class LostError(Exception):
        pass

    class Lost(Recorder):
        def log_metrics(self, values, step=None):
            super().log_metrics(values, step)
            if step >= 13:
                raise LostError

    def parts():
        return setup(cases) if setup is denoiser else setup()

    straight = run(parts(), ResumeStore(tmp_path / "a", "key"), accumulate=2)
    store = ResumeStore(tmp_path / "b", "key")
    with pytest.raises(LostError):
        run(parts(), store, log=Lost(), accumulate=2)
    resumed = run(parts(), store, accumulate=2)
    assert digest(resumed) == digest(straight)
    assert resumed.rows == straight.rows


class Watched:
    """Two turns per step on networks whose passes leave a trace."""

    product = "denoiser"

    def __init__(self, objective, events):
        self.validate = objective.validate
        self.events = events

    def turns(self, networks, batch, **_):
        for name in ("denoiser", "critic"):
            self.events.append((name, "forward"))
            loss = networks[name](batch["low_dose"] / 1000).float().square().mean()
            loss.register_hook(lambda _, name=name: self.events.append((name, "backward")))
            yield Turn(name, loss)


def test_a_parts_memory_is_freed_before_the_next_parts_forward_pass_and_turns_wait_for_all_parts(
    tmp_path, cases
):
    objective, networks, batches, optimizers = denoiser(cases)
    events = []
    networks["critic"] = nn.Sequential(spectral_norm(nn.Conv2d(1, 1, 3)))
    optimizers["critic"] = optimizers["denoiser"]
    setup = (Watched(objective, events), networks, batches, optimizers)
    run(setup, ResumeStore(tmp_path / "a", "key"), steps=1, accumulate=2)
    passes = [("denoiser", "forward"), ("denoiser", "backward")] * 2
    passes += [("critic", "forward"), ("critic", "backward")] * 2
    assert events == passes


def test_spectral_normalisation_moves_once_in_a_turn_however_many_parts(tmp_path, cases):
    vectors = []
    for parts in (1, 2):
        objective, networks, batches, optimizers = denoiser(cases)
        networks["critic"] = nn.Sequential(spectral_norm(nn.Conv2d(1, 4, 3)))
        optimizers["critic"] = optimizers["denoiser"]
        setup = (Watched(objective, []), networks, batches, optimizers)
        run(setup, ResumeStore(tmp_path / str(parts), "key"), steps=1, accumulate=parts)
        vectors.append(networks["critic"].state_dict()["0.parametrizations.weight.0._u"])
    assert torch.equal(*vectors)


def test_turns_that_depend_on_the_part_are_the_callers_mistake(tmp_path, cases):
    objective, *rest = denoiser(cases)

    class Uneven:
        product, validate = objective.product, objective.validate
        calls = 0

        def turns(self, networks, batch, *, step, generator):
            Uneven.calls += 1
            first = Uneven.calls == 1
            for turn in objective.turns(networks, batch, step=step, generator=generator):
                if first:
                    yield turn

    with pytest.raises(ValueError, match="turns must depend on the step alone"):
        run((Uneven(), *rest), ResumeStore(tmp_path / "a", "key"), accumulate=2)


def test_a_batch_that_cannot_be_cut_is_named_in_one_line(tmp_path, cases):
    with pytest.raises(ConfigError, match=r"tiny: batch_size 2 cannot be cut into 4 equal parts") as error:
        run(denoiser(cases), ResumeStore(tmp_path / "a", "key"), accumulate=4)
    assert "\n" not in str(error.value)


def test_alone_there_is_a_team_of_one():
    with join_team() as team:
        assert team == Team(rank=0, size=1)
        assert team.leads
        assert team.share("x") == "x"
    assert not torch.distributed.is_initialized()


def test_a_slurm_job_of_one_task_is_a_team_of_one(monkeypatch):
    for name, value in (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    with join_team() as team:
        assert team.size == 1


def test_srun_says_who_this_is_and_where_the_leader_listens(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert team_module._slurm() == (Team(rank=5, size=8, local_rank=1), "gpu07:19567")


def test_a_batch_script_without_srun_is_one_process(monkeypatch):
    for name, value in {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    with join_team() as team:
        assert team.size == 1


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT not set"),
        ({"RANK": "two", "WORLD_SIZE": "2"}, "RANK is 'two', not a number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "contradict each other: no rank 2 in a team of 2"),
    ],
)
def test_a_launcher_that_makes_no_sense_is_named_in_one_line(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message) as error, join_team():
        pass
    assert "\n" not in str(error.value)


def test_a_team_that_cannot_meet_says_where(monkeypatch):
    def refused(*_, **__):
        raise torch.distributed.DistNetworkError("address already in use\nmore")

    environment = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(team_module, "rendezvous", refused)
    message = r"cannot reach the others at 127\.0\.0\.1:1 \(address"
    with pytest.raises(PipelineError, match=message) as error, join_team():
        pass
    assert "\n" not in str(error.value)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert gpu_index(Team(rank=5, size=8, local_rank=1)) == 1
    with pytest.raises(ConfigError, match="process 3 on this machine has no GPU, 2 are visible"):
        gpu_index(Team(rank=2, size=4, local_rank=2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert gpu_index(Team(rank=1, size=2, local_rank=1)) == 0


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ("a a", "2 processes share 1 GPU: start 1, one for each GPU"),
        ("a b b", "3 processes share 2 GPUs: start 2, one for each GPU"),
        ("a b", None),
    ],
)
def test_every_process_learns_that_some_share_a_gpu(gpus, message):
    """As on a machine of one GPU, where torchrun starts two and each sees one."""
    store = torch.distributed.HashStore()

    def fault(rank, gpu):
        try:
            check_gpus_differ(store, Team(rank, len(gpus.split())), gpu)
        except ConfigError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(3) as processes:
        assert set(processes.map(fault, range(3), gpus.split())) == {message}


def test_out_of_memory_while_the_team_talks_is_not_blamed_on_another_process(monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(team_module.dist, "all_reduce", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        Team(rank=0, size=2).add_up([torch.ones(2)])


class Pairs(SampleBatches):
    """Like low dose drawn on the fly: two samples of a slice stay together."""

    broken = False

    def __getitem__(self, part):
        if self.broken or len(part.share(self.batch_size)) % 2:
            raise ValueError("no multiple of patches_per_slice 2" if not self.broken else "bad data")
        return super().__getitem__(part)


def test_samples_that_stay_together_are_told_from_broken_ones_before_the_first_step(tmp_path):
    objective, networks, samples, optimizers = gan()
    batches = Pairs(samples, 4)
    changes = {"batch_size": 4, "accumulate": 4}
    message = (
        "tiny: batch_size 4 cannot be shared by 1 processes with accumulate 4: "
        "no multiple of patches_per_slice 2"
    )
    store = ResumeStore(tmp_path / "a", "key")
    with pytest.raises(ConfigError, match=message):
        run((objective, networks, batches, optimizers), store, **changes)
    batches.broken = True
    with pytest.raises(ValueError, match="bad data"):
        run((objective, networks, batches, optimizers), store, **changes)
