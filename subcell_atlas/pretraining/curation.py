"""Which antibodies to train on: those whose replicates look more alike than replicates drawn at random.

After "ViTally Consistent" (Kenyon-Dean et al., arXiv:2411.02572), which kept the perturbations whose replicates agree
more than a permutation null, p < 0.01, in either of two models. There a replicate is an experiment; here it is what the
caller makes it, such as a field of view. Their exact null is not known to us; this one draws from the same strata, such
as cell line and plate, as the antibody was seen in, so that what these look like is not taken for agreement. For the
same reason each vector is taken relative to the mean of its stratum: without this most of a cosine is what all cells
have in common, and an antibody far from the mean, however consistent, agrees less than others do by chance.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..errors import BadInput
from .batches import numbered

__all__ = ["REASONS", "CurationConfig", "consistency_table", "kept_by_either", "unit_rows"]

KEPT, INCONSISTENT, FEW, NO_COMPARISON = REASONS = (
    "kept",
    "not consistent",
    "too few replicates",
    "too few to compare with",
)
SCHEMA = pa.schema(
    {
        "antibody": pa.string(),
        "n_replicates": pa.int32(),
        "agreement": pa.float32(),
        "null_mean": pa.float32(),
        "p_value": pa.float64(),
        "kept": pa.bool_(),
        "reason": pa.string(),
    }
)
MEMORY = 2**28  # bytes at most for the sums of drawn replicates
SETS_AT_A_TIME = 512  # whose sums stay in a processor's cache
TIE = 1e-5  # agreements nearer than this are equal: the same vectors added in another order are not quite the same
Composition = tuple[tuple[int, int], ...]  # how many replicates of which stratum


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """The test. alpha: the p-value that is kept below; min_replicates: antibodies with fewer are not tested."""

    seed: int
    alpha: float = 0.01
    n_permutations: int = 10_000
    min_replicates: int = 3

    def __post_init__(self) -> None:
        """Raise BadInput for values with which nothing could be kept, or everything."""
        if not 0 < self.alpha < 1:
            raise BadInput(f"alpha is {self.alpha}; it must lie between 0 and 1, such as 0.01.")
        if 1 / (1 + self.n_permutations) >= self.alpha:
            msg = f"{self.n_permutations} permutations cannot give a p-value below {self.alpha}"
            raise BadInput(f"{msg}; take at least {math.floor(1 / self.alpha)}, better a hundred times as many.")
        if self.min_replicates < 2:
            raise BadInput(f"min_replicates is {self.min_replicates}; agreement is between 2 at least.")


def consistency_table(
    vectors: np.ndarray, labels: Sequence[str | None], *, strata: Sequence[str], config: CurationConfig
) -> pa.Table:
    """Test of each antibody whether its replicates agree more than replicates drawn at random.

    Agreement is the mean cosine over all pairs of an antibody's replicates, each at length 1 and relative to the mean
    of its stratum; one that is no different from it has cosine 0 with all. The null are sets of as many replicates of
    each stratum, drawn without replacement over all antibodies: p = (1 + sets that agree as much) / (1 + sets). The
    means are the same for all draws, so that the test is exact where replicates of a stratum can be exchanged. An
    antibody is not tested when it has fewer than `min_replicates`, and when its strata hold so little besides it that
    no p-value below alpha is possible.

    Parameters
    ----------
    vectors
        (N, dim), one a replicate; their lengths do not matter.
    labels
        (N,) antibodies; replicates of none (None or empty) are left out, of the null as well.
    strata
        (N,) what draws are made within, such as the cell line.
    config
        The test.

    Returns
    -------
    table
        One row per antibody, by name: n_replicates, agreement and null_mean (cosines in [-1, 1]) and p_value, null when
        it was not tested; kept; reason, one of `REASONS`.

    Raises
    ------
    BadInput
        When a vector is zero or not finite.
    """
    known = [row for row, label in enumerate(labels) if label]
    names, antibody = numbered(labels[row] or "" for row in known)
    strata_names, stratum = numbered(strata[row] for row in known)
    replicates = rows_by_number(antibody, len(names))
    pools = rows_by_number(stratum, len(strata_names))
    units = center(unit_rows(np.asarray(vectors, np.float32)[known]), pools)
    reasons, compositions = plan_tests([stratum[rows] for rows in replicates], pools=pools, config=config)
    tested = [number for numbers in compositions.values() for number in numbers]
    agreement = np.full(len(names), np.nan)
    for number in tested:
        rows = replicates[number]
        agreement[number] = mean_cosine(units[rows].sum(axis=0)[None], len(rows))[0]
    null_mean, p_value = compare_with_null(units, agreement, pools=pools, compositions=compositions, config=config)
    kept = p_value < config.alpha  # NaN is not
    columns = {
        "antibody": pa.array(names),
        "n_replicates": pa.array([len(rows) for rows in replicates]),
        "agreement": pa.array(agreement, from_pandas=True),
        "null_mean": pa.array(null_mean, from_pandas=True),
        "p_value": pa.array(p_value, from_pandas=True),
        "kept": pa.array(kept),
        "reason": pa.array([KEPT if keep else reason for keep, reason in zip(kept, reasons, strict=True)]),
    }
    about = {"curation": json.dumps(dataclasses.asdict(config))}
    return pa.table([columns[f.name].cast(f.type) for f in SCHEMA], schema=SCHEMA.with_metadata(about))


def plan_tests(
    strata: Sequence[np.ndarray], *, pools: Sequence[np.ndarray], config: CurationConfig
) -> tuple[list[str], dict[Composition, list[int]]]:
    """Return why each antibody would not be kept, and by their composition the antibodies that can be tested.

    strata: of the replicates of each antibody. pools: the rows of each stratum.
    """
    reasons = []
    compositions: dict[Composition, list[int]] = {}
    for number, own in enumerate(strata):
        composition = tuple((int(s), int(n)) for s, n in zip(*np.unique(own, return_counts=True), strict=True))
        n_sets = math.prod(math.comb(len(pools[s]), n) for s, n in composition)
        if len(own) < config.min_replicates:
            reasons.append(FEW)
        elif n_sets * config.alpha <= 1:  # its own set is one of them, so that p is at least 1 / n_sets
            reasons.append(NO_COMPARISON)
        else:
            reasons.append(INCONSISTENT)
            compositions.setdefault(composition, []).append(number)
    return reasons, compositions


def compare_with_null(
    units: np.ndarray,
    agreement: np.ndarray,
    *,
    pools: Sequence[np.ndarray],
    compositions: Mapping[Composition, Sequence[int]],
    config: CurationConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each antibody's null, and its p-value, (antibodies,) each; NaN where it is not tested.

    Parameters
    ----------
    units
        (N, dim + 1), from `center`.
    agreement
        (antibodies,)
    pools
        The rows of each stratum.
    compositions
        The antibodies that are tested, by how many replicates of which stratum they have.
    config
        The test.
    """
    null_mean, p_value = np.full(len(agreement), np.nan), np.full(len(agreement), np.nan)
    alike: dict[tuple[int, ...], list[Composition]] = {}  # those of the same strata share what is drawn from them
    for composition, numbers in compositions.items():
        alike.setdefault(tuple(stratum for stratum, _ in composition), []).append(composition)
        null_mean[numbers], p_value[numbers] = 0.0, 1.0
    generator = np.random.default_rng(config.seed)
    for strata, group in alike.items():
        parts = [sorted({composition[i] for composition in group}) for i in range(len(strata))]
        row = (sum(map(len, parts)) + 2) * units.shape[1] * units.itemsize
        at_a_time = max(1, min(SETS_AT_A_TIME, MEMORY // row))
        for start in range(0, config.n_permutations, at_a_time):
            n_sets = min(at_a_time, config.n_permutations - start)
            sums = {
                (stratum, n): total
                for stratum, wanted in zip(strata, parts, strict=True)
                for n, total in drawn_sums(
                    units, pools[stratum], {n for _, n in wanted}, n_sets=n_sets, generator=generator
                )
            }
            for composition in group:
                total = functools.reduce(np.add, (sums[part] for part in composition))  # (n_sets, dim + 1)
                null = np.sort(mean_cosine(total, sum(n for _, n in composition)))
                numbers = compositions[composition]
                null_mean[numbers] += null.sum()
                p_value[numbers] += n_sets - np.searchsorted(null, agreement[numbers] - TIE)
    return null_mean / config.n_permutations, p_value / (1 + config.n_permutations)


def drawn_sums(
    units: np.ndarray, pool: np.ndarray, sizes: set[int], *, n_sets: int, generator: np.random.Generator
) -> list[tuple[int, np.ndarray]]:
    """Return, for each of `sizes`, sums (n_sets, dim + 1) of so many different rows of `units` drawn from `pool`."""
    drawn = pool[draw_sets(n_sets, max(sizes), len(pool), generator=generator)]  # (n_sets, largest)
    total = np.zeros((n_sets, units.shape[1]), units.dtype)
    sums = []
    for position in range(max(sizes)):  # the first few of a random set are a random set too
        total += units[drawn[:, position]]
        if position + 1 in sizes:
            sums.append((position + 1, total.copy()))
    return sums


def draw_sets(n_sets: int, size: int, n: int, *, generator: np.random.Generator) -> np.ndarray:
    """Return (n_sets, size) numbers below `n`, those of a row different and in random order."""
    if 2 * size > n:
        return generator.permuted(np.tile(np.arange(n), (n_sets, 1)), axis=1)[:, :size]
    drawn = generator.integers(n, size=(n_sets, size))
    while True:  # what came before in its row is drawn again, which leaves all sets equally probable
        order = np.argsort(drawn, axis=1, kind="stable")
        ranked = np.take_along_axis(drawn, order, axis=1)
        again = np.zeros(drawn.shape, bool)
        np.put_along_axis(again, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
        if not again.any():
            return drawn
        drawn[again] = generator.integers(n, size=int(again.sum()))


def rows_by_number(numbers: np.ndarray, n: int) -> list[np.ndarray]:
    """Return, for each number below `n`, where it stands in `numbers` (rows,)."""
    ends = np.cumsum(np.bincount(numbers, minlength=n))
    return np.split(np.argsort(numbers, kind="stable"), ends[:-1])[:n]


def center(units: np.ndarray, pools: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rows of `units` (N, dim) relative to the mean of their pool, at length 1 again: (N, dim + 1).

    The last column is their squared length: 1, or 0 for a row that is the mean of its pool.
    """
    centred = np.zeros((len(units), units.shape[1] + 1), np.float32)
    for rows in pools:
        rest = units[rows] - units[rows].mean(axis=0)
        lengths = np.linalg.norm(rest, axis=1, keepdims=True)
        differs = lengths > TIE
        centred[rows, :-1] = np.where(differs, rest / np.where(differs, lengths, 1), 0)
        centred[rows, -1:] = differs
    return centred


def mean_cosine(sums: np.ndarray, n: int) -> np.ndarray:
    """Return the mean cosine over the pairs of `n` rows from `center`, from their sum (sets, dim + 1)."""
    vectors, squares = sums[:, :-1], sums[:, -1]
    return (np.einsum("ij,ij->i", vectors, vectors).astype(np.float64) - squares) / (n * (n - 1))


def unit_rows(vectors: np.ndarray, *, what: str = "replicates") -> np.ndarray:
    """Return the rows (n, dim) at length 1; raise BadInput, calling them `what`, when one has no direction."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~(np.isfinite(lengths) & (lengths > 0)).ravel()
    if bad.any():
        raise BadInput(f"{bad.sum()} of {len(bad)} {what} have a vector that is zero or not finite.")
    return vectors / lengths


def kept_by_either(first: pa.Table, *others: pa.Table) -> pa.Table:
    """Join tables of several encoders: an antibody is kept when one of them keeps it.

    Each antibody has the row in which its p-value is lowest. As published, no p-value is raised for the second look:
    with two encoders twice alpha of the antibodies may be kept by chance.
    """
    best: dict[str, dict[str, object]] = {}
    for row in (row for table in (first, *others) for row in table.to_pylist()):
        before = best.setdefault(row["antibody"], row)
        if as_rank(row["p_value"]) < as_rank(before["p_value"]):
            best[row["antibody"]] = row
    return pa.Table.from_pylist([best[name] for name in sorted(best)], schema=first.schema)


def as_rank(p_value: object) -> float:
    """Return a p-value for sorting: one that is not known comes last."""
    return p_value if isinstance(p_value, float) else 2.0
