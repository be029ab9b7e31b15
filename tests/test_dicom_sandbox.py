"""Tasks that crash, hang or eat memory end alone, and no sacrificial process outlives its owner."""

import ctypes
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import pytest

from pipeline.dicom import Code, SeriesError
from pipeline.dicom.sandbox import Limits, Sandbox, SandboxError, sandbox
from pipeline.dicom.verdicts import file_finding
from pipeline.errors import PipelineError

SHORT = Limits(cpu_s=1, wall_s=1.0)


@pytest.fixture
def pool():
    own = Sandbox(2)
    yield own
    own.close()


def double(number):
    return 2 * number


def pid_after(seconds):
    time.sleep(seconds)
    return os.getpid()


def own_and_server_pid():
    return os.getpid(), os.getppid()


def crash():
    ctypes.string_at(0)


def leave():
    os._exit(0)


def crash_unless(marker):
    """Crash the first time only."""
    path = Path(marker)
    if path.exists():
        path.rmdir()
        crash()
    return "survived"


def kill_own_process(signal_number):
    os.kill(os.getpid(), signal_number)


def spin():
    while True:
        pass


def sleep_in_c_code(seconds=600):
    """Hold the interpreter lock all the while, so that no Python thread of the process can run."""
    ctypes.PyDLL(None).sleep(seconds)


def stop_for_good():
    """As unreachable for signals as a process that waits for a disk that hangs."""
    os.kill(os.getpid(), signal.SIGSTOP)


def fill_memory(gigabytes):
    return len(bytearray(int(gigabytes * 2**30)))


KEPT = []


def leak_memory(gigabytes):
    KEPT.append(bytearray(int(gigabytes * 2**30)))


def leak_memory_and_refuse(gigabytes):
    leak_memory(gigabytes)
    raise ValueError("refused")


def give_back_much(megabytes):
    return bytes(megabytes * 2**20)


def refuse(number):
    raise ValueError(f"no {number}")


class TwoPartError(Exception):
    """Cannot be made again from its message."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def refuse_in_two_parts():
    raise TwoPartError("a", "b")


def write_file(path):
    Path(path).write_text("written")


def limits_in_force():
    import resource

    return {name: resource.getrlimit(getattr(resource, name))[0] for name in ("RLIMIT_CORE", "RLIMIT_FSIZE")}


def print_loudly():
    os.write(1, b"SECRET")
    os.write(2, b"SECRET")


def crash_if(number, culprit):
    if number == culprit:
        crash()
    return number


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(is_true, seconds=10.0):
    give_up = time.monotonic() + seconds
    while not is_true() and time.monotonic() < give_up:
        time.sleep(0.02)
    return is_true()


def test_a_result_comes_back_from_another_process(pool):
    assert pool.submit(double, 21).result() == 42
    assert pool.submit(os.getpid).result() != os.getpid()


def test_an_error_comes_back_as_it_is(pool):
    with pytest.raises(ValueError, match=r"^no 7$"):
        pool.submit(refuse, 7).result()
    with pytest.raises(RuntimeError, match=r"^TwoPartError$"):
        pool.submit(refuse_in_two_parts).result()
    assert pool.submit(double, 1).result() == 2


@pytest.mark.parametrize(
    ("task", "arguments"), [(crash, ()), (leave, ()), (kill_own_process, (signal.SIGABRT,))]
)
def test_a_task_that_ends_its_process_is_an_error_of_that_task_alone(pool, task, arguments):
    before = [pool.submit(double, number) for number in range(5)]
    culprit = pool.submit(task, *arguments)
    after = [pool.submit(double, number) for number in range(5)]
    with pytest.raises(SandboxError, match=r"^crashed twice, or the machine is short of memory$"):
        culprit.result()
    assert [future.result() for future in before + after] == [0, 2, 4, 6, 8] * 2


def test_a_task_whose_process_was_killed_by_somebody_else_is_done_again(pool, tmp_path):
    marker = tmp_path / "marker"
    marker.mkdir()
    assert pool.submit(crash_unless, str(marker)).result() == "survived"


def test_killed_processes_are_replaced(pool):
    pids = {future.result() for future in [pool.submit(pid_after, 0.1) for _ in range(4)]}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    again = {future.result() for future in [pool.submit(pid_after, 0.1) for _ in range(4)]}
    assert len(pids) == len(again) == 2
    assert pids.isdisjoint(again)


def test_a_killed_fork_server_is_replaced(pool):
    pid = pool.submit(os.getpid).result()
    psutil.Process(pid).parent().kill()
    os.kill(pid, signal.SIGKILL)
    assert pool.submit(double, 4).result() == 8


@pytest.mark.parametrize("task", [spin, sleep_in_c_code])
def test_a_task_that_hangs_is_ended(pool, task):
    started = time.monotonic()
    with pytest.raises(SandboxError, match=r"^took more than 1 s$"):
        pool.submit(task, limits=SHORT).result()
    assert time.monotonic() - started < 10
    assert pool.submit(double, 1).result() == 2


def test_a_task_that_no_signal_reaches_is_left_behind(pool, monkeypatch):
    monkeypatch.setattr("pipeline.dicom.sandbox._GRACE_S", 0.3)
    with pytest.raises(SandboxError, match=r"^took more than 1 s$"):
        pool.submit(stop_for_good, limits=SHORT).result(timeout=10)
    assert pool.submit(double, 1).result(timeout=10) == 2


def test_a_server_that_never_gets_ready_is_given_up(pool, monkeypatch):
    monkeypatch.setattr("pipeline.dicom.sandbox._START_S", 0.2)
    change_server(monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(PipelineError, match="the processes that read DICOM files do not start"):
        pool.submit(double, 1).result(timeout=10)


def test_a_process_that_cannot_be_forked_costs_the_others_nothing(pool, monkeypatch, tmp_path):
    change_server(monkeypatch, REFUSE_FORKS_WHILE.format(marker=str(tmp_path / "marker")))
    pids = {future.result() for future in [pool.submit(pid_after, 0.3) for _ in range(2)]}
    os.kill(max(pids), signal.SIGKILL)
    (tmp_path / "marker").touch()
    tasks = [pool.submit(pid_after, 0.5) for _ in range(2)]
    errors = [task.exception(timeout=10) for task in tasks]
    assert sorted(str(type(error).__name__) for error in errors) == ["NoneType", "PipelineError"]
    (tmp_path / "marker").unlink()
    assert pool.submit(double, 1).result(timeout=10) == 2


REFUSE_FORKS_WHILE = """
import os
fork = os.fork
def fork_or_not():
    if os.path.exists({marker!r}):
        raise OSError("no memory")
    return fork()
os.fork = fork_or_not
"""


def change_server(monkeypatch, prologue):
    """Have the server run a few lines before it serves."""
    start = subprocess.Popen

    def popen(command, **options):
        return start([*command[:2], f"{prologue}\n{command[2]}"], **options)

    monkeypatch.setattr("pipeline.dicom.sandbox.subprocess.Popen", popen)


def test_computing_time_is_per_task(pool):
    single = Sandbox(1)
    for _ in range(3):
        assert single.submit(burn, 0.6, limits=Limits(cpu_s=1, wall_s=60)).result() >= 0.6
    single.close()


def burn(seconds):
    started = time.process_time()
    while time.process_time() - started < seconds:
        pass
    return time.process_time() - started


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_a_task_that_eats_memory_is_ended(pool):
    limits = Limits(memory_bytes=2**28)
    with pytest.raises(SandboxError, match=r"^needs more than 0\.25 GB$"):
        pool.submit(fill_memory, 0.5, limits=limits).result()
    assert pool.submit(fill_memory, 0.1, limits=limits).result() == int(0.1 * 2**30)
    with pytest.raises(SandboxError, match=r"^needs more than 2\.5 GB$"):
        pool.submit(fill_memory, 2.6).result()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
@pytest.mark.parametrize("leak", [leak_memory, leak_memory_and_refuse])
@pytest.mark.parametrize("gigabytes", [0.2, 0.3])
def test_memory_that_one_task_leaks_is_not_missing_to_the_next(leak, gigabytes):
    single = Sandbox(1)
    limits = Limits(memory_bytes=2**29)
    for _ in range(3):
        single.submit(leak, gigabytes, limits=limits).exception()
        assert single.submit(fill_memory, 0.4, limits=limits).result() == int(0.4 * 2**30)
    single.close()


def test_a_reply_larger_than_any_slice_is_not_accepted(pool):
    with pytest.raises(SandboxError, match=r"^needs more than 2\.5 GB$"):
        pool.submit(give_back_much, 300).result()


def test_results_come_in_order_and_only_the_culprit_is_missing(pool):
    asked = [(number, 7) for number in range(30)]
    answers = list(pool.ordered(crash_if, asked))
    assert [arguments for arguments, _ in answers] == asked
    got = [None if future.exception() else future.result() for _, future in answers]
    assert got == [*range(7), None, *range(8, 30)]


def test_only_a_few_tasks_are_ahead_and_closing_cancels_them(pool):
    drawn = []

    def arguments():
        for number in range(1000):
            drawn.append(number)
            yield (number,)

    results = pool.ordered(double, arguments())
    assert next(results)[1].result() == 0
    assert len(drawn) <= 5
    results.close()
    assert pool.submit(double, 3).result() == 6
    assert len(drawn) <= 5


def test_many_threads_share_the_pool(pool):
    sums = []

    def add_up(start):
        results = pool.ordered(double, ((start + step,) for step in range(50)))
        sums.append(sum(future.result() for _, future in results))

    threads = [threading.Thread(target=add_up, args=(start,)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sums) == [2 * sum(range(start, start + 50)) for start in (0, 100, 200)]


def test_nothing_is_written_printed_or_dumped(pool, tmp_path, capfd):
    with pytest.raises(OSError, match="File too large"):
        pool.submit(write_file, str(tmp_path / "file")).result()
    assert pool.submit(limits_in_force).result() == {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0}
    pool.submit(print_loudly).result()
    assert "".join(capfd.readouterr()) == ""


def test_a_limit_that_cannot_hold_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="wall_s"):
        Limits(cpu_s=10, wall_s=5)


def test_closing_ends_stuck_processes():
    own = Sandbox(1)
    pid = own.submit(os.getpid).result()
    own.submit(sleep_in_c_code)
    own.close()
    assert wait_until(lambda: is_gone(pid))


def test_everything_in_a_process_shares_one_pool():
    assert sandbox() is sandbox()


def test_a_forked_process_gets_a_pool_of_its_own():
    mine = sandbox().submit(os.getpid).result()
    read_end, write_end = os.pipe()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # on forking beside threads
        child = os.fork()
    if child == 0:
        try:
            os.write(write_end, str(sandbox().submit(os.getpid).result()).encode())
            sandbox().close()
        finally:
            os._exit(0)  # an error must not go on as a second test process
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        theirs = int(pipe.read())
    os.waitpid(child, 0)
    assert theirs != mine
    assert sandbox().submit(os.getpid).result() in psutil_descendants()


def use_the_sandbox(number):
    return sandbox().submit(double, number).result(), sandbox().submit(own_and_server_pid).result()


def test_worker_processes_have_sandboxes_of_their_own_that_end_with_them():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as workers:
        results = list(workers.map(use_the_sandbox, range(4)))
    assert [doubled for doubled, _ in results] == [0, 2, 4, 6]
    assert wait_until(lambda: all(is_gone(pid) for _, pids in results for pid in pids))


def psutil_descendants():
    return {process.pid for process in psutil.Process().children(recursive=True)}


PARENT = """
import os, sys
from pipeline.dicom.sandbox import sandbox
from tests.test_dicom_sandbox import own_and_server_pid, sleep_in_c_code
if __name__ == "__main__":
    print(*sandbox().submit(own_and_server_pid).result(), flush=True)
    stuck = sandbox().submit(sleep_in_c_code)
    {ending}
"""


@pytest.mark.parametrize(
    "ending",
    ["stuck.result()", "sys.exit()", "os._exit(0)", "raise ValueError", "os.kill(os.getpid(), 9)"],
    ids=["killed", "exit", "_exit", "error", "kills itself"],
)
def test_no_process_outlives_its_owner(ending):
    owner = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(ending=ending)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
    )
    stuck, server = map(int, owner.stdout.readline().split())
    if ending == "stuck.result()":
        time.sleep(0.3)
        owner.kill()
    owner.communicate(timeout=10)
    assert wait_until(lambda: is_gone(stuck) and is_gone(server))


def test_the_error_of_a_series_crosses_process_borders():
    error = SeriesError(file_finding(Code.CORRUPT_PIXEL_DATA, "a: b; c", Path("/x/a")))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is SeriesError
    assert (again.finding, str(again)) == (error.finding, str(error))
