"""Files of a set of genes a line: GMT, CORUM's table of clusters, MuSIC's table of cellular components.

GMT is `name<TAB>link<TAB>gene<TAB>gene…` (MSigDB, Broad Institute); Reactome puts its id in the second column. CORUM's
clusters are `name<TAB>genes`, spaces between; MuSIC's (Qin et al. 2021) `GO id<TAB>size<TAB>genes`, commas between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..errors import BadInput
from ..identifiers import Gene
from .statements import ASPECTS, Annotation, AnnotationFile, Collector, Reading, Term

__all__ = ["is_clusters", "is_gmt", "is_go_sets", "read_clusters", "read_gmt", "read_go_sets"]

GO_ID = re.compile(r"GO:\d{7}$")
REACTOME_ID = re.compile(r"R-([A-Z]{3})-\d+$")
MSIGDB_GO = re.compile(r"GO(BP|CC|MF)?_(?=[A-Z0-9])")
MSIGDB_FILE = re.compile(r"c5\.(?:go\.)?(bp|cc|mf)\.", re.IGNORECASE)
GO_FILE = re.compile(r"(?:^|_)(BP|CC|MF)(?:_|\.)")
LINK = re.compile(r"(https?://\S+|>?\s*|na)$", re.IGNORECASE)
WEIGHT = re.compile(r",[\d.]+$")  # Enrichr writes GENE,1.0
GENES = re.compile(r"[A-Z0-9][A-Z0-9@.-]*(orf\d+)?( [A-Z0-9][A-Z0-9@.-]*(orf\d+)?)+\s*$")


def is_gmt(lines: Sequence[str], suffix: str) -> bool:
    """Tell whether lines are sets of genes: by the file's suffix, by links or Reactome's ids in the second column."""
    fields = [line.split("\t") for line in lines]
    if suffix == ".gmt":
        return any(len(row) > 2 for row in fields)
    linked = [len(row) > 2 and bool(LINK.match(row[1]) or REACTOME_ID.match(row[1])) for row in fields]
    return sum(linked) > len(lines) / 2 and len({len(row) for row in fields}) > 1


def read_gmt(lines: Iterator[str], reading: Reading) -> AnnotationFile:
    """Read a set of genes a line; a name such as GO_NUCLEAR_PORE becomes the id of a term, Reactome keeps its own."""
    found = Collector()
    of_file = MSIGDB_FILE.match(reading.path.name)
    species: set[str] = set()
    for line in lines:
        name, link, *genes = (*line.split("\t"), "")
        reactome = REACTOME_ID.match(link)
        species |= {reactome[1]} if reactome else set()
        if reactome:
            term = Term(term_id=link, name=name or None, aspect="pathway")
        else:
            term = msigdb_term(name, aspect=ASPECTS[of_file[1].upper()] if of_file else None)
        add_set(found, term, [WEIGHT.sub("", gene) for gene in genes])
    if species and "HSA" not in species:
        msg = f"{reading.path} holds pathways of another species (R-{min(species)}-…); human ones are R-HSA-…"
        raise BadInput(f"{msg}.")
    return found.file(reading, "gmt")


def msigdb_term(name: str, *, aspect: str | None) -> Term:
    """Return the term of a set's name; MSigDB's names of GO terms are made readable."""
    go = MSIGDB_GO.match(name)
    if go is None:
        return Term(term_id=name, name=name, aspect=aspect)
    readable = name[go.end() :].replace("_", " ").lower()
    return Term(term_id=name, name=readable, aspect=ASPECTS[go[1]] if go[1] else aspect)


def is_clusters(lines: Sequence[str], suffix: str) -> bool:
    """Tell whether lines are a name, a tab, and genes with spaces between, in most of them several."""
    del suffix
    fields = [line.split("\t") for line in lines]
    several = [len(row) == 2 and bool(GENES.match(row[1])) for row in fields]
    return all(len(row) == 2 for row in fields) and sum(several) > len(lines) / 2


def read_clusters(lines: Iterator[str], reading: Reading) -> AnnotationFile:
    """Read a complex a line; its id is CORUM: and its name."""
    found = Collector()
    for line in lines:
        name, _, genes = line.partition("\t")
        add_set(found, Term(term_id=f"CORUM:{name.strip()}", name=name.strip(), aspect="complex"), genes.split())
    return found.file(reading, "corum")


def is_go_sets(lines: Sequence[str], suffix: str) -> bool:
    """Tell whether lines are a GO id, a number and genes with commas between."""
    del suffix
    fields = [line.split("\t") for line in lines]
    return all(len(row) == 3 and bool(GO_ID.match(row[0])) and row[1].strip().isdigit() for row in fields)


def read_go_sets(lines: Iterator[str], reading: Reading) -> AnnotationFile:
    """Read the genes of a GO term a line; the aspect is in the file's name (_CC_), names of terms are not in it."""
    found = Collector()
    of_file = GO_FILE.search(reading.path.name)
    aspect = ASPECTS[of_file[1]] if of_file else None
    for line in lines:
        term_id, _, genes = (*line.split("\t"), "", "")[:3]
        if GO_ID.match(term_id):
            add_set(found, Term(term_id=term_id, aspect=aspect), genes.split(","))
        else:
            found.skip("no GO id")
    return found.file(reading, "go sets")


def add_set(found: Collector, term: Term, genes: Sequence[str]) -> None:
    """Take the genes of a term."""
    named = [gene.strip() for gene in genes if gene.strip()]
    if not term.term_id:
        found.skip("no name")
    elif not named:
        found.skip("no genes")
    else:
        found.add_term(term)
        for gene in named:
            found.add(Annotation(Gene.bare(gene), term.term_id))
