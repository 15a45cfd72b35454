"""Measure how well and how fast the protein map is built, beside what one would use instead.

    python benchmarks/map.py [--proteins 2000 13000] [--dim 128] [--noise 1.0 …] [--cellmaps PYTHON] [--data FOLDER]

Proteins are planted in groups within groups: compartments, places within them and complexes of about ten, for 57 % of
them, and 8 % are in two places. Recovery is the mean, over planted groups of a level, of the highest Jaccard index of
any system; precision the share of systems that have one of at least 0.5 with a planted group. CPU seconds and the peak
of memory are those of a process of its own for each row, its imports included; memory is the largest so far.

`--cellmaps` names the Python of an environment in which the field's tool cellmaps_generate_hierarchy is installed (it
asks for another NumPy); it is run on the same vectors. `--data` names a folder of public tables: maps are then made of
real proteins, from the localizations that the Human Protein Atlas gives them, and asked for GO cellular components and
CORUM complexes, beside the same with the proteins' names shuffled. Such profiles are no pictures: the question is only
whether the map finds what is in its vectors.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

LEVELS = {2000: (8, 40, 127), 5000: (10, 80, 260), 13_000: (12, 120, 541)}
SCALES = (1.0, 0.7, 0.6)  # of the deviations of compartments, places and complexes from what they lie in
LATENT = 128  # dimensions in which proteins are planted
IN_COMPLEX, IN_TWO = 0.57, 0.08
GOOD = 0.5  # Jaccard index of a system that is a planted one
CELLMAPS = """\
import sys
from cellmaps_generate_hierarchy.cellmaps_generate_hierarchycmd import main
sys.exit(main(sys.argv))
"""


def main() -> None:
    """Measure and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, nargs="+", default=[2000, 13_000], choices=LEVELS)
    parser.add_argument("--dim", type=int, default=LATENT)
    parser.add_argument("--noise", type=float, nargs="+", default=[1.0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cellmaps", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="*", help="some of the rows, by name")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_child(*args.child)
        return
    for n in args.proteins:
        for noise in args.noise:
            measure(n, noise, args)
        measure_without_groups(n, args)
    if args.data:
        measure_real(args.data, args.seed)


def plant(n: int, *, noise: float, seed: int, dim: int = LATENT) -> tuple[np.ndarray, list[list[set[int]]]]:
    """Return vectors (n, dim) and the planted groups of the three levels."""
    rng = np.random.default_rng(seed)
    numbers = LEVELS[n]
    parents = [np.concatenate([np.arange(few), rng.integers(0, few, many - few)]) for few, many in pairwise(numbers)]
    compartments = rng.normal(size=(numbers[0], LATENT)) * SCALES[0]
    places = compartments[parents[0]] + rng.normal(size=(numbers[1], LATENT)) * SCALES[1]
    complexes = places[parents[1]] + rng.normal(size=(numbers[2], LATENT)) * SCALES[2]
    weights = rng.gamma(4, 1, size=numbers[1])
    place = rng.choice(numbers[1], size=n, p=weights / weights.sum())
    complex_of = np.full(n, -1)
    for number in range(numbers[1]):
        rows, own = np.flatnonzero(place == number), np.flatnonzero(parents[1] == number)
        chosen = rng.choice(rows, round(IN_COMPLEX * len(rows)), replace=False)
        weights = rng.gamma(4, 1, size=len(own))
        complex_of[chosen] = rng.choice(own, size=len(chosen), p=weights / weights.sum())
    vectors = np.where((complex_of >= 0)[:, None], complexes[complex_of], places[place])
    second = np.full(n, -1)
    in_two = rng.choice(n, int(IN_TWO * n), replace=False)
    second[in_two] = rng.integers(0, numbers[1], len(in_two))
    vectors[in_two] = (vectors[in_two] + places[second[in_two]]) / 2
    vectors += rng.normal(size=vectors.shape) * noise
    is_in = [
        [(parents[0][place] == g) | ((second >= 0) & (parents[0][second] == g)) for g in range(numbers[0])],
        [(place == g) | (second == g) for g in range(numbers[1])],
        [complex_of == g for g in range(numbers[2])],
    ]
    groups = [[set(np.flatnonzero(mask).tolist()) for mask in level if mask.sum() >= 4] for level in is_in]
    return spread_out(vectors, dim, rng).astype(np.float32), groups


def spread_out(vectors: np.ndarray, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Return vectors in `dim` dimensions, with the same distances."""
    if dim <= vectors.shape[1]:
        return vectors[:, :dim]
    turned, _ = np.linalg.qr(rng.normal(size=(dim, vectors.shape[1])))
    return vectors @ turned.T


def measure(n: int, noise: float, args: argparse.Namespace) -> None:
    """Print how each way finds what is planted."""
    vectors, groups = plant(n, noise=noise, seed=args.seed, dim=args.dim)
    print(f"\n{n:,} proteins × {args.dim}, noise {noise}; groups: {', '.join(str(len(level)) for level in groups)}\n")
    print(
        "| | systems | recovery | precision | left out | CPU s | wall s | memory |\n|---|---|---|---|---|---|---|---|"
    )
    ways: dict[str, Any] = {
        "multiresolution, untested": {"method": "multiresolution", "tested": False},
        "multiresolution, tested": {"method": "multiresolution", "tested": True},
        "average linkage": {"method": "average", "tested": False},
        "subcell": {"method": "subcell", "tested": False},
    }
    for name, settings in ways.items():
        if not args.only or name in args.only:
            show(name, run_apart(vectors, {**settings, "seed": 0}), groups)
    if args.cellmaps and (not args.only or "cellmaps" in args.only):
        show("cellmaps_generate_hierarchy", run_cellmaps(args.cellmaps, vectors), groups)


def measure_without_groups(n: int, args: argparse.Namespace) -> None:
    """Print how many systems are found where there are none."""
    vectors = np.random.default_rng(args.seed).normal(size=(n, args.dim)).astype(np.float32)
    if args.only and "noise" not in args.only:
        return
    found = [run_apart(vectors, {"method": "multiresolution", "tested": tested, "seed": 0}) for tested in (False, True)]
    counts = [len(each["members"]) for each in found]
    print(f"\n{n:,} vectors without groups: {counts[0]} systems untested, {counts[1]} tested.")


def show(name: str, found: Mapping[str, Any], groups: list[list[set[int]]]) -> None:
    """Print a row."""
    recovery, precision = scores(found["members"], groups)
    said = " / ".join(f"{value:.2f}" for value in recovery)
    row = [name, len(found["members"]), said, f"{precision:.2f}", found["dropped"], f"{found['cpu_s']:.1f}"]
    row += [f"{found['wall_s']:.1f}", f"{found['memory_gib']:.2f} GiB"]
    print(f"| {' | '.join(map(str, row))} |", flush=True)


def scores(members: Iterable[Iterable[int]], groups: list[list[set[int]]]) -> tuple[list[float], float]:
    """Return the recovery of each level, and the precision."""
    systems = [set(rows) for rows in members]
    n = 1 + max(max(group) for level in groups for group in level)
    best = np.zeros(len(systems))
    recovery = []
    for level in groups:
        overlap = jaccard(level, systems, n)
        recovery.append(float(overlap.max(axis=1, initial=0).mean()))
        best = np.maximum(best, overlap.max(axis=0, initial=0))
    return recovery, float((best >= GOOD).mean()) if len(best) else float("nan")


def jaccard(one: list[set[int]], other: list[set[int]], n: int) -> np.ndarray:
    """Return the Jaccard index of each pair of sets, (len(one), len(other))."""
    a, b = (as_rows(sets, n) for sets in (one, other))
    shared = (a @ b.T).toarray()
    sizes = [np.diff(rows.indptr) for rows in (a, b)]
    return shared / np.maximum(sizes[0][:, None] + sizes[1][None] - shared, 1)


def as_rows(sets: list[set[int]], n: int) -> sparse.csr_matrix:
    """Return sets as rows of 0 and 1."""
    at = [(row, member) for row, own in enumerate(sets) for member in own if member < n]
    rows, columns = zip(*at, strict=True) if at else ((), ())
    return sparse.csr_matrix((np.ones(len(at)), (rows, columns)), shape=(len(sets), n))


def run_apart(vectors: np.ndarray, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make a map in a process of its own; return its systems and what it cost."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors.npy")
        np.save(path, vectors)
        command = [sys.executable, __file__, "--child", str(path), json.dumps(settings)]
        return {**json.loads(timed(command, Path(folder))), **usage()}


def timed(command: list[str], folder: Path) -> str:
    """Run a command, which then is what `usage` tells of; return what it printed."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    LAST.update(
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        wall_s=time.perf_counter() - begun,
        memory_gib=after.ru_maxrss / 2**20,  # the largest child so far
    )
    return done.stdout


LAST: dict[str, float] = {}


def usage() -> dict[str, float]:
    """Return what the last command cost."""
    return dict(LAST)


def run_child(path: str, settings: str) -> None:
    """Make a map of the vectors in a file and print its systems."""
    from subcell_atlas.cellmap.hierarchy import ROOT, find_hierarchy
    from subcell_atlas.cellmap.methods import METHODS
    from subcell_atlas.cellmap.trust import Trust

    options = json.loads(settings)
    trust = Trust() if options["tested"] else None
    found = find_hierarchy(np.load(path), METHODS[options["method"]](), seed=options["seed"], trust=trust)
    members = [rows.tolist() for system, rows in found.members.items() if system != ROOT]
    print(json.dumps({"members": members, "dropped": found.n_dropped}))


def run_cellmaps(python: Path, vectors: np.ndarray) -> dict[str, Any]:
    """Run the field's tool on the same vectors; return its systems and what it cost."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "embedding")
        source.mkdir()
        table = np.char.mod("%.6g", vectors)
        lines = ["\t".join(["", *map(str, range(1, vectors.shape[1] + 1))])]
        lines += ["\t".join([f"P{row}", *values]) for row, values in enumerate(table)]
        (source / "coembedding_emd.tsv").write_text("\n".join(lines) + "\n")
        crate = {"@id": "x", "name": "planted", "organization-name": "none", "project-name": "none"}
        about = {
            "@context": {},
            "@graph": [],
            **crate,
            "isPartOf": [{"@type": "Organization", "name": "none"}, {"@type": "Project", "name": "none"}],
            "description": "planted proteins",
            "keywords": ["planted"],
        }
        (source / "ro-crate-metadata.json").write_text(json.dumps(about))
        out = Path(folder, "out")
        command = [
            str(python),
            "-c",
            CELLMAPS,
            str(out),
            "--coembedding_dirs",
            str(source),
            "--skip_layout",
            "--skip_logging",
        ]
        os.environ["PATH"] = f"{python.parent}:{os.environ['PATH']}"
        timed(command, Path(folder))
        return {"members": cellmaps_systems(out), "dropped": "", **usage()}


def cellmaps_systems(out: Path) -> list[list[int]]:
    """Return the systems of its hierarchy, the root aside."""
    aspects = json.loads((out / "hierarchy.cx2").read_text())
    nodes = next(aspect["nodes"] for aspect in aspects if "nodes" in aspect)
    lists = [node["v"].get("CD_MemberList", "") for node in nodes if not node["v"].get("HCX::isRoot")]
    return [[int(name[1:]) for name in text.split()] for text in lists]


def measure_real(data: Path, seed: int) -> None:
    """Print how many known groups a map of localization profiles finds again, beside shuffled names."""
    genes, vectors = localization_profiles(data / "hpa_tables" / "subcellular_location_2022.tsv")
    found = run_apart(vectors, {"method": "multiresolution", "tested": True, "seed": 0})
    systems = [set(rows) for rows in found["members"]]
    print(f"\n{len(genes):,} genes by their localizations: {len(systems)} systems, {found['dropped']} left out.\n")
    print("| | groups | mean best Jaccard index | shuffled | systems with a significant term | shuffled |")
    print("|---|---|---|---|---|---|")
    shuffled = np.random.default_rng(seed).permutation(len(genes))
    for name, sets in (("GO cellular component", go_sets(data)), ("CORUM", corum_sets(data))):
        at = {gene: row for row, gene in enumerate(genes)}
        groups = [{at[gene] for gene in own if gene in at} for own in sets]
        groups = [own for own in groups if 10 <= len(own) <= 2000]
        moved = [{int(shuffled[row]) for row in own} for own in groups]
        best = [jaccard(each, systems, len(genes)).max(axis=1).mean() for each in (groups, moved)]
        explained = [count_explained(found["members"], each) for each in (groups, moved)]
        print(f"| {name} | {len(groups)} | {best[0]:.3f} | {best[1]:.3f} | {explained[0]} | {explained[1]} |")


def count_explained(members: list[list[int]], groups: list[set[int]]) -> int:
    """Return how many systems have a group that is over-represented in them."""
    import networkx as nx

    from subcell_atlas.cellmap.enrichment import Source, enrich_systems

    systems = {f"S{number}": np.array(rows) for number, rows in enumerate(members, start=1)}
    graph = nx.DiGraph()
    graph.add_nodes_from(systems)
    terms = {str(number): np.array(sorted(group)) for number, group in enumerate(groups)}
    return len(enrich_systems(systems, graph, [Source("groups", terms)]).significant)


def localization_profiles(path: Path) -> tuple[list[str], np.ndarray]:
    """Return genes and, of each, which places the Human Protein Atlas names, the main ones twice as much, with IDF."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    weight = {"Main location": 2.0, "Additional location": 1.0}
    profiles = [
        {place: w for column, w in weight.items() for place in filter(None, row[column].split(";"))} for row in rows
    ]
    places = sorted({place for profile in profiles for place in profile})
    table = np.array([[profile.get(place, 0.0) for place in places] for profile in profiles], np.float32)
    known = table.any(axis=1)
    table = table[known] * np.log(known.sum() / np.maximum((table[known] > 0).sum(axis=0), 1))
    jitter = np.random.default_rng(0).normal(size=table.shape) * 0.05  # many genes have the very same places
    return [row["Gene name"] for row, k in zip(rows, known, strict=True) if k], (table + jitter).astype(np.float32)


def go_sets(data: Path) -> list[set[str]]:
    """Return the genes of each GO cellular component term, without evidence of the Human Protein Atlas."""
    lines = (data / "go" / "GO_CC_human_no_hpa.txt").read_text().splitlines()
    return [set(line.split("\t")[2].split(",")) for line in lines if line.count("\t") >= 2]


def corum_sets(data: Path) -> list[set[str]]:
    """Return the genes of each CORUM complex."""
    lines = (data / "complexes" / "CORUM_clusters.tsv").read_text().splitlines()
    return [set(line.split("\t")[-1].replace(",", " ").split()) for line in lines[1:]]


if __name__ == "__main__":
    main()
