"""The ingest job: pictures through an encoder into the atlas, resumable, one writer.

Each commit holds whole pictures, so a picture whose fingerprint is in the atlas is done; a run that was killed goes on
by being started again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from subcell_atlas.encoders.guards import swapped_channels
from subcell_atlas.encoders.localizations import name_localizations
from subcell_atlas.encoders.specs import HPA_PIXEL_SIZE_UM
from subcell_atlas.errors import AtlasError, RecipeMismatch
from subcell_atlas.interrupts import interrupts_blocked
from subcell_atlas.profiles import vector_array
from subcell_atlas.recipe import Recipe
from subcell_atlas.runs import Run
from subcell_atlas.schema import TABLES
from subcell_atlas.store import Store, one_of, quote

from .prepare import Plan, Prepared, prepare
from .sources import Source

if TYPE_CHECKING:
    from subcell_atlas.encoders.encoder import Encoder

__all__ = ["Counts", "Options", "ingest_pictures"]

COMMIT_CELLS = 2048  # measured: commits of a few thousand rows write as fast as larger ones
CHUNK = 8  # pictures a worker takes at a time
BATCHES = 2  # handed to the encoder together, so that a GPU computes one while it is given the other
N_LOOKED_AT = 16  # crops by which the order of channels is judged
N_CHECKED = 2  # crops whose embedding is compared with float32's; more would take long on a processor
MIN_FOR_WORKERS = 32  # fewer pictures than this are prepared here: starting processes would take longer


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run.

    `workers` 0 prepares pictures in this process, None takes one a core. `batch_size`: how many crops are handed to the
    encoder, which embeds as many at once as fit; None leaves it to the encoder.
    """

    batch_size: int | None = None
    workers: int | None = None
    masking: str = "cell"
    pixel_size_um: float = HPA_PIXEL_SIZE_UM
    progress: bool = True


@dataclass
class Counts:
    """What became of the pictures of a run."""

    pictures: int = 0
    cells: int = 0
    done_before: int = 0
    rejected: int = 0
    remark: str = ""  # on the pictures as a whole: that their channels look swapped


def ingest_pictures(store: Store, source: Source, encoder: Encoder, options: Options) -> Counts:
    """Embed the cells of every picture of `source` into `cells`; refused pictures go into `rejects`.

    Raise RecipeMismatch when the atlas holds embeddings of another recipe. An interrupt finishes the commit and raises
    AtlasError, saying how to go on.
    """
    recipe = encoder.recipe(masking=options.masking)
    stored = store.recipe("cells", "embedding")
    if stored is not None:
        stored.check_same(recipe, here="the cells of this atlas", there="These cells")
    check_heads(store, recipe)
    plan = Plan(
        source=source,
        channels=encoder.spec.channels,
        crop_um=encoder.spec.crop_um,
        crop_px=encoder.spec.crop_px,
        masking=options.masking,
        default_pixel_size_um=options.pixel_size_um,
        recipe=recipe.comparable(),
        done=stored_fingerprints(store),
    )
    run = Run.start(store, kind="ingest", recipe=recipe)
    store.ensure("rejects")
    at_once = options.batch_size or BATCHES * encoder.batch_size()
    writer = Writer(store, encoder, recipe, run.run_id, source.name, at_once)
    try:
        with Progress(len(source), shown=options.progress) as progress:
            for prepared in prepared_pictures(plan, options.workers):
                writer.take(prepared)
                progress.show(writer.counts)
        writer.finish()
    except (KeyboardInterrupt, BrokenProcessPool) as exc:
        writer.commit()
        run.finish(writer.counts.__dict__ | {"interrupted": True})
        if isinstance(exc, KeyboardInterrupt):
            msg = f"Interrupted; {writer.counts.cells} cells are stored. Run the same command again to go on."
        else:
            msg = (
                f"A process that reads pictures was ended, maybe for want of memory; {writer.counts.cells} cells are "
                "stored.\nRun the same command again to go on, with fewer --workers."
            )
        raise AtlasError(msg) from None
    run.finish(writer.counts.__dict__)
    if writer.counts.cells:
        store.compact("cells", "rejects")
    return writer.counts


def check_heads(store: Store, recipe: Recipe) -> None:
    """Raise RecipeMismatch when localizations of this atlas were predicted by other heads than those of `recipe`."""
    if recipe.heads_sha256 is None or not store.has("cells"):
        return
    predicted = store.read("cells", ["run_id"], where="predicted_localization IS NOT NULL")["run_id"].unique()
    if not len(predicted):
        return
    runs = store.read("runs", ["recipe"], where=one_of("run_id", predicted.to_pylist()))["recipe"].to_pylist()
    if any(Recipe.from_json(text).heads_sha256 != recipe.heads_sha256 for text in runs):
        msg = "The localizations of this atlas were predicted by other heads.\nGive those, or another atlas (--atlas)."
        raise RecipeMismatch(msg)


def stored_fingerprints(store: Store) -> frozenset[str]:
    """Return the fingerprints of the pictures whose cells the atlas has."""
    if not store.has("cells"):
        return frozenset()
    return frozenset(store.read("cells", ["fingerprint"])["fingerprint"].unique().to_pylist())


class Progress:
    """Pictures done, rate and time left; rejects beside it."""

    def __init__(self, total: int, *, shown: bool) -> None:
        often = 0.1 if sys.stderr.isatty() else 10.0  # seconds
        self._bar = tqdm(total=total, unit="picture", disable=not shown, mininterval=often, dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, counts: Counts) -> None:
        """Count one picture more."""
        self._bar.update()
        self._bar.set_postfix(rejected=counts.rejected, refresh=False)


@dataclass
class Writer:
    """Collects pictures, embeds their cells in batches, and commits whole pictures."""

    store: Store
    encoder: Encoder
    recipe: Recipe
    run_id: str
    source: str
    batch_size: int
    counts: Counts = field(default_factory=Counts)
    _waiting: list[Prepared] = field(default_factory=list)
    _embedded: list[np.ndarray] = field(default_factory=list)
    _crops: list[np.ndarray] = field(default_factory=list)  # of the pictures waiting, not embedded yet
    _rejects: dict[str, str] = field(default_factory=dict)
    _image_of: dict[str, str] = field(default_factory=dict)  # picture_id -> image_id, of this run
    _first: list[np.ndarray] = field(default_factory=list)  # crops, until they are looked at
    _looked_at: bool = False

    def take(self, prepared: Prepared) -> None:
        """Take one picture; embed and commit when there is enough."""
        self.counts.pictures += 1
        twin = self._image_of.get(prepared.picture_id or "")
        if prepared.reject is None and twin is not None:
            self._reject(prepared.image_id, f"the same picture as {twin}")
        elif prepared.reject is not None:
            self._reject(prepared.image_id, prepared.reject)
        elif prepared.crops is None:
            self.counts.done_before += 1
        else:
            self._waiting.append(prepared)
            self._crops.extend(prepared.crops)
            if not self._looked_at:
                self._first.extend(prepared.crops[: N_LOOKED_AT - len(self._first)])
                self._look_at_first(at_least=N_LOOKED_AT)
            self._embed(at_least=self.batch_size)
        if prepared.reject is None and prepared.picture_id is not None:
            self._image_of.setdefault(prepared.picture_id, prepared.image_id)
        if sum(len(vectors) for vectors in self._embedded) >= COMMIT_CELLS:
            self.commit()

    def _reject(self, image_id: str, reason: str) -> None:
        self._rejects[image_id] = reason
        self.counts.rejected += 1

    def _embed(self, *, at_least: int) -> None:
        while len(self._crops) >= at_least and self._crops:
            self._embedded.append(self.encoder.embed(np.stack(self._crops[: self.batch_size])))
            del self._crops[: self.batch_size]

    def _look_at_first(self, *, at_least: int) -> None:
        """Look at the first crops: whether the precision suits them, and whether their channels look swapped."""
        if self._looked_at or len(self._first) < at_least:
            return
        crops, self._first, self._looked_at = np.stack(self._first), [], True
        self.encoder.check_precision(crops[:N_CHECKED])
        if remark := swapped_channels(crops, self.encoder.spec.channels):
            self.counts.remark = remark
            tqdm.write(remark, file=sys.stderr)

    def finish(self) -> None:
        """Write the rest, and forget the rejects of earlier runs over this source: those that stand were found anew."""
        self._look_at_first(at_least=1)
        self._embed(at_least=1)
        self.commit()
        self.store.delete("rejects", f"source = {quote(self.source)} AND run_id != {quote(self.run_id)}")

    def commit(self) -> None:
        """Write the pictures whose cells are all embedded, and the rejects. An interrupt may have come at any point."""
        n_embedded = sum(len(vectors) for vectors in self._embedded)
        n_rows = list(accumulate(len(prepared.rows) for prepared in self._waiting))
        whole = self._waiting[: sum(n <= n_embedded for n in n_rows)]
        if whole:
            rows = [dict(row) for prepared in whole for row in prepared.rows]
            vectors = np.concatenate(self._embedded)
            if self.encoder.has_heads:
                probabilities = self.encoder.localize_embeddings(vectors[: len(rows)])
                for row, of_cell in zip(rows, probabilities.tolist(), strict=True):
                    row["predicted_localization"] = name_localizations(of_cell)
            self.store.replace_cells(
                cells_table(rows, vectors[: len(rows)], self.run_id),
                [prepared.picture_id for prepared in whole if prepared.picture_id],
                recipe=self.recipe,
            )
            self._waiting = self._waiting[len(whole) :]
            self._embedded = [vectors[len(rows) :]]
            self.counts.cells += len(rows)
        self._write_rejects()

    def _write_rejects(self) -> None:
        if self._rejects:
            rows = pa.table({"image": list(self._rejects), "reason": list(self._rejects.values())})
            n = rows.num_rows
            rows = rows.append_column("source", pa.array([self.source] * n))
            self.store.upsert("rejects", rows.append_column("run_id", pa.array([self.run_id] * n)))
            self._rejects = {}


def cells_table(rows: Sequence[Mapping[str, Any]], vectors: np.ndarray, run_id: str) -> pa.Table:
    """Join the columns of cells with their embeddings (n, dim)."""
    columns = {}
    for name, kind in TABLES["cells"].items():
        if name not in ("embedding", "run_id"):
            columns[name] = pa.array([row.get(name) for row in rows], kind)
    columns["run_id"] = pa.array([run_id] * len(rows))
    columns["embedding"] = vector_array(vectors)
    return pa.table(columns)


def prepared_pictures(plan: Plan, workers: int | None) -> Iterator[Prepared]:
    """Yield every picture of the plan's source, in order, prepared by worker processes, a bounded number ahead."""
    n_workers = workers if workers is not None else os.cpu_count() or 1
    total = len(plan.source)
    if n_workers == 0 or total < MIN_FOR_WORKERS:
        yield from (prepare(plan, index) for index in range(total))
        return
    chunks = iter([range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)])
    context = multiprocessing.get_context("spawn")  # lance and torch do not survive a fork
    pool = ProcessPoolExecutor(n_workers, mp_context=context, initializer=begin_worker, initargs=(plan,))
    try:
        ahead: deque[Future[list[Prepared]]] = deque()
        for chunk in chunks:
            with interrupts_blocked():
                ahead.append(pool.submit(prepare_chunk, chunk))  # may start a worker
            if len(ahead) > 3 * n_workers:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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


def prepare_chunk(indices: range) -> list[Prepared]:
    """Prepare some pictures in a worker process."""
    return [prepare(worker_plan, index) for index in indices]


worker_plan: Plan
