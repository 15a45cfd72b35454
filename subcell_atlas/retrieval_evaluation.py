"""Whether neighbors in an atlas are the ones they should be: proteins that share something, replicates, conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .condition_retrieval import as_measured, measure_conditions
from .errors import NotBuilt
from .evaluated import EvaluationOptions, Measured, Subject
from .evaluation.intervals import Observed
from .evaluation.matching import Rules, match, mean_precisions
from .evaluation.retrieval import evaluate_retrieval
from .profiles import vectors_of
from .store import Store

__all__ = ["label_sets", "measure_retrieval"]

REPLICATES = ("antibody", "cell_line")  # in what those of a protein may differ, the better first
OF_PROFILE = ("protein_id", "antibody", "cell_line", "condition")


def measure_retrieval(subject: Subject, options: EvaluationOptions) -> Measured:
    """Measure the mean average precision of what should be near, by cosine.

    Of proteins that share a complex, a localization, a compartment: `complex_map`, … with shuffled labels beside it. Of
    pictures also that of the replicates of a protein, and of conditions where there are several (`condition_retrieval`
    says which; not under another correction of batches, for wells are read as they came). Intervals are over proteins,
    or over conditions.
    """
    parts: list[Measured | None] = [measure_shared(subject, options)]
    if subject.has_profiles:
        parts.append(measure_replicates(subject, options))
    if subject.vectors == "image" and subject.correction is None:  # wells are means of cells as they came
        parts += measure_conditions(subject.store, options)
    found = Measured({}, {})
    for part in parts:
        if part is not None:
            found = Measured(found.metrics | part.metrics, {**found.observed, **part.observed})
    if not found.metrics:
        _ = subject.proteins  # says so when there are no vectors
        raise NotBuilt(
            "No two proteins share a localization or an annotation to evaluate against, and nothing has replicates.\n"
            "Put in what is known of them: subcell-atlas annotate FILE"
        )
    return found


def measure_shared(subject: Subject, options: EvaluationOptions) -> Measured:
    """Measure whether neighbors of a protein share a complex, a localization, a compartment with it."""
    metrics: dict[str, Any] = {}
    observed: dict[str, Observed] = {}
    if not subject.made and not has_vectors(subject):
        return Measured(metrics)
    ids, vectors = subject.proteins
    for kind, labels in label_sets(subject.store, ids).items():
        found = evaluate_retrieval(vectors, labels, seed=options.seed)
        if not found.n:
            continue
        metrics |= {f"{kind}_map": found.mean_ap, f"{kind}_map_shuffled": found.shuffled, f"{kind}_queries": found.n}
        asked = np.flatnonzero(np.isfinite(found.precisions))
        names = [ids[row] for row in asked]
        observed[f"{kind}_map"] = Observed(names, found.precisions[asked], np.array(names))
    return Measured(metrics, observed)


def has_vectors(subject: Subject) -> bool:
    """Tell whether the atlas has vectors of proteins of the kind that is meant."""
    return subject.store.has("proteins") and subject.vectors in subject.store.vector_columns("proteins")


def measure_replicates(subject: Subject, options: EvaluationOptions) -> Measured | None:
    """Measure whether profiles of one protein are nearer to each other than to others of the cell line.

    They differ in antibody, or in cell line where no protein has two antibodies; None when none has either. Of each
    protein the mean of its profiles, and whether random rankings seldom give as much.
    """
    profiles = subject.read_profiles([*OF_PROFILE, "embedding"])
    columns = profile_columns(profiles)
    for differ in [options.replicates] if options.replicates in REPLICATES[1:] else REPLICATES:
        rules = Rules(["protein_id", "condition"], [differ], ["cell_line", "condition"], ["protein_id"])
        asked = with_replicates(columns, differ)
        if not asked.any():
            continue
        found = match(vectors_of(profiles["embedding"]), columns, rules, asked=asked)
        told = mean_precisions(found, profiles["protein_id"].to_pylist(), seed=options.seed)
        if told is not None:
            return as_measured(
                "replicate", told, {"replicate_differ_by": differ, "replicate_proteins": len(told.names)}
            )
    return None


def profile_columns(profiles: pa.Table) -> dict[str, list[str | None]]:
    """Return what is known of profiles; no condition is one of its own, and no cell line where none has any."""
    columns = {name: profiles[name].to_pylist() for name in OF_PROFILE}
    columns["condition"] = [value or "" for value in columns["condition"]]
    if not any(columns["cell_line"]):
        columns["cell_line"] = [""] * profiles.num_rows
    return columns


def with_replicates(columns: Mapping[str, Sequence[str | None]], differ: str) -> np.ndarray:
    """Tell of which rows (n,) the protein has, in the condition, another that differs in `differ`."""
    seen: dict[tuple[str | None, str | None], set[str]] = {}
    keys = list(zip(columns["protein_id"], columns["condition"], strict=True))
    for key, value in zip(keys, columns[differ], strict=True):
        if value is not None:
            seen.setdefault(key, set()).add(value)
    return np.array([len(seen.get(key, ())) > 1 for key in keys], bool)


def label_sets(store: Store, ids: Sequence[str]) -> dict[str, list[frozenset[str]]]:
    """Return what is known of the proteins `ids`, by kind: complexes, localizations, planted compartments.

    A kind is left out when fewer than two proteins have it.
    """
    kinds: dict[str, dict[str, set[str]]] = {"complex": {}, "localization": {}, "compartment": {}}
    for row in store.read("proteins", ["protein_id", "localization"]).to_pylist():
        kinds["localization"][row["protein_id"]] = set(row["localization"] or [])
    if store.has("annotations"):
        aspects = store.lookup("terms", "term_id", "aspect")
        for row in store.read("annotations").to_pylist():
            if aspects.get(row["term_id"]) == "complex":
                kinds["complex"].setdefault(row["protein_id"], set()).add(row["term_id"])
            elif row["evidence"] == "planted compartment":
                kinds["compartment"].setdefault(row["protein_id"], set()).add(row["term_id"])
    known = {kind: [frozenset(of.get(protein, ())) for protein in ids] for kind, of in kinds.items()}
    return {kind: labels for kind, labels in known.items() if sum(map(bool, labels)) > 1}
