"""The loader: pictures are read, decoded and cut by worker processes, a bounded number ahead of the encoder."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor

from subcell_atlas.interrupts import interrupts_blocked

from .parcels import Parcel, discard, pack, unpack
from .prepare import Plan, Prepared, prepare
from .sources import Item

__all__ = ["n_cores", "prepared_pictures"]

ALONE_S = 1.0  # pictures are prepared in this process for so long: a short run ends before workers have started
AHEAD = 3  # chunks a worker, given out before the first of them is taken
CHUNK_BYTES = 2**23  # of crops in a chunk of pictures, about; one field of view of SubCell's crops is more
MAX_CHUNK = 32  # pictures


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepared_pictures(plan: Plan, items: Iterable[Item], workers: int | None) -> Generator[Prepared]:
    """Yield every picture, in order, prepared by `workers` processes (0: by this one; None: one a core, once it pays).

    A picture is decoded once, whatever the number of its cells. What is ahead of the encoder is bounded in bytes, so
    memory does not depend on how many pictures there are.
    """
    remaining = iter(items)
    if workers is None:
        until = time.monotonic() + ALONE_S
        for item in remaining:
            yield prepare(plan, item)
            if time.monotonic() > until:
                break
        workers = n_cores()
    if workers == 0:
        yield from (prepare(plan, item) for item in remaining)
        return
    first = list(itertools.islice(remaining, 1))
    if first:
        yield from prepared_elsewhere(plan, itertools.chain(first, remaining), workers)


def prepared_elsewhere(plan: Plan, items: Iterator[Item], workers: int) -> Iterator[Prepared]:
    """Yield pictures that worker processes prepared, in order."""
    context = multiprocessing.get_context("spawn")  # lance and torch do not survive a fork
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker, initargs=(plan,))
    ahead: deque[Future[Parcel]] = deque()
    size = 1
    try:
        while True:
            while len(ahead) < AHEAD * workers and (chunk := list(itertools.islice(items, size))):
                with interrupts_blocked():
                    ahead.append(pool.submit(prepare_chunk, chunk))  # may start a worker
            if not ahead:
                return
            parcel = ahead[0].result()  # until it is here, an interrupt leaves it among those to discard
            ahead.popleft()
            pictures = unpack(parcel)
            size = chunk_size(pictures)
            yield from pictures
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for future in ahead:
            if not future.cancelled() and future.exception() is None:
                discard(future.result())


def chunk_size(pictures: Sequence[Prepared]) -> int:
    """Return how many pictures such as these a worker takes at a time."""
    n_bytes = sum(picture.crops.nbytes for picture in pictures if picture.crops is not None)
    return max(1, min(MAX_CHUNK, CHUNK_BYTES * len(pictures) // max(n_bytes, 1)))


def begin_worker(plan: Plan) -> None:
    """Set up a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # a broken pool ends its workers by it
    threading.Thread(target=end_with_parent, daemon=True).start()
    global worker_plan
    worker_plan = plan


def end_with_parent() -> None:
    """End this worker when its parent was killed: nobody else would tell it."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def prepare_chunk(items: Sequence[Item]) -> Parcel:
    """Prepare some pictures in a worker process."""
    return pack([prepare(worker_plan, item) for item in items])


worker_plan: Plan
