"""What conditions do to the proteins of an atlas: how far each moves them, and whether replicates agree.

A row is a well, the mean over its cells; where wells are too few, a field of view, though fields of one well are alike
whatever was done to it. Rows are centred on their batch like profiles. A perturbation is a condition: of one protein,
held against the controls of the same protein, where controls show the same proteins as it does, and of all its rows
otherwise, as in a screen whose cells show no protein of their own. It is held against controls of the same cell line
and plate; of the line alone where its plates have no controls, or so few that labels can hardly be permuted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cell_means import CellMeans, control_cells, read_means
from .errors import NotBuilt
from .evaluated import EvaluationOptions, Measured, Subject
from .evaluation.chance import ALPHA
from .evaluation.consistency import codes
from .evaluation.intervals import Observed
from .evaluation.perturbations import N_PERMUTATIONS, Comparison, Perturbations, is_asked, measure, n_labellings
from .recipe import CENTER
from .store import Store, quote

__all__ = ["Asked", "controls_meant", "measure_perturbations", "perturbations_of"]

LABELS = ("protein_id", "antibody", "cell_line", "condition", "plate")
ROWS = {"well": (*LABELS, "well"), "fov": (*LABELS, "well", "fov")}  # what a row is a mean over
LOOKS_UNTREATED = re.compile(r"untreated|control|dmso|empty", re.IGNORECASE)
NOT_SO = re.compile(r"positive", re.IGNORECASE)
ENOUGH_LABELLINGS = 200  # within plates, for p-values that are still small after correction
N_LARGEST = 10  # perturbations that are named
MOST_CONDITIONS = 20  # that are told one by one


@dataclass(frozen=True)
class Asked:
    """A perturbation and the rows that tell of it; across_plates: its plates have no controls of their own."""

    protein_id: str | None
    condition: str | None
    rows: Comparison
    across_plates: bool

    @property
    def name(self) -> str:
        """What it is called, the same in every atlas of the same cells."""
        return "|".join(part for part in (self.protein_id, self.condition) if part)


def measure_perturbations(subject: Subject, options: EvaluationOptions) -> Measured:
    """Measure how far conditions move what is seen, as an energy distance, and whether their replicates agree in how.

    moved, consistent: the shares of perturbations for which permuted labels seldom give as much, after correction, at
    5 %. relative_magnitude: the energy distance over twice the mean distance to the controls, 0 to 1. Those with too
    few rows are counted in `n_not_asked`, and those held against other plates in `n_across_plates`: what they differ
    by may be the plate. smallest_p: the least that a p-value of half of them could be, before correction.
    """
    if subject.vectors != "image":
        raise NotBuilt(f"Only pictures have conditions; leave out --vectors {subject.vectors}.")
    if subject.settings and subject.settings.name != CENTER:
        raise NotBuilt(f"Conditions are measured by centred rows; leave out --correction {subject.correction}.")
    controls = options.controls or controls_meant(subject.store)
    unit, means, found = read_rows(subject.store, controls)
    asked = [own for own in found if is_asked(own.rows)]
    told = measure(means.centred(), [own.rows for own in asked], seed=options.seed)
    counts = {"rows": unit, "controls": controls, "n_not_asked": len(found) - len(asked)}
    ways = [min(n_labellings(own.rows), 1 + N_PERMUTATIONS) for own in asked]
    counts["smallest_p"] = float(1 / np.median(ways))
    return as_measured(told, asked, counts)


def read_rows(store: Store, controls: str) -> tuple[str, CellMeans, list[Asked]]:
    """Return what a row is, the rows and the perturbations they are of; raise NotBuilt when none can be asked."""
    marked = control_cells(store, controls)
    for unit, columns in ROWS.items():
        means = read_means(store, columns, marked=marked)
        found = perturbations_of(means)
        if any(is_asked(own.rows) for own in found):
            return unit, means, found
    msg = f"No perturbation has wells or fields of view enough (3 and 3, say), itself and in the cells of {controls}."
    raise NotBuilt(f"{msg}\nName other controls with --controls.")


def controls_meant(store: Store) -> str:
    """Return the `WHERE` of the cells that nothing seems to have been done to; raise NotBuilt when it is not clear."""
    conditions = store.read("cells", ["condition"])["condition"].unique().to_pylist()
    named = [name for name in conditions if name and LOOKS_UNTREATED.search(name) and not NOT_SO.search(name)]
    if not any(name for name in conditions if name not in named):
        raise NotBuilt("The cells of this atlas have no conditions to compare with controls.")
    if len(named) == 1:
        return f"condition = {quote(named[0])}"
    if not named and None in conditions:
        return "condition IS NULL"
    seen = ", ".join(sorted(named or (name for name in conditions if name))[:8])
    raise NotBuilt(f"Which cells are controls? Say it with --controls \"condition = '…'\"; there are: {seen}.")


def perturbations_of(means: CellMeans) -> list[Asked]:
    """Return the perturbations that rows are of, with their controls, in order of name.

    Rows with a condition are of a perturbation; where none has one, all but the controls are (of the gene that was
    perturbed).
    """
    columns = {name: means.column(name) for name in ("protein_id", "condition", "marked")}
    any_condition = any(of for of, control in zip(columns["condition"], columns["marked"], strict=True) if not control)
    treated: dict[tuple[str | None, str | None], list[int]] = defaultdict(list)
    controls: dict[str | None, list[int]] = defaultdict(list)
    for row, (protein, condition, control) in enumerate(zip(*columns.values(), strict=True)):
        if control:
            controls[protein].append(row)
        elif condition or not any_condition:
            treated[protein, condition].append(row)
    by_protein = any(protein in controls for protein, _ in treated)
    everyones = [row for rows in controls.values() for row in rows]
    lines, places = codes(means.column("cell_line")), codes(means.column("cell_line"), means.column("plate"))
    return [
        Asked(*key, *held_against(treated[key], controls[key[0]] if by_protein else everyones, lines, places))
        for key in sorted(treated, key=lambda key: tuple(part or "" for part in key))
    ]


def held_against(
    treated: Sequence[int], controls: Sequence[int], lines: np.ndarray, places: np.ndarray
) -> tuple[Comparison, bool]:
    """Return the rows to compare by cell line and plate, or by line alone (true).

    That is where a plate has no controls, or where so few rows share one that labels can hardly be permuted.
    """
    own, against = np.array(treated, int), np.array(controls, int)
    on_plates, in_lines = (by_stratum(own, against, strata) for strata in (places, lines))
    if len(on_plates.treated) == len(own):
        n = n_labellings(on_plates)
        if n >= ENOUGH_LABELLINGS or n == n_labellings(in_lines):
            return on_plates, False
    return in_lines, True


def by_stratum(treated: np.ndarray, controls: np.ndarray, strata: np.ndarray) -> Comparison:
    """Return the rows whose stratum has both treated ones and controls; strata: of all rows."""
    own = treated[np.isin(strata[treated], strata[controls])]
    against = controls[np.isin(strata[controls], strata[own])]
    return Comparison(own, against, strata[own], strata[against])


def as_measured(found: Perturbations, asked: Sequence[Asked], counts: dict[str, Any]) -> Measured:
    """Return what was found as metrics, and what those are made of; `counts`: what is told before them."""
    told = np.isfinite(found.magnitude)
    groups = {"": told}
    conditions = sorted({own.condition for own in asked if own.condition and own.protein_id})
    if 1 < len(conditions) <= MOST_CONDITIONS:
        of = np.array([own.condition for own in asked], object)
        groups |= {f"conditions/{name}/": told & (of == name) for name in conditions}
    metrics: dict[str, Any] = {**counts, "n_not_asked": counts["n_not_asked"] + int((~told).sum())}
    observed: dict[str, Observed] = {}
    for path, rows in groups.items():
        own = observed_of(found, asked, np.flatnonzero(rows))
        at = metrics
        for part in path.split("/")[:-1]:
            at = at.setdefault(part, {})
        across = sum(one.across_plates for one, has in zip(asked, rows, strict=True) if has)
        at |= {"n_perturbations": int(rows.sum()), "n_across_plates": across}
        at |= {name: each.value() for name, each in own.items()}
        observed |= {f"{path}{name}": each for name, each in own.items()}
    return Measured({**metrics, "largest": largest(found, asked)}, observed)


def observed_of(found: Perturbations, asked: Sequence[Asked], rows: np.ndarray) -> dict[str, Observed]:
    """Return what the metrics of some perturbations are made of; drawn are proteins, or else conditions."""
    names = [asked[row].name for row in rows]
    drawn = np.array([asked[row].protein_id or asked[row].condition for row in rows], str)
    values = {
        "relative_magnitude": found.coefficient,
        "null_relative_magnitude": found.null_coefficient,
        "moved": (found.magnitude_p_adjusted <= ALPHA).astype(float),
        "consistency": found.consistency,
        "null_consistency": found.null_consistency,
        "consistent": (found.consistency_p_adjusted <= ALPHA).astype(float),
    }
    return {name: Observed(names, of[rows], drawn) for name, of in values.items()}


def largest(found: Perturbations, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Return the perturbations that move most, by what chance seldom gives and then by how far, as records."""
    order = np.lexsort((-found.coefficient, found.magnitude_p_adjusted))
    return [
        {
            "protein_id": asked[at].protein_id,
            "condition": asked[at].condition,
            "n_treated": len(asked[at].rows.treated),
            "n_controls": len(asked[at].rows.controls),
            "magnitude": float(found.magnitude[at]),
            "relative_magnitude": float(found.coefficient[at]),
            "magnitude_p_adjusted": float(found.magnitude_p_adjusted[at]),
            "consistency": float(found.consistency[at]),
            "consistency_p_adjusted": float(found.consistency_p_adjusted[at]),
        }
        for at in order[:N_LARGEST]
        if np.isfinite(found.magnitude[at])
    ]
