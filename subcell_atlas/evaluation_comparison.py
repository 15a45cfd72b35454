"""The same evaluations of several embeddings: one table of figures, and their differences, paired.

An embedding is an atlas's, one of its modalities, or what another correction of batches makes of its cells. The first
is what the others are held against, on what both have: the same queries, pairs of proteins, replicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from .errors import BadInput, NotBuilt
from .evaluate import KIND, evaluate
from .evaluated import EvaluationOptions, Measured, Subject
from .evaluation.intervals import paired_difference
from .recipe import Recipe
from .runs import Run
from .store import Store

__all__ = ["Comparison", "compare_evaluations", "figure_rows", "name_subjects"]


@dataclass(frozen=True)
class Comparison:
    """What was measured of each embedding, by name; differences: a record for each metric of each but the first.

    recipes: how each came to be, where that is known. skipped: why an evaluation could not be made of an embedding, by
    both names.
    """

    measured: Mapping[str, Mapping[str, Measured]]
    differences: Sequence[Mapping[str, Any]]
    recipes: Mapping[str, Recipe | None]
    skipped: Mapping[str, Mapping[str, str]]

    def as_object(self) -> dict[str, Any]:
        """Return it as an object of JSON."""
        results = {
            name: {key: found.metrics for key, found in of_one.items()} for name, of_one in self.measured.items()
        }
        return {
            "subjects": results,
            "differences": list(self.differences),
            "recipes": self.recipe_objects(),
            "skipped": dict(self.skipped),
        }

    def recipe_objects(self) -> dict[str, dict[str, Any] | None]:
        """Return the recipes as objects of JSON."""
        return {name: recipe.as_object() if recipe else None for name, recipe in self.recipes.items()}

    def recipe_rows(self) -> list[dict[str, Any]]:
        """Return a row for each field in which the recipes differ, with what each embedding has."""
        stored = {name: recipe or {} for name, recipe in self.recipe_objects().items()}
        fields = dict.fromkeys(field for recipe in stored.values() for field in recipe)
        rows = [{"recipe": field, **{name: own.get(field) for name, own in stored.items()}} for field in fields]
        return [row for row in rows if len({str(row[name]) for name in stored}) > 1]


def name_subjects(
    uris: Sequence[str], vectors: Sequence[str], corrections: Sequence[str | None], *, controls: str | None
) -> dict[str, Subject]:
    """Return the embeddings that are meant, all combinations, by the shortest names that tell them apart."""
    found: dict[str, Subject] = {}
    stores = {uri: Store.open(uri) for uri in dict.fromkeys(uris)}
    for uri, kind, correction in product(stores, dict.fromkeys(vectors), dict.fromkeys(corrections)):
        parts = [short_name(uri, uris) if len(stores) > 1 else None, kind if len(set(vectors)) > 1 else None]
        parts.append((correction or "as stored") if len(set(corrections)) > 1 else None)
        name = " ".join(part for part in parts if part) or kind
        found[name] = Subject(stores[uri], kind, correction, controls)
    return found


def short_name(uri: str, uris: Sequence[str]) -> str:
    """Return the last part of an address, or the whole where another has the same."""
    last = Path(uri.rstrip("/")).name
    return last if sum(Path(other.rstrip("/")).name == last for other in set(uris)) == 1 else uri


def compare_evaluations(
    subjects: Mapping[str, Subject], names: Sequence[str], options: EvaluationOptions
) -> Comparison:
    """Evaluate two or more embeddings; an evaluation that one of them lacks something for is not compared there.

    Each is kept in the `runs` of its atlas, and the differences in those of the first. Raise NotBuilt when nothing was
    measured of one.
    """
    if len(subjects) < 2:
        raise BadInput("One embedding alone has nothing to be compared with.")
    measured: dict[str, dict[str, Measured]] = {}
    skipped: dict[str, dict[str, str]] = {}
    for label, subject in subjects.items():
        measured[label] = {}
        for name in names or (None,):
            try:
                measured[label] |= evaluate(subject, [name] if name else [], options)
            except NotBuilt as exc:
                skipped.setdefault(label, {})[name or "all"] = str(exc).splitlines()[0]
        if not measured[label]:
            raise NotBuilt(f"Of {label} nothing could be measured: {'; '.join(skipped[label].values())}")
    first, *others = subjects
    differences = [row for other in others for row in differences_of(measured, other, first, seed=options.seed)]
    run = Run.begin(subjects[first].store, kind=f"{KIND}comparison")
    recipes = {label: subject.recipe for label, subject in subjects.items()}
    found = Comparison(measured, differences, recipes, skipped)
    told = {"subjects": list(subjects), "differences": differences, "seed": options.seed}
    run.finish({**told, "recipes": found.recipe_objects()})
    return found


def differences_of(
    measured: Mapping[str, Mapping[str, Measured]], name: str, against: str, *, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield how much more one embedding has than another in each metric that both were measured by."""
    for evaluation, found in measured[name].items():
        theirs = measured[against].get(evaluation)
        for metric, observed in found.observed.items():
            if theirs is None or metric not in theirs.observed:
                continue
            difference = paired_difference(observed, theirs.observed[metric], seed=seed)
            if difference.n:
                yield {
                    "subject": name, "against": against, "evaluation": evaluation, "metric": metric,
                    **asdict(difference),
                }  # fmt: skip


def figure_rows(measured: Mapping[str, Mapping[str, Measured]]) -> list[dict[str, Any]]:
    """Return a row for each metric that has an interval, of each embedding."""
    rows = []
    for subject, of_one in measured.items():
        for evaluation, found in of_one.items():
            for path in found.observed:
                place, name = found.place_of(path)
                ends = place.get(f"{name}_low"), place.get(f"{name}_high")
                rows.append({"subject": subject, "metric": f"{evaluation}: {path}", "value": place[name], "ends": ends})
    return rows
