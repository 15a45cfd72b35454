"""Questions about functions: what a gene may do, which genes may do it, and why one would think so. Only reads.

Probabilities of proteins of which something is known are out of fold: the model that gave them had not seen them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import BadInput, NotBuilt, UnknownName
from .gene_functions import (
    MODALITIES,
    NO_ASPECT,
    aspects_of,
    best_first,
    counts_as_known,
    models_of,
    settings_of_functions,
)
from .identifiers import NAME_COLUMNS, find_protein
from .profiles import vectors_of
from .proteins import check_correction_of
from .ranking import unit
from .sequence_vectors import note_on_sequences
from .store import Store, one_of, quote

__all__ = [
    "find_terms",
    "functions_of_gene",
    "functions_of_vectors",
    "genes_of_term",
    "notes_on_functions",
    "predicted_terms",
    "shared_functions",
    "term_meant",
]

TEXT_WEIGHTS = {"name": 3.0, "synonyms": 2.0, "definition": 1.0}
N_NEIGHBORS = 50  # among which those that speak for a term are looked for, by each modality
N_SUPPORT = 3  # of each modality that are told
SUPPORT = pa.struct(
    {"protein_id": pa.string(), "gene_symbol": pa.string(), "modality": pa.string(), "similarity": pa.float32()}
)
HIT_SCHEMA = pa.schema(
    {
        "rank": pa.int32(),
        "protein_id": pa.string(),
        "gene_symbol": pa.string(),
        "term_id": pa.string(),
        "name": pa.string(),
        "aspect": pa.string(),
        "probability": pa.float32(),
        "prior": pa.float32(),
        "annotated": pa.bool_(),
        "image": pa.float32(),
        "sequence": pa.float32(),
        "fused": pa.float32(),
        "support": pa.list_(SUPPORT),
    }
)


def functions_of_gene(store: Store, name: str, *, k: int = 20, aspect: str | None = None) -> pa.Table:
    """Return what a gene does, as far as it is known, and then the `k` terms that it may have besides.

    Columns of `HIT_SCHEMA`. Predictions are ordered by what they tell: p log2(p / prior), so that a term that half of
    all proteins have does not come first. `support`: the nearest neighbors by picture or sequence that have the term.
    """
    check_k(k)
    require_functions(store)
    names = protein_names(store)
    row = find_protein(name, names)
    protein, symbol = names["protein_id"][row].as_py(), names["gene_symbol"][row].as_py()
    rows = store.read("functions", where=f"protein_id = {quote(protein)}").to_pylist()
    if not rows:
        what = "neither a picture nor a sequence here that functions could be told from"
        raise NotBuilt(f"{symbol or protein} has {what}.")
    hits = described(store, rows, aspect=aspect)
    for hit in hits:
        hit["gene_symbol"] = symbol
    known = sorted((hit for hit in hits if hit["annotated"]), key=lambda hit: (hit["prior"], hit["term_id"]))
    predicted = most_telling([hit for hit in hits if not hit["annotated"]], k)
    add_support(store, protein, [*known, *predicted])
    return hits_table([*known, *predicted])


def genes_of_term(store: Store, term: str, *, k: int = 20) -> pa.Table:
    """Return the genes that are known to have a term, and then the `k` that most probably have it besides.

    `term`: an id, or words, of which the term is taken that fits best (see `term_meant`). Predictions that are no
    likelier than by chance are left out. Columns of `HIT_SCHEMA`.
    """
    check_k(k)
    term_id = term_meant(store, term)["term_id"]
    rows = store.read("functions", where=f"term_id = {quote(term_id)}").to_pylist()
    hits = described(store, rows)
    order = sorted(hits, key=lambda hit: (-(hit["probability"] or 0.0), hit["protein_id"]))
    known = [hit for hit in order if hit["annotated"]]
    predicted = [hit for hit in order if not hit["annotated"] and gain(hit["probability"], hit["prior"]) > 0][:k]
    chosen = [*known, *predicted]
    names = protein_names(store)
    symbol_of = dict(zip(names["protein_id"].to_pylist(), names["gene_symbol"].to_pylist(), strict=True))
    for hit in chosen:
        hit["gene_symbol"] = symbol_of.get(hit["protein_id"])
    return hits_table(chosen)


def find_terms(store: Store, text: str, *, k: int = 10) -> pa.Table:
    """Return the terms whose name, synonyms or definition fit some words, best first.

    Columns: term_id, name, aspect, definition, n_members, is_predicted, score. Terms that are predicted come first.
    """
    if not text.strip():
        raise BadInput("What function? Give some words, such as 'mitochondrial translation', or the id of a term.")
    require_functions(store)
    found = store.find_text("terms", text, weights=TEXT_WEIGHTS, k=5 * k)
    predicted = predicted_terms(store)
    rows = [
        {
            **{name: row[name] for name in ("term_id", "name", "aspect", "definition", "score")},
            "n_members": predicted.get(row["term_id"], {}).get("n_members"),
            "is_predicted": row["term_id"] in predicted,
        }
        for row in found.to_pylist()
    ]
    rows.sort(key=lambda row: not row["is_predicted"])
    return pa.Table.from_pylist(rows[:k], schema=TERM_SCHEMA)


TERM_SCHEMA = pa.schema(
    {
        "term_id": pa.string(),
        "name": pa.string(),
        "aspect": pa.string(),
        "definition": pa.string(),
        "n_members": pa.int32(),
        "is_predicted": pa.bool_(),
        "score": pa.float32(),
    }
)


def term_meant(store: Store, term: str) -> dict[str, Any]:
    """Return the predicted term of an id, a name or some words; raise UnknownName or NotBuilt when there is none.

    The id comes first, then the exact name, then what a search of names, synonyms and definitions finds best.
    """
    require_functions(store)
    wanted = term.strip()
    predicted = predicted_terms(store)
    of_ids = {each.upper(): each for each in predicted}
    if wanted.upper() in of_ids:
        return predicted[of_ids[wanted.upper()]]
    named = store.read("terms", ["term_id", "name"], where=f"term_id = {quote(wanted)} OR name = {quote(wanted)}")
    for row in named.to_pylist():
        if row["term_id"] in predicted:
            return predicted[row["term_id"]]
    if named.num_rows:
        few = store.metadata("functions").get("settings", {}).get("fewest")
        msg = f"{named['term_id'][0].as_py()} ({named['name'][0].as_py()}) is known here but not predicted"
        raise NotBuilt(f"{msg}: fewer than {few} proteins with vectors have it, or nearly all.")
    found = find_terms(store, wanted, k=3).to_pylist()
    if found and found[0]["is_predicted"]:
        return predicted[found[0]["term_id"]]
    if found:
        fitting = ", ".join(f"{row['name'] or row['term_id']} ({row['term_id']})" for row in found)
        raise NotBuilt(f"What fits {term!r} is not predicted, since too few proteins with vectors have it: {fitting}.")
    known = [*predicted, *(row["name"] for row in predicted.values())]
    raise UnknownName("function", term, known)


def predicted_terms(store: Store) -> dict[str, dict[str, Any]]:
    """Return every term that is predicted: by id its row of `function_terms`, and its name. Not to be changed."""
    require_functions(store)
    return kept_terms(store.uri, store.version("function_terms"), store.version("terms"))


def functions_of_vectors(
    store: Store, *, image: np.ndarray | None = None, sequence: np.ndarray | None = None, k: int = 20,
    aspect: str | None = None,
) -> pa.Table:  # fmt: skip
    """Return the `k` terms (of an `aspect`) that a protein that is not in the atlas most tellingly has, by its vectors.

    image, sequence: (dim,), the image embedded and centred as the atlas's proteins are (see `query.vector_of_cells`).
    Columns of `HIT_SCHEMA`.
    """
    check_k(k)
    given = {name: vector for name, vector in (("image", image), ("sequence", sequence)) if vector is not None}
    require_functions(store)
    if image is not None:
        built_from = store.metadata("functions").get("built_from", {})
        check_correction_of(store, built_from, made="What tells functions", stage="functions")
    found: dict[str, dict[str, Any]] = {}
    for modality, blocks in MODALITIES.items():
        if not set(blocks) <= set(given):
            continue
        vectors = [np.asarray(given[block], np.float32)[None] for block in blocks]
        for terms, model in models_of(store, modality):
            for term, probability in zip(terms, model.probabilities(vectors)[0].tolist(), strict=True):
                found.setdefault(term, {"term_id": term, "protein_id": None})[modality] = probability
    if not found:
        raise NotBuilt(f"This atlas has not learned functions from {' and '.join(given)}. Run: subcell-atlas build")
    rows = [{**row, "annotated": False} for row in found.values()]
    hits = described(store, rows, aspect=aspect)
    for hit in hits:
        order = best_first({name: hit[f"ap_{name}"] for name in MODALITIES})
        hit["probability"] = next(hit[name] for name in order if name in hit)
    hits = most_telling(hits, k)
    near = {modality: nearest(store, modality, vector) for modality, vector in given.items()}
    name_supporters(store, hits, near)
    return hits_table(hits)


def shared_functions(store: Store, names: Sequence[str], *, k: int = 20, aspect: str | None = None) -> pa.Table:
    """Return the terms that some genes share: those over-represented among what is known, and mean probabilities.

    `aspect`: only of this one; p is adjusted for the terms of all.

    Columns: term_id, name, aspect, n_known (of the genes), n_genes (of which the sources know anything), n_members,
    n_background, p_adjusted (hypergeometric, after Benjamini and Hochberg), probability (the mean over the genes, 0 for
    those of which it was too low to be kept), prior, genes (symbols that have the term).
    """
    from scipy import stats

    from .cellmap.enrichment import adjust

    check_k(k)
    table = protein_names(store)
    rows = list(dict.fromkeys(find_protein(name, table) for name in names))
    if len(rows) < 2:
        raise BadInput("Functions are shared by two genes or more; name several.")
    require_functions(store)
    symbols = {table["protein_id"][r].as_py(): table["gene_symbol"][r].as_py() for r in rows}
    found = store.read("functions", where=one_of("protein_id", symbols)).to_pylist()
    of_term: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        of_term.setdefault(row["term_id"], []).append(row)
    terms = predicted_terms(store)
    if aspect is not None:
        check_aspect(store, aspect)
    known_in = groups_known(store, list(symbols))
    answers = []
    for term_id, own in of_term.items():
        term = terms[term_id]
        having = [row["protein_id"] for row in own if row["annotated"]]
        n = len(known_in.get((tuple(term["sources"]), term["aspect"]), ()))
        p = stats.hypergeom.sf(len(having) - 1, term["n_background"], term["n_members"], n) if having else 1.0
        probability = sum(row["probability"] or 0.0 for row in own) / len(symbols)
        answers.append(
            {
                **{name: term[name] for name in ("term_id", "name", "aspect", "n_members", "n_background", "prior")},
                "n_known": len(having),
                "n_genes": n,
                "p_adjusted": float(p),
                "probability": probability,
                "genes": [symbols[protein] or protein for protein in having],
            }
        )
    adjusted = adjust(np.array([row["p_adjusted"] for row in answers]), len(terms))
    for row, p in zip(answers, adjusted.tolist(), strict=True):
        row["p_adjusted"] = p
    answers = [row for row in answers if aspect in (None, row["aspect"])]
    answers.sort(key=lambda row: (row["p_adjusted"], -gain(row["probability"], row["prior"]), row["term_id"]))
    return pa.Table.from_pylist(answers[:k], schema=SHARED_SCHEMA)


SHARED_SCHEMA = pa.schema(
    {
        "term_id": pa.string(),
        "name": pa.string(),
        "aspect": pa.string(),
        "n_known": pa.int32(),
        "n_genes": pa.int32(),
        "n_members": pa.int32(),
        "n_background": pa.int32(),
        "p_adjusted": pa.float64(),
        "probability": pa.float32(),
        "prior": pa.float32(),
        "genes": pa.list_(pa.string()),
    }
)


def notes_on_functions(store: Store) -> list[str]:
    """Return what a reader of any answer must know: a stand-in among the encoders, evidence that was left out."""
    note = note_on_sequences(store)
    notes = [note] if note else []
    recipe = store.recipe("proteins", "image")
    if recipe and recipe.encoder == "demo":
        notes.append("Pictures are told by the demonstration encoder, which is not SubCell.")
    return notes


def check_k(k: int) -> None:
    """Raise BadInput when nothing is asked for."""
    if k < 1:
        raise BadInput(f"k is {k}; at least one answer is asked for.")


def require_functions(store: Store) -> None:
    """Raise NotBuilt when functions are not predicted yet."""
    if "functions" not in store.names():
        fix = "Run: subcell-atlas build functions"
        if not store.has("annotations"):
            fix = "Put in what is known (subcell-atlas annotate FILE), then run: subcell-atlas build"
        raise NotBuilt(f"The atlas {store.uri!r} has no functions yet. {fix}")


def described(store: Store, rows: Iterable[Mapping[str, Any]], *, aspect: str | None = None) -> list[dict[str, Any]]:
    """Return rows of `functions` with what `function_terms` says of their terms; only of one aspect when given."""
    rows = list(rows)
    terms = predicted_terms(store)
    if aspect is not None:
        check_aspect(store, aspect)
        rows = [row for row in rows if terms[row["term_id"]]["aspect"] == aspect]
    told = ("name", "aspect", "prior", *(f"ap_{name}" for name in MODALITIES))
    return [{**row, **{name: terms[row["term_id"]][name] for name in told}} for row in rows]


def check_aspect(store: Store, aspect: str) -> None:
    """Raise UnknownName when no predicted term is of an aspect."""
    allowed = sorted({row["aspect"] for row in predicted_terms(store).values()})
    if aspect not in allowed:
        raise UnknownName("aspect", aspect, allowed)


def gain(probability: float | None, prior: float) -> float:
    """Return what a prediction tells, p log2(p / prior) in bits; 0 when it is below the prior."""
    return max(probability * float(np.log2(probability / prior)), 0.0) if probability and prior else 0.0


def most_telling(hits: Iterable[dict[str, Any]], k: int) -> list[dict[str, Any]]:
    """Return the `k` predictions that tell most; those that are no likelier than by chance tell nothing."""
    telling = [(gain(hit["probability"], hit["prior"]), hit) for hit in hits]
    ordered = sorted((each for each in telling if each[0] > 0), key=lambda each: (-each[0], each[1]["term_id"]))
    return [hit for _, hit in ordered[:k]]


def add_support(store: Store, protein: str, hits: Sequence[dict[str, Any]]) -> None:
    """Add to each hit of a protein its nearest neighbors that have the term."""
    near: dict[str, list[dict[str, Any]]] = {}
    there = store.vector_columns("proteins")
    for modality in [name for name in ("image", "sequence") if name in there]:
        names, units = unit_vectors(store, modality)
        at = pc.index(names["protein_id"], protein).as_py()
        if at >= 0 and units[at].any():
            found = nearest(store, modality, units[at])
            near[modality] = [row for row in found if row["protein_id"] != protein]
    name_supporters(store, hits, near)


def nearest(store: Store, modality: str, vector: np.ndarray) -> list[dict[str, Any]]:
    """Return the nearest proteins: protein_id, gene_symbol, similarity."""
    names, units = unit_vectors(store, modality)
    similarity = units @ unit(vector[None])[0].astype(np.float32)
    best = np.argsort(-similarity, kind="stable")[: N_NEIGHBORS + 1]
    return [{**row, "similarity": similarity[i]} for i, row in zip(best, names.take(best).to_pylist(), strict=True)]


def name_supporters(
    store: Store, hits: Sequence[dict[str, Any]], near: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Add to each hit the nearest of some neighbors that have its term; half by each modality where both know some."""
    neighbors = list(dict.fromkeys(row["protein_id"] for rows in near.values() for row in rows))
    having: dict[str, set[str]] = {}
    if neighbors and hits:
        where = f"annotated AND {one_of('protein_id', neighbors)}"
        for row in store.read("functions", ["protein_id", "term_id"], where=where).to_pylist():
            having.setdefault(row["term_id"], set()).add(row["protein_id"])
    for hit in hits:
        own = having.get(hit["term_id"], set())
        found = [
            [{**row, "modality": modality} for row in rows if row["protein_id"] in own][:N_SUPPORT]
            for modality, rows in near.items()
        ]
        hit["support"] = [row for turn in zip_longest(*found) for row in turn if row is not None]


def protein_names(store: Store) -> pa.Table:
    """Return the names of every protein."""
    return kept_names(store.uri, store.version("proteins"))


def unit_vectors(store: Store, modality: str) -> tuple[pa.Table, np.ndarray]:
    """Return the names of the proteins that have a vector, and their vectors divided by their length, (n, dim)."""
    return kept_vectors(store.uri, store.version("proteins"), modality)


# What most questions need is kept for the next one of this process, as long as its tables are not written again.


@lru_cache(maxsize=4)
def kept_terms(uri: str, *versions: int) -> dict[str, dict[str, Any]]:
    """Return what `predicted_terms` does."""
    del versions
    store = Store.open(uri)
    names = store.lookup("terms", "term_id", "name", where="name IS NOT NULL")
    rows = store.read("function_terms").to_pylist()
    return {row["term_id"]: {**row, "name": names.get(row["term_id"]) or row["term_id"]} for row in rows}


@lru_cache(maxsize=4)
def kept_names(uri: str, version: int) -> pa.Table:
    """Return what `protein_names` does."""
    del version
    return Store.open(uri).read("proteins", NAME_COLUMNS)


@lru_cache(maxsize=4)
def kept_vectors(uri: str, version: int, modality: str) -> tuple[pa.Table, np.ndarray]:
    """Return what `unit_vectors` does."""
    del version
    names = ["protein_id", "gene_symbol"]
    table = Store.open(uri).read("proteins", [*names, modality], where=f"{modality} IS NOT NULL")
    return table.select(names), unit(vectors_of(table[modality]))


def groups_known(store: Store, proteins: Sequence[str]) -> dict[tuple[tuple[str, ...], str], set[str]]:
    """Return which of some proteins the sources of each group of terms say anything of."""
    columns = ["protein_id", "term_id", "evidence", "source"]
    rows = store.read("annotations", columns, where=one_of("protein_id", proteins))
    rows = rows.filter(counts_as_known(rows["evidence"], settings_of_functions(store).without))
    aspects = aspects_of(store)
    said = {(r["protein_id"], r["source"] or "", aspects.get(r["term_id"]) or NO_ASPECT) for r in rows.to_pylist()}
    groups = {(tuple(r["sources"]), r["aspect"]) for r in predicted_terms(store).values()}
    return {
        (sources, aspect): {protein for protein, source, of in said if source in sources and of == aspect}
        for sources, aspect in groups
    }


def hits_table(hits: Sequence[dict[str, Any]]) -> pa.Table:
    """Return hits as a table, ranked in their order."""
    return pa.Table.from_pylist([{**hit, "rank": rank} for rank, hit in enumerate(hits, start=1)], schema=HIT_SCHEMA)
