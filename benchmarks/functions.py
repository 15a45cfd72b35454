"""How well and how fast functions are told, by pictures, by sequences and by both.

    python benchmarks/functions.py planted [--proteins 600] [--cells 6]
    python benchmarks/functions.py real --data DIR
    python benchmarks/functions.py speed [--proteins 13000] [--terms 1000] [--image 1536] [--sequence 1280]
    python benchmarks/functions.py query [--proteins 13000] [--terms 1000]

planted: terms of the simulated proteome that place decides, the sequence's family, or both together. real: HPA's
localizations stand in for pictures and counts of dipeptides for a language model; what is asked are GO's cellular
components without HPA's evidence. speed: five folds of three modalities, beside scikit-learn's one-vs-rest logistic
regression on some of the terms in the same run. query: questions in a process that has asked before.
"""

from __future__ import annotations

import argparse
import csv
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from ingest.annotate import annotate
from ingest.job import Options, ingest_pictures
from ingest.simulated import SimulatedSource, write_truth
from subcell_atlas.build import build
from subcell_atlas.encoders import load_encoder
from subcell_atlas.evaluation.function_metrics import evaluate_functions
from subcell_atlas.function_evaluation import asked, homologues, told_out_of_fold
from subcell_atlas.function_query import functions_of_gene, genes_of_term
from subcell_atlas.functions.prediction import LinearPredictor, cross_validate, mean_average_precision
from subcell_atlas.functions.splits import make_folds
from subcell_atlas.gene_functions import FunctionSettings, build_functions
from subcell_atlas.images.simulated import make_proteome
from subcell_atlas.profiles import vector_array
from subcell_atlas.proteins import write_proteins
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
FEWEST, MOST = 20, 800  # genes of a GO term that is asked of real genes
TERMS_OF_PEER = 16  # that logistic regression is given; its time grows with their number


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=BENCHMARKS)
    parser.add_argument("--proteins", type=int)
    parser.add_argument("--cells", type=int, default=6)
    parser.add_argument("--terms", type=int, default=1000)
    parser.add_argument("--image", type=int, default=1536)
    parser.add_argument("--sequence", type=int, default=1280)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    BENCHMARKS[options.which](options)


def planted(options: argparse.Namespace) -> None:
    """Tell planted functions of each kind."""
    n = options.proteins or 600
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(f"{folder}/atlas")
        source = SimulatedSource(make_proteome(n, seed=options.seed), options.cells)
        write_truth(store, source)
        ingest_pictures(store, source, load_encoder("demo"), Options())
        build(store, ["profiles", "sequence"])
        rows = store.read("annotations", ["term_id", "evidence"]).to_pylist()
        kinds = {
            r["term_id"]: r["evidence"].removeprefix("planted function: ") for r in rows if "function" in r["evidence"]
        }
        proteins, groups = asked(store, FunctionSettings())
    groups = [group for group in groups if set(group.terms) & set(kinds)]
    scores = told_out_of_fold(proteins, groups, np.arange(len(proteins.ids)), "linear", seed=options.seed)
    truth = np.hstack([group.truth for group in groups])
    names = [kinds.get(term, "") for group in groups for term in group.terms]
    known = np.logical_or.reduce([group.known for group in groups])
    print(f"{n} proteins, {options.cells} cells each; macro average precision with 95 % intervals")
    for kind in (*dict.fromkeys(names), "all"):
        columns = [i for i, name in enumerate(names) if kind in (name, "all")]
        chosen = {name: own[:, columns] for name, own in scores.items()}
        found = evaluate_functions(
            truth[:, columns], chosen, aspects=[kind] * len(columns), known={kind: known}, seed=options.seed
        )
        print_modalities(f"{kind} ({len(columns)} terms)", {name: vars(of) for name, of in found.modalities.items()})


def print_modalities(title: str, found: dict[str, dict[str, Any]]) -> None:
    """Print the macro average precision of each modality."""
    print(title)
    for name, of in found.items():
        print(
            f"  {name:14} {of['macro_ap']:.3f} ({of['macro_ap_low']:.3f} to {of['macro_ap_high']:.3f})  micro "
            f"{of['micro_ap']:.3f}  Fmax {of['fmax']:.3f}  calibration error {of['calibration_error']:.3f}",
            flush=True,
        )


def real(options: argparse.Namespace) -> None:
    """Tell GO's cellular components of real genes."""
    if options.data is None:
        raise SystemExit("Where are the tables? Name their folder with --data.")
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(f"{folder}/atlas")
        write_real_genes(store, options.data)
        print("\n".join(annotate(store, options.data / "go/GO_CC_human_no_hpa.txt").lines()))
        proteins, groups = asked(store, FunctionSettings(fewest=FEWEST))
        families = homologues(store, proteins.ids)
    assert families is not None
    (group,) = groups
    kept = np.flatnonzero(group.truth.sum(axis=0) <= MOST)
    group = group._replace(terms=[group.terms[i] for i in kept], truth=group.truth[:, kept])
    for title, held in (("by protein", np.arange(len(proteins.ids))), ("by homology", families)):
        scores = told_out_of_fold(proteins, [group], held, "linear", seed=options.seed)
        found = evaluate_functions(
            group.truth,
            scores,
            aspects=[group.aspect] * len(group.terms),
            known={group.aspect: group.known},
            seed=options.seed,
        )
        modalities = {name: vars(of) for name, of in found.modalities.items()}
        print_modalities(f"{group.known.sum()} genes, {len(kept)} terms, held out {title}", modalities)
        best = max(modalities[name]["macro_ap"] for name in ("image", "sequence"))
        verdicts = [list(found.terms["verdict"]).count(verdict) for verdict in ("gains", "loses")]
        print(
            f"  fused is {modalities['fused']['macro_ap'] / best:.2f} times the better one; gains and loses {verdicts}"
        )
    rows = np.flatnonzero(group.known)
    blocks, truth, alone = proteins.blocks("fused", rows), group.truth[rows], np.arange(len(rows))
    folds, used = make_folds(alone, 5, seed=options.seed), time.process_time()
    ours = cross_validate(LinearPredictor(), blocks, truth, folds=folds, groups=alone, seed=options.seed)
    beside_logistic_regression(
        blocks, truth, folds, ours, time.process_time() - used, terms=np.arange(len(kept)), strengths=(1.0, 0.1, 0.01)
    )


def write_real_genes(store: Store, data: Path) -> None:
    """Write genes with their localizations and dipeptides as vectors."""
    with (data / "sequences/hou_testset.csv").open() as file:
        of_test = list(csv.DictReader(file))
    with (data / "idmaps/gene_ids.csv").open(encoding="utf-8-sig") as file:
        ensembl = {row["uniprot_id"]: row["ensg_id"] for row in csv.DictReader(file) if row["uniprot_id"]}
    ensembl |= {row["uniprot_id"]: row["ensembl_id"] for row in of_test}
    residues: dict[str, str] = {}
    for block in (data / "sequences/hou.fasta").read_text().split(">")[1:]:
        header, *lines = block.split("\n")
        if gene := ensembl.get(header.split()[0]):
            residues.setdefault(gene, "".join(lines))
    with (data / "hpa_tables/subcellular_location_2022.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["Gene"] in residues]
    places = [[set(row[f"{kind} location"].split(";")) - {""} for kind in ("Main", "Additional")] for row in rows]
    names = sorted(set().union(*(own for each in places for own in each)))
    image = np.array([[(name in main) + 0.5 * (name in more) for name in names] for main, more in places], np.float32)
    own = [residues[row["Gene"]] for row in rows]
    seen = image.any(axis=1)
    columns = {
        "protein_id": [row["Gene"] for row in rows],
        "ensembl_id": [row["Gene"] for row in rows],
        "gene_symbol": [row["Gene name"] for row in rows],
        "amino_acids": own,
    }
    table = pa.table(columns).append_column("image", vector_array(image)).filter(pa.array(seen))
    write_proteins(store, table, vector="image", recipe=Recipe(encoder="localizations of HPA", dim=image.shape[1]))
    pairs = vector_array(np.array([dipeptides(each) for each in own])[seen])
    sequence = pa.table({"protein_id": table["protein_id"], "sequence": pairs})
    write_proteins(store, sequence, vector="sequence", recipe=Recipe(encoder="dipeptides", dim=400))


def dipeptides(residues: str) -> np.ndarray:
    """Return the shares (400,) of pairs of neighboring residues."""
    codes = np.array([RESIDUES.find(letter) for letter in residues])
    pairs = (codes[:-1] * 20 + codes[1:])[(codes[:-1] >= 0) & (codes[1:] >= 0)]
    return np.bincount(pairs, minlength=400) / max(len(pairs), 1)


def speed(options: argparse.Namespace) -> None:
    """Time five folds of three modalities, and logistic regression on some of the terms."""
    n = options.proteins or 13_000
    blocks, truth = made_up(n, options.terms, (options.image, options.sequence), seed=options.seed)
    alone = np.arange(n)
    folds = make_folds(alone, 5, seed=options.seed)
    found, seconds, cpu = {}, {}, {}
    for name, own in (("image", blocks[:1]), ("sequence", blocks[1:]), ("fused", blocks)):
        began, used = time.perf_counter(), time.process_time()
        found[name] = cross_validate(LinearPredictor(), own, truth, folds=folds, groups=alone, seed=options.seed)
        seconds[name], cpu[name] = time.perf_counter() - began, time.process_time() - used
        ap = mean_average_precision(truth, found[name])
        print(f"{name}: macro AP {ap:.4f}, {seconds[name]:.0f} s, {cpu[name]:.0f} CPU-s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"three modalities: {sum(seconds.values()):.0f} s, {sum(cpu.values()):.0f} CPU-s, at most {peak:.1f} GiB")
    terms = np.sort(np.random.default_rng(options.seed).permutation(options.terms)[:TERMS_OF_PEER])
    beside_logistic_regression(
        blocks, truth, folds, found["fused"], cpu["fused"], terms=terms, strengths=(1.0, 1e-2, 1e-3, 1e-4)
    )


def beside_logistic_regression(
    blocks: list[np.ndarray], truth: np.ndarray, folds: np.ndarray, ours: np.ndarray, cpu: float, *, terms: np.ndarray,
    strengths: tuple[float, ...],
) -> None:  # fmt: skip
    """Print what one-vs-rest logistic regression on both modalities takes and reaches on one fold, of some terms.

    ours: (n, T) out of fold; cpu: seconds that all its folds took. strengths: C of scikit-learn, each a run of its own.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    out, both = folds == folds.min(), np.hstack(blocks)
    own, cpu = truth[:, terms], cpu / len(np.unique(folds))
    print(f"one fold, {len(terms)} terms: ours {mean_average_precision(own[out], ours[out][:, terms]):.4f}")
    for strength in strengths:
        model = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(C=strength, max_iter=200)))
        used = time.process_time()
        told = model.fit(both[~out], own[~out]).predict_proba(both[out])
        theirs = (time.process_time() - used) / len(terms) * truth.shape[1]
        print(
            f"  one-vs-rest logistic regression, C {strength:g}: {mean_average_precision(own[out], told):.4f}; "
            f"{theirs:.0f} CPU-s for all {truth.shape[1]} terms, {theirs / cpu:.0f} times ours",
            flush=True,
        )


def made_up(n: int, n_terms: int, dims: tuple[int, int], *, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return two blocks of vectors with common and own factors, and terms that linear functions of these decide."""
    rng = np.random.default_rng(seed)
    common, own = rng.normal(size=(n, 30)), [rng.normal(size=(n, 60)) for _ in dims]
    blocks = [
        (np.hstack([common, each]) @ rng.normal(size=(90, dim)) + 6 * rng.normal(size=(n, dim))).astype(np.float32)
        for each, dim in zip(own, dims, strict=True)
    ]
    factors = np.hstack([common, *own])
    weights = sparse.random(factors.shape[1], n_terms, density=0.06, random_state=seed, data_rvs=rng.standard_normal)
    scores = factors @ weights.toarray() + rng.normal(size=(n, n_terms))
    shares = np.exp(rng.uniform(np.log(20 / n), np.log(0.1), n_terms))
    return blocks, scores > np.quantile(scores, 1 - shares, axis=0)[np.arange(n_terms), np.arange(n_terms)]


def query(options: argparse.Namespace) -> None:
    """Time questions in a process that has asked before."""
    n = options.proteins or 13_000
    blocks, truth = made_up(n, options.terms, (options.image, options.sequence), seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(f"{folder}/atlas")
        ids = [f"P{i:05d}" for i in range(n)]
        for name, block in zip(("image", "sequence"), blocks, strict=True):
            rows = pa.table({"protein_id": ids, "gene_symbol": ids, name: vector_array(block)})
            write_proteins(store, rows, vector=name, recipe=Recipe(encoder="made up", dim=block.shape[1]))
        row, column = np.nonzero(truth)
        terms = [f"T:{i:04d}" for i in range(truth.shape[1])]
        words = [f"function number {i}" for i in range(truth.shape[1])]
        store.write("terms", pa.table({"term_id": terms, "name": words, "aspect": ["pathway"] * len(terms)}))
        columns = {
            "protein_id": np.array(ids)[row],
            "term_id": np.array(terms)[column],
            "source": ["made up"] * len(row),
        }
        store.write("annotations", pa.table(columns))
        began = time.perf_counter()
        counts = build_functions(store, FunctionSettings(), options.seed)
        print(f"build functions: {time.perf_counter() - began:.0f} s, {counts['functions']} rows kept")
        asked_of: dict[str, Callable[[int], Any]] = {
            "a gene": lambda i: functions_of_gene(store, ids[i * 37 % n]),
            "a term": lambda i: genes_of_term(store, terms[i * 7 % len(terms)]),
            "words": lambda i: genes_of_term(store, words[i * 7 % len(terms)]),
        }
        for what, ask in asked_of.items():
            print(f"{what}: {median_ms(ask):.0f} ms")


def median_ms(ask: Callable[[int], Any], *, n: int = 30) -> float:
    """Return the median time of `n` questions after a few."""
    times = []
    for i in range(n + 3):
        began = time.perf_counter()
        ask(i)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[3:])


BENCHMARKS: dict[str, Callable[[argparse.Namespace], None]] = {
    "planted": planted,
    "real": real,
    "speed": speed,
    "query": query,
}

if __name__ == "__main__":
    main()
