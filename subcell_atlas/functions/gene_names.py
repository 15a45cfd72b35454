"""The names that genes have and had: the table of the HUGO Gene Nomenclature Committee, https://www.genenames.org."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from .statements import AnnotationFile, Collector, GeneNames, Reading
from .tables import columns_of, read_rows, split_header

__all__ = ["Synonyms", "is_hgnc", "read_hgnc", "settle_synonyms"]

HGNC_COLUMNS = {  # in the complete set; in a table that one has put together there
    "symbol": ("symbol", "approved_symbol"),
    "previous": ("prev_symbol", "previous_symbols", "previous_symbol"),
    "aliases": ("alias_symbol", "alias_symbols"),
    "ensembl_id": ("ensembl_gene_id", "ensembl_id(supplied_by_ensembl)"),
    "uniprot_accession": ("uniprot_ids", "uniprot_id(supplied_by_uniprot)"),
    "status": ("status",),
}
BETWEEN = re.compile(r"[|,]")
WITHDRAWN = re.compile(r"withdrawn", re.IGNORECASE)  # as a status, and after a symbol's ~


@dataclass(frozen=True)
class Synonyms:
    """The synonyms of each gene by its symbol, previous symbols first.

    n_of_others: how many were left out because they mean another gene.
    """

    of: Mapping[str, tuple[str, ...]]
    n_of_others: int

    def genes_called(self) -> dict[str, set[str]]:
        """Return the genes that each synonym, in capitals, may be of."""
        genes: dict[str, set[str]] = {}
        for symbol, names in self.of.items():
            for name in names:
                genes.setdefault(name.upper(), set()).add(symbol)
        return genes


def is_hgnc(lines: Sequence[str], suffix: str) -> bool:
    """Tell whether the header names approved symbols and those before them."""
    del suffix
    there = columns_of(split_header(lines[0])[0], HGNC_COLUMNS)
    return "symbol" in there and bool({"previous", "aliases"} & set(there))


def read_hgnc(lines: Iterator[str], reading: Reading) -> AnnotationFile:
    """Read the names of each gene; rows of one symbol are of one gene, withdrawn ones of none."""
    found = Collector()
    header = next(lines)
    columns = columns_of(split_header(header)[0], HGNC_COLUMNS)
    for row in read_rows(chain([header], lines), reading, found):
        told = {kind: row[name] for kind, name in columns.items()}
        if not told["symbol"]:
            found.skip("no symbol")
        elif WITHDRAWN.search(told["symbol"]) or WITHDRAWN.search(told.get("status", "")):
            found.skip("withdrawn")
        else:
            found.add_names(
                GeneNames(
                    told["symbol"],
                    listed(told.get("previous", "")),
                    listed(told.get("aliases", "")),
                    told.get("ensembl_id") or None,
                    listed(told.get("uniprot_accession", "")),
                )
            )
    return found.file(reading, "hgnc")


def listed(text: str) -> tuple[str, ...]:
    """Return what stands between bars or commas."""
    return tuple(name.strip() for name in BETWEEN.split(text) if name.strip())


def settle_synonyms(genes: Iterable[GeneNames]) -> Synonyms:
    """Return the synonyms of each gene, without the names that mean another one.

    A name means the gene whose symbol it is; else those whose symbol it was; else those that have it as an alias. Names
    that differ in case alone are one name.
    """
    genes = list(genes)
    best: dict[str, int] = {}
    for gene in genes:
        for rank, names in enumerate(((gene.symbol,), gene.previous, gene.aliases)):
            for name in names:
                best[name.upper()] = min(rank, best.get(name.upper(), rank))
    of, n_of_others = {}, 0
    for gene in genes:
        own: dict[str, str] = {}
        for rank, names in enumerate((gene.previous, gene.aliases), start=1):
            for name in names:
                if best[name.upper()] == rank:
                    own.setdefault(name.upper(), name)
                elif name.upper() not in own and name.upper() != gene.symbol.upper():
                    n_of_others += 1
        of[gene.symbol] = tuple(own.values())
    return Synonyms(of, n_of_others)
