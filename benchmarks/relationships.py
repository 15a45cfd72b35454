"""Measure how quick the recall of relationships is, beside the field's way of computing it.

    python benchmarks/relationships.py [--proteins 13000] [--dim 128 1536] [--permutations 100]

Random float32 vectors and random pairs, as many as five databases have; each row is a process of its own, whose seconds
and peak of memory are told, imports included.

EFAAR_benchmarking 1.0 (Celik et al. 2024) is stated again here, not copied: all cosines by scikit-learn, those above
the diagonal sorted, queries ranked among them; no permutations, no intervals. It looks each pair up in a pandas table
by the two names, one after the other; that loop is timed apart, on a sample of pairs, and scaled to all of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

PAIRS = {"CORUM": 37_649, "hu.MAP": 58_538, "Reactome": 18_565, "SIGNOR": 11_617, "STRING": 58_059}
TAILS = (0.05, 0.95)
SAMPLE = 5000  # pairs that are looked up one by one


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, default=13_000)
    parser.add_argument("--dim", type=int, nargs="+", default=[128, 1536])
    parser.add_argument("--permutations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(WAYS[args.child](args)))
        return
    print(f"{args.proteins:,} proteins, {sum(PAIRS.values()):,} pairs of {len(PAIRS)} sources\n")
    print("| | dim | s | CPU s | memory |\n|---|---|---|---|---|")
    for dim in args.dim:
        found = {way: run_apart(way, dim, args) for way in WAYS}
        for way, own in found.items():
            cost = f"{own['wall_s']:.1f} | {own['cpu_s']:.1f} | {own['memory_gib']:.2f} GiB"
            print(f"| {called(way, args)} | {dim} | {cost} |", flush=True)
        told = found["loop"]["scaled_s"]
        print(f"\nAll {sum(PAIRS.values()):,} pairs looked up so: {told:.1f} s, scaled from {SAMPLE:,}.")
        same = found["kernel"]["recall"] == found["ranked"]["recall"]
        print(f"Recall is {'the same number' if same else 'NOT the same'} in each source.\n")


def called(way: str, args: argparse.Namespace) -> str:
    """Return what a row is called."""
    return {
        "kernel": f"recall here, {args.permutations} permutations",
        "whole": f"the same with 95 % intervals of {args.permutations} permutations and 1,000 draws of proteins",
        "ranked": "as EFAAR, looked up at once: cosines, sorted, ranked",
        "loop": f"its lookup of {SAMPLE:,} pairs by names, with the table it needs",
    }[way]


def run_apart(way: str, dim: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a way in a process of its own; return what it printed and what it cost."""
    command = [sys.executable, __file__, "--child", way, "--dim", str(dim), "--seed", str(args.seed)]
    command += ["--proteins", str(args.proteins), "--permutations", str(args.permutations)]
    begun = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"wall_s": time.perf_counter() - begun, **json.loads(done.stdout)}


def made_up(args: argparse.Namespace) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return random vectors (proteins, dim) float32 and different random pairs of each source."""
    rng = np.random.default_rng(args.seed)
    vectors = rng.standard_normal((args.proteins, args.dim[0]), dtype=np.float32)
    pairs = {}
    for source, n in PAIRS.items():
        found = np.unique(np.sort(rng.integers(0, args.proteins, (2 * n, 2)), axis=1), axis=0)
        pairs[source] = rng.permutation(found[found[:, 0] < found[:, 1]])[:n]
    return vectors, pairs


def cost() -> dict[str, float]:
    """Return what this process has cost so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": used.ru_utime + used.ru_stime, "memory_gib": used.ru_maxrss / 2**20}


def by_kernel(args: argparse.Namespace) -> dict[str, Any]:
    """Measure recall with permutations."""
    from subcell_atlas.evaluation.relationships import measure_recall

    vectors, pairs = made_up(args)
    found = measure_recall(vectors, pairs, tails=TAILS, n_permutations=args.permutations, seed=0)
    return {"recall": {source: own.recall for source, own in found.items()}, **cost()}


def by_kernel_with_intervals(args: argparse.Namespace) -> dict[str, Any]:
    """Measure recall with permutations and the interval of each source, as `evaluate relationships` does."""
    from subcell_atlas.evaluation.intervals import Observed, interval
    from subcell_atlas.evaluation.relationships import measure_recall

    vectors, pairs = made_up(args)
    found = measure_recall(vectors, pairs, tails=TAILS, n_permutations=args.permutations, seed=0)
    names = np.array([f"ENSG{row:011d}" for row in range(args.proteins)], object)
    for source, own in found.items():
        named = names[pairs[source]]
        ids = [f"{one}|{other}" for one, other in named]
        interval(Observed(ids, (own.tail != 0).astype(np.float64), named), seed=0)
    return {"recall": {source: own.recall for source, own in found.items()}, **cost()}


def by_ranking(args: argparse.Namespace) -> dict[str, Any]:
    """Rank all queries among all sorted cosines."""
    from sklearn.metrics.pairwise import cosine_similarity

    vectors, pairs = made_up(args)
    cosines = cosine_similarity(vectors, vectors)
    null = np.sort(cosines[np.triu_indices(len(cosines), k=1)])
    recall = {}
    for source, own in pairs.items():
        query = cosines[own[:, 0], own[:, 1]]
        right, left = (np.searchsorted(null, query, side=side) / len(null) for side in ("right", "left"))
        recall[source] = int(((right <= TAILS[0]) | (left >= TAILS[1])).sum()) / len(own)
    return {"recall": recall, **cost()}


def by_loop(args: argparse.Namespace) -> dict[str, Any]:
    """Look some pairs up by their names; `scaled_s`: what all would take."""
    import pandas as pd
    from sklearn.metrics.pairwise import cosine_similarity

    vectors, pairs = made_up(args)
    names = [f"G{row}" for row in range(args.proteins)]
    table = pd.DataFrame(cosine_similarity(vectors, vectors), index=names, columns=names)
    asked = [(names[one], names[other]) for one, other in pairs["STRING"][:SAMPLE]]
    begun = time.process_time()
    found = np.array([table.loc[one, other] for one, other in asked])
    scaled = (time.process_time() - begun) * sum(PAIRS.values()) / len(found)
    return {"scaled_s": scaled, **cost()}


WAYS = {"kernel": by_kernel, "whole": by_kernel_with_intervals, "ranked": by_ranking, "loop": by_loop}


if __name__ == "__main__":
    main()
