"""Which proteins of an atlas the genes of a file are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from .errors import BadInput
from .identifiers import Gene

__all__ = ["ID_COLUMNS", "Joined", "check_joined", "join_genes"]

ID_COLUMNS = ("uniprot_accession", "ensembl_id", "gene_symbol")  # the surest first
OTHER_CASE = "gene_symbol in another case"
ISOFORM = re.compile(r"(?<=[A-Z0-9]{6})-\d+$")
VERSION = re.compile(r"\.\d+$")
FEWEST = 0.05  # of the file's genes, or of the atlas's proteins, for the two to be about the same
N_EXAMPLES = 5


@dataclass(frozen=True)
class Joined:
    """The protein of each gene that has one; how it was found; the genes of no protein here, and of several."""

    protein_of: Mapping[Gene, str]
    joined_by: Mapping[str, int]
    missing: Sequence[Gene]
    ambiguous: Sequence[Gene]

    @property
    def n_genes(self) -> int:
        """How many genes the file names."""
        return len(self.protein_of) + len(self.missing) + len(self.ambiguous)


def join_genes(genes: Iterable[Gene], proteins: pa.Table) -> Joined:
    """Find each gene among `proteins` (protein_id and `ID_COLUMNS`).

    By UniProt accession, then Ensembl id, then gene symbol, then gene symbol in another case. A name that several
    proteins have leaves it to the next kind of name to tell which of them is meant. Two genes with Ensembl ids of their
    own and one symbol are two genes: the one that was found by its id is the protein.
    """
    known = index(proteins)
    found: dict[Gene, tuple[str, str]] = {}
    missing: list[Gene] = []
    ambiguous: list[Gene] = []
    for gene in genes:
        proteins_of, kind = find(gene, known)
        if len(proteins_of) == 1:
            found[gene] = (proteins_of[0], kind)
        else:
            (ambiguous if proteins_of else missing).append(gene)
    by_ensembl = {protein for protein, kind in found.values() if kind == "ensembl_id"}
    second = {gene for gene, (protein, kind) in found.items() if is_second(gene, kind) and protein in by_ensembl}
    protein_of = {gene: protein for gene, (protein, _) in found.items() if gene not in second}
    joined_by = Counter(found[gene][1] for gene in protein_of)
    return Joined(protein_of, dict(joined_by), missing, [*ambiguous, *(gene for gene in found if gene in second)])


def find(gene: Gene, known: Mapping[str, Mapping[str, tuple[str, ...]]]) -> tuple[tuple[str, ...], str]:
    """Return the proteins that a gene may be, and the kind of name that told."""
    candidates: tuple[str, ...] = ()
    for kind, name in names_of(gene):
        found = known[kind].get(name, ())
        candidates = tuple(protein for protein in candidates if protein in found) or candidates or found
        if len(candidates) == 1:
            return candidates, kind
    return candidates, ""


def is_second(gene: Gene, kind: str) -> bool:
    """Tell whether a gene was found by its symbol although it has an Ensembl id, which would have been surer."""
    return kind in ("gene_symbol", OTHER_CASE) and gene.ensembl_id not in (None, gene.gene_symbol)


def index(proteins: pa.Table) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return, for each kind of name, the proteins that have it."""
    known: dict[str, dict[str, tuple[str, ...]]] = {kind: {} for kind in (*ID_COLUMNS, OTHER_CASE)}
    for row in proteins.select(["protein_id", *ID_COLUMNS]).to_pylist():
        for kind, name in names_of(Gene("", *(row[kind] for kind in ID_COLUMNS))):
            known[kind][name] = (*known[kind].get(name, ()), row["protein_id"])
    return known


def names_of(gene: Gene) -> Iterator[tuple[str, str]]:
    """Yield the names of a gene by their kind, as they are compared: without isoform, version and, at last, case."""
    if gene.uniprot_accession:
        yield "uniprot_accession", ISOFORM.sub("", gene.uniprot_accession.upper())
    if gene.ensembl_id:
        yield "ensembl_id", VERSION.sub("", gene.ensembl_id.upper())
    if gene.gene_symbol:
        yield "gene_symbol", gene.gene_symbol
        yield OTHER_CASE, gene.gene_symbol.upper()


def check_joined(joined: Joined, proteins: pa.Table, path: Path) -> None:
    """Raise BadInput when the genes seem to be of another species, or named by something the atlas does not know."""
    atlas = [row["gene_symbol"] for row in proteins.select(["gene_symbol"]).to_pylist() if row["gene_symbol"]]
    genes = [*joined.protein_of, *joined.missing, *joined.ambiguous]
    symbols = [gene.gene_symbol for gene in genes if gene.gene_symbol and gene.gene_symbol == gene.written]
    if atlas and len(symbols) > joined.n_genes / 2 and is_mouse_like(symbols) and not is_mouse_like(atlas):
        like = examples([symbol for symbol in symbols if is_mouse_symbol(symbol)])
        msg = f"{path} looks like another species: its gene symbols are written as those of mouse are ({like})"
        raise BadInput(f"{msg},\nthose of the atlas are not ({examples(atlas)}). Take the file of human.")
    n_found = len(set(joined.protein_of.values()))
    if len(joined.protein_of) < FEWEST * joined.n_genes and n_found < FEWEST * proteins.num_rows:
        msg = f"{path} looks like another species or another identifier: of its {joined.n_genes} identifiers"
        msg = f"{msg} {len(joined.protein_of)} are in the atlas.\nIn the file: {examples(g.written for g in genes)};"
        first = proteins.slice(0, 1).to_pylist()[0]
        names = [first[kind] for kind in reversed(ID_COLUMNS) if first[kind]]
        raise BadInput(f"{msg} in the atlas: {examples(names)}. Name genes as the atlas does.")


def is_mouse_like(symbols: Sequence[str]) -> bool:
    """Tell whether most symbols are written as those of mouse are."""
    return sum(map(is_mouse_symbol, symbols)) > len(symbols) / 2


def is_mouse_symbol(symbol: str) -> bool:
    """Tell whether a symbol is a capital and small letters, such as Tomm20."""
    rest = symbol[1:]
    return symbol[:1].isupper() and rest == rest.lower() and any(letter.islower() for letter in rest)


def examples(names: Iterable[str]) -> str:
    """Return the first few names, for a message."""
    return ", ".join(repr(name[:30]) for name, _ in zip(names, range(3), strict=False))
