"""What a file of annotations states: terms, and genes that have them, each with its evidence.

Evidence is written `CODE:WHO`, such as `IDA:HPA`, wherever the file says who assigned it. What the Human Protein Atlas
saw in its pictures is thereby kept apart: an embedding of these pictures is not to be measured by them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ..errors import BadInput
from ..identifiers import Gene

__all__ = ["ASPECTS", "Annotation", "AnnotationFile", "Collector", "GeneNames", "Reading", "Term", "one_line"]

ASPECTS = {  # how files abbreviate the three aspects of the Gene Ontology
    "P": "biological_process",
    "F": "molecular_function",
    "C": "cellular_component",
    "BP": "biological_process",
    "MF": "molecular_function",
    "CC": "cellular_component",
}


class Annotation(NamedTuple):
    """The statement that a gene has a term."""

    gene: Gene
    term_id: str
    evidence: str | None = None  # CODE:WHO
    qualifier: str | None = None  # located_in, contributes_to, main location, …


@dataclass(frozen=True, kw_only=True)
class Term:
    """A place, a process, a function, a complex, a set of genes.

    `parents` (over is_a and part_of) is None where the file does not tell how terms relate; `xrefs` are ids of the same
    thing elsewhere or formerly; `synonyms` other names for it.
    """

    term_id: str
    name: str | None = None
    aspect: str | None = None
    definition: str | None = None
    parents: tuple[str, ...] | None = None
    xrefs: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()


class GeneNames(NamedTuple):
    """The names of a gene: its symbol, those it had before, others that are in use, and its ids elsewhere."""

    symbol: str
    previous: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    ensembl_id: str | None = None
    uniprot_accessions: tuple[str, ...] = ()

    def joined(self, other: GeneNames) -> GeneNames:
        """Return the names of two rows of one gene."""
        return GeneNames(
            self.symbol,
            tuple(dict.fromkeys([*self.previous, *other.previous])),
            tuple(dict.fromkeys([*self.aliases, *other.aliases])),
            self.ensembl_id or other.ensembl_id,
            tuple(dict.fromkeys([*self.uniprot_accessions, *other.uniprot_accessions])),
        )


@dataclass(frozen=True, kw_only=True)
class AnnotationFile:
    """All that one file states. `skipped` counts the lines that were left out, by reason.

    `names`: of genes, where the file is about names and has no terms. `pairs`: of different genes that it relates, each
    once, in either order, where it is about these.
    """

    source: str
    format: str
    terms: Mapping[str, Term]
    rows: Sequence[Annotation]
    skipped: Mapping[str, int]
    names: Sequence[GeneNames] = ()
    pairs: Sequence[tuple[Gene, Gene]] = ()
    date: str | None = None
    licence: str | None = None

    @property
    def aspect(self) -> str | None:
        """The aspect of all its terms; None when they have several, or it does not say."""
        aspects = {term.aspect for term in self.terms.values()}
        return aspects.pop() if len(aspects) == 1 else None

    def genes(self) -> list[Gene]:
        """Return each gene that has a term or is of a pair, once."""
        return list(dict.fromkeys([*(row.gene for row in self.rows), *chain.from_iterable(self.pairs)]))


@dataclass(frozen=True)
class Reading:
    """A file that is being read: where it lies, and what the atlas is to call it."""

    path: Path
    source: str


def one_line(text: str) -> str:
    """Return a text in one line, single spaces in it, without what no XML file and no terminal can show."""
    if text.isprintable() and "  " not in text and text == text.strip():
        return text
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@dataclass
class Collector:
    """Gathers what a file states, line by line; `date` and `licence` are set where it says so."""

    date: str | None = None
    licence: str | None = None
    terms: dict[str, Term] = field(default_factory=dict)
    rows: dict[Annotation, None] = field(default_factory=dict)
    names: dict[str, GeneNames] = field(default_factory=dict)
    pairs: dict[tuple[Gene, Gene], None] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str) -> None:
        """Count a line that is left out."""
        self.skipped[reason] += 1

    def add_term(self, term: Term) -> None:
        """Take a term; the first line that tells of it counts."""
        term_id = one_line(term.term_id)
        self.terms.setdefault(term_id, replace(term, term_id=term_id))

    def add(self, row: Annotation) -> None:
        """Take an annotation, once."""
        if (term_id := one_line(row.term_id)) != row.term_id:
            row = row._replace(term_id=term_id)
        if row in self.rows:
            self.skip("said twice")
        self.rows[row] = None

    def add_pair(self, one: Gene, other: Gene) -> None:
        """Take a pair of genes, once, whichever comes first."""
        self.pairs[min(one, other), max(one, other)] = None

    def add_names(self, names: GeneNames) -> None:
        """Take the names of a gene, with those that an earlier line gave it."""
        known = self.names.get(names.symbol)
        self.names[names.symbol] = known.joined(names) if known else names

    def file(self, reading: Reading, kind: str) -> AnnotationFile:
        """Return what was gathered. Raise BadInput when it is nothing."""
        is_ontology = any(term.parents is not None for term in self.terms.values())
        if not self.rows and not self.names and not self.pairs and not is_ontology:
            reasons = "; ".join(f"{reason}: {n}" for reason, n in self.skipped.most_common(3))
            found = f"Lines left out, by reason: {reasons}." if reasons else "It has a header and nothing below it."
            raise BadInput(f"{reading.path} ({kind}) holds no annotation that can be used.\n{found}")
        return AnnotationFile(
            source=reading.source,
            format=kind,
            terms=self.terms,
            rows=list(self.rows),
            skipped=dict(self.skipped),
            names=list(self.names.values()),
            pairs=list(self.pairs),
            date=self.date,
            licence=self.licence,
        )
