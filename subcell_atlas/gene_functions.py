"""The functions of an atlas: read the store, call `functions/`, write the store.

What is known of proteins is learned from their vectors, by picture, by sequence and by both. Terms are predicted in
groups: those of one aspect that the same sources speak of. A protein of which these say nothing in this aspect is no
counterexample; it has no part in the learning and is predicted by a model of all others.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ._version import __version__
from .errors import BadInput, NotBuilt, UnknownName
from .proteins import correction_of
from .schema import table_schema
from .store import Store, conform

if TYPE_CHECKING:
    from .functions.prediction import Predictor

__all__ = [
    "FUNCTION_TABLES",
    "MODALITIES",
    "NO_ASPECT",
    "TERM_TEXTS",
    "FunctionSettings",
    "Group",
    "Proteins",
    "aspects_of",
    "best_first",
    "build_functions",
    "counts_as_known",
    "function_inputs",
    "known_groups",
    "models_of",
    "models_table",
    "of_bytes",
    "read_proteins",
    "settings_of_functions",
    "to_bytes",
]

MODALITIES: dict[str, tuple[str, ...]] = {
    "image": ("image",),
    "sequence": ("sequence",),
    "fused": ("image", "sequence"),
}
FUNCTION_TABLES = ("functions", "function_terms", "models")
N_FOLDS = 5
MOST_MEMBERS = 0.8  # of the proteins of a group; what nearly all have needs no prediction
LEAST = 0.1  # probability from which on a pair is kept, and how many are kept whatever it is:
KEPT_OF_TERM, KEPT_OF_PROTEIN = 50, 20
NO_ASPECT = "other"
TERM_TEXTS = ("name", "synonyms", "definition")


@dataclass(frozen=True, kw_only=True)
class FunctionSettings:
    """How functions are predicted.

    predictor: of `functions.prediction`. without: evidence that does not count, codes or who assigned it (IEA, HPA);
    what the Human Protein Atlas saw in its pictures is left out, since pictures of it are what is asked. fewest:
    proteins that must have a term.
    """

    predictor: str = "linear"
    without: tuple[str, ...] = ("HPA",)
    fewest: int = 10

    def check(self) -> None:
        """Raise UnknownName or BadInput when functions cannot be predicted so."""
        from .functions.prediction import PREDICTORS

        if self.predictor not in PREDICTORS:
            raise UnknownName("predictor", self.predictor, PREDICTORS)
        if self.fewest < N_FOLDS:
            raise BadInput(f"Terms of {self.fewest} proteins cannot be tested in {N_FOLDS} parts; at least {N_FOLDS}.")


@dataclass(frozen=True)
class Proteins:
    """The proteins that have a vector: ids; vectors (n, d) by modality, and who has one, (n,) bool."""

    ids: list[str]
    vectors: Mapping[str, np.ndarray]
    has: Mapping[str, np.ndarray]

    def with_all(self, blocks: Sequence[str]) -> np.ndarray:
        """Return (n,) bool: who has a vector of each of `blocks`; nobody when the atlas has none."""
        if not set(blocks) <= set(self.has):
            return np.zeros(len(self.ids), bool)
        return np.logical_and.reduce([self.has[block] for block in blocks])

    def blocks(self, modality: str, rows: np.ndarray) -> list[np.ndarray]:
        """Return what a modality's models are given of some rows."""
        return [self.vectors[block][rows] for block in MODALITIES[modality]]


class Group(NamedTuple):
    """Terms of one aspect that the same sources speak of. known: (n,) bool; truth: (n, T) bool, over all proteins."""

    sources: tuple[str, ...]
    aspect: str
    terms: list[str]
    known: np.ndarray
    truth: np.ndarray

    @property
    def name(self) -> str:
        """What it is called where its models are stored."""
        return f"{self.aspect} of {' and '.join(self.sources)}"


def read_proteins(store: Store) -> Proteins:
    """Return the proteins that have a picture's or a sequence's vector; raise NotBuilt when there are none."""
    there = [name for name in ("image", "sequence") if name in vector_columns(store)]
    if not there:
        raise NotBuilt("The proteins of this atlas have no vectors yet. Run: subcell-atlas build profiles sequence")
    where = " OR ".join(f"{name} IS NOT NULL" for name in there)
    table = store.read("proteins", ["protein_id", *there], where=where).sort_by("protein_id")
    vectors: dict[str, np.ndarray] = {}
    has: dict[str, np.ndarray] = {}
    for name in there:
        column = table[name].combine_chunks()
        vectors[name] = np.nan_to_num(filled(column))
        has[name] = column.is_valid().to_numpy(zero_copy_only=False) & np.any(vectors[name], axis=1)
    return Proteins(table["protein_id"].to_pylist(), vectors, has)


def vector_columns(store: Store) -> list[str]:
    """Return which vectors the proteins have; none when there are no proteins."""
    return store.vector_columns("proteins") if store.has("proteins") else []


def filled(column: pa.FixedSizeListArray) -> np.ndarray:
    """Return a column of vectors as (n, d) float32, rows of nulls as zeros."""
    dim = column.type.list_size
    found = np.zeros((len(column), dim), np.float32)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    found[valid] = column.filter(column.is_valid()).flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    return found


def known_groups(store: Store, ids: Sequence[str], settings: FunctionSettings) -> list[Group]:
    """Return what is known of the proteins `ids`, in groups of terms that enough of them have."""
    if not store.has("annotations"):
        raise NotBuilt(
            "Nothing is known of these proteins to learn from. Put something in: subcell-atlas annotate FILE"
        )
    rows = store.read("annotations", ["protein_id", "term_id", "evidence", "source"])
    rows = rows.filter(counts_as_known(rows["evidence"], settings.without))
    at = pc.index_in(rows["protein_id"], value_set=pa.array(ids, pa.string()))
    rows, at = rows.filter(at.is_valid()), at.drop_null().to_numpy()
    terms = rows["term_id"].combine_chunks().dictionary_encode()
    sources = pc.coalesce(rows["source"], pa.scalar("")).combine_chunks().dictionary_encode()
    aspects = aspects_of(store)
    names, of_source = terms.dictionary.to_pylist(), sources.dictionary.to_pylist()
    term_at, source_at = terms.indices.to_numpy(), sources.indices.to_numpy()
    of_aspect = [aspects.get(name) or NO_ASPECT for name in names]
    sources_of: dict[int, set[str]] = {}
    for pair in np.unique(term_at.astype(np.int64) * len(of_source) + source_at).tolist():
        sources_of.setdefault(pair // len(of_source), set()).add(of_source[pair % len(of_source)])
    members: dict[tuple[tuple[str, ...], str], list[int]] = {}
    for term, speaking in sources_of.items():
        members.setdefault((tuple(sorted(speaking)), of_aspect[term]), []).append(term)
    groups = []
    for key, own in sorted(members.items()):
        speaks = np.isin(source_at, [of_source.index(source) for source in key[0]])
        speaks &= np.array([aspect == key[1] for aspect in of_aspect])[term_at]
        known = np.zeros(len(ids), bool)
        known[at[speaks]] = True
        groups.append(group_of(key, [(names[term], term) for term in own], at, term_at, known, fewest=settings.fewest))
    return [group for group in groups if group.terms]


def group_of(
    key: tuple[tuple[str, ...], str], own: Sequence[tuple[str, int]], at: np.ndarray, term_at: np.ndarray,
    known: np.ndarray, *, fewest: int,
) -> Group:  # fmt: skip
    """Return a group; at, term_at: the protein and the term of each annotation; known: of whom its sources speak."""
    column = np.full(int(term_at.max(initial=0)) + 1, -1)
    ordered = sorted(own)
    column[[term for _, term in ordered]] = np.arange(len(ordered))
    here = column[term_at] >= 0
    truth = np.zeros((len(known), len(ordered)), bool)
    truth[at[here], column[term_at[here]]] = True
    sizes = truth.sum(axis=0)
    kept = np.flatnonzero((sizes >= fewest) & (sizes <= MOST_MEMBERS * known.sum()))
    return Group(*key, [ordered[i][0] for i in kept], known, truth[:, kept])


def counts_as_known(evidence: pa.ChunkedArray, without: Sequence[str]) -> pa.Array:
    """Return which rows have evidence that counts; where a source gives none, they do.

    `evidence`: CODE:WHO, `;` between; a row counts when one of these is neither by a code nor by somebody of `without`.
    """
    unwanted = {word.upper() for word in without}

    def is_wanted(text: str) -> bool:
        return any(unwanted.isdisjoint(part.upper().split(":")) for part in text.split(";"))

    texts = evidence.unique().drop_null().to_pylist()
    wanted = pa.array([text for text in texts if is_wanted(text)], pa.string())
    return pc.or_(evidence.is_null(), pc.is_in(evidence, value_set=wanted))


def aspects_of(store: Store) -> dict[str, str | None]:
    """Return the aspect of each term."""
    if not store.has("terms"):
        return {}
    return store.lookup("terms", "term_id", "aspect")


def settings_of_functions(store: Store) -> FunctionSettings:
    """Return how functions are predicted: as they were last, else as usual."""
    stored = store.metadata("functions").get("settings")
    return FunctionSettings(**{**stored, "without": tuple(stored["without"])}) if stored else FunctionSettings()


def function_inputs(store: Store, settings: FunctionSettings, seed: int) -> dict[str, Any]:
    """Return what the functions depend on: vectors, annotations, how they are predicted, the release."""
    marks = store.metadata("proteins").get("marks", {})
    vectors = {name: marks.get(name) for name in ("image", "sequence")}
    versions = {table: store.version(table) for table in ("annotations", "terms")}
    inputs = {**vectors, **versions, **correction_of(store), "seed": seed, "settings": as_stored(settings)}
    return inputs | {"code_version": __version__}


def as_stored(settings: FunctionSettings) -> dict[str, Any]:
    """Return settings as the JSON object that is stored."""
    return {**asdict(settings), "without": list(settings.without)}


@dataclass(frozen=True)
class Predicted:
    """The predictions of a group. probabilities: (n, T) by modality, NaN where it cannot tell; ap: (T,) by modality."""

    group: Group
    probabilities: Mapping[str, np.ndarray]
    ap: Mapping[str, np.ndarray]
    models: Sequence[Mapping[str, Any]]  # rows of `models`

    def best(self) -> np.ndarray:
        """Return (n, T): of the first that tells anything of those that `best_first` names for the term."""
        found = np.full(self.group.truth.shape, np.nan, np.float32)
        for term in range(len(self.group.terms)):
            for name in best_first({name: own[term] for name, own in self.ap.items()}):
                np.copyto(found[:, term], self.probabilities[name][:, term], where=np.isnan(found[:, term]))
        return found


def build_functions(store: Store, settings: FunctionSettings, seed: int) -> dict[str, Any]:
    """Predict the functions and write them; return what was counted."""
    settings.check()
    built_from = function_inputs(store, settings, seed)
    proteins = read_proteins(store)
    groups = known_groups(store, proteins.ids, settings)
    if not groups:
        raise NotBuilt(f"No term is known of {settings.fewest} proteins that have vectors; see --min-members.")
    tables: dict[str, list[pa.Table]] = {table: [] for table in FUNCTION_TABLES}
    for group in groups:
        found = predict_group(proteins, group, settings, seed=seed)
        tables["functions"].append(rows_of_functions(proteins.ids, found))
        tables["function_terms"].append(rows_of_terms(group, found))
        tables["models"].append(models_table(found.models))
    about = {"built_from": built_from, "settings": as_stored(settings)}
    tables["models"].append(other_models(store))
    written = {name: pa.concat_tables(parts) for name, parts in tables.items()}
    store.drop("functions")  # its tables are never of two builds
    for name in reversed(FUNCTION_TABLES):
        store.write(name, written[name], metadata=about if name == "functions" else None)
    store.index("functions", values=("protein_id", "term_id"))
    functions = written["functions"]
    return {
        "terms": written["function_terms"].num_rows,
        "functions": functions.num_rows,
        "predicted": functions.num_rows - (pc.sum(functions["annotated"]).as_py() or 0),
        "proteins": len(proteins.ids),
        "groups": {group.name: len(group.terms) for group in groups},
    }


def other_models(store: Store) -> pa.Table:
    """Return the models that are not of functions."""
    if "models" not in store.names():
        return models_table([])
    return conform(store.read("models", where="kind IN ('alignment', 'correction')"), table_schema("models"))


def models_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows of `models` as a table."""
    return pa.Table.from_pylist(list(rows), schema=table_schema("models"))


def predict_group(proteins: Proteins, group: Group, settings: FunctionSettings, *, seed: int) -> Predicted:
    """Predict the terms of a group by each modality that the atlas has."""
    from .evaluation.function_metrics import term_precisions
    from .functions.prediction import PREDICTORS

    predictor = PREDICTORS[settings.predictor]
    probabilities, precisions, models = {}, {}, []
    for modality in MODALITIES:
        found = np.full(group.truth.shape, np.nan, np.float32)
        ap = np.full(len(group.terms), np.nan)
        has = proteins.with_all(MODALITIES[modality])
        rows, others = np.flatnonzero(has & group.known), np.flatnonzero(has & ~group.known)
        terms = np.flatnonzero(group.truth[rows].sum(axis=0) >= settings.fewest)
        if len(terms):
            truth = group.truth[np.ix_(rows, terms)]
            out_of_fold, model = learn(predictor, proteins.blocks(modality, rows), truth, seed=seed)
            found[np.ix_(rows, terms)] = out_of_fold
            ap[terms] = term_precisions(truth, out_of_fold)
            if len(others):
                found[np.ix_(others, terms)] = model.probabilities(proteins.blocks(modality, others))
            models.append(model_row(group, modality, settings, [group.terms[term] for term in terms], model.arrays()))
        probabilities[modality], precisions[modality] = found, ap
    return Predicted(group, probabilities, precisions, models)


def learn(predictor: Predictor, blocks: list[np.ndarray], truth: np.ndarray, *, seed: int) -> tuple[np.ndarray, Any]:
    """Return the probabilities (n, T) out of fold, by protein, and a model of all proteins."""
    from .functions.prediction import cross_validate
    from .functions.splits import make_folds

    alone = np.arange(len(truth))
    folds = make_folds(alone, N_FOLDS, seed=seed)
    found = cross_validate(predictor, blocks, truth, folds=folds, groups=alone, seed=seed)
    return found, predictor.fit(blocks, truth, alone, seed=seed)


def model_row(
    group: Group, modality: str, settings: FunctionSettings, terms: list[str], arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return a row of `models`."""
    names = {"name": group.name, "modality": modality, "kind": settings.predictor}
    return {**names, "term_ids": terms, "arrays": to_bytes(arrays)}


def to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return arrays as the content of an npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def of_bytes(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return dict(file)


def rows_of_functions(ids: Sequence[str], found: Predicted) -> pa.Table:
    """Return the rows of `functions` of a group: what is annotated, and what may be worth asking for."""
    best = found.best()
    kept = found.group.truth | (best >= LEAST)
    scores = np.where(found.group.truth | np.isnan(best), -1.0, best)
    for axis, n in ((0, KEPT_OF_TERM), (1, KEPT_OF_PROTEIN)):
        n = min(n, scores.shape[axis])
        least = np.partition(scores, -n, axis=axis).take([-n], axis=axis)
        kept |= (scores >= np.maximum(least, 0.0)) & (scores > 0)
    row, column = np.nonzero(kept)
    by_term = np.lexsort((row, column))
    row, column = row[by_term], column[by_term]
    values = {name: pa.array(of[row, column], from_pandas=True) for name, of in found.probabilities.items()}
    return pa.table(
        {
            "protein_id": pa.array(ids, pa.string()).take(pa.array(row)),
            "term_id": pa.array(found.group.terms, pa.string()).take(pa.array(column)),
            "probability": pa.array(best[row, column], from_pandas=True),
            "annotated": pa.array(found.group.truth[row, column]),
            **values,
        }
    )


def rows_of_terms(group: Group, found: Predicted) -> pa.Table:
    """Return the rows of `function_terms` of a group."""
    n, members = int(group.known.sum()), group.truth.sum(axis=0)
    return pa.table(
        {
            "term_id": pa.array(group.terms, pa.string()),
            "aspect": pa.array([group.aspect] * len(group.terms)),
            "sources": pa.array([list(group.sources)] * len(group.terms), pa.list_(pa.string())),
            "n_members": pa.array(members, pa.int32()),
            "n_background": pa.array([n] * len(group.terms), pa.int32()),
            "prior": pa.array(members / n, pa.float32()),
            **{f"ap_{name}": pa.array(of.astype(np.float32), from_pandas=True) for name, of in found.ap.items()},
        }
    )


def best_first(ap: Mapping[str, float | None]) -> list[str]:
    """Return the modalities in the order in which their probability of a term counts: fused, then by precision."""
    return sorted(MODALITIES, key=lambda name: (name != "fused", -np.nan_to_num(np.float64(ap[name]), nan=-1.0)))


def models_of(store: Store, modality: str) -> Iterator[tuple[list[str], Any]]:
    """Yield the terms and the model of each group that was learned from a modality."""
    from .functions.prediction import MODELS

    rows = store.read("models", where=f"modality = '{modality}' AND kind NOT IN ('alignment', 'correction')")
    for row in rows.to_pylist():
        yield row["term_ids"], MODELS[row["kind"]].of_arrays(of_bytes(row["arrays"]))
