"""Search among many cells: the atlas's index as it chooses it, beside comparing all, faiss and hnswlib.

Run: .venv/bin/python benchmarks/search.py [--rows N] [--dim D] [--folder FOLDER] [--peers faiss,hnswlib]

Vectors are made as embeddings are: 30 places, N / 80 proteins around them and cells around these, in 64 directions of
falling weight, with noise in all. An atlas that is in FOLDER already is taken, so a run can go on. Recall is at 10,
over queries that are not in the atlas; p50 and p95 in milliseconds of a whole question in a running process, one after
the other; build in processor seconds. Filters keep a tenth and a hundredth of the cells at random, and one of the cell
lines, of which each protein is in few.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from subcell_atlas.build import build
from subcell_atlas.cell_index import boundary, exact_neighbors, index_record
from subcell_atlas.profiles import vector_array
from subcell_atlas.query import similar_cells
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

AT_A_TIME, N_QUERIES, K, N_LINES, N_PLACES, N_DIRECTIONS = 20_000, 100, 10, 30, 30, 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1536)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--peers", default="faiss,hnswlib")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        world = World(max(1, chosen.rows // 80), chosen.dim)
        store = Store.create(str(folder / f"atlas {chosen.rows} {chosen.dim}"))
        if store.count("cells") != chosen.rows:
            write_cells(store, world, chosen.rows)
        began = cpu()
        if build(store, ["index"]):
            print(f"index built in {cpu() - began:.0f} CPU-s; at most {peak():.1f} GB of memory")
        print(index_record(store))
        queries = world.draw(N_QUERIES, np.random.default_rng(1))[0]
        filters = {"all": None, "tenth": f"cell_id < '{boundary(0.1)}'", "hundredth": f"cell_id < '{boundary(0.01)}'"}
        for name, where in filters.items():
            below = boundary({"tenth": 0.1, "hundredth": 0.01}[name]) if where else None
            truth = exact_neighbors(store.batches("cells", ("cell_id", "embedding")), queries, k=K, below=below)
            report(f"atlas, {name}", lambda q, w=where: ids(similar_cells(store, q, where=w)), queries, truth)
            if chosen.rows <= 200_000 or name == "hundredth":
                exact = lambda q, w=where: ids(similar_cells(store, q, where=w, exact=True))  # noqa: E731
                report(f"all compared, {name}", exact, queries[:10], truth[:10])
        where = "cell_line = 'L7'"
        truth = [set(ids(similar_cells(store, query, where=where, exact=True))) for query in queries[:20]]
        report("atlas, a cell line", lambda q: ids(similar_cells(store, q, where=where)), queries[:20], truth)
        if chosen.peers:
            compare_peers(store, queries, chosen.peers.split(","))


class World:
    """Places, proteins around them, and how to draw cells around these."""

    def __init__(self, n_proteins: int, dim: int) -> None:
        random = np.random.default_rng(0)
        self.weights = 1 / np.sqrt(1 + np.arange(N_DIRECTIONS, dtype=np.float32) / 8)
        places = 2 * random.standard_normal((N_PLACES, N_DIRECTIONS), dtype=np.float32)
        own = random.standard_normal((n_proteins, N_DIRECTIONS), dtype=np.float32)
        self.centers = places[random.integers(0, N_PLACES, n_proteins)] + own
        self.directions = random.standard_normal((N_DIRECTIONS, dim), dtype=np.float32) / np.sqrt(N_DIRECTIONS)

    def draw(self, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors of cells (n, dim), and whose they are."""
        proteins = random.integers(0, len(self.centers), n)
        inner = self.centers[proteins] + 0.7 * random.standard_normal((n, N_DIRECTIONS), dtype=np.float32)
        noise = 0.1 * random.standard_normal((n, self.directions.shape[1]), dtype=np.float32)
        return (inner * self.weights) @ self.directions + noise, proteins


def write_cells(store: Store, world: World, rows: int) -> None:
    """Fill the atlas."""
    random, recipe = np.random.default_rng(2), Recipe(encoder="made up", dim=world.directions.shape[1])
    store.drop("cells")
    for start in range(0, rows, AT_A_TIME):
        vectors, proteins = world.draw(min(AT_A_TIME, rows - start), random)
        keys = [hashlib.md5(str(start + i).encode()).hexdigest() for i in range(len(vectors))]
        names = [f"P{i}" for i in proteins]
        lines = [
            f"L{(i + extra) % N_LINES}" for i, extra in zip(proteins, random.integers(0, 3, len(proteins)), strict=True)
        ]
        columns = {"cell_id": keys, "picture_id": keys, "fingerprint": keys, "protein_id": names, "gene_symbol": names}
        store.append_cells(pa.table({**columns, "cell_line": lines, "embedding": vector_array(vectors)}), recipe=recipe)


def report(name: str, ask: Callable[[np.ndarray], list[str]], queries: np.ndarray, truth: list[set[str]]) -> None:
    """Ask each query, and print recall and times."""
    ask(queries[0])
    times, found = [], 0
    for query, true in zip(queries, truth, strict=True):
        began = time.perf_counter()
        hits = ask(query)
        times.append(1000 * (time.perf_counter() - began))
        found += len(true & set(hits))
    recall = found / sum(map(len, truth))
    print(f"{name}: recall {recall:.4f}, p50 {np.median(times):.1f}, p95 {np.percentile(times, 95):.1f}", flush=True)


def ids(hits: pa.Table) -> list[str]:
    """Return the ids of hits."""
    return hits["cell_id"].to_pylist()


def compare_peers(store: Store, queries: np.ndarray, peers: list[str]) -> None:
    """Build each peer's index of the same vectors in memory, and ask it the same."""
    table = store.read("cells", ["cell_id", "embedding"])
    keys = np.array(table["cell_id"].to_pylist())
    vectors = np.concatenate(
        [chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in table["embedding"].chunks]
    )
    del table
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    of_queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    truth = [set(keys[row]) for row in np.argsort(-(of_queries @ units.T), axis=1)[:, :K]]
    if "faiss" in peers:
        import faiss

        began = cpu()
        index = faiss.index_factory(units.shape[1], "HNSW32,SQ8", faiss.METRIC_INNER_PRODUCT)
        index.train(units[:50_000])
        index.add(units)
        print(f"faiss HNSW32,SQ8 built in {cpu() - began:.0f} CPU-s")
        faiss.ParameterSpace().set_index_parameter(index, "efSearch", 64)
        report("faiss HNSW32,SQ8 ef 64", lambda q: keys[index.search(unit(q)[None], K)[1][0]].tolist(), queries, truth)
        del index
    if "hnswlib" in peers:
        import hnswlib

        began = cpu()
        graph = hnswlib.Index("cosine", units.shape[1])
        graph.init_index(len(units), M=16, ef_construction=200)
        graph.add_items(units)
        print(f"hnswlib M 16 built in {cpu() - began:.0f} CPU-s")
        graph.set_ef(64)
        report("hnswlib M 16 ef 64", lambda q: keys[graph.knn_query(q[None], K)[0][0]].tolist(), queries, truth)


def unit(vector: np.ndarray) -> np.ndarray:
    """Return a vector of length 1."""
    return vector / np.linalg.norm(vector)


def cpu() -> float:
    """Return the processor seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak() -> float:
    """Return the most memory this process had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
