"""Tables with a header: localizations of the Human Protein Atlas, and annotations of one's own."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..errors import BadInput
from ..identifiers import Gene
from .statements import ASPECTS, Annotation, AnnotationFile, Collector, Reading, Term

__all__ = [
    "HPA_TERM",
    "columns_of",
    "is_hpa",
    "is_table",
    "missing_column",
    "read_hpa",
    "read_rows",
    "read_table",
    "split_header",
]

HPA_COLUMNS = {"gene", "gene_name", "reliability", "main_location", "additional_location"}
HPA_TERM = "HPA:"  # before a localization, as the id of a term
LOCATIONS = ("main location", "additional location")
RELIABILITIES = ("Enhanced", "Supported", "Approved", "Uncertain")
LOCATION_AND_ID = re.compile(r"(.+?)\s*\((GO:\d{7})\)$")

GENE_COLUMNS = {  # what a column may be called, after what it holds; `gene`: any of the others
    "uniprot_accession": ("uniprot_accession", "uniprot_id", "uniprot", "accession"),
    "ensembl_id": ("ensembl_id", "ensembl_gene_id", "ensg_id", "ensembl"),
    "gene_symbol": ("gene_symbol", "symbol", "hgnc_symbol", "gene_name"),
    "gene": ("gene", "genes", "protein", "protein_id", "identifier"),
}
TERM_COLUMNS = {
    "term_id": ("term_id", "go_id", "term"),
    "term_name": ("term_name",),
    "aspect": ("aspect", "namespace"),
    "evidence": ("evidence", "evidence_code"),
}
NEEDED = (
    "It needs a column of proteins (gene_symbol, ensembl_id, uniprot_accession, gene or protein) and one of terms "
    "(term_id, term_name)"
)


def split_header(line: str) -> tuple[list[str], str]:
    """Return the names of a header's columns, as this package writes names, and what stands between them."""
    delimiter = max("\t,;", key=line.count)
    try:
        names = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a column of more than 100,000 characters is no name
        return [], delimiter
    return [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in names], delimiter


def read_rows(lines: Iterator[str], reading: Reading, found: Collector) -> Iterator[dict[str, str]]:
    """Yield each row by the names of its columns; a row of another number of columns is skipped."""
    names, delimiter = split_header(next(lines))
    try:
        for row in csv.reader((f"{line}\n" for line in lines), delimiter=delimiter):
            if len(row) == len(names):
                yield {name: value.strip() for name, value in zip(names, row, strict=True)}
            elif row:
                found.skip("another number of columns than the header")
    except csv.Error as exc:
        raise BadInput(f"{reading.path} cannot be read as a table: {exc}. Look for an open quotation mark.") from exc


def is_hpa(lines: Sequence[str], suffix: str) -> bool:
    """Tell whether the header is that of subcellular_location.tsv."""
    del suffix
    return set(split_header(lines[0])[0]) >= HPA_COLUMNS


def read_hpa(lines: Iterator[str], reading: Reading) -> AnnotationFile:
    """Read main and additional locations; the evidence is the reliability that the file gives each of them."""
    found = Collector()
    xrefs: dict[str, str] = {}
    for row in read_rows(lines, reading, found):
        places = [match for part in parts(row.get("go_id", "")) if (match := LOCATION_AND_ID.match(part))]
        xrefs |= {match[1]: match[2] for match in places}
        gene = Gene(row["gene"] or row["gene_name"], None, row["gene"] or None, row["gene_name"] or None)
        locations = [(place, kind) for kind in LOCATIONS for place in hpa_places(row, kind)]
        if not gene.written or not locations:
            found.skip("no location" if gene.written else "no gene")
            continue
        for place, kind in locations:
            xref = (xrefs[place],) if place in xrefs else ()
            found.add_term(Term(term_id=f"{HPA_TERM}{place}", name=place, aspect="cellular_component", xrefs=xref))
            found.add(Annotation(gene, f"{HPA_TERM}{place}", f"{reliability_of(place, row)}:HPA", kind))
    return found.file(reading, "hpa")


def hpa_places(row: Mapping[str, str], kind: str) -> list[str]:
    """Return the main or the additional locations of a row."""
    return parts(row[kind.replace(" ", "_")])


def reliability_of(place: str, row: Mapping[str, str]) -> str:
    """Return the reliability of one location of a gene, which may differ from the gene's."""
    own = (name for name in RELIABILITIES if place in parts(row.get(name.lower(), "")))
    return next(own, row["reliability"])


def parts(text: str) -> list[str]:
    """Return what stands between semicolons."""
    return [part.strip() for part in text.split(";") if part.strip()]


def columns_of(names: Iterable[str], wanted: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return, for each kind of column that is there, the name it goes by; the usual name first."""
    there = list(names)
    found = {kind: next((name for name in spellings if name in there), None) for kind, spellings in wanted.items()}
    return {kind: name for kind, name in found.items() if name is not None}


def is_table(lines: Sequence[str], suffix: str) -> bool:
    """Tell whether the header names proteins and terms."""
    del suffix
    names = split_header(lines[0])[0]
    terms = columns_of(names, TERM_COLUMNS)
    return bool(columns_of(names, GENE_COLUMNS)) and bool({"term_id", "term_name"} & set(terms))


def missing_column(lines: Sequence[str]) -> str | None:
    """Return what a header lacks to be a table of annotations; None when it is not like one at all."""
    names = split_header(lines[0])[0]
    if not columns_of(names, GENE_COLUMNS) and not columns_of(names, TERM_COLUMNS):
        return None
    return f"{NEEDED}; its columns: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}."


def read_table(lines: Iterator[str], reading: Reading) -> AnnotationFile:
    """Read a table of one's own; a term without an id gets the source and its name as one."""
    found = Collector()
    for row in read_rows(lines, reading, found):
        gene = gene_of(row)
        of_term = {kind: row[name] or None for kind, name in columns_of(row, TERM_COLUMNS).items()}
        name, aspect = of_term.get("term_name"), of_term.get("aspect")
        term_id = of_term.get("term_id") or (f"{reading.source}:{name}" if name else None)
        if gene is None or term_id is None:
            found.skip("no protein" if gene is None else "no term")
            continue
        found.add_term(Term(term_id=term_id, name=name, aspect=usual_aspect(aspect) if aspect else None))
        found.add(Annotation(gene, term_id, of_term.get("evidence")))
    return found.file(reading, "table")


def gene_of(row: Mapping[str, str]) -> Gene | None:
    """Return the gene that a row names; None when it names none."""
    given = {kind: row[name] for kind, name in columns_of(row, GENE_COLUMNS).items() if row[name]}
    bare = given.pop("gene", None)
    if given:
        return Gene(next(iter(given.values())), **given)
    return Gene.bare(bare) if bare else None


def usual_aspect(aspect: str) -> str:
    """Return an aspect as the Gene Ontology spells it; another as it is written."""
    spelled = re.sub(r"[\s-]+", "_", aspect.lower())
    return ASPECTS.get(aspect.upper(), spelled if spelled in ASPECTS.values() else aspect)
