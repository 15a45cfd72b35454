"""Compound-gene matching: whether a compound looks like the knock-out of the gene whose product it hits.

As in RxRx3-core (Kraus et al. 2025), the benchmark of Kenyon-Dean et al. (2024): the genes that a compound hits at
1,000 nM or less are ranked against others by the absolute cosine of its vector with theirs, for a compound may also do
the opposite. Genes hit between 1,000 and 10,000 nM are neither. Of each compound the average precision and the area
under the ROC curve, means over compounds; beside them random scores with the same labels, many times over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import BadInput
from ..ranking import average_precision_at
from .retrieval import finite_units

__all__ = ["ANY_CONCENTRATION", "CompoundMatches", "Compounds", "Matching", "match_compounds"]

ACTIVE_NM = 1_000
INACTIVE_NM = 10_000
LEAST_NEGATIVES = 20
N_SEEDS = 100
ANY_CONCENTRATION = "max"  # the largest score over the concentrations of a compound
NO_CONCENTRATION = "unknown"


@dataclass(frozen=True)
class Compounds:
    """Compounds (n,) with their vectors (n, dim), a row for each concentration (nan: not known)."""

    names: Sequence[str]
    concentrations: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class Matching:
    """Means over `n` compounds and over seeds; random_ap: of random scores.

    z: how many deviations of the random mean over compounds, between seeds, the found one lies above it.
    """

    ap: float
    auc: float
    random_ap: float
    z: float
    n: int


@dataclass(frozen=True)
class CompoundMatches:
    """By concentration, and `max`: the means; by_compound: at `max`, name -> average precision, the mean over seeds.

    n_skipped: compounds with a vector that the truth names, and without a hit gene, or without others enough, that have
    a vector.
    """

    by_concentration: dict[str, Matching]
    by_compound: dict[str, float]
    n_genes: int
    n_skipped: int


@dataclass(frozen=True)
class Question:
    """Of a compound: scores (concentrations, genes), the genes it hits and those that may stand against them."""

    name: str
    concentrations: list[str]
    scores: np.ndarray
    hit: np.ndarray
    eligible: np.ndarray

    @property
    def n_negatives(self) -> int:
        """How many genes stand against the hit ones."""
        return max(2 * len(self.hit), LEAST_NEGATIVES)


def match_compounds(
    compounds: Compounds,
    genes: Mapping[str, np.ndarray],
    truth: Mapping[tuple[str, str], float],
    *,
    seed: int,
    n_seeds: int = N_SEEDS,
) -> CompoundMatches:
    """Rank the genes that each compound hits among others.

    genes: name -> vector (dim,) of the knock-out; truth: (compound, gene) -> the least concentration measured, in nM
    (NaN is none). Others are the genes of the truth that have a vector and are not known to be hit. Vectors that are
    not finite raise BadInput.
    """
    names = sorted({gene for _, gene in truth} & set(genes))
    asked = questions(compounds, names, genes, truth)
    usable = [each for each in asked if len(each.hit) and len(each.eligible) >= each.n_negatives]
    drawn = [draws(each, seed=[seed, at], n_seeds=n_seeds) for at, each in enumerate(usable)]
    found: dict[str, list[np.ndarray]] = {}
    for of in drawn:
        for name in of:
            found.setdefault(name, []).append(of[name])
    return CompoundMatches(
        {name: matching(np.array(found[name])) for name in in_order(found)},
        {each.name: float(of[ANY_CONCENTRATION][:, 0].mean()) for each, of in zip(usable, drawn, strict=True)},
        len(names),
        len(asked) - len(usable),
    )


def questions(
    compounds: Compounds, names: list[str], genes: Mapping[str, np.ndarray], truth: Mapping[tuple[str, str], float]
) -> list[Question]:
    """Return what is asked of each compound that the truth names, in order of name."""
    if len(compounds.names) != len(compounds.vectors) or len(compounds.concentrations) != len(compounds.vectors):
        raise BadInput("Each vector of a compound has a name and a concentration.")
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(compounds.names):
        rows_of.setdefault(name, []).append(row)
    known = {compound for compound, _ in truth}
    if not names or not known & set(rows_of):
        return []
    units = finite_units(compounds.vectors)
    of_genes = finite_units(np.stack([genes[name] for name in names]))
    found = []
    for name in sorted(known & set(rows_of)):
        least = np.array([truth.get((name, gene), np.nan) for gene in names])
        hit = np.flatnonzero(least <= ACTIVE_NM)
        eligible = np.flatnonzero(~(least <= INACTIVE_NM))
        labels = [label_of(value) for value in compounds.concentrations[rows_of[name]]]
        if len(set(labels)) < len(labels):
            raise BadInput(f"The compound {name!r} has two vectors of one concentration; average them first.")
        found.append(Question(name, labels, np.abs(units[rows_of[name]] @ of_genes.T), hit, eligible))
    return found


def draws(question: Question, *, seed: list[int], n_seeds: int) -> dict[str, np.ndarray]:
    """Return, by concentration and `max`, (seeds, 3): average precision, area under the curve, random's precision.

    Each seed draws others to stand against the hit genes, and random scores for the same.
    """
    rng = np.random.default_rng(seed)
    rows = [*question.concentrations, ANY_CONCENTRATION]
    scores = np.vstack([question.scores, question.scores.max(axis=0)])
    scores = np.round(scores, 6)  # beyond which float32 holds nothing
    found = np.empty((len(rows), n_seeds, 3))
    for at in range(n_seeds):
        others = rng.choice(question.eligible, question.n_negatives, replace=False)
        for row, own in enumerate(scores):
            found[row, at, :2] = ap_and_auc(own[question.hit], own[others])
            found[row, at, 2] = ap_and_auc(rng.random(len(question.hit)), rng.random(len(others)))[0]
    return dict(zip(rows, found, strict=True))


def ap_and_auc(right: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """Return average precision and area under the ROC curve of scores of hit genes and of others."""
    wrong = np.sort(wrong)
    at_least = len(wrong) - np.searchsorted(wrong, right)
    above = len(wrong) - np.searchsorted(wrong, right, side="right")
    own = len(right) - np.searchsorted(np.sort(right), right)
    return average_precision_at(own + at_least), float(1 - (at_least + above).mean() / (2 * len(wrong)))


def matching(found: np.ndarray) -> Matching:
    """Return the means of (compounds, seeds, 3)."""
    ap, auc, by_chance = found.mean(axis=0).T  # (seeds,) each
    deviation = float(by_chance.std(ddof=1)) if len(by_chance) > 1 else float("nan")
    z = float(ap.mean() - by_chance.mean()) / deviation if deviation > 0 else float("nan")
    return Matching(float(ap.mean()), float(auc.mean()), float(by_chance.mean()), z, len(found))


def in_order(concentrations: Mapping[str, object]) -> list[str]:
    """Return the concentrations from the least, what is not known and `max` last."""
    last = (NO_CONCENTRATION, ANY_CONCENTRATION)
    numbers = sorted((name for name in concentrations if name not in last), key=float)
    return [*numbers, *(name for name in last if name in concentrations)]


def label_of(concentration: float) -> str:
    """Return a concentration as a name."""
    return f"{concentration:g}" if np.isfinite(concentration) else NO_CONCENTRATION
