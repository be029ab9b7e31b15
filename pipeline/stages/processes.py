"""Independent jobs of a stage, side by side in processes of their own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    processes: int,
    prepare: Callable[[], None] | None = None,
) -> Iterator[tuple[Job, Result]]:
    """Each job with what `work` made of it, in order of completion; the first error ends the others.

    Args:
        work: of a module, so that a new process finds it.
        jobs: what it is called with.
        processes: at most so many; 1 works here.
        prepare: of a module; what each new process does first.
    """
    if processes == 1:
        yield from ((job, work(job)) for job in jobs)
        return
    pool = ProcessPoolExecutor(
        min(processes, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_process,
        initargs=(prepare,),
    )
    try:
        futures = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(prepare: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends the pool
    if prepare is not None:
        prepare()
