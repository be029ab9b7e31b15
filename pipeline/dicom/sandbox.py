"""Sacrificial processes: what a hostile file does to its parser or decoder, it does to one of these.

C decoders can crash, hang or ask for all memory, and no `except` in their process helps. So tasks run in
processes with limits, forked by a small server that has loaded the decoders once: a new one costs
milliseconds. They end with the process that uses them, however that ends: the server kills them all when its
line to that process closes. `multiprocessing` has a fork server too, but its children import the caller's
main module, and one that is stuck in C code outlives its parent.

This keeps accidents in; it is no defence against code that was made to break out.
"""

from __future__ import annotations

import atexit
import importlib
import math
import os
import pickle
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from pipeline.errors import PipelineError

_Result = TypeVar("_Result")
_Arguments = TypeVar("_Arguments", bound=tuple[Any, ...])

MAX_PROCESSES: Final = 4
"""More readers than that no network or disk has use for."""

_AHEAD: Final = 2
"""So many tasks wait, beside one for each process: none is idle while the caller works."""

_PRELOAD: Final = ("pipeline.dicom.decoding", "pipeline.dicom.headers")
_MAX_REPLY_BYTES: Final = 256 * 2**20
"""Twice the largest slice that is read: a header of that size is an attack on its reader."""

_START_S: Final = 60.0
"""A process that has not said by then that it is ready never will: its libraries lie on a disk that hangs."""

_GRACE_S: Final = 10.0
"""A process that is there so long after its last second waits for a disk that hangs (a stale NFS mount),
and no signal reaches it."""

_BLOAT_BYTES: Final = 2**27
"""A process that has grown by so much is replaced."""

_RETURNED, _RAISED, _TOO_MUCH_MEMORY = "returned", "raised", "too much memory"
_TOO_MUCH: Final = pickle.dumps((_TOO_MUCH_MEMORY, None, True))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one task may take.

    Args:
        cpu_s: computing time; whole seconds.
        wall_s: time in all, at least `cpu_s`: a slow disk may take longer than any decoder.
        memory_bytes: address space beyond what the process has when it starts. Not near 2 or 4 GiB: lengths
            that a damaged file claims lie there, and would be read one time and be too much another time.
    """

    cpu_s: int = 30
    wall_s: float = 120.0
    memory_bytes: int = 5 * 2**29

    def __post_init__(self) -> None:
        if self.wall_s < self.cpu_s:
            raise ValueError(f"wall_s {self.wall_s} is less than cpu_s {self.cpu_s}")


DEFAULT_LIMITS: Final = Limits()


class SandboxError(Exception):
    """A task that its process did not survive, as the end of a sentence: `took more than 30 s`."""


class Sandbox:
    """A pool of sacrificial processes, started on first use and again after each death; safe for threads.

    Args:
        processes: at most so many.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._server = _ForkServer()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._keepers: list[_Keeper] = []
        self._unfinished = 0
        self._lock = threading.Lock()

    def submit(
        self, function: Callable[..., _Result], /, *arguments: Any, limits: Limits = DEFAULT_LIMITS
    ) -> Future[_Result]:
        """Call a function of an importable module in one of the processes; errors arrive in the future.

        Relative paths mean the same there as here.

        A task that crashes its process or needs too much memory is tried once more in a new one: the former
        task may have crippled the first. Beside the function's own errors, the future can hold:

        * `SandboxError`: the task crashed twice, or takes more than `limits` allow.
        * `PipelineError`: no process can be started.
        """
        job = _Job(pickle.dumps((function, arguments, limits, Path.cwd())), limits)
        with self._lock:
            self._unfinished += 1
            if len(self._keepers) < min(self._unfinished, self._processes):
                self._keepers.append(_Keeper(self._jobs, self._server, self._finish))
                self._keepers[-1].start()
        self._jobs.put(job)
        return job.future

    def ordered(
        self,
        function: Callable[..., _Result],
        argument_lists: Iterable[_Arguments],
        *,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Generator[tuple[_Arguments, Future[_Result]]]:
        """Each argument list with the future of `function(*arguments)`, in order.

        A few tasks are ahead of the caller, no more; closing the generator cancels them.
        """
        waiting: deque[tuple[_Arguments, Future[_Result]]] = deque()
        try:
            for arguments in argument_lists:
                waiting.append((arguments, self.submit(function, *arguments, limits=limits)))
                if len(waiting) >= self._processes + _AHEAD:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()

    def close(self) -> None:
        """End all processes, stuck ones too; later tasks fail."""
        self._server.close()

    def abandon(self) -> None:
        """Let go of the processes without ending them: they belong to the process that forked this one."""
        self._server.abandon()
        for keeper in self._keepers:
            keeper.drop()

    def _finish(self) -> None:
        with self._lock:
            self._unfinished -= 1


_shared: Sandbox | None = None
_sharing = threading.Lock()


def sandbox() -> Sandbox:
    """The pool that everything in this process shares."""
    global _shared
    with _sharing:
        if _shared is None:
            _shared = Sandbox(min(_usable_cores(), MAX_PROCESSES))
            atexit.register(_shared.close)
        return _shared


def _forget() -> None:
    """In a process just forked: its threads are gone, and the pool is its parent's."""
    global _shared, _sharing
    _sharing = threading.Lock()
    if _shared is not None:
        atexit.unregister(_shared.close)
        _shared.abandon()
        _shared = None


os.register_at_fork(after_in_child=_forget)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Job:
    """A task as it is sent, and where its result goes."""

    message: bytes
    limits: Limits
    future: Future[Any] = field(default_factory=Future)


class _Keeper(threading.Thread):
    """Feeds one process, and replaces it when it dies. A daemon: it never delays the end of the program."""

    def __init__(
        self, jobs: queue.SimpleQueue[_Job], server: _ForkServer, on_finished: Callable[[], None]
    ) -> None:
        super().__init__(name="dicom-sandbox", daemon=True)
        self._jobs = jobs
        self._server = server
        self._on_finished = on_finished
        self._link: Connection | None = None

    def run(self) -> None:
        while True:
            self._carry_out(self._jobs.get())

    def drop(self) -> None:
        """Close the line to the process, which ends it unless it is stuck; then its limits do."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _carry_out(self, job: _Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            self._on_finished()
            return
        try:
            result = self._result(job)
        except BaseException as error:  # noqa: BLE001  whoever waits for the future gets it
            self._on_finished()
            job.future.set_exception(error)
        else:
            self._on_finished()
            job.future.set_result(result)

    def _result(self, job: _Job) -> Any:
        """Of two attempts: a former task may have crippled the process, or something else killed it."""
        death = ""
        for _ in range(2):
            reply = self._reply(job)
            if reply is None:
                death = "crashed twice, or the machine is short of memory"
                continue
            kind, value, is_spent = pickle.loads(reply)  # noqa: S301  from our own process
            if is_spent:
                self.drop()
            if kind == _RAISED:
                raise value
            if kind == _RETURNED:
                return value
            death = f"needs more than {job.limits.memory_bytes / 2**30:.2g} GB"
        raise SandboxError(death)

    def _reply(self, job: _Job) -> bytes | None:
        """None if the process crashed.

        One that not even its limits end is left behind: it ends once the disk that it waits for answers.
        """
        if self._link is None:
            self._link = self._server.new_process()
        started = time.monotonic()
        try:
            self._link.send_bytes(job.message)
            if self._link.poll(job.limits.wall_s + _GRACE_S):
                return self._link.recv_bytes()
            self.drop()
            raise SandboxError(f"took more than {job.limits.wall_s:g} s")
        except (EOFError, OSError):
            self.drop()
            if time.monotonic() - started >= job.limits.cpu_s:
                raise SandboxError(f"took more than {job.limits.cpu_s} s") from None
            return None


class _ForkServer:
    """The caller's end of the process that forks the others; started on first use, and again if it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_closed = False
        self._lock = threading.Lock()

    def new_process(self) -> Connection:
        """A line to a new sacrificial process that has said it is ready.

        Raises:
            PipelineError: none can be started.
        """
        with self._lock:
            for _ in range(3):  # a server that died may be told by one closed line, and by the next one
                try:
                    return self._fork()
                except EOFError:  # that process alone did not start: tasks of the others go on
                    continue
                except OSError:
                    self._stop()
        raise PipelineError(
            "the processes that read DICOM files do not start; check the memory and process limits "
            "of this machine and the installation"
        )

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._stop()

    def abandon(self) -> None:
        if self._process is not None and self._control is not None:
            self._control.close()
            self._process.returncode = 0  # not ours to wait for

    def _fork(self) -> Connection:
        control = self._running()
        ours, theirs = Pipe()
        try:
            with theirs:
                socket.send_fds(control, [b"+"], [theirs.fileno()])
            if not ours.poll(_START_S):
                raise TimeoutError
            ours.recv_bytes()
        except BaseException:
            ours.close()
            raise
        return ours

    def _running(self) -> socket.socket:
        if self._is_closed:
            raise BrokenPipeError
        if self._control is None:
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = _start_server(theirs.fileno())
        return self._control

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)
            self._process = None


def _start_server(control_fd: int) -> subprocess.Popen[bytes]:
    """Start `serve_forks` in a session of its own: Ctrl-C is for the caller, who then ends it.

    What the decoders print would quote the files; it goes nowhere.
    """
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"from {__name__} import serve_forks\n"
        f"serve_forks({control_fd})"
    )
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.Popen(  # noqa: S603  this Python and a constant program
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | threads,
        pass_fds=[control_fd],
        start_new_session=True,
    )


def serve_forks(control_fd: int) -> NoReturn:
    """Fork a process for each line that arrives; kill them all, and this one, when no more can arrive.

    Args:
        control_fd: socket on which the ends of lines arrive.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    with socket.socket(fileno=control_fd) as control:
        for name in _PRELOAD:
            importlib.import_module(name)
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                os.killpg(os.getpid(), signal.SIGKILL)
            try:
                is_child = os.fork() == 0
            except OSError:  # no process to be had: this line closes, and the others live on
                is_child = False
            if is_child:
                control.close()
                _work(Connection(descriptors[0]))
            os.close(descriptors[0])


def _work(link: Connection) -> NoReturn:
    """Carry out tasks until the line closes."""
    try:
        for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
            resource.setrlimit(limit, (0, 0))
        size_bytes = _address_space_bytes()
        link.send_bytes(b"ready")
        while True:
            link.send_bytes(_answer(link.recv_bytes(), size_bytes))
    finally:
        os._exit(0)


def _answer(message: bytes, size_bytes: int | None) -> bytes:
    """The kind of the outcome, its value, and whether this process is spent."""
    try:
        function, arguments, limits, folder = pickle.loads(message)  # noqa: S301  from our own process
        os.chdir(folder)
        _set_limits(limits, size_bytes)
        value = function(*arguments)
        reply = pickle.dumps((_RETURNED, value, _is_bloated(size_bytes)), protocol=5)
    except MemoryError:
        return _TOO_MUCH
    except Exception as error:  # noqa: BLE001  the caller gets it
        return _pickled_error(error, size_bytes)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return reply if len(reply) <= _MAX_REPLY_BYTES else _TOO_MUCH


def _pickled_error(error: Exception, size_bytes: int | None) -> bytes:
    is_spent = _is_bloated(size_bytes)
    try:
        reply = pickle.dumps((_RAISED, error, is_spent))
        pickle.loads(reply)  # noqa: S301  our own; some errors can be pickled but not made again
    except Exception:  # noqa: BLE001
        return pickle.dumps((_RAISED, RuntimeError(type(error).__name__), is_spent))
    return reply


def _is_bloated(size_bytes: int | None) -> bool:
    """Whether a task left behind so much memory that the next one might lack it: some decoders leak."""
    now_bytes = _address_space_bytes()
    return now_bytes is not None and size_bytes is not None and now_bytes > size_bytes + _BLOAT_BYTES


def _set_limits(limits: Limits, size_bytes: int | None) -> None:
    """The kernel ends what oversteps the times, C code too: both signals keep their default action."""
    if size_bytes is not None:
        _limit(resource.RLIMIT_AS, size_bytes + limits.memory_bytes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + limits.cpu_s)
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _address_space_bytes() -> int | None:
    """Of this process; None where the system does not tell, as on macOS, which does not limit it either."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return None
    return pages * resource.getpagesize()
