"""Evaluations of an atlas: read the store, call `evaluation/`, keep the numbers in `runs`."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .block_evaluation import measure_blocks
from .consistency_evaluation import measure_consistency
from .errors import NotBuilt, UnknownName
from .evaluated import EvaluationOptions, Measured, Subject
from .evaluation.agreement import best_overlap, evaluate_map
from .evaluation.intervals import interval
from .function_evaluation import measure_functions
from .localization_evaluation import measure_localization
from .maps import MAIN, map_of
from .perturbation_evaluation import measure_perturbations
from .relationship_evaluation import measure_relationships
from .retrieval_evaluation import label_sets, measure_retrieval
from .runs import Run
from .store import Store

__all__ = [
    "EVALUATIONS",
    "KIND",
    "Evaluation",
    "agreement_rows",
    "evaluate",
    "function_rows",
    "last_evaluations",
    "last_results",
]

MIN_GROUP = 3  # proteins of a complex, for the map to be asked for it
USUAL = "image"  # vectors of proteins
KIND = "evaluate "  # of runs; the evaluation's name follows


@dataclass(frozen=True)
class Method:
    """How something is evaluated. reads: the kinds of runs whose results it reads.

    optional: it takes what many an atlas does not have, such as replicates, pairs, conditions or classes of many genes.
    only_by_name: it asks of something else than an atlas.
    """

    measure: Callable[[Subject, EvaluationOptions], Measured]
    reads: Sequence[str]
    optional: bool = False
    only_by_name: bool = False


@dataclass(frozen=True)
class Evaluation:
    """The latest finished run of an evaluation. since: the kinds of later runs that may have changed what it read."""

    finished: datetime
    seed: int | None
    metrics: Mapping[str, Any]
    since: Sequence[str]


def evaluate(
    subject: Subject, names: Sequence[str] = (), options: EvaluationOptions | None = None
) -> dict[str, Measured]:
    """Run the named evaluations, keep their numbers in `runs` and return them by name.

    When none is named all are run for which the atlas has what they need.
    """
    options = options or EvaluationOptions()
    store = subject.store
    for name in names:
        if name not in EVALUATIONS:
            raise UnknownName("evaluation", name, EVALUATIONS)
    results: dict[str, Measured] = {}
    missing: list[NotBuilt] = []
    for name, method in EVALUATIONS.items():
        if name not in names if names else method.only_by_name:
            continue
        recipe = None if method.only_by_name else subject.recipe
        run = Run.begin(store, kind=f"{KIND}{name}", recipe=recipe)
        try:
            found = with_intervals(method.measure(subject, options), seed=options.seed)
        except NotBuilt as exc:
            if names:
                raise
            missing.append(exc)
            continue
        results[name] = found
        told = {"correction": str(subject.settings)} if subject.settings else {}
        told |= {"vectors": subject.vectors} if subject.vectors != USUAL else {}
        run.finish({**found.metrics, **told, "seed": options.seed})
    if not results:
        raise missing[0]
    return results


def with_intervals(found: Measured, *, seed: int) -> Measured:
    """Return the same with the ends of the 95 % interval of each metric of which is known what it is made of."""
    whole = Measured(copy.deepcopy(found.metrics), found.observed)
    for path, observed in found.observed.items():
        place, name = whole.place_of(path)
        ends = interval(observed, seed=seed)
        place |= {f"{name}_low": ends.low, f"{name}_high": ends.high}
    return whole


def last_results(store: Store) -> dict[str, dict[str, Any]]:
    """Return the numbers of the latest finished run of each evaluation; one that never ran is left out."""
    return {name: dict(found.metrics) for name, found in last_evaluations(store).items()}


def last_evaluations(store: Store) -> dict[str, Evaluation]:
    """Return the latest finished run of each evaluation; one that never ran is left out."""
    if not store.has("runs"):
        return {}
    runs = store.read("runs", ["kind", "started", "finished", "counts"]).sort_by("started").to_pylist()
    found = {}
    for row in runs:
        name = row["kind"].removeprefix(KIND)
        if name in EVALUATIONS and row["finished"]:
            metrics = json.loads(row["counts"])
            if "correction" in metrics or "vectors" in metrics:  # not of the vectors that the atlas is mapped by
                continue
            seed = metrics.pop("seed", None)
            since = [each["kind"] for each in runs if each["kind"] in EVALUATIONS[name].reads and may_follow(each, row)]
            found[name] = Evaluation(row["finished"], seed, metrics, list(dict.fromkeys(since)))
    return found


def may_follow(run: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether a run may have written after another began: it ended later, or has not ended and began later."""
    return bool((run["finished"] or run["started"]) > other["started"])


def agreement_rows(measured: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, a row each, what neighbors and map recover of what is known, beside the same with shuffled labels."""
    retrieval, of_map = measured.get("retrieval", {}), measured.get("map", {})
    rows = [
        {
            "what": f"same {kind}: mean average precision of neighbors",
            "found": retrieval[f"{kind}_map"],
            "labels shuffled": retrieval[f"{kind}_map_shuffled"],
        }
        for kind in ("complex", "localization", "compartment")
        if f"{kind}_map" in retrieval
    ]
    levels = sorted({name.split("_")[1] for name in of_map if name.startswith("level_")}, key=int)
    return rows + [
        {
            "what": f"map, {of_map[f'level_{level}_systems']} systems of level {level}: mutual information",
            "found": of_map[f"level_{level}_ami"],
            "labels shuffled": of_map[f"level_{level}_ami_shuffled"],
        }
        for level in levels
    ]


def function_rows(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, a row for each modality, how well functions are told: what `measure_functions` has of it."""
    return [
        {"modality": name, **own, "95 %": f"{own['macro_ap_low']:.3f} to {own['macro_ap_high']:.3f}"}
        for name, own in measured.items()
        if isinstance(own, dict) and "macro_ap" in own
    ]


def measure_map(subject: Subject, options: EvaluationOptions) -> Measured:
    """Measure how each level of the map agrees with the main compartment or localization, and complexes found again."""
    subject.check_stored("map")
    store = subject.store
    ids = store.read("proteins", ["protein_id"], where="image IS NOT NULL")["protein_id"].to_pylist()
    labels = label_sets(store, ids)
    main = main_labels(store, ids, "compartment" if "compartment" in labels else "localization")
    if len(set(main) - {None}) < 2:
        raise NotBuilt("No two localizations or compartments are known of these proteins to hold the map against.")
    row_of = {protein: row for row, protein in enumerate(ids)}
    members: dict[str, list[int]] = {}
    for row in store.read("system_members").to_pylist():
        if row["protein_id"] in row_of and map_of(row["system_id"]) == MAIN:
            members.setdefault(row["system_id"], []).append(row_of[row["protein_id"]])
    metrics: dict[str, float] = {}
    levels = {row["system_id"]: row["level"] for row in store.read("systems", ["system_id", "level"]).to_pylist()}
    for level in sorted({levels[system] for system in members} - {0}):
        of_level = {system: rows for system, rows in members.items() if levels[system] == level}
        found = evaluate_map(of_level, main, seed=options.seed)
        metrics |= {f"level_{level}_ami": found.ami, f"level_{level}_ami_shuffled": found.shuffled}
        metrics[f"level_{level}_systems"] = len(of_level)
    if "complex" in labels:
        groups: dict[str, list[int]] = {}
        for row, own in enumerate(labels["complex"]):
            for name in own:
                groups.setdefault(name, []).append(row)
        large = {name: rows for name, rows in groups.items() if len(rows) >= MIN_GROUP}
        metrics["complex_best_jaccard"] = best_overlap(members, large)
    return Measured(metrics)


def main_labels(store: Store, ids: Sequence[str], kind: str) -> list[str | None]:
    """Return one label a protein: its compartment when it has a single one, or its first localization."""
    if kind == "compartment":
        return [min(own) if len(own) == 1 else None for own in label_sets(store, ids)["compartment"]]
    rows = store.read("proteins", ["protein_id", "localization"]).to_pylist()
    first = {row["protein_id"]: row["localization"][0] for row in rows if row["localization"]}
    frequent = Counter(first.values())
    return [first[protein] if frequent[first.get(protein, "")] > 1 else None for protein in ids]


SOURCES = ("ingest", "annotate", "build profiles")  # kinds of runs that vectors and what is known of proteins are from
EVALUATIONS: dict[str, Method] = {
    "retrieval": Method(measure_retrieval, SOURCES),
    "map": Method(measure_map, (*SOURCES, "build map")),
    "functions": Method(measure_functions, (*SOURCES, "build sequence", "build functions")),
    "localization": Method(measure_localization, SOURCES, optional=True),
    "consistency": Method(measure_consistency, SOURCES, optional=True),
    "perturbations": Method(measure_perturbations, ("ingest",), optional=True),
    "relationships": Method(measure_relationships, SOURCES, optional=True),
    "blocks": Method(measure_blocks, (), optional=True, only_by_name=True),
}
