"""The writer: cells are embedded in groups and committed by whole pictures, while the next pictures are read."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from subcell_atlas.encoders.guards import swapped_channels
from subcell_atlas.encoders.localizations import name_localizations
from subcell_atlas.profiles import vector_array
from subcell_atlas.recipe import Recipe
from subcell_atlas.schema import TABLES
from subcell_atlas.store import Store, one_of, quote

from .clock import Clock
from .counts import Counts
from .ledger import Ledger
from .prepare import Prepared

if TYPE_CHECKING:
    from subcell_atlas.encoders.encoder import Encoder

__all__ = ["Writer"]

COMMIT_CELLS = 2048  # measured: commits of a few thousand rows write as fast as larger ones
COMMIT_S = 60.0  # so much of a slow encoder's work is lost at most when the process is killed
REJECTS_AT_ONCE = 1000  # named in a condition
AHEAD = 2  # groups that are with the encoder before the first is waited for
N_LOOKED_AT = 16  # crops by which the order of channels is judged
N_CHECKED = 2  # crops whose embedding is compared with float32's; more would take long on a processor


@dataclass
class Group:
    """Crops that are embedded together: their number, and their vectors once they are there."""

    n: int
    vectors: Future[np.ndarray]


@dataclass
class Writer:
    """Collects pictures, embeds their cells in groups, and commits whole pictures.

    Embedding and committing go on in threads of their own while pictures are collected; at most `AHEAD` groups and one
    commit are under way. Without an encoder, pictures must come with their vectors.
    """

    store: Store
    encoder: Encoder | None
    recipe: Recipe
    run_id: str
    source: str
    group_size: int
    ledger: Ledger
    clock: Clock
    counts: Counts = field(default_factory=Counts)
    _waiting: list[Prepared] = field(default_factory=list)  # not committed yet, without their crops
    _crops: list[np.ndarray] = field(default_factory=list)  # of these, not handed to the encoder yet
    _groups: deque[Group] = field(default_factory=deque)
    _embedded: list[np.ndarray] = field(default_factory=list)
    _n_embedded: int = 0  # of these
    n_embedded: int = 0  # of the whole run
    _rejects: dict[str, str] = field(default_factory=dict)
    _rejected_before: set[str] = field(default_factory=set)  # by earlier runs, and not by this one yet
    _first: list[np.ndarray] = field(default_factory=list)  # crops, until they are looked at
    _looked_at: bool = False
    _commit: Future[None] | None = None
    _committed: float = field(default_factory=time.monotonic)  # when the last commit began

    def __post_init__(self) -> None:
        # on a GPU two groups overlap: one is copied to it and fetched from it while it computes the other
        on_gpu = self.encoder is not None and self.encoder.device.type == "cuda"
        self._embedding = ThreadPoolExecutor(2 if on_gpu else 1, "embed")
        self._committing = ThreadPoolExecutor(1, "commit")
        if self.store.has("rejects"):
            before = self.store.read("rejects", ["image"], where=f"source = {quote(self.source)}")
            self._rejected_before = set(before["image"].to_pylist())

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._embedding.shutdown(wait=True, cancel_futures=True)
        self._committing.shutdown(wait=True)

    def take(self, prepared: Prepared) -> None:
        """Take one picture; embed and commit when there is enough."""
        self.counts.pictures += 1
        self._say(prepared.remark)
        for reason, n in prepared.left_out.items():
            self.counts.left_out[reason] = self.counts.left_out.get(reason, 0) + n
        twin = self.ledger.twin(prepared.picture_id, prepared.image_id) if prepared.picture_id else None
        if prepared.reject is not None:
            self._reject(prepared.image_id, prepared.reject)
        elif twin is not None:
            self._reject(prepared.image_id, f"the same picture as {twin}")
        elif prepared.vectors is not None:
            self._waiting.append(replace(prepared, vectors=None))
            self._add_vectors(prepared.vectors)
        elif prepared.crops is None:
            self.counts.done_before += 1
        else:
            self._waiting.append(replace(prepared, crops=None))
            self._crops.extend(prepared.crops)
            if not self._looked_at:
                self._first.extend(prepared.crops[: N_LOOKED_AT - len(self._first)])
                self._look_at_first(at_least=N_LOOKED_AT)
            self._embed(at_least=self.group_size)
        is_due = self._n_embedded and time.monotonic() - self._committed > COMMIT_S
        if is_due or self._n_embedded >= COMMIT_CELLS or len(self._rejects) >= COMMIT_CELLS:
            self.commit()

    def _reject(self, image_id: str, reason: str) -> None:
        self._rejects[image_id] = reason
        self._rejected_before.discard(image_id)
        self.counts.rejected += 1

    def _embed(self, *, at_least: int) -> None:
        """Hand crops to the encoder in groups, and take what it has embedded."""
        while len(self._crops) >= at_least and self._crops:
            group, self._crops = self._crops[: self.group_size], self._crops[self.group_size :]
            self._groups.append(Group(len(group), self._embedding.submit(self._embed_group, group)))
            self._take_vectors(keep=AHEAD)
        self._take_vectors(keep=AHEAD)

    def _embed_group(self, crops: list[np.ndarray]) -> np.ndarray:
        assert self.encoder is not None
        with self.clock.encoding():
            return self.encoder.embed(np.stack(crops))

    def _take_vectors(self, *, keep: int) -> None:
        """Take the vectors of the groups that are ready; wait for others while more than `keep` are under way."""
        while self._groups and (len(self._groups) > keep or self._groups[0].vectors.done()):
            with self.clock.waiting("encoder"):
                vectors = self._groups[0].vectors.result()
            self._groups.popleft()
            self._add_vectors(vectors)

    def _add_vectors(self, vectors: np.ndarray) -> None:
        """Add the vectors (n, dim) of the next cells that wait for theirs."""
        self._embedded.append(vectors)
        self._n_embedded += len(vectors)
        self.n_embedded += len(vectors)

    def _look_at_first(self, *, at_least: int) -> None:
        """Look at the first crops: whether the precision suits them, and whether their channels look swapped."""
        if self._looked_at or len(self._first) < at_least:
            return
        assert self.encoder is not None
        crops, self._first, self._looked_at = np.stack(self._first), [], True
        self.encoder.check_precision(crops[:N_CHECKED])
        self._say(swapped_channels(crops, self.encoder.spec.channels) or "")

    def _say(self, remark: str) -> None:
        """Say what there is to be said of the pictures, once."""
        if remark and not self.counts.remark:
            self.counts.remark = remark
            tqdm.write(remark, file=sys.stderr)

    def finish(self) -> None:
        """Write the rest, and forget the rejects of earlier runs over this source that were not found anew.

        Those of a run that goes on beside this one stay.
        """
        self._look_at_first(at_least=1)
        self._embed(at_least=1)
        self.save(wait=True)
        gone = sorted(self._rejected_before)
        for first in range(0, len(gone), REJECTS_AT_ONCE):
            images = one_of("image", gone[first : first + REJECTS_AT_ONCE])
            self.store.delete("rejects", f"source = {quote(self.source)} AND {images}")

    def save(self, *, wait: bool) -> None:
        """Commit the pictures that are embedded, or, with `wait`, those that the encoder is at besides."""
        if wait:
            self._take_vectors(keep=0)
        self.commit()
        self._wait_for_commit()

    def commit(self) -> None:
        """Begin to write the pictures whose cells are all embedded, and the rejects, once the last commit is there."""
        self._wait_for_commit()
        self._committed = time.monotonic()
        n_rows = list(accumulate(len(prepared.rows) for prepared in self._waiting))
        whole = self._waiting[: sum(n <= self._n_embedded for n in n_rows)]
        n = n_rows[len(whole) - 1] if whole else 0
        vectors = np.concatenate(self._embedded) if self._embedded else np.empty((0, self.recipe.dim), np.float32)
        self._waiting, self._embedded, self._n_embedded = self._waiting[len(whole) :], [vectors[n:]], len(vectors) - n
        rejects, self._rejects = self._rejects, {}
        self._commit = self._committing.submit(self._write, whole, vectors[:n], rejects)

    def _wait_for_commit(self) -> None:
        if self._commit is not None:
            with self.clock.waiting("writing"):
                commit, self._commit = self._commit, None
                commit.result()

    def _write(self, whole: Sequence[Prepared], vectors: np.ndarray, rejects: Mapping[str, str]) -> None:
        """Write some pictures, vectors (n, dim) being those of their cells, and rejects."""
        if whole:
            rows = [dict(row) for prepared in whole for row in prepared.rows]
            if self.encoder is not None and self.encoder.has_heads:
                probabilities = self.encoder.localize_embeddings(vectors)
                for row, of_cell in zip(rows, probabilities.tolist(), strict=True):
                    row["predicted_localization"] = name_localizations(of_cell)
            self.store.replace_cells(
                cells_table(rows, vectors, self.run_id),
                [prepared.picture_id for prepared in whole if prepared.picture_id],
                recipe=self.recipe,
            )
            self.counts.cells += len(rows)
        if rejects:
            columns = pa.table({"image": list(rejects), "reason": list(rejects.values())})
            columns = columns.append_column("source", pa.array([self.source] * len(rejects)))
            self.store.upsert("rejects", columns.append_column("run_id", pa.array([self.run_id] * len(rejects))))


def cells_table(rows: Sequence[Mapping[str, Any]], vectors: np.ndarray, run_id: str) -> pa.Table:
    """Join the columns of cells with their embeddings (n, dim)."""
    columns = {}
    for name, kind in TABLES["cells"].items():
        if name not in ("embedding", "run_id"):
            columns[name] = pa.array([row.get(name) for row in rows], kind)
    columns["run_id"] = pa.array([run_id] * len(rows))
    columns["embedding"] = vector_array(vectors)
    return pa.table(columns)
