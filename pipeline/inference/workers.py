"""Series worked on one after the other, or side by side in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from types import TracebackType
from typing import Final, Self

import torch

from pipeline.dicom import Verdict
from pipeline.errors import DataError
from pipeline.inference.outcomes import UNEXPECTED_ERROR, Outcome, Plan
from pipeline.inference.output.locks import is_held
from pipeline.inference.series_run import SeriesRun
from pipeline.inference.treatment import OnSlices

_LOOK_EVERY_S: Final = 0.2
_LOOK_FOR_LOCKS_EVERY_S: Final = 0.5

Attempts = Generator[tuple[Plan, Outcome | None]]
"""How each series ended, in order of completion; None where another run holds it."""


def carry_out_all(
    run: SeriesRun,
    plans: Sequence[Plan],
    *,
    workers: int,
    on_slices: OnSlices,
    on_waiting: Callable[[int], None],
) -> Generator[Outcome]:
    """Carry out every plan; outcomes come in order of completion.

    A series that another run holds is put off until the others are through, and then waited for: it turns out
    done, or the other run died and it is done here.

    Args:
        run: what the series share.
        plans: one per series.
        workers: processes; with one, or one series, everything happens in this process. They share the cores.
        on_slices: told the number of slices that are through.
        on_waiting: told, once, the number of series that other runs hold when all others are through.

    Raises:
        DataError: no worker process can be started.
    """
    workers = min(workers, len(plans))
    if workers <= 1:
        yield from _until_none_is_held(run, plans, _Here(run, on_slices).attempt, on_waiting)
        return
    with _Crew(run, workers, on_slices) as crew:
        yield from _until_none_is_held(run, plans, crew.attempt, on_waiting)


def _until_none_is_held(
    run: SeriesRun,
    plans: Sequence[Plan],
    attempt: Callable[[Sequence[Plan]], Attempts],
    on_waiting: Callable[[int], None],
) -> Generator[Outcome]:
    has_said_so = False
    free, held = list(plans), list[Plan]()
    while free or held:
        with closing(attempt(free)) as attempts:
            for plan, outcome in attempts:
                if outcome is None:
                    held.append(plan)
                else:
                    yield outcome
        free, held = _sort_by_lock(run, held)
        if held and not free:
            if not has_said_so:
                on_waiting(len(held))
                has_said_so = True
            time.sleep(_LOOK_FOR_LOCKS_EVERY_S)


def _sort_by_lock(run: SeriesRun, plans: Iterable[Plan]) -> tuple[list[Plan], list[Plan]]:
    """Series that are free now, and those that other runs still hold."""
    free, held = list[Plan](), list[Plan]()
    for plan in plans:
        (held if _is_held(run, plan) else free).append(plan)
    return free, held


def _is_held(run: SeriesRun, plan: Plan) -> bool:
    try:
        return is_held(run.target, str(plan.planned.series))
    except OSError:  # then the attempt tells what is wrong
        return False


class _Here:
    """This process, one series after the other."""

    def __init__(self, run: SeriesRun, on_slices: OnSlices) -> None:
        self._run = run
        self._on_slices = on_slices

    def attempt(self, plans: Sequence[Plan]) -> Attempts:
        for plan in plans:
            yield plan, self._run.carry_out(plan, self._on_slices)


class _Crew:
    """Worker processes, replaced when one of them dies.

    A death ends all workers of a pool and does not say which series it came from. So each series that was
    under way is tried once more in a process of its own, and only what dies there has failed.
    """

    def __init__(self, run: SeriesRun, workers: int, on_slices: OnSlices) -> None:
        self._run = run
        self._workers = workers
        self._bar = _Bar(on_slices)
        self._pool: _Pool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.end(at_once=kind is not None)

    def attempt(self, plans: Sequence[Plan]) -> Attempts:
        waiting = {_name(plan): plan for plan in plans}
        while waiting:
            if self._pool is None:
                self._pool = _Pool(self._run, self._workers)
            for plan, outcome in self._pool.attempt(list(waiting.values()), self._bar):
                del waiting[_name(plan)]
                yield plan, outcome
            if waiting:
                under_way = self._pool.under_way
                self._pool.end(at_once=True)
                self._pool = None
                if not under_way:
                    raise DataError("worker processes die as they start; run again with fewer --workers")
                for name in sorted(under_way):
                    yield self._attempt_alone(waiting.pop(name))

    def _attempt_alone(self, plan: Plan) -> tuple[Plan, Outcome | None]:
        pool = _Pool(self._run, workers=1)
        try:
            for attempted in pool.attempt([plan], self._bar):
                return attempted
        finally:
            pool.end(at_once=True)
        self._bar.finish(plan)
        return plan, self._run.noting_earlier_result(_died(plan))


def _died(plan: Plan) -> Outcome:
    return replace(
        plan.planned,
        verdict=Verdict.FAILED,
        reason_codes=(UNEXPECTED_ERROR,),
        message="its process died, twice (out of memory, or a library crashed); give it more memory",
    )


def _name(plan: Plan) -> str:
    """Tells the series of a run apart."""
    return str(plan.planned.series)


class _Bar:
    """Slices told of once, although a series may be tried twice."""

    def __init__(self, on_slices: OnSlices) -> None:
        self._on_slices = on_slices
        self._this_time: Counter[str] = Counter()
        self._told: Counter[str] = Counter()

    def start(self, series: str) -> None:
        """Its slices will be told of from the first one."""
        self._this_time[series] = 0

    def advance(self, series: str, slices: int) -> None:
        """So many more slices of it are through."""
        self._this_time[series] += slices
        self._tell(series, self._this_time[series])

    def finish(self, plan: Plan) -> None:
        """It has failed."""
        self._tell(_name(plan), plan.passes)

    def _tell(self, series: str, slices: int) -> None:
        news = max(0, slices - self._told[series])
        self._told[series] += news
        self._on_slices(news)


class _Pool:
    """Worker processes, until one of them dies.

    Attributes:
        under_way: series that were begun and are not settled.
    """

    def __init__(self, run: SeriesRun, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._progress: SimpleQueue[tuple[str, int | None]] = context.SimpleQueue()
        lifeline, self._held_here = context.Pipe(duplex=False)
        threads = max(1, (os.cpu_count() or 1) // workers)
        self._executor = ProcessPoolExecutor(
            workers,
            mp_context=context,
            initializer=_start_worker,
            initargs=(run, self._progress, lifeline, threads),
        )
        self.under_way: set[str] = set()

    def attempt(self, plans: Sequence[Plan], bar: _Bar) -> Attempts:
        """Carry out every plan; ends early where a worker dies."""
        try:
            waiting = {self._executor.submit(_carry_out, plan): plan for plan in plans}
        except BrokenProcessPool:
            return
        while waiting:
            done, _ = wait(waiting, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            self._note_progress(bar)
            whole = [future for future in done if not isinstance(future.exception(), BrokenProcessPool)]
            for future in whole:
                plan, outcome = waiting.pop(future), future.result()
                self.under_way.discard(_name(plan))
                yield plan, outcome
            if len(whole) < len(done):
                return

    def _note_progress(self, bar: _Bar) -> None:
        while not self._progress.empty():
            series, slices = self._progress.get()
            if slices is None:
                self.under_way.add(series)
                bar.start(series)
            else:
                bar.advance(series, slices)

    def end(self, *, at_once: bool) -> None:
        """End the workers; at once, they lose what they are working on."""
        if at_once:
            self._held_here.close()
        self._executor.shutdown(cancel_futures=True)
        self._held_here.close()


class _Worker:
    """What a worker process was started with."""

    run: SeriesRun
    progress: SimpleQueue[tuple[str, int | None]]


def _start_worker(
    run: SeriesRun, progress: SimpleQueue[tuple[str, int | None]], lifeline: Connection, threads: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends the workers
    threading.Thread(target=_end_with_run, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(threads)
    _Worker.run, _Worker.progress = run, progress


def _end_with_run(lifeline: Connection) -> None:
    """End at once when the run does, killed or not: a worker that outlived it would hold its series.

    Nothing is ever sent: the pipe becomes readable when its other end closes. What is staged by then is lost.
    """
    lifeline.poll(None)
    os._exit(1)


def _carry_out(plan: Plan) -> Outcome | None:
    series = _name(plan)
    _Worker.progress.put((series, None))
    return _Worker.run.carry_out(plan, lambda slices: _Worker.progress.put((series, slices)))
