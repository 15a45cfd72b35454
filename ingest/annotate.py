"""Annotations into an atlas: read a file, find its genes among the proteins, write `terms` and `annotations`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from subcell_atlas.errors import BadInput
from subcell_atlas.functions.annotations import Annotation, AnnotationFile, read_annotations
from subcell_atlas.functions.gene_pairs import PAIRS
from subcell_atlas.functions.ontology import Ontology, annotations_table, merge_terms, terms_table
from subcell_atlas.joining import OTHER_CASE, Joined
from subcell_atlas.runs import Run
from subcell_atlas.store import Store

from .pairs import PairsReport, take_pairs
from .reports import Identifiers, Origin, find_proteins, said_left_out
from .synonyms import NamesReport, take_names

__all__ = ["Report", "annotate"]

ONTOLOGY = "obo"  # the format that holds terms only
NAMES = "hgnc"  # the format that holds names of genes only
WITHOUT_TERMS = {NAMES: "names", PAIRS: "pairs"}
FOLLOWED = ("gaf", "table")  # formats that state the most special terms; sets of genes hold their descendants' already


@dataclass(frozen=True)
class Report:
    """What a file stated and what became of it."""

    source: str
    format: str
    origin: Origin
    ontology: Origin | None
    identifiers: Identifiers
    proteins: int
    terms: int
    terms_outside_ontology: int
    annotations: int
    propagated: int
    replaced: int
    skipped: Mapping[str, int]

    def lines(self) -> Iterator[str]:
        """Say it in a few lines."""
        if self.format == ONTOLOGY:
            yield f"{self.terms} terms stored as {self.source!r} (obo)."
            return
        followed = f", {self.propagated} of them propagated to ancestors" if self.propagated else ""
        again = f", in place of {self.replaced}" if self.replaced else ""
        what = f"{self.annotations} annotations of {self.proteins} proteins with {self.terms} terms"
        yield f"{what}{followed}; stored as {self.source!r} ({self.format}){again}."
        yield from self.identifiers.lines()
        yield from said_left_out(self.skipped)

    def notes(self) -> Iterator[str]:
        """Say what to look at."""
        if self.identifiers.joined_by.get(OTHER_CASE, 0) > self.identifiers.joined / 2:
            yield "Most symbols are written in another case than the atlas's: make sure that they are of human genes."
        if self.format == "gaf" and self.terms_outside_ontology == self.terms:
            yield "Nothing was propagated and terms have no names: give the ontology with --ontology go-basic.obo."
        elif self.terms_outside_ontology:
            yield f"{self.terms_outside_ontology} terms are not in the ontology; it may be a part, or of another date."
        if self.format == ONTOLOGY:
            yield "Annotations that are there already are propagated when their file is given again."

    def as_object(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Tables:
    """The rows of `terms` and of `annotations`."""

    terms: Sequence[Mapping[str, Any]]
    annotations: pa.Table

    @classmethod
    def read(cls, store: Store) -> Tables:
        """Read what the atlas has."""
        names = store.names()
        terms = store.read("terms").to_pylist() if "terms" in names else []
        return cls(terms_table(terms).to_pylist(), store.read("annotations") if "annotations" in names else NO_ROWS)

    def with_terms(self, file: AnnotationFile) -> Tables:
        """Add the terms of an ontology."""
        used = term_ids(self.annotations)
        return replace(self, terms=merge_terms(self.terms, file.terms.values(), source=file.source, used=used))

    def with_annotations(self, file: AnnotationFile, rows: pa.Table) -> Tables:
        """Put `rows` in place of what their source said before, and add the terms that they name."""
        annotations = self.annotations
        if not is_same(self.of_source(file.source), rows):
            annotations = pa.concat_tables([self.of_others(file.source), rows], promote_options="default")
        named = term_ids(rows)
        new = [term for term in file.terms.values() if term.term_id in named]
        return Tables(merge_terms(self.terms, new, source=file.source, used=term_ids(annotations)), annotations)

    def of_source(self, source: str) -> pa.Table:
        """Return the annotations of a source."""
        return self.annotations.filter(pc.equal(self.annotations["source"], source))

    def of_others(self, source: str) -> pa.Table:
        """Return the annotations of other sources."""
        is_other = pc.fill_null(pc.not_equal(self.annotations["source"], source), True)  # noqa: FBT003
        return self.annotations.filter(is_other)

    def write(self, store: Store, before: Tables) -> None:
        """Write the tables, each in one commit; one that is the same as before is left alone."""
        if self.terms != before.terms:
            write_anew(store, "terms", terms_table(self.terms))
        if self.annotations is not before.annotations:
            write_anew(store, "annotations", self.annotations)


NO_ROWS = annotations_table({}, Ontology(()), source="")


def annotate(
    store: Store, path: Path, *, source: str | None = None, ontology: Path | None = None
) -> Report | NamesReport | PairsReport:
    """Take what a file says of genes; what its source said before is replaced, what others say stays.

    A file of names gives proteins synonyms (see `take_names`), one of pairs relates them (see `take_pairs`); any other
    one gives them terms.
    `ontology` is an OBO file, whose terms are taken as well. Annotations of a GAF and of a table of one's own are
    propagated to the ancestors of their terms, as far as the atlas knows them. Raise BadInput when a file cannot be
    used, NotBuilt when there are no proteins to annotate; then nothing is written.
    """
    file = read_annotations(path, source=source)
    above = read_ontology(ontology, path, file) if ontology else None
    if file.format == NAMES:
        return take_names(store, path, file)
    if file.format == PAIRS:
        return take_pairs(store, path, file)
    tables = before = Tables.read(store)
    joined, rows = Joined({}, {}, [], []), NO_ROWS
    for each in (above, file):
        if each and each.format == ONTOLOGY:
            tables = tables.with_terms(each)
    known = Ontology(tables.terms)
    if file.format != ONTOLOGY:
        joined = find_proteins(store, file, path)
        followed = known if file.format in FOLLOWED else Ontology(())
        rows = annotations_table(by_protein(file, joined), followed, source=file.source)
        tables = tables.with_annotations(file, rows)
    origins = Origin.of(path, file), Origin.of(ontology, above) if ontology and above else None
    report = report_on(file, joined, rows, known, origins, before)
    run = Run.start(store, kind="annotate")
    tables.write(store, before)
    run.finish(report.as_object())
    return report


def report_on(
    file: AnnotationFile,
    joined: Joined,
    rows: pa.Table,
    ontology: Ontology,
    origins: tuple[Origin, Origin | None],
    before: Tables,
) -> Report:
    """Count what became of a file."""
    terms = set(file.terms) if file.format == ONTOLOGY else term_ids(rows)
    n_replaced = before.of_source(file.source).num_rows
    return Report(
        source=file.source,
        format=file.format,
        origin=origins[0],
        ontology=origins[1],
        identifiers=Identifiers.of(joined),
        proteins=len(set(joined.protein_of.values())),
        terms=len(terms),
        terms_outside_ontology=sum(term not in ontology for term in terms) if file.format == "gaf" else 0,
        annotations=rows.num_rows,
        propagated=rows.num_rows - (pc.sum(rows["direct"]).as_py() or 0),
        replaced=0 if file.format == ONTOLOGY else n_replaced,
        skipped=file.skipped,
    )


def write_anew(store: Store, table: str, rows: pa.Table) -> None:
    """Write a table in one commit, with all the columns that this version knows."""
    metadata = {key: value for key, value in store.metadata(table).items() if key != "schema_version"}
    store.write(table, rows, metadata=metadata)
    store.compact(table)


def read_ontology(ontology: Path, path: Path, file: AnnotationFile) -> AnnotationFile:
    """Read the ontology that goes with a file of annotations."""
    if file.format == ONTOLOGY:
        raise BadInput(f"{path} is an ontology itself; leave --ontology out.")
    if file.format in WITHOUT_TERMS:
        raise BadInput(f"{path} has {WITHOUT_TERMS[file.format]} of genes and no terms; leave --ontology out.")
    above = read_annotations(ontology)
    if above.format != ONTOLOGY:
        raise BadInput(f"{ontology} is no ontology but {above.format!r}. Give --ontology an OBO file, as go-basic.obo.")
    return above


def by_protein(file: AnnotationFile, joined: Joined) -> dict[str, list[Annotation]]:
    """Return what is said of each protein of the atlas."""
    rows: dict[str, list[Annotation]] = {}
    for row in file.rows:
        protein = joined.protein_of.get(row.gene)
        if protein is not None:
            rows.setdefault(protein, []).append(row)
    return rows


def term_ids(annotations: pa.Table) -> set[str]:
    """Return the terms that somebody has."""
    return set(pc.unique(annotations["term_id"]).to_pylist())


def is_same(old: pa.Table, new: pa.Table) -> bool:
    """Tell whether two tables have the same columns and rows, in the same order."""
    if set(old.column_names) != set(new.column_names) or old.num_rows != new.num_rows:
        return False
    return all(old[name].cast(new[name].type).equals(new[name]) for name in new.column_names)
