"""How well localizations that people curated can be read off the vectors of an atlas.

SubCell's authors hold out antibodies. Two antibodies of one gene show the same protein in the same place, so what was
learned of one is asked of the other: the gene leaks. Here genes are held out; the other way is told beside it, with the
number of genes that are on both sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .encoders.localizations import COARSE_GROUPS, LOCALIZATIONS, coarse_group, standard_localization
from .errors import BadInput, NotBuilt
from .evaluated import EvaluationOptions, Measured, Subject
from .evaluation.intervals import Observed
from .evaluation.localization import N_FOLDS, N_NEIGHBORS, PROBES, Probed, folds_of, probe_localization
from .functions.tables import HPA_TERM
from .profiles import vectors_of
from .store import Store

__all__ = ["Curated", "localization_rows", "measure_localization", "read_curated", "shared_genes"]

MIN_GENES = N_FOLDS  # of a class, one for each fold; with fewer it is left out
MOST_ROWS = 40_000  # profiles; of more, so many are drawn at random
FINE, COARSE = "fine", "coarse"
WAYS = ("gene", "antibody", "published")  # to hold rows out


@dataclass(frozen=True)
class Curated:
    """Rows of an atlas of which a localization is known: profiles, or proteins.

    localization: as it is written; genes: which protein each row is of; antibodies: None where it is not known.
    """

    ids: list[str]
    genes: list[str]
    antibodies: list[str | None]
    localization: list[list[str]]
    vectors: np.ndarray

    def of(self, rows: np.ndarray) -> Curated:
        """Return some of the rows, by number."""
        return Curated(
            [self.ids[row] for row in rows],
            [self.genes[row] for row in rows],
            [self.antibodies[row] for row in rows],
            [self.localization[row] for row in rows],
            self.vectors[rows],
        )

    def truth(self, kind: str) -> tuple[list[str], np.ndarray, dict[str, int]]:
        """Return the classes of a kind that enough genes have, (n, classes) bool, and the genes of each that is not."""
        read, names = (standard_localization, LOCALIZATIONS) if kind == FINE else (coarse_group, COARSE_GROUPS)
        own = [{read(name) for name in row} for row in self.localization]
        pairs = {(name, gene) for row, gene in zip(own, self.genes, strict=True) for name in row}
        genes = Counter(name for name, _ in pairs)
        kept = [name for name in names if genes[name] >= MIN_GENES]
        left_out = {name: genes[name] for name in names if 0 < genes[name] < MIN_GENES}
        truth = np.array([[name in row for name in kept] for row in own], bool)
        return kept, truth.reshape(len(own), len(kept)), left_out


def measure_localization(subject: Subject, options: EvaluationOptions) -> Measured:
    """Measure macro and micro average precision over the 31 classes of SubCell and over its coarse groups.

    `gene`, `antibody` (as SubCell holds out; genes leak) and `published` (`options.split`): how rows are held out. In
    each, of a linear probe (ridge regression) and of nearest neighbors: `macro_ap`, with an interval over genes,
    `micro_ap`, both for `coarse_` too, and `macro_ap_chance`, with labels dealt anew to genes. `classes`: each one's
    average precision, genes held out. Classes of too few genes are in `left_out`, names that are no class in `others`.
    """
    rows = read_curated(subject, seed=options.seed)
    (fine, truth, left_out), (coarse, coarse_truth, _) = rows.truth(FINE), rows.truth(COARSE)
    if len(fine) < 2:
        raise NotBuilt(
            f"Fewer than two classes have {MIN_GENES} genes with vectors and a known localization.\n"
            "They come with the pictures: a column `localization`, or subcell-atlas annotate subcellular_location.tsv"
        )
    truths = {FINE: truth} | ({COARSE: coarse_truth} if len(coarse) > 1 else {})
    metrics: dict[str, Any] = {}
    observed: dict[str, Observed] = {}
    for name, folds in ways_to_hold_out(rows, options).items():
        found = probe_localization(rows.vectors, truths, folds=folds, genes=rows.genes, seed=options.seed)
        metrics[name] = as_record(found) | {"genes_on_both_sides": shared_genes(rows.genes, folds)}
        for probe in PROBES:
            observed[f"{name}/{probe}/macro_ap"] = found[FINE].observed(probe, rows.ids, rows.genes)
        if name == "gene":
            metrics["classes"] = class_records(fine, found[FINE], rows)
            if COARSE in found:
                metrics["coarse_classes"] = class_records(coarse, found[COARSE], rows)
    names = Counter(name for row in rows.localization for name in row if standard_localization(name) is None)
    counts = {
        "n_rows": len(rows.ids),
        "n_genes": len(set(rows.genes)),
        "min_genes": MIN_GENES,
        "neighbors": N_NEIGHBORS,
    }
    return Measured({**metrics, **counts, "left_out": left_out, "others": dict(names)}, observed)


def ways_to_hold_out(rows: Curated, options: EvaluationOptions) -> dict[str, np.ndarray]:
    """Return the fold (n,) in which each row is tested, for each way to hold rows out."""
    ways = {"gene": folds_of(rows.genes, seed=options.seed)}
    if any(rows.antibodies):
        own = [antibody or gene for antibody, gene in zip(rows.antibodies, rows.genes, strict=True)]
        ways["antibody"] = folds_of(own, seed=options.seed)
    if options.split is not None:
        tested = read_antibodies(options.split)
        folds = np.array([0 if antibody in tested else -1 for antibody in rows.antibodies])
        if len(set(folds.tolist())) < 2:
            n = int((folds == 0).sum())
            msg = f"{options.split} names the antibodies of {n} of {len(folds)} profiles: there must be both."
            raise BadInput(f"{msg}\nIt holds the antibodies to test on, one a line.")
        ways["published"] = folds
    return ways


def read_antibodies(path: Path) -> frozenset[str]:
    """Return the antibodies that a file names, one a line."""
    try:
        return frozenset(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(f"{path} cannot be read as a list of antibodies: {exc}") from exc


def shared_genes(genes: Sequence[str], folds: np.ndarray) -> int:
    """Return how many genes are in more than one fold: what is learned of them is asked again."""
    seen: dict[str, set[int]] = {}
    for gene, fold in zip(genes, folds.tolist(), strict=True):
        seen.setdefault(gene, set()).add(fold)
    return sum(len(own) > 1 for own in seen.values())


def read_curated(subject: Subject, *, seed: int) -> Curated:
    """Return the profiles with a localization that is one of the 31 classes.

    Of vectors that are not of pictures, or were taken in by protein, the proteins. Where pictures came with none, what
    the Human Protein Atlas's table says of the protein counts, if it was put in (`annotate`).
    Where conditions were compared, those without one: people say where a protein is in cells to which nothing was done.
    """
    if subject.has_profiles:
        rows = read_profiles(subject)
    else:
        ids, vectors = subject.proteins
        places = subject.store.lookup("proteins", "protein_id", "localization")
        rows = Curated(ids, ids, [None] * len(ids), [places[name] or [] for name in ids], vectors)
    annotated = annotated_places(subject.store)
    places_of = [own or annotated.get(gene, []) for own, gene in zip(rows.localization, rows.genes, strict=True)]
    rows = replace(rows, localization=places_of)
    known = np.flatnonzero([any(standard_localization(name) for name in row) for row in rows.localization])
    if len(known) > MOST_ROWS:
        known = np.sort(np.random.default_rng(seed).choice(known, MOST_ROWS, replace=False))
    return rows.of(known)


def annotated_places(store: Store) -> dict[str, list[str]]:
    """Return the localizations of each protein that the Human Protein Atlas's table states."""
    found: dict[str, list[str]] = {}
    if store.has("annotations"):
        where = f"term_id LIKE '{HPA_TERM}%'"
        for row in store.read("annotations", ["protein_id", "term_id"], where=where).to_pylist():
            found.setdefault(row["protein_id"], []).append(row["term_id"].removeprefix(HPA_TERM))
    return found


def read_profiles(subject: Subject) -> Curated:
    """Return the profiles of cells to which nothing was done, or all where something was done to every one."""
    columns = ["profile_id", "protein_id", "antibody", "localization", "embedding"]
    found = subject.read_profiles(columns, untreated=True)
    ids, genes, antibodies = (found[name].to_pylist() for name in columns[:3])
    places = [row or [] for row in found["localization"].to_pylist()]
    return Curated(ids, genes, antibodies, places, vectors_of(found["embedding"]))


def as_record(found: Mapping[str, Probed]) -> dict[str, Any]:
    """Return the figures of each probe."""
    record: dict[str, Any] = {}
    for probe in PROBES:
        own = {}
        for kind, of in found.items():
            prefix = "" if kind == FINE else f"{kind}_"
            own[f"{prefix}macro_ap"] = of.macro(probe)
            own[f"{prefix}macro_ap_chance"] = of.macro_chance(probe)
            own[f"{prefix}micro_ap"] = of.micro(probe)
        record[probe] = own
    return record | {"n_tested": len(found[FINE].rows)}


def class_records(names: Sequence[str], found: Probed, rows: Curated) -> dict[str, dict[str, Any]]:
    """Return of each class how many genes and rows have it, and its average precision by both probes."""
    genes = np.array(rows.genes)[found.rows]
    return {
        name: {
            "n_genes": len(np.unique(genes[found.truth[:, at]])),
            "n_rows": int(found.truth[:, at].sum()),
            **{f"{probe}_ap": float(found.precisions[probe][at]) for probe in PROBES},
        }
        for at, name in enumerate(names)
    }


def localization_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, a row for each way to hold rows out and each probe, what `measure_localization` has of it."""
    return [
        {
            "held out": way,
            "probe": probe,
            "macro_ap": own["macro_ap"],
            "95 %": f"{own['macro_ap_low']:.3f} to {own['macro_ap_high']:.3f}",
            "chance": own["macro_ap_chance"],
            "micro_ap": own["micro_ap"],
            "coarse": own.get("coarse_macro_ap"),
            "genes on both sides": found[way]["genes_on_both_sides"],
        }
        for way in WAYS
        if way in found
        for probe, own in ((probe, found[way][probe]) for probe in PROBES)
    ]
