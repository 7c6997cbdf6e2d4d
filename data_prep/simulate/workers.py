"""Trajectories computed by this process or by several, in order: which, changes the speed only."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice

import numpy as np

from data_prep.simulate.case import Trajectory, generator_for
from data_prep.simulate.euler import UnphysicalStateError
from data_prep.simulate.plan import Job
from data_prep.simulate.systems import SYSTEMS

LARGEST_KEPT_BYTES = 16 * 2**20
JOBS_AHEAD_PER_WORKER = 2
"""Finished trajectories wait in memory for their turn, so there must not be many."""


class SolverError(ArithmeticError):
    """A solver lost its way: a state without meaning, or values that are no numbers."""


def compute(job: Job) -> Trajectory:
    """The frames of one trajectory in float32, from its number and the seed alone."""
    system = SYSTEMS[job.system_name]
    generator = generator_for(job.system_name, job.split, index=job.index, seed=job.seed)
    place = f"{job.system_name}, {job.split} trajectory {job.index}"
    try:
        with np.errstate(all="ignore"):  # what goes wrong is found in the values
            solved = system.simulate(job.case, generator)
            trajectory = {name: values.astype(np.float32) for name, values in solved.items()}
    except UnphysicalStateError as error:
        raise SolverError(f"{place}: {error}") from error
    for name, values in trajectory.items():
        if not np.isfinite(values).all():
            raise SolverError(f"{place}: {name} is not finite")
    return trajectory


def keep_freed_memory() -> None:
    """Let the C library reuse the solver's arrays instead of handing each back to the kernel.

    Freeing one large block raises glibc's limits for that; elsewhere it does nothing. A 2D Euler step of 64x64 cells
    took 2.8 ms without it and 1.8 ms with it.
    """
    np.empty(LARGEST_KEPT_BYTES, dtype=np.uint8)


def _start_worker() -> None:
    """Let a worker end with its parent, however that ends, and without a traceback on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    keep_freed_memory()


def trajectories_of(jobs: Iterable[Job], num_workers: int) -> Iterator[Trajectory]:
    """The jobs' trajectories, in the jobs' order."""
    if num_workers == 1:
        keep_freed_memory()
        yield from map(compute, jobs)
        return
    waiting = iter(jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker) as pool:
        ahead = islice(waiting, num_workers * JOBS_AHEAD_PER_WORKER)
        running: deque[Future[Trajectory]] = deque(pool.submit(compute, job) for job in ahead)
        try:
            while running:
                trajectory = running.popleft().result()
                running.extend(pool.submit(compute, job) for job in islice(waiting, 1))
                yield trajectory
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
