"""Series worked on one after the other, or side by side in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from typing import Final

import torch

from pipeline.errors import DataError
from pipeline.inference.outcomes import Outcome, Plan
from pipeline.inference.series_run import SeriesRun
from pipeline.inference.treatment import OnSlices

_LOOK_EVERY_S: Final = 0.2


def carry_out_all(
    run: SeriesRun, plans: Sequence[Plan], *, workers: int, on_slices: OnSlices
) -> Generator[Outcome]:
    """Carry out every plan; outcomes come in order of completion.

    Args:
        run: what the series share.
        plans: one per series.
        workers: processes; with one, or one series, everything happens in this process. They share the cores.
        on_slices: told the number of slices that are through.

    Raises:
        DataError: a worker process died; the series that are finished stay.
    """
    workers = min(workers, len(plans))
    if workers <= 1:
        yield from (run.carry_out(plan, on_slices) for plan in plans)
        return
    context = multiprocessing.get_context("spawn")
    progress: SimpleQueue[int] = context.SimpleQueue()
    lifeline, held_here = context.Pipe(duplex=False)
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(progress, lifeline, threads)
    )
    try:
        waiting = {pool.submit(_carry_out, run, plan) for plan in plans}
        while waiting:
            done, waiting = wait(waiting, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            while not progress.empty():
                on_slices(progress.get())
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise DataError(
            "a worker process died (out of memory, or a decoder crashed); the finished series are kept: "
            "run again with fewer --workers"
        ) from None
    except BaseException:
        held_here.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        held_here.close()


class _Worker:
    """What a worker process was started with."""

    progress: SimpleQueue[int]


def _start_worker(progress: SimpleQueue[int], lifeline: Connection, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends the workers
    threading.Thread(target=_end_with_run, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(threads)
    _Worker.progress = progress


def _end_with_run(lifeline: Connection) -> None:
    """End at once when the run does, killed or not: a worker that outlived it would write beside the next.

    Nothing is ever sent: the pipe becomes readable when its other end closes. What is staged by then is lost.
    """
    lifeline.poll(None)
    os._exit(1)


def _carry_out(run: SeriesRun, plan: Plan) -> Outcome:
    return run.carry_out(plan, _Worker.progress.put)
