"""The index of the cells' vectors: when one is worth having, how it is searched, and how much it finds.

Up to `EXACT_NUMBERS` every cell is compared. Beyond, the vectors are put into an IVF_RQ index (a bit a number, the best
compared in full), and how far a search looks is settled by measurement: for vectors of the atlas's own cells, the least
effort that finds `LEAST_RECALL` of what comparing all finds. With a filter every partition is looked into: what is
nearest of the cells of one protein, or one place, may lie far from what is nearest of all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from .profiles import vectors_of
from .store import Probing, Store

__all__ = ["CellIndex", "build_cell_index", "index_record", "is_fresh", "needs_index", "probing_for", "stored_index"]

EXACT_NUMBERS = 2**25  # rows x dim that are compared in 0.1-0.2 s on two cores: 22,000 cells of 1,536 numbers
ROWS_A_PARTITION = 2000  # 512 partitions of a million; measured: fewer and larger ones find no more and take longer
K = 10
N_QUERIES = 100
LEAST_RECALL = 0.99
LADDER = tuple(Probing(*rung) for rung in ((10, 5), (20, 5), (20, 10), (50, 5), (50, 10), (100, 10), (200, 20)))
REFINING = (5, 10, 20, 50, 100, 200)  # of searches with a filter, which look into every partition
KEPT = {"tenth": 0.1, "hundredth": 0.01}  # of the cells, by filters with which recall is measured
STALE = 0.1  # the index is made anew when it lacks a larger share of the cells
VALUES = ("cell_id", "picture_id", "image_id", "protein_id", "gene_symbol", "antibody")  # what cells are looked up by
KINDS = ("cell_line", "condition")
KIND_OF_RUN = "build index"


@dataclass(frozen=True)
class CellIndex:
    """How an index is searched, without a filter (`all`) and with one (`filtered`), and the recall that was measured.

    Recall is at 10, of `all` and of each of `KEPT`. Where no effort found enough the probing is None: every cell, or
    every one that meets the filter, is compared then.
    """

    rows: int
    dim: int
    partitions: int
    probing: dict[str, Probing | None]
    recall: dict[str, float]


def needs_index(store: Store) -> bool:
    """Tell whether the cells are too many to compare all of them for each question."""
    return store.count("cells") * dim_of(store) > EXACT_NUMBERS


def dim_of(store: Store) -> int:
    """Return the length of the cells' vectors; 0 when there are none."""
    recipe = store.recipe("cells", "embedding")
    return recipe.dim if recipe else 0


def is_fresh(store: Store) -> bool:
    """Tell whether there is an index that lacks no more than `STALE` of the cells."""
    return stored_index(store) is not None and store.indexed_rows("cells", "embedding") >= (1 - STALE) * store.count(
        "cells"
    )


def stored_index(store: Store) -> CellIndex | None:
    """Return how the index of an atlas is searched, as its last build measured it; None when there is none."""
    return read_index(store, store.version("runs"))


@lru_cache(maxsize=8)
def read_index(store: Store, version: int) -> CellIndex | None:
    """Return the same for a version of `runs`; kept, because each search asks."""
    if not version:
        return None
    runs = store.read("runs", ["finished", "counts"], where=f"kind = '{KIND_OF_RUN}' AND finished IS NOT NULL")
    if not runs.num_rows:
        return None
    counts = json.loads(runs.sort_by("finished")["counts"][-1].as_py())
    probing = {name: Probing(**how) if how else None for name, how in counts["probing"].items()}
    return CellIndex(counts["rows"], counts["dim"], counts["partitions"], probing, counts["recall"])


def index_record(store: Store) -> dict[str, Any] | None:
    """Return how the cells' index is searched and how much that finds; None when all cells are compared."""
    index = stored_index(store)
    return None if index is None else {**asdict(index), "indexed": store.indexed_rows("cells", "embedding")}


def probing_for(store: Store, where: str | None) -> Probing | None:
    """Return how to search for cells that meet `where`; None: compare all of them, which is quick enough or surer."""
    index = stored_index(store)
    if index is None:
        return None
    if where is None:
        return index.probing["all"]
    few = EXACT_NUMBERS // 8  # behind the indexes of other columns; what they keep lies scattered
    return index.probing["filtered"] if store.count("cells", where) * index.dim > few else None


def build_cell_index(store: Store, seed: int, *, ladder: Sequence[Probing] = LADDER) -> dict[str, Any]:
    """Index the cells' vectors, and the columns by which cells are looked up; return what was measured."""
    rows, dim = store.count("cells"), dim_of(store)
    partitions = max(1, min(4096, rows // ROWS_A_PARTITION))
    store.compact("cells")
    store.index("cells", values=VALUES, kinds=KINDS)
    store.index_vectors("cells", "embedding", partitions=partitions)
    queries = sample_vectors(store, seed)
    probing: dict[str, Probing | None] = {}
    recall: dict[str, float] = {}
    probing["all"], (recall["all"],) = least_effort(
        store, queries, shares=[None], ladder=list(dict.fromkeys(capped(rung, partitions) for rung in ladder))
    )
    filtered = [Probing(partitions, refine) for refine in REFINING]
    enough, found = least_effort(store, queries, shares=list(KEPT.values()), ladder=filtered)
    # one step more than these filters need: others keep cells that are alike, which are harder to tell apart
    probing["filtered"] = filtered[min(filtered.index(enough) + 1, len(filtered) - 1)] if enough else None
    recall |= dict(zip(KEPT, found, strict=True))
    index = CellIndex(rows, dim, partitions, probing, recall)
    return {**asdict(index), "queries": len(queries), "k": K}


def capped(probing: Probing, partitions: int) -> Probing:
    """Return an effort that looks into no more partitions than there are."""
    return Probing(min(probing.nprobes, partitions), probing.refine)


def sample_vectors(store: Store, seed: int) -> np.ndarray:
    """Return the vectors of some cells, (n, dim)."""
    rows = np.random.default_rng(seed).choice(store.count("cells"), N_QUERIES, replace=False)
    return vectors_of(store.take("cells", np.sort(rows).tolist(), ["embedding"])["embedding"])


def boundary(share: float) -> str:
    """Return the id below which a share of all cells lie, whatever they show: ids are hashes in hexadecimal."""
    return f"{round(share * 16**8):08x}"


def exact_neighbors(
    batches: Iterable[pa.RecordBatch], queries: np.ndarray, *, k: int, below: str | None = None
) -> list[set[str]]:
    """Return the ids of the `k` rows most like each of some vectors (n, dim) by cosine, of ids less than `below`."""
    units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    best = np.full((len(queries), k), -np.inf, np.float32)
    ids = np.full((len(queries), k), "", object)
    for batch in batches:
        if below is not None:
            batch = batch.filter(pa.compute.less(batch["cell_id"], below))
        if not batch.num_rows:
            continue
        vectors = vectors_of(batch["embedding"])
        norms = np.linalg.norm(vectors, axis=1)
        similarity = units @ (vectors / np.where(norms, norms, 1)[:, None]).T  # (queries, rows)
        names = np.array(batch["cell_id"].to_pylist(), object)
        both = np.concatenate([best, similarity], axis=1)
        kept = np.argpartition(-both, k - 1, axis=1)[:, :k]
        named = np.concatenate([ids, np.broadcast_to(names, (len(queries), len(names)))], axis=1)
        best, ids = np.take_along_axis(both, kept, axis=1), np.take_along_axis(named, kept, axis=1)
    return [set(row) - {""} for row in ids]


def least_effort(
    store: Store, queries: np.ndarray, *, shares: Sequence[float | None], ladder: Sequence[Probing]
) -> tuple[Probing | None, list[float]]:
    """Return the first of `ladder` that finds `LEAST_RECALL` with each filter, None when none does, and the recalls.

    shares: of the cells, that each filter keeps; None: no filter.
    """
    belows = [None if share is None else boundary(share) for share in shares]
    truths = [
        exact_neighbors(store.batches("cells", ("cell_id", "embedding")), queries, k=K, below=below) for below in belows
    ]
    recalls: list[float] = []
    for probing in ladder:
        recalls = [
            recall_of(store, queries, truth, where=f"cell_id < '{below}'" if below else None, probing=probing)
            for below, truth in zip(belows, truths, strict=True)
        ]
        if min(recalls) >= LEAST_RECALL:
            return probing, recalls
    return None, recalls


def recall_of(
    store: Store, queries: np.ndarray, truth: Sequence[set[str]], *, where: str | None, probing: Probing
) -> float:
    """Return the share of the true neighbors of some vectors that a search finds."""
    n_found = 0
    for query, true in zip(queries, truth, strict=True):
        hits = store.nearest("cells", "embedding", query, k=K, where=where, probing=probing)
        n_found += len(true & set(hits["cell_id"].to_pylist()))
    return n_found / max(sum(map(len, truth)), 1)
