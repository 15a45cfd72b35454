"""The Gene Ontology's own files: terms and how they relate (OBO), and annotations of genes (GAF 2.x).

GAF: https://geneontology.org/docs/go-annotation-file-gaf-format-2.2/. OBO is parsed by obonet.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import BadInput
from ..identifiers import Gene
from .statements import ASPECTS, Annotation, AnnotationFile, Collector, Reading, Term

__all__ = ["is_gaf", "is_obo", "read_gaf", "read_obo"]

HUMAN = "taxon:9606"
GAF_COLUMNS = 15  # at the least; two more are optional
GO_ID = re.compile(r"GO:\d{7}$")
NOTHING_KNOWN = "ND"  # evidence code of annotations to a root: no data was found
GAF_HEADER = re.compile(r"!\s*(date-generated|date|licen[cs]e)\s*:\s*(.+)", re.IGNORECASE)
OBO_LICENCE = re.compile(r"property_value:\s*\S*licen[cs]e\S*\s+\"?([^\s\"]+)", re.IGNORECASE)
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)')
RELATIONS = ("is_a", "part_of")  # over which what is true of a term is true of its parent


def is_gaf(lines: Sequence[str], suffix: str) -> bool:
    """Tell whether the first lines are GAF: it says so, or a row has a GO id and a taxon where they belong."""
    del suffix
    if any(line.lower().startswith("!gaf-version") for line in lines):
        return True
    rows = [line.split("\t") for line in lines if not line.startswith("!")]
    return any(len(row) >= GAF_COLUMNS and GO_ID.match(row[4]) and row[12].startswith("taxon:") for row in rows)


def read_gaf(lines: Iterator[str], reading: Reading) -> AnnotationFile:
    """Read annotations of human genes. Raise BadInput when they are of another species.

    Left out: qualifier NOT (the gene does not have the term), evidence ND (nothing is known), rows of other species.
    """
    found = Collector()
    taxa: dict[str, int] = {}
    genes: dict[tuple[str, ...], Gene] = {}
    for line in lines:
        if line.startswith("!"):
            take_header(found, line)
            continue
        row = line.split("\t")
        if len(row) < GAF_COLUMNS or not GO_ID.match(row[4]):
            found.skip("not a row of GAF")
            continue
        taxon = row[12].split("|")[0].strip()
        taxa[taxon] = taxa.get(taxon, 0) + 1
        why_not = left_out(row, taxon)
        if why_not:
            found.skip(why_not)
            continue
        names = (row[0], row[1], row[2])
        gene = genes.setdefault(names, gaf_gene(*names))
        found.add_term(Term(term_id=row[4], aspect=ASPECTS.get(row[8].strip())))
        code, who = row[6].strip(), row[14].strip()
        found.add(Annotation(gene, row[4], f"{code}:{who}" if who else code, row[3].strip() or None))
    if taxa and HUMAN not in taxa:
        most = max(taxa, key=lambda taxon: taxa[taxon])
        msg = f"{reading.path} is of another species: its genes are of {most}."
        raise BadInput(f"{msg}\nTake the file of human, {HUMAN}.")
    return found.file(reading, "gaf")


def take_header(found: Collector, line: str) -> None:
    """Take date and licence from a line of GAF's header."""
    match = GAF_HEADER.match(line)
    if match and match[1].lower().startswith("date"):
        found.date = found.date or match[2].strip()
    elif match:
        found.licence = match[2].strip()


def left_out(row: Sequence[str], taxon: str) -> str | None:
    """Return why a row of GAF is no annotation; None when it is one."""
    if taxon != HUMAN:
        return "another species"
    if "NOT" in row[3].upper().split("|"):
        return "qualifier NOT"
    return "nothing is known (ND)" if row[6].strip() == NOTHING_KNOWN else None


def gaf_gene(database: str, identifier: str, symbol: str) -> Gene:
    """Return the gene of a row of GAF."""
    accession = identifier if database.lower().startswith("uniprot") else None
    ensembl = identifier if database.lower().startswith("ensembl") else None
    return Gene(identifier or symbol, accession, ensembl, symbol or None)


def is_obo(lines: Sequence[str], suffix: str) -> bool:
    """Tell whether the first lines are OBO."""
    del suffix
    return any(line.startswith("format-version:") or line.strip() == "[Term]" for line in lines)


def read_obo(lines: Iterator[str], reading: Reading) -> AnnotationFile:
    """Read terms: names, definitions, parents over is_a and part_of. Obsolete terms are left out."""
    import obonet  # brings networkx along

    found = Collector()
    header: dict[str, str] = {}
    text = "\n".join(term_lines(lines, header, found))
    try:
        graph = obonet.read_obo(io.StringIO(text))
    except (ValueError, KeyError) as exc:
        wrong = " ".join(str(exc).split())[:160]
        raise BadInput(f"{reading.path} cannot be read as OBO: {wrong}") from exc
    found.date = header.get("data-version") or header.get("date")
    for term_id, node in graph.nodes(data=True):
        if "name" in node:  # else another term names it as its parent and it is not in the file
            parents = {to: None for _, to, kind in graph.out_edges(term_id, keys=True) if kind in RELATIONS}
            known = [parent for parent in parents if "name" in graph.nodes[parent]]
            found.add_term(obo_term(term_id, node, known, header.get("default-namespace")))
    return found.file(reading, "obo")


def term_lines(lines: Iterator[str], header: dict[str, str], found: Collector) -> Iterator[str]:
    """Yield the stanzas of terms as obonet wants them: parted by empty lines, none of comments; fill in `header`.

    Without `ontology` in the header obonet would speak to the root logger; its own parsing of headers is not needed.
    """
    yield "ontology: read"
    stanza = ""
    for line in lines:
        if line.startswith("["):
            stanza = line.strip()
            if stanza == "[Term]":
                yield from ("", stanza)
        elif not stanza:
            key, _, value = line.partition(":")
            header.setdefault(key.strip(), value.strip())
            licence = OBO_LICENCE.match(line)
            found.licence = licence[1] if licence else found.licence
        elif stanza == "[Term]" and line.strip() and not line.startswith("!"):
            yield line


def obo_term(term_id: str, node: Mapping[str, Any], parents: Sequence[str], namespace: str | None) -> Term:
    """Return the term of a node of obonet's graph."""
    definition = node.get("def", "")
    return Term(
        term_id=term_id,
        name=node["name"],
        aspect=node.get("namespace", namespace),
        definition=quoted(definition) if QUOTED.match(definition) else None,
        parents=tuple(parents),
        xrefs=tuple(node.get("alt_id", ())),
        synonyms=tuple(dict.fromkeys(quoted(text) for text in node.get("synonym", ()) if QUOTED.match(text))),
    )


def quoted(text: str) -> str:
    """Return what stands in quotation marks at the start of a text."""
    match = QUOTED.match(text)
    return re.sub(r"\\(.)", r"\1", match[1]) if match else ""
