"""Two maps side by side: which systems of one are in the other, and how many would be by chance.

Only proteins that both maps hold are compared. Against chance stands the other map with the labels of its proteins
permuted: its systems keep their sizes and how they lie in each other, and lose what they are made of.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..errors import BadInput
from .enrichment import adjust, membership

__all__ = ["Comparison", "Match", "Recovery", "compare_maps"]

MAX_P = 0.05  # adjusted, for a match not to be chance
SHARED = 0.5  # Jaccard index from which two systems are one: they have more in common than not
PARTLY = 0.25  # from which they have a part in common
MIN_KEPT = 0.5  # share of a system's members that must be in both maps


@dataclass(frozen=True)
class Match:
    """A system and the one of the other map that is most like it, both reduced to the common proteins.

    match: None when no system of the other map has any of its proteins. verdict: "shared" with an adjusted p of at most
    0.05 and a Jaccard index of at least 0.5, "partly" with one of at least 0.25, else "new".
    """

    system: str
    match: str | None
    n_system: int
    n_match: int
    n_shared: int
    jaccard: float
    p_value: float
    p_adjusted: float
    verdict: str


@dataclass(frozen=True)
class Recovery:
    """How much of a map is found in another.

    n_set_aside: systems that keep too few common proteins to be compared, or hold all of them. share_shared and
    share_partly: of those compared. median_jaccard: of the best matches. expected_shared and expected_jaccard: the
    share with a Jaccard index of at least 0.5, and the median, with the other map's labels permuted. NaN where no
    system can be compared.
    """

    matches: list[Match]
    n_set_aside: int
    share_shared: float
    share_partly: float
    median_jaccard: float
    expected_shared: float
    expected_jaccard: float


@dataclass(frozen=True)
class Comparison:
    """Two maps, compared both ways, and how many proteins they have in common and to themselves."""

    a_in_b: Recovery
    b_in_a: Recovery
    n_common: int
    n_only_a: int
    n_only_b: int
    n_permutations: int
    seed: int


def compare_maps(
    a: Mapping[str, Collection[str]],
    b: Mapping[str, Collection[str]],
    *,
    seed: int,
    n_permutations: int = 1000,
    min_size: int = 4,
) -> Comparison:
    """Compare two maps, each system -> names of its proteins.

    Give the root too where there is one: the proteins of a map are those in any of its systems. A system is looked for
    when it keeps at least `min_size` common proteins and half of its own. It may be found in any system that keeps as
    many common proteins, be they half of it or not, so that a small map can be compared with a large one. A system
    that holds all common proteins, as the root does, says nothing and is neither.

    Raise BadInput when the maps have no protein in common, or no system that can be compared.
    """
    proteins_a, proteins_b = (set[str]().union(*proteome.values()) for proteome in (a, b))
    common = sorted(proteins_a & proteins_b)
    if not common:
        raise BadInput(nothing_in_common(proteins_a, proteins_b))
    kept_a, kept_b = (keep_large(proteome, common, min_size) for proteome in (a, b))
    if not kept_a or not kept_b:
        msg = f"The maps have {len(common)} proteins in common; of their systems {len(kept_a)} of {len(a)} and "
        msg += f"{len(kept_b)} of {len(b)} hold {min_size} or more of them and not all. There is nothing to compare."
        raise BadInput(msg)
    return Comparison(
        find_again(a, kept_a, kept_b, n=len(common), n_permutations=n_permutations, seed=seed),
        find_again(b, kept_b, kept_a, n=len(common), n_permutations=n_permutations, seed=seed),
        n_common=len(common),
        n_only_a=len(proteins_a) - len(common),
        n_only_b=len(proteins_b) - len(common),
        n_permutations=n_permutations,
        seed=seed,
    )


def nothing_in_common(proteins_a: Collection[str], proteins_b: Collection[str]) -> str:
    """Return the message for two maps without a common protein."""
    if not proteins_a or not proteins_b:
        return "One of the maps has no proteins. There is nothing to compare."
    msg = "The two maps have no protein in common: "
    msg += f"the first names its proteins like {min(proteins_a)!r}, the second like {min(proteins_b)!r}.\n"
    return msg + "Name the proteins of both in the same way, by gene symbol or by Ensembl id."


def keep_large(systems: Mapping[str, Collection[str]], common: Collection[str], min_size: int) -> dict[str, np.ndarray]:
    """Return the systems of at least `min_size` common proteins and not all, as positions in `common`, ascending."""
    position = {protein: i for i, protein in enumerate(common)}
    kept = {}
    for system, names in systems.items():
        rows = np.array(sorted(position[name] for name in set(names) if name in position), np.int64)
        if min_size <= len(rows) < len(common):
            kept[system] = rows
    return kept


def find_again(
    whole: Mapping[str, Collection[str]],
    kept: Mapping[str, np.ndarray],
    others: Mapping[str, np.ndarray],
    *,
    n: int,
    n_permutations: int,
    seed: int,
) -> Recovery:
    """Look for those systems of a map that keep half of their proteins among the others; `n` are common."""
    systems = {system: rows for system, rows in kept.items() if len(rows) >= MIN_KEPT * len(set(whole[system]))}
    in_system, in_other = membership(systems, n), membership(others, n)
    distinct, of_size = np.unique(np.diff(in_system.indptr), return_inverse=True)
    chance = chance_jaccards(in_other, distinct, n_permutations, seed)[:, of_size]  # (permutations, systems)
    matches = match_systems(in_system, in_other, chance, names=(list(systems), list(others)))
    return recovery(matches, chance, n_set_aside=len(whole) - len(systems))


def match_systems(
    in_system: sparse.csr_matrix,
    in_other: sparse.csr_matrix,
    chance: np.ndarray,
    *,
    names: tuple[Sequence[str], Sequence[str]],
) -> list[Match]:
    """Return the best match of each system, judged against what chance gives it (permutations, systems)."""
    best, n_shared, jaccard = best_matches(in_system, in_other)
    sizes, other_sizes = np.diff(in_system.indptr), np.diff(in_other.indptr)
    p = (1 + (chance >= jaccard).sum(axis=0)) / (1 + len(chance))
    p_adjusted = adjust(p, len(p))
    return [
        Match(
            system,
            names[1][best[i]] if n_shared[i] else None,
            n_system=int(sizes[i]),
            n_match=int(other_sizes[best[i]]) if n_shared[i] else 0,
            n_shared=int(n_shared[i]),
            jaccard=float(jaccard[i]),
            p_value=float(p[i]),
            p_adjusted=float(p_adjusted[i]),
            verdict=judge(float(jaccard[i]), float(p_adjusted[i])),
        )
        for i, system in enumerate(names[0])
    ]


def judge(jaccard: float, p_adjusted: float) -> str:
    """Return the word for a match."""
    if p_adjusted > MAX_P or jaccard < PARTLY:
        return "new"
    return "shared" if jaccard >= SHARED else "partly"


def best_matches(
    in_system: sparse.csr_matrix, in_other: sparse.csr_matrix
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each row of 0 and 1 the first of the others most like it, what they share, and their Jaccard index."""
    shared = (in_system @ in_other.T).tocoo()
    sizes, other_sizes = np.diff(in_system.indptr), np.diff(in_other.indptr)
    jaccard = shared.data / (sizes[shared.row] + other_sizes[shared.col] - shared.data)
    order = np.lexsort((shared.col, -jaccard, shared.row))
    rows, first = np.unique(shared.row[order], return_index=True)
    best, n_shared, highest = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int64), np.zeros(len(sizes))
    for column, values in ((best, shared.col), (n_shared, shared.data), (highest, jaccard)):
        column[rows] = values[order][first]
    return best, n_shared, highest


def chance_jaccards(in_other: sparse.csr_matrix, sizes: np.ndarray, n_permutations: int, seed: int) -> np.ndarray:
    """Return the best Jaccard index of a system of each size with the others, their labels permuted.

    The result is (permutations, sizes), for ascending `sizes`. Which proteins a system has does not matter once labels
    are permuted: all of one size have the same chances. So it stands for each size to take the first so many proteins,
    and how many of them another system has is counted for all sizes in one pass.
    """
    rng = np.random.default_rng(seed)
    n_others, n = in_other.shape
    other = np.repeat(np.arange(n_others), np.diff(in_other.indptr))
    other_sizes = np.diff(in_other.indptr)[:, None]
    best = np.empty((n_permutations, len(sizes)))
    for row in best:
        reached_at = np.searchsorted(sizes, rng.permutation(n), side="right")  # the first size that takes the protein
        counts = np.bincount(
            other * (len(sizes) + 1) + reached_at[in_other.indices], minlength=n_others * (len(sizes) + 1)
        )
        shared = counts.reshape(n_others, -1)[:, :-1].cumsum(axis=1)  # (others, sizes)
        row[:] = (shared / (other_sizes + sizes - shared)).max(axis=0)
    return best


def recovery(matches: list[Match], chance: np.ndarray, *, n_set_aside: int) -> Recovery:
    """Sum up the matches of a map, and what chance would have given (permutations, systems)."""
    if not matches:
        return Recovery([], n_set_aside, *[float("nan")] * 5)
    verdicts = [match.verdict for match in matches]
    return Recovery(
        matches,
        n_set_aside,
        share_shared=verdicts.count("shared") / len(matches),
        share_partly=verdicts.count("partly") / len(matches),
        median_jaccard=float(np.median([match.jaccard for match in matches])),
        expected_shared=float((chance >= SHARED).mean()),
        expected_jaccard=float(np.median(chance, axis=1).mean()),
    )
