"""How terms relate, and what follows for annotations: who has a term has its ancestors too.

Over is_a and part_of only; that a process regulates another says nothing of this kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..schema import TABLES
from .statements import Annotation, Term, one_line

__all__ = ["Ontology", "annotations_table", "merge_terms", "terms_table"]

DETAILS = ("name", "aspect", "definition", "parents", "xrefs", "synonyms")  # what sources may say of a term


class Ontology:
    """The parents of terms, by their ids."""

    def __init__(self, terms: Iterable[Mapping[str, Any]]) -> None:
        """Take rows of `terms`; those without `parents` are of no ontology."""
        related = [row for row in terms if row["parents"] is not None]
        self._parents = {row["term_id"]: tuple(row["parents"]) for row in related}
        self._former = {xref: row["term_id"] for row in related for xref in row["xrefs"] or ()}
        self._ancestors: dict[str, frozenset[str]] = {}

    def __contains__(self, term_id: str) -> bool:
        return term_id in self._parents

    def __len__(self) -> int:
        return len(self._parents)

    def current(self, term_id: str) -> str:
        """Return the id by which a term goes today."""
        return term_id if term_id in self._parents else self._former.get(term_id, term_id)

    def ancestors(self, term_id: str) -> frozenset[str]:
        """Return all terms above one, without itself."""
        if term_id not in self._ancestors:
            above: set[str] = set()
            waiting = list(self._parents.get(term_id, ()))
            while waiting:
                parent = waiting.pop()
                if parent not in above:
                    above.add(parent)
                    waiting.extend(self._parents.get(parent, ()))
            self._ancestors[term_id] = frozenset(above - {term_id})
        return self._ancestors[term_id]


def annotations_table(rows_of: Mapping[str, Sequence[Annotation]], ontology: Ontology, *, source: str) -> pa.Table:
    """Return rows of `annotations`: what is said of each protein, and what follows from it.

    `evidence` holds all that speaks for a row, its own and that of its descendants, `;` between; `direct` tells whether
    the file states it or it follows. `qualifier` is of direct rows only.
    """
    columns: dict[str, list[Any]] = {name: [] for name in TABLES["annotations"]}
    for protein in sorted(rows_of):
        direct: set[str] = set()
        evidence: dict[str, set[str]] = {}
        qualifiers: dict[str, set[str]] = {}
        for row in rows_of[protein]:
            term_id = ontology.current(row.term_id)
            direct.add(term_id)
            qualifiers.setdefault(term_id, set()).update([row.qualifier] if row.qualifier else ())
            for term in (term_id, *ontology.ancestors(term_id)):
                evidence.setdefault(term, set()).update([row.evidence] if row.evidence else ())
        terms = sorted(evidence)
        columns["protein_id"] += [protein] * len(terms)
        columns["term_id"] += terms
        columns["evidence"] += [joined(evidence[term]) for term in terms]
        columns["qualifier"] += [joined(qualifiers.get(term, ())) for term in terms]
        columns["direct"] += [term in direct for term in terms]
    columns["source"] = [source] * len(columns["protein_id"])
    return pa.table({name: pa.array(columns[name], kind) for name, kind in TABLES["annotations"].items()})


def joined(words: Iterable[str]) -> str | None:
    """Return words as one, `;` between; None when there are none."""
    return ";".join(sorted(words)) or None


def merge_terms(
    old: Iterable[Mapping[str, Any]], new: Iterable[Term], *, source: str, used: set[str]
) -> list[dict[str, Any]]:
    """Return rows of `terms`: those of the atlas with what `source` says of `new` ones.

    An ontology is believed, and a source about its own terms; otherwise gaps are filled. What the source said before
    and no longer says is forgotten, but for terms that are `used`. A name that is only the id is a gap.
    """
    rows = {row["term_id"]: known(row) for row in old}
    said = {term.term_id: known(row_of(term, source)) for term in new}
    is_ontology = any(row["parents"] is not None for row in said.values())
    for term_id in rows.keys() - said.keys() - used:
        of_ontology = rows[term_id]["parents"] is not None
        if rows[term_id]["source"] == source and of_ontology == is_ontology:
            del rows[term_id]
    for term_id, row in said.items():
        before = rows.get(term_id)
        if before is None:
            rows[term_id] = row
        elif is_ontology or (before["source"] == source and before["parents"] is None):
            rows[term_id] = filled(row, before)
        else:
            owner = source if before["name"] is None and row["name"] else before["source"]
            rows[term_id] = {**filled(before, row), "source": owner}
    return [{**rows[term_id], "name": rows[term_id]["name"] or term_id} for term_id in sorted(rows)]


def known(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `terms` with all its columns; a name that is only the id is none."""
    full = {name: row.get(name) for name in TABLES["terms"]}
    return {**full, "name": None if full["name"] == full["term_id"] else full["name"]}


def row_of(term: Term, source: str) -> dict[str, Any]:
    """Return a term as a row of `terms`."""
    parents = None if term.parents is None else list(term.parents)
    row = {name: getattr(term, name) for name in ("term_id", "name", "aspect", "definition")}
    lists = {"parents": parents, "xrefs": list(term.xrefs) or None, "synonyms": list(term.synonyms) or None}
    return {**row, **lists, "source": source}


def filled(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first row, its gaps filled from the second."""
    return {**first, **{name: second[name] for name in DETAILS if first[name] is None}}


def terms_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows of `terms` as a table; their texts are each one line without control characters."""
    columns = {}
    for name, kind in TABLES["terms"].items():
        values = [row.get(name) for row in rows]
        columns[name] = pa.array([one_line(value) if isinstance(value, str) else value for value in values], kind)
    return pa.table(columns)
