"""How many known relationships between proteins an embedding recalls: pairs of genes, and members of one complex."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import NotBuilt
from .evaluated import EvaluationOptions, Measured, Subject
from .evaluation.intervals import Observed
from .evaluation.relationships import Recall, find_thresholds, measure_recall, set_pairs
from .store import Store

__all__ = ["MOST_MEMBERS", "Relations", "known_relations", "measure_relationships", "relationship_rows"]

# Members of a set whose pairs are taken, for a set's pairs grow with its square. CORUM's largest complex has 139 genes.
# All Reactome's pathways make 14 million pairs, most of them of a few broad ones; up to 30 members make 72,000.
MOST_MEMBERS = {"complex": 150, "pathway": 30}


@dataclass(frozen=True)
class Relations:
    """The pairs of a source. pairs: (m, 2) rows of `ids`, each pair once.

    made_of: pairs, or sets whose members were paired. facts: what is known of where they are from.
    """

    ids: Sequence[str]
    pairs: np.ndarray
    made_of: str
    facts: Mapping[str, Any]


def measure_relationships(subject: Subject, options: EvaluationOptions) -> Measured:
    """Measure the recall of each source's pairs, below and above, beside chance and permuted names.

    Coverage is the share of a source's pairs that could be asked: of a file its pairs of different genes, of sets the
    pairs of proteins of the atlas. `sha256` is the file's, `pairs_sha256` that of the pairs that were asked.
    """
    find_thresholds(np.zeros(1), options.tails)  # refuses tails before anything is read
    ids, vectors = subject.proteins
    relations = known_relations(subject.store)
    if not relations:
        msg = f"The atlas {subject.store.uri!r} has no pairs of proteins, complexes or pathways to recall."
        raise NotBuilt(f"{msg} Put some in: subcell-atlas annotate FILE")
    asked = {source: rows_among(own, ids) for source, own in relations.items()}
    if len(ids) < 2 or not any(map(len, asked.values())):
        raise NotBuilt(f"No two proteins with {subject.vectors} vectors are known to be related.")
    found = measure_recall(
        vectors, asked, tails=options.tails, n_permutations=options.n_permutations, seed=options.seed
    )
    metrics: dict[str, Any] = {}
    observed: dict[str, Observed] = {}
    for source, recall in found.items():
        named = np.array(ids, object)[asked[source][~np.isnan(recall.tail)]].reshape(-1, 2)
        name = source.replace("/", "_")  # which in the path of a metric stands between names
        metrics[name] = as_record(recall, relations[source], named, options)
        if recall.pairs:
            values = (recall.tail[~np.isnan(recall.tail)] != 0).astype(np.float64)
            observed[f"{name}/recall"] = Observed([f"{one}|{other}" for one, other in named], values, named)
    return Measured(metrics, observed)


def known_relations(store: Store) -> dict[str, Relations]:
    """Return the pairs of proteins that the atlas knows by their source, those of files first.

    A source of sets that is called as one of pairs is called `NAME sets`.
    """
    known = file_relations(store)
    of_sets = {f"{source} sets" if source in known else source: own for source, own in set_relations(store).items()}
    return known | of_sets


def file_relations(store: Store) -> dict[str, Relations]:
    """Return the pairs that files related; a source of which no pair is in the atlas has none."""
    if "pairs" not in store.names():
        return {}
    rows = store.read("pairs").sort_by([(name, "ascending") for name in ("source", "protein_id", "other_id")])
    sources = store.metadata("pairs").get("sources", {})
    found = {}
    for source in sorted({*sources, *pc.unique(rows["source"]).to_pylist()}):
        own = rows.filter(pc.equal(rows["source"], source))
        ids, pairs = encoded([own["protein_id"].to_pylist(), own["other_id"].to_pylist()])
        found[source] = Relations(ids, pairs, "pairs", sources.get(source, {}))
    return found


def encoded(columns: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """Return the names in some columns, and the columns as rows of these, (m, columns)."""
    ids = sorted(set().union(*columns))
    row_of = {name: row for row, name in enumerate(ids)}
    return ids, np.array([[row_of[name] for name in column] for column in columns], np.intp).T


def set_relations(store: Store) -> dict[str, Relations]:
    """Return, by source, the pairs of proteins that share a complex or a pathway of no more than `MOST_MEMBERS`."""
    if not store.has("annotations") or not store.has("terms"):
        return {}
    aspects = store.lookup("terms", "term_id", "aspect")
    terms = pa.array([term for term, aspect in aspects.items() if aspect in MOST_MEMBERS], pa.string())
    rows = store.read("annotations", ["protein_id", "term_id", "source"])
    rows = rows.filter(pc.is_in(rows["term_id"], terms))
    told = files_of_sources(store)
    found = {}
    for source in sorted(pc.unique(rows["source"].drop_null()).to_pylist()):
        own = rows.filter(pc.equal(rows["source"], source))
        ids, members = encoded([own["protein_id"].to_pylist()])
        sets: dict[str, dict[str, list[int]]] = {aspect: {} for aspect in MOST_MEMBERS}
        for term, row in zip(own["term_id"].to_pylist(), members[:, 0], strict=True):
            sets[aspects[term]].setdefault(term, []).append(int(row))
        parts = [
            set_pairs({term: np.array(of_term) for term, of_term in own_sets.items()}, most=MOST_MEMBERS[aspect])
            for aspect, own_sets in sets.items()
        ]
        pairs = np.unique(np.concatenate(parts), axis=0)
        if len(pairs):
            found[source] = Relations(ids, pairs, "sets", told.get(source, {}))
    return found


def files_of_sources(store: Store) -> dict[str, dict[str, Any]]:
    """Return, by source, the file that its annotations were last taken from and how many genes it names."""
    told: dict[str, dict[str, Any]] = {}
    if not store.has("runs"):
        return told
    runs = store.read("runs", ["counts", "finished", "started"], where="kind = 'annotate'").sort_by("started")
    for run in runs.to_pylist():
        counts = json.loads(run["counts"])
        if run["finished"] and counts.get("annotations"):
            told[counts["source"]] = {**(counts["origin"] or {}), "genes_in_file": counts["identifiers"]["n"]}
    return told


def rows_among(relations: Relations, ids: Sequence[str]) -> np.ndarray:
    """Return the pairs both of whose proteins are among `ids`, as rows of these, (m, 2)."""
    row_of = {protein: row for row, protein in enumerate(ids)}
    at = np.array([row_of.get(protein, -1) for protein in relations.ids], np.intp)
    pairs = at[relations.pairs] if len(relations.pairs) else np.empty((0, 2), np.intp)
    return pairs[(pairs >= 0).all(axis=1)]


def as_record(found: Recall, relations: Relations, named: np.ndarray, options: EvaluationOptions) -> dict[str, Any]:
    """Return the recall of a source as a JSON object; named: (pairs, 2) protein ids of what was asked."""
    facts = relations.facts
    n_pairs = facts.get("pairs_in_file", len(relations.pairs))
    n_genes = facts.get("genes_in_file", len(relations.ids))
    return {
        "recall": found.recall,
        "low_tail": found.low_tail,
        "high_tail": found.high_tail,
        "chance": found.chance,
        "permuted": found.permuted,
        "permuted_low": found.permuted_low,
        "permuted_high": found.permuted_high,
        "p": found.p,
        "pairs": found.pairs,
        "pairs_in_source": n_pairs,
        "coverage": found.pairs / n_pairs if n_pairs else float("nan"),
        "genes": found.genes,
        "genes_in_source": n_genes,
        "null_pairs": found.thresholds.n_null,
        "tails": sorted(options.tails),
        "low_threshold": found.thresholds.low,
        "high_threshold": found.thresholds.high,
        "n_permutations": options.n_permutations,
        "made_of": relations.made_of,
        "file": facts.get("file"),
        "sha256": facts.get("sha256"),
        "pairs_sha256": hash_of_pairs(named),
    }


def hash_of_pairs(named: np.ndarray) -> str:
    """Return the sha256 of pairs (m, 2) of protein ids, the same in whatever order they come."""
    lines = sorted("\t".join(sorted(pair)) for pair in named)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def relationship_rows(measured: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, a row for each source, how many relationships are recalled: what `measure_relationships` has of it."""
    return [
        {
            "source": source,
            "pairs": own["pairs"],
            "coverage": own["coverage"],
            "recall": own["recall"],
            "95 %": between(own.get("recall_low"), own.get("recall_high")),
            "below": own["low_tail"],
            "above": own["high_tail"],
            "names permuted": between(own["permuted_low"], own["permuted_high"]),
            "p": own["p"],
        }
        for source, own in measured.items()
    ]


def between(low: float | None, high: float | None) -> str | None:
    """Return the ends of an interval as text; None when they are not known."""
    return f"{low:.3f} to {high:.3f}" if low is not None and high is not None and low == low else None
