"""How alike the replicates of a protein are in an atlas: its antibodies, cell lines, plates or fields of view.

Antibodies and cell lines are compared by profile, plates and fields by the means of their cells, each centred on its
batch like the profiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from .cell_means import read_means
from .corrected_profiles import settings_of_correction
from .errors import NotBuilt, UnknownName
from .evaluated import EvaluationOptions, Measured, Subject
from .evaluation.chance import ALPHA
from .evaluation.consistency import Consistency, Replicates, codes, measure
from .evaluation.intervals import Observed
from .profiles import vectors_of
from .recipe import CENTER
from .store import Store

__all__ = ["REPLICATES", "Kind", "kinds_with_replicates", "measure_consistency", "read_replicates"]

N_LEAST = 10  # proteins whose replicates are least alike, for which chance gives as much


@dataclass(frozen=True)
class Kind:
    """A kind of replicates, in names of columns: what they differ in, what they share, what a null row shares.

    table: where one row is one replicate, or `cells`, to be averaged.
    """

    table: str
    varied: tuple[str, ...]
    alike: tuple[str, ...]
    strata: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All that must be known of a row."""
        return tuple(dict.fromkeys(("protein_id", *self.varied, *self.alike, *self.strata)))


IN_LINE = ("cell_line", "condition")
OF_ANTIBODY = ("antibody", *IN_LINE)
ON_PLATE = (*IN_LINE, "plate")
REPLICATES = {
    "antibody": Kind("profiles", ("antibody",), IN_LINE, IN_LINE),
    "cell_line": Kind("profiles", ("cell_line",), ("antibody", "condition"), IN_LINE),
    "plate": Kind("cells", ("plate",), OF_ANTIBODY, ON_PLATE),
    "fov": Kind("cells", ("well", "fov"), (*OF_ANTIBODY, "plate"), ON_PLATE),
}


def measure_consistency(subject: Subject, options: EvaluationOptions) -> Measured:
    """Measure whether replicates of a protein are more alike than rows of different proteins that are matched to them.

    replicates: of which kind; n_replicates, n_null: pairs of each; ks, cvm (grows with both), cvm_size_free: how far
    the two distributions of cosines are apart; auc, similarity, null_similarity: means over proteins; consistent: the
    share of proteins that are so, after correction, at 5 %.
    """
    if subject.vectors != "image":
        raise NotBuilt(f"Only pictures have replicates; leave out --vectors {subject.vectors}.")
    name = kind_meant(subject.store, options.replicates)
    proteins, rows = read_replicates(subject, REPLICATES[name])
    found = measure(rows, seed=options.seed)
    if found is None:
        raise NotBuilt(f"No other protein was seen where those with replicates ({name}) were, to hold them against.")
    return as_measured(found, [proteins[at] for at in found.proteins], name)


def kind_meant(store: Store, asked: str | None) -> str:
    """Return the kind of replicates that is asked for, or the first that the atlas has; raise NotBuilt without any."""
    if asked is not None and asked not in REPLICATES:
        raise UnknownName("kind of replicates", asked, REPLICATES)
    if asked is not None and has_replicates(store, REPLICATES[asked]):
        return asked
    there = kinds_with_replicates(store)
    if asked is None:
        first = next(there, None)
        if first is None:
            raise NotBuilt("No protein has a second antibody, cell line, plate or field of view (fov) to compare.")
        return first
    others = ", ".join(there)
    fix = f"Replicates there are by: {others} (--replicates)." if others else "Nor are there replicates by another."
    raise NotBuilt(f"No protein of this atlas has replicates by {asked}. {fix}")


def kinds_with_replicates(store: Store) -> Iterator[str]:
    """Yield the kinds of which an atlas has replicates, in the order of `REPLICATES`."""
    return (name for name, kind in REPLICATES.items() if has_replicates(store, kind))


def has_replicates(store: Store, kind: Kind) -> bool:
    """Tell whether any two rows are replicates of this kind."""
    seen: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for batch in store.batches(kind.table, kind.columns):
        for row in pa.table(batch).group_by(list(kind.columns)).aggregate([]).to_pylist():
            varied = tuple(row[name] for name in kind.varied)
            own = tuple(row[name] for name in ("protein_id", *kind.alike))
            if row["protein_id"] and varied[-1] and seen.setdefault(own, varied) != varied:
                return True
    return False


def read_replicates(subject: Subject, kind: Kind) -> tuple[list[str], Replicates]:
    """Return the proteins and the rows that may be replicates; those of which it is not known what varies are left out.

    The numbers of `Replicates.proteins` are places among the proteins.
    """
    if kind.table == "cells":
        check_centered(subject)
        means = read_means(subject.store, kind.columns, named=True)
        columns = {name: means.column(name) for name in kind.columns}
        vectors = means.centred()
    else:
        rows = subject.read_profiles([*kind.columns, "embedding"])
        rows = rows.filter(rows[kind.varied[-1]].is_valid())
        columns = {name: rows[name].to_pylist() for name in kind.columns}
        vectors = vectors_of(rows["embedding"])
    used = np.array([bool(value) for value in columns[kind.varied[-1]]], bool)
    varied, alike, strata = (
        codes(*(columns[name] for name in part)) for part in (kind.varied, kind.alike, kind.strata)
    )
    names = list(dict.fromkeys(columns["protein_id"]))
    rows_of = Replicates(vectors, codes(columns["protein_id"]), varied, alike, strata)
    return names, rows_of if used.all() else rows_of.of(used)


def check_centered(subject: Subject) -> None:
    """Raise NotBuilt when the means of plates and fields, which are centred, would be held against other profiles."""
    settings = subject.settings or settings_of_correction(subject.store)
    if settings.name != CENTER:
        msg = f"Plates and fields are compared by centred vectors, not by those of the correction {settings.name}"
        raise NotBuilt(f"{msg}.\nCompare --replicates antibody or cell_line.")


def as_measured(found: Consistency, proteins: list[str], kind: str) -> Measured:
    """Return what was found as metrics, and what those are made of, by protein; `proteins`: the names, in order."""
    names = np.array(proteins)
    by_protein = {
        "auc": found.auc,
        "similarity": found.similarity,
        "null_similarity": found.null_similarity,
        "consistent": (found.p_adjusted <= ALPHA).astype(float),
    }
    observed = {name: Observed(proteins, values, names) for name, values in by_protein.items()}
    observed["ks"] = found.observed_ks(proteins)
    metrics: dict[str, Any] = {
        "replicates": kind,
        "n_proteins": len(proteins),
        "n_replicates": found.n_replicates,
        "n_null": found.n_null,
        "n_left_out": found.n_left_out,
        "ks": found.ks,
        "cvm": found.cvm,
        "cvm_size_free": found.cvm_size_free,
        **{name: own.value() for name, own in observed.items() if name in by_protein},
        "least_consistent": least(found, proteins),
    }
    return Measured(metrics, observed)


def least(found: Consistency, proteins: list[str]) -> list[dict[str, Any]]:
    """Return the proteins whose replicates are least alike among those that chance gives as much for, as records."""
    order = np.lexsort((found.similarity, -found.p))
    return [
        {
            "protein_id": proteins[at],
            "pairs": int(found.n_pairs[at]),
            "similarity": float(found.similarity[at]),
            "null_similarity": float(found.null_similarity[at]),
            "p": float(found.p[at]),
            "p_adjusted": float(found.p_adjusted[at]),
        }
        for at in order[:N_LEAST]
        if found.p_adjusted[at] > ALPHA
    ]
