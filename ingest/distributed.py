"""The job on a Ray cluster: pictures are prepared wherever there are cores, and embedded by one process a GPU.

    with Cluster(find_spec("subcell-rybg-mae"), {}, workers=8) as cluster:
        ingest_pictures(store, source, cluster, Options())

The process that calls is the driver. It gives pictures out, takes them back in order with their vectors, and is the
only one that writes. Measured on two cores, with vectors of 1,536 numbers and thumbnails of 20 kB: it takes 11,000
cells a second from Ray and commits as many, so it keeps up with several GPUs. Crops go from node to node, never to it.
Plain actors, because Ray Data waits forever where its actors have all the cores and its reading none.

A process that is ended is replaced, and its pictures go to another; which node or device embeds a picture leaves no
trace but rounding. Every node needs this package, the pictures and weights files at the same paths, or published
weights in its cache.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from subcell_atlas.encoders.guards import swapped_channels
from subcell_atlas.encoders.localizations import name_localizations
from subcell_atlas.encoders.specs import EncoderSpec
from subcell_atlas.errors import AtlasError, BadInput, MissingExtra, RecipeMismatch
from subcell_atlas.recipe import Recipe

from .loader import chunk_size
from .prepare import Plan, Prepared, prepare
from .sources import Item
from .writer import N_CHECKED, N_LOOKED_AT

__all__ = ["Cluster"]

AHEAD = 3  # groups a worker, and chunks a core, given out before the first of them is taken
CHUNKS_A_GPU = 8  # that are embedded together: a GPU wants more crops at once than a core prepares in a short time
HALF_A_CORE = 0.5  # for each worker on a processor and each chunk, so that neither keeps the other from starting
DEATHS = 3  # a worker, without a group that came back between; then it is no accident
LOOK_S = 1.0  # how often signals are looked for while nothing happens
REACHED_S = 5.0  # in which a cluster must answer
PATIENCE_S = 20.0  # before it is said that the cluster is waited for


@dataclass(frozen=True)
class Embedded:
    """Pictures with their vectors. chunk_size: how many of such pictures a chunk should have."""

    pictures: Sequence[Prepared]
    chunk_size: int


class Embedder:
    """What runs in a worker: an encoder, loaded once."""

    def __init__(self, spec: EncoderSpec, options: Mapping[str, Any]) -> None:
        self._spec, self._options = spec, options
        self._first: list[np.ndarray] = []  # crops, until they are looked at

    def load(self) -> tuple[Recipe, int]:
        """Load the encoder; return its recipe and the number of this process."""
        from subcell_atlas.encoders import load_encoder

        try:
            self._encoder = load_encoder(self._spec, **self._options)
        except AtlasError as exc:  # some of them do not travel between processes
            raise AtlasError(f"On {socket.gethostname()}: {exc}") from None
        return self._encoder.recipe(masking="cell"), os.getpid()

    def embed(self, *chunks: Sequence[Prepared]) -> Embedded:
        """Embed the cells of some chunks of pictures."""
        pictures = [picture for chunk in chunks for picture in chunk]
        crops = [crop for picture in pictures if picture.crops is not None for crop in picture.crops]
        size = chunk_size(pictures)
        if crops:
            remark = self._look_at_first(crops)
            vectors = self._encoder.embed(np.stack(crops))
            places: list[list[str]] | None = None
            if self._encoder.has_heads:
                places = [name_localizations(each) for each in self._encoder.localize_embeddings(vectors).tolist()]
            pictures = list(with_vectors(pictures, vectors, places))
            pictures[0] = replace(pictures[0], remark=remark)
        return Embedded(pictures, size)

    def _look_at_first(self, crops: Sequence[np.ndarray]) -> str:
        """Check the precision on the first crops of this worker; say whether the channels of some look swapped."""
        if len(self._first) >= N_LOOKED_AT:
            return ""
        if not self._first:
            self._encoder.check_precision(np.stack(crops[:N_CHECKED]))
        self._first += [crop.copy() for crop in crops[: N_LOOKED_AT - len(self._first)]]
        if len(self._first) < N_LOOKED_AT:
            return ""
        return swapped_channels(np.stack(self._first), self._spec.channels) or ""


def with_vectors(
    pictures: Iterable[Prepared], vectors: np.ndarray, places: Sequence[Sequence[str]] | None
) -> Iterator[Prepared]:
    """Yield pictures with the vectors of their cells, and the places predicted of them, in place of the crops."""
    at = 0
    for picture in pictures:
        if picture.crops is None:
            yield picture
            continue
        cells = slice(at, at + len(picture.crops))
        at = cells.stop
        rows = picture.rows
        if places is not None:
            rows = tuple({**row, "predicted_localization": of} for row, of in zip(rows, places[cells], strict=True))
        yield replace(picture, crops=None, rows=rows, vectors=vectors[cells].copy())


def prepare_chunk(plan: Plan, items: Sequence[Item]) -> list[Prepared]:
    """Prepare some pictures somewhere in the cluster."""
    return [prepare(plan, item) for item in items]


@dataclass(eq=False)
class Worker:
    """A process with an encoder, or one that is loading it. pid: its number, once it has."""

    handle: Any
    loaded: Any
    pid: int | None = None


@dataclass(eq=False)
class Group:
    """Chunks that are embedded together, the worker they are given to, and what it will return."""

    chunks: Sequence[Any]
    worker: Worker | None = None
    embedded: Any = None


class Cluster:
    """Processes that embed alike; a job takes it in place of an encoder.

    options: of `load_encoder`. workers: how many processes embed; None: one a GPU, or one a core where there is none.
    The cluster is the one of `$RAY_ADDRESS`, else one that runs on this machine, else this machine.
    """

    def __init__(self, spec: EncoderSpec, options: Mapping[str, Any], *, workers: int | None = None) -> None:
        self.spec = spec
        self._ray = import_ray()
        self._began = not self._ray.is_initialized()
        if self._began:
            connect(self._ray)
        resources = self._ray.cluster_resources()
        on_gpu = wants_gpu(options.get("device"), resources)
        self._n_cores = int(resources.get("CPU", 1))
        self._n_workers = number_of_workers(workers, int(resources["GPU"]) if on_gpu else self._n_cores, on_gpu=on_gpu)
        self._group_size = CHUNKS_A_GPU if on_gpu else 1
        needs = {"num_gpus": 1, "num_cpus": 0} if on_gpu else {"num_cpus": HALF_A_CORE}
        # on a GPU two groups overlap: one is copied to it and fetched from it while it computes the other
        make = self._ray.remote(Embedder).options(**needs, max_concurrency=2 if on_gpu else 1)
        options = {**options, "device": "cuda" if on_gpu else "cpu", "weights": absolute(options.get("weights", ()))}
        self._make = partial(make.remote, spec, options)
        self._prepare = self._ray.remote(prepare_chunk).options(num_cpus=HALF_A_CORE)
        self._workers: list[Worker] = []
        self._recipe: Recipe | None = None
        self._deaths = 0
        try:
            self._await_first()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, and the cluster when it was begun here."""
        for worker in self._workers:
            self._ray.kill(worker.handle)
        self._workers = []
        if self._began:
            self._ray.shutdown()

    def recipe(self, *, masking: str) -> Recipe:
        """Return how the workers embed."""
        assert self._recipe is not None
        return replace(self._recipe, masking=masking)

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes that embed."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def pictures(self, plan: Plan, items: Iterable[Item]) -> Generator[Prepared]:
        """Yield every picture, in order, with the vectors of its cells; a bounded number ahead.

        Raise BrokenProcessPool when processes end again and again.
        """
        plan_there, remaining = self._ray.put(plan), iter(items)
        groups: deque[Group] = deque()
        size = 1
        while True:
            self._welcome()
            while len(groups) < self._window() and (chunks := list(self._chunks(plan_there, remaining, size))):
                groups.append(Group(chunks))
            if not groups:
                return
            self._give(groups)
            embedded = self._take(groups[0])
            if embedded is not None:
                groups.popleft()
                size = embedded.chunk_size
                yield from embedded.pictures

    def _chunks(self, plan: Any, items: Iterator[Item], size: int) -> Iterator[Any]:
        """Let the chunks of a group be prepared."""
        for _ in range(self._group_size):
            if chunk := list(itertools.islice(items, size)):
                yield self._prepare.remote(plan, chunk)

    def _window(self) -> int:
        """Return how many groups are given out at most."""
        return max(AHEAD * len(self.pids), AHEAD * self._n_cores // self._group_size, 1)

    def _give(self, groups: Iterable[Group]) -> None:
        """Give the groups that nobody has to the workers that have least to do."""
        homeless = [group for group in groups if group.worker not in self._workers]
        ready = [worker for worker in self._workers if worker.pid is not None]
        if not homeless or not ready:
            return
        given = [group for group in groups if group.worker in self._workers]
        waited = set(self._ray.wait([g.embedded for g in given], num_returns=len(given), timeout=0)[1]) if given else ()
        load = {worker: sum(g.worker is worker and g.embedded in waited for g in given) for worker in ready}
        for group in homeless:
            group.worker = min(ready, key=load.__getitem__)
            group.embedded = group.worker.handle.embed.remote(*group.chunks)
            load[group.worker] += 1

    def _take(self, group: Group) -> Embedded | None:
        """Return what became of a group; None when it is not there yet, or its worker died."""
        wanted = [group.embedded] if group.worker in self._workers else []
        loading = [worker.loaded for worker in self._workers if worker.pid is None]
        done, _ = self._ray.wait([*wanted, *loading], timeout=LOOK_S)
        if not wanted or wanted[0] not in done:
            return None
        assert group.worker is not None
        embedded: Embedded | None = self._result(group.embedded, of=group.worker)
        if embedded is not None:
            self._deaths = 0
        return embedded

    def _result(self, result: Any, *, of: Worker) -> Any:
        """Return what a worker returned; None when it died, and another takes its place."""
        from ray import exceptions

        try:
            return self._ray.get(result)
        except (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.OutOfMemoryError):
            self._replace(of)
            return None
        except exceptions.RayTaskError as exc:
            if isinstance(exc.cause, AtlasError):
                raise exc.cause from None
            if isinstance(exc.cause, exceptions.RayError):  # who prepares a chunk died as often as Ray tries it
                raise BrokenProcessPool(str(exc.cause)) from exc
            raise

    def _replace(self, worker: Worker) -> None:
        self._workers.remove(worker)
        self._ray.kill(worker.handle)  # it may only have been out of reach
        self._deaths += 1
        if self._deaths > DEATHS * self._n_workers:
            raise BrokenProcessPool
        self._add()

    def _add(self) -> None:
        handle = self._make()
        self._workers.append(Worker(handle, handle.load.remote()))

    def _welcome(self) -> None:
        """Let workers that have loaded their encoder take part; raise RecipeMismatch when one embeds otherwise."""
        loading = {worker.loaded: worker for worker in self._workers if worker.pid is None}
        for loaded in self._ray.wait(list(loading), num_returns=len(loading), timeout=0)[0] if loading else ():
            worker = loading[loaded]
            if (result := self._result(loaded, of=worker)) is not None:
                recipe, worker.pid = result
                self._recipe = self._recipe or recipe
                check_alike(self._recipe, recipe)

    def _await_first(self) -> None:
        """Start the workers, and wait until one is ready."""
        for _ in range(self._n_workers):
            self._add()
        began, said = time.monotonic(), False
        try:
            while self._recipe is None:
                self._ray.wait([worker.loaded for worker in self._workers], timeout=LOOK_S)
                self._welcome()
                if not said and time.monotonic() - began > PATIENCE_S:
                    said = True
                    tqdm.write("Waiting until the cluster has room and a worker has its encoder.", file=sys.stderr)
        except BrokenProcessPool:
            msg = "The processes that embed are ended while they load the encoder, maybe for want of memory."
            raise AtlasError(f"{msg}\nTry fewer --workers.") from None


def import_ray() -> Any:
    """Return the package ray, set to be quiet and to tell nobody that it is used."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns that this will be so
    try:
        import ray
    except ImportError as exc:
        raise MissingExtra("ray", "ray", "--engine ray") from exc
    return ray


def connect(ray: Any) -> None:
    """Connect to the cluster that there is, else begin one on this machine."""
    address = os.environ.get("RAY_ADDRESS", "")
    check_reachable(address)
    at_term = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            # what Ray forks becomes another program at once, so these libraries' warnings of forks are of no use
            warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
            warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as exc:
        raise unreachable(address, (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]) from exc
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, at_term)  # Ray's own prints where in its code the process is


def check_reachable(address: str) -> None:
    """Raise AtlasError when nobody answers at HOST:PORT; Ray itself would try for many minutes."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        if parts.hostname and parts.port:
            socket.create_connection((parts.hostname, parts.port), timeout=REACHED_S).close()
    except (OSError, ValueError) as exc:
        raise unreachable(address, str(exc)) from exc


def unreachable(address: str, reason: str) -> AtlasError:
    """Return the error that says why there is no cluster."""
    what = f"The cluster of RAY_ADDRESS={address!r} is not reached" if address else "Ray cannot be started"
    return AtlasError(f"{what}: {reason}.\nIs it running ('ray status')? Without a cluster: --engine local.")


def wants_gpu(device: str | None, resources: Mapping[str, float]) -> bool:
    """Tell whether to embed on GPUs; raise BadInput when that was asked for and there is none, or for a certain one."""
    if device not in (None, "cpu", "cuda"):
        raise BadInput(f"--device {device}: Ray chooses among the devices; give cuda, cpu or nothing.")
    has_gpu = resources.get("GPU", 0) >= 1
    if device == "cuda" and not has_gpu:
        raise BadInput("--device cuda: the Ray cluster has no GPU.")
    return has_gpu and device != "cpu"


def number_of_workers(wanted: int | None, there: int, *, on_gpu: bool) -> int:
    """Return how many processes embed; raise BadInput when so many would wait for each other."""
    if wanted is not None and not 1 <= wanted <= there:
        unit = "GPU" if on_gpu else "core"
        raise BadInput(f"--workers {wanted}: the Ray cluster has {there} {unit}{'s' * (there != 1)}; 1 to {there} go.")
    return wanted or there


def check_alike(one: Recipe, other: Recipe) -> None:
    """Raise RecipeMismatch when two workers would embed differently."""
    if one == other:
        return
    how = one.difference(other) or "they have other localization heads or another version of this package"
    msg = f"Two nodes of the cluster do not embed alike: {how}."
    raise RecipeMismatch(f"{msg}\nGive --precision and --weights, and install the same version everywhere.")


def absolute(weights: Any) -> list[str]:
    """Return weights files by paths that other processes find."""
    files = [weights] if isinstance(weights, str | Path) else list(weights)
    return [str(file) if str(file).lower() == "random" else str(Path(file).absolute()) for file in files]
