"""How well the functions of an atlas are told, and whether pictures and sequences together tell more than either.

Only proteins that have both are asked, so that every modality answers the same questions. Proteins are held out at
random and, more strictly, together with their homologues: a sequence may tell a function because a relative of the
protein is known, which says little about proteins that have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import NotBuilt
from .evaluated import EvaluationOptions, Measured, Subject
from .gene_functions import (
    MODALITIES,
    N_FOLDS,
    FunctionSettings,
    Group,
    Proteins,
    known_groups,
    read_proteins,
    settings_of_functions,
)
from .store import Store

if TYPE_CHECKING:
    from .evaluation.function_metrics import FunctionMetrics
    from .functions.prediction import Predictor

__all__ = ["asked", "homologues", "measure_functions", "told_out_of_fold"]

CONCATENATION = "concatenation"  # of both, without products: the plain baseline of fusion
FEWEST_FAMILIES = 2 * N_FOLDS  # of the proteins of a group of terms, for families to be held out


def measure_functions(subject: Subject, options: EvaluationOptions) -> Measured:
    """Return the metrics of image, sequence, fused and concatenation, held out by protein and by homology.

    By protein at the top, by homology under `by_homology`: for each modality `macro_ap`, `micro_ap` and `fmax` with the
    ends of their 95 % intervals, Brier score and calibration error; `differences` from fused, paired; `aspects`;
    `loses` and `gains`: the terms that fusion tells worse or better than the better modality does.
    """
    subject.check_stored("functions")
    store, seed = subject.store, options.seed
    settings = settings_of_functions(store)
    chosen, groups = asked(store, settings)
    alone = np.arange(len(chosen.ids))
    found = as_record(measure(chosen, groups, alone, settings.predictor, seed=seed), groups, store)
    families = homologues(store, chosen.ids)
    if families is not None:
        groups = [group for group in groups if n_families(families[group.known]) >= FEWEST_FAMILIES]
        if groups:
            by_family = measure(chosen, groups, families, settings.predictor, seed=seed)
            found["by_homology"] = as_record(by_family, groups, store) | {"groups": n_families(families)}
    return Measured(found)


def n_families(families: np.ndarray) -> int:
    """Return how many families some proteins are of."""
    return len(np.unique(families))


def asked(store: Store, settings: FunctionSettings) -> tuple[Proteins, list[Group]]:
    """Return the proteins that have both vectors, and what is known of them."""
    proteins = read_proteins(store)
    both = proteins.with_all(MODALITIES["fused"])
    if not both.any():
        raise NotBuilt("No protein of this atlas has both a picture's and a sequence's vector to compare.")
    groups = [narrowed(group, both, settings.fewest) for group in known_groups(store, proteins.ids, settings)]
    groups = [group for group in groups if group.terms]
    if not groups:
        raise NotBuilt(f"No term is known of {settings.fewest} proteins that have both vectors.")
    ids = [name for name, has in zip(proteins.ids, both, strict=True) if has]
    vectors = {name: own[both] for name, own in proteins.vectors.items()}
    return Proteins(ids, vectors, {name: own[both] for name, own in proteins.has.items()}), groups


def narrowed(group: Group, rows: np.ndarray, fewest: int) -> Group:
    """Return a group of some proteins alone, with the terms that enough of them have."""
    truth = group.truth[rows]
    kept = np.flatnonzero(truth.sum(axis=0) >= fewest)
    terms = [group.terms[term] for term in kept]
    return group._replace(terms=terms, known=group.known[rows], truth=truth[:, kept])


def homologues(store: Store, ids: list[str]) -> np.ndarray | None:
    """Return the group (n,) of homologues of each protein; None when no sequence is known."""
    from .sequences.homology import homology_groups

    residues = store.lookup("proteins", "protein_id", "amino_acids")
    own = [residues.get(name) or "" for name in ids]
    return homology_groups(own) if any(own) else None


def measure(
    proteins: Proteins, groups: list[Group], families: np.ndarray, predictor: str, *, seed: int
) -> FunctionMetrics:
    """Return the metrics of every modality, proteins of one family held out together."""
    from .evaluation.function_metrics import evaluate_functions

    names = names_of_groups(groups)
    return evaluate_functions(
        np.hstack([group.truth for group in groups]),
        told_out_of_fold(proteins, groups, families, predictor, seed=seed),
        aspects=[name for name, group in zip(names, groups, strict=True) for _ in group.terms],
        known={name: group.known for name, group in zip(names, groups, strict=True)},
        seed=seed,
    )


def told_out_of_fold(
    proteins: Proteins, groups: list[Group], families: np.ndarray, predictor: str, *, seed: int
) -> dict[str, np.ndarray]:
    """Return the probabilities (n, T) of each modality, and of concatenation, for the terms of all groups.

    families: (n,) proteins of one are held out together. Those of which nothing is known in a group have 0 there.
    """
    from .functions.prediction import PREDICTORS, LinearPredictor, cross_validate
    from .functions.splits import make_folds

    own = PREDICTORS[predictor]
    ways: dict[str, tuple[str, Predictor]] = {name: (name, own) for name in MODALITIES}
    if own == LinearPredictor():
        ways[CONCATENATION] = ("fused", LinearPredictor(products=False))
    scores: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    for group in groups:
        rows = np.flatnonzero(group.known)
        folds = make_folds(families[rows], N_FOLDS, seed=seed)
        for name, (modality, way) in ways.items():
            blocks, truth = proteins.blocks(modality, rows), group.truth[rows]
            told = cross_validate(way, blocks, truth, folds=folds, groups=families[rows], seed=seed)
            whole = np.zeros((len(proteins.ids), len(group.terms)), np.float32)
            whole[rows] = np.clip(told, 0, 1)
            scores[name].append(whole)
    return {name: np.hstack(parts) for name, parts in scores.items()}


def names_of_groups(groups: list[Group]) -> list[str]:
    """Return the aspect of each group, with its sources where several groups are of one aspect."""
    aspects = [group.aspect for group in groups]
    return [group.aspect if aspects.count(group.aspect) == 1 else group.name for group in groups]


def as_record(found: FunctionMetrics, groups: list[Group], store: Store) -> dict[str, Any]:
    """Return metrics as a JSON object."""
    terms = [term for group in groups for term in group.terms]
    names = store.lookup("terms", "term_id", "name")
    columns: Mapping[str, Any] = found.terms
    verdicts: dict[str, list[dict[str, Any]]] = {"loses": [], "gains": []}
    for at, verdict in enumerate(columns.get("verdict", ())):
        if verdict in verdicts:
            row = {name: values[at] for name, values in columns.items() if name != "verdict"}
            verdicts[verdict].append({"term_id": terms[at], "name": names.get(terms[at]), **row})
    for chosen in verdicts.values():
        chosen.sort(key=lambda row: row["difference"])
    return {
        **{name: asdict(of) for name, of in found.modalities.items()},
        "differences": [asdict(each) for each in found.differences],
        "aspects": {name: asdict(of) for name, of in found.aspects.items()},
        **verdicts,
        "n_proteins": found.n_proteins,
        "n_terms": found.n_terms,
    }
