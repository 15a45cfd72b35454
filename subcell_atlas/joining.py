"""Which proteins of an atlas the genes of a file are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from .errors import BadInput
from .identifiers import Gene, plain_accession, plain_ensembl_id

__all__ = [
    "ID_COLUMNS",
    "OTHER_CASE",
    "Joined",
    "KnownProteins",
    "check_joined",
    "check_species",
    "examples",
    "is_mouse_like",
    "join_genes",
]

ID_COLUMNS = ("uniprot_accession", "ensembl_id", "gene_symbol")  # the surest first
OTHER_CASE = "gene_symbol in another case"
SYNONYM = "synonym"
BY_SYMBOL = ("gene_symbol", OTHER_CASE, SYNONYM)
FEWEST = 0.05  # of the file's genes, or of the atlas's proteins, for the two to be about the same


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


class KnownProteins:
    """The proteins of an atlas by their names.

    `proteins`: protein_id, `ID_COLUMNS` and, where the atlas has them, synonyms. Rows with one protein_id are one
    protein. `own`: the names of each.
    """

    def __init__(self, proteins: pa.Table) -> None:
        self.own: dict[str, Gene] = {}
        self._by: dict[str, dict[str, dict[str, None]]] = {kind: {} for kind in (*ID_COLUMNS, OTHER_CASE, SYNONYM)}
        columns = [name for name in ("protein_id", *ID_COLUMNS, "synonyms") if name in proteins.column_names]
        for row in proteins.select(columns).to_pylist():
            protein = row["protein_id"]
            self.own[protein] = Gene(protein, *(row[kind] for kind in ID_COLUMNS))
            own = [(kind, name) for kind, name in names_of(self.own[protein]) if kind != SYNONYM]
            for kind, name in (*own, *((SYNONYM, synonym) for synonym in row.get("synonyms") or ())):
                self._by[kind].setdefault(name, {})[protein] = None

    def find(self, gene: Gene, *, same_ids: bool = False) -> tuple[tuple[str, ...], str]:
        """Return the proteins that a gene may be, and the kind of name that told.

        By UniProt accession, then Ensembl id, then gene symbol, then gene symbol in another case, then synonym. A name
        that several proteins have leaves it to the next kind of name to tell which of them is meant. With `same_ids` a
        protein whose surer id is another is not meant.
        """
        candidates: tuple[str, ...] = ()
        for kind, name in names_of(gene):
            found = tuple(self._by[kind].get(name, ()))
            if same_ids:
                found = tuple(protein for protein in found if not differ(gene, self.own[protein], kind))
            candidates = tuple(protein for protein in candidates if protein in found) or candidates or found
            if len(candidates) == 1:
                return candidates, kind
        return candidates, ""


def join_genes(genes: Iterable[Gene], proteins: pa.Table) -> Joined:
    """Find each gene among `proteins`, as `KnownProteins.find` does.

    Files of different years may give one gene two Ensembl ids, so a gene with an id that nobody here has may be found
    by its symbol. Two genes with Ensembl ids of their own and one symbol are two genes: the one that was found by its
    id is the protein. So are two of which one has a synonym of the other, as a virus's NP and the human PNP.
    """
    known = KnownProteins(proteins)
    found: dict[Gene, tuple[str, str]] = {}
    missing: list[Gene] = []
    ambiguous: list[Gene] = []
    for gene in genes:
        proteins_of, kind = known.find(gene)
        if len(proteins_of) == 1:
            found[gene] = (proteins_of[0], kind)
        else:
            (ambiguous if proteins_of else missing).append(gene)
    kinds: dict[str, set[str]] = {}
    for protein, kind in found.values():
        kinds.setdefault(protein, set()).add(kind)
    second = {gene for gene, (protein, kind) in found.items() if is_second(gene, kind, kinds[protein])}
    protein_of = {gene: protein for gene, (protein, _) in found.items() if gene not in second}
    joined_by = Counter(found[gene][1] for gene in protein_of)
    return Joined(protein_of, dict(joined_by), missing, [*ambiguous, *(gene for gene in found if gene in second)])


def is_second(gene: Gene, kind: str, kinds: Set[str]) -> bool:
    """Tell whether a gene is not the protein that it was found to be, as another gene was found by a surer `kinds`.

    By a synonym, of a protein that goes by another name as well; by a symbol though it has an Ensembl id.
    """
    if kind == SYNONYM and kinds != {SYNONYM}:
        return True
    return kind in BY_SYMBOL and gene.ensembl_id not in (None, gene.gene_symbol) and "ensembl_id" in kinds


def differ(gene: Gene, protein: Gene, kind: str) -> bool:
    """Tell whether an id that is surer than a name of this kind says that a gene is not the protein."""
    if gene.is_bare or kind == "ensembl_id":
        return False
    surer = ("ensembl_id", "uniprot_accession") if kind in BY_SYMBOL else ("ensembl_id",)
    of_gene, of_protein = dict(names_of(gene)), dict(names_of(protein))
    return any(of_gene.get(each, name) != name for each in surer if (name := of_protein.get(each)))


def names_of(gene: Gene) -> Iterator[tuple[str, str]]:
    """Yield the names of a gene by their kind, as they are compared: without isoform, without version."""
    if gene.uniprot_accession:
        yield "uniprot_accession", plain_accession(gene.uniprot_accession.upper())
    if gene.ensembl_id:
        yield "ensembl_id", plain_ensembl_id(gene.ensembl_id.upper())
    if gene.gene_symbol:
        yield "gene_symbol", gene.gene_symbol
        yield OTHER_CASE, gene.gene_symbol.upper()
        yield SYNONYM, gene.gene_symbol  # in another case many are of other species: UL4 is a virus's, uL4 is RPL4


def check_joined(joined: Joined, proteins: pa.Table, path: Path) -> None:
    """Raise BadInput when the genes seem to be of another species, or named by something the atlas does not know."""
    genes = [*joined.protein_of, *joined.missing, *joined.ambiguous]
    symbols = [gene.gene_symbol for gene in genes if gene.gene_symbol and gene.gene_symbol == gene.written]
    if len(symbols) > joined.n_genes / 2:
        check_species(symbols, proteins["gene_symbol"].drop_null().to_pylist(), path)
    n_found = len(set(joined.protein_of.values()))
    if len(joined.protein_of) < FEWEST * joined.n_genes and n_found < FEWEST * proteins.num_rows:
        msg = f"{path} looks like another species or another identifier: of its {joined.n_genes} identifiers"
        msg = f"{msg} {len(joined.protein_of)} are in the atlas.\nIn the file: {examples(g.written for g in genes)};"
        first = proteins.slice(0, 1).to_pylist()[0]
        names = [first[kind] for kind in reversed(ID_COLUMNS) if first[kind]]
        raise BadInput(f"{msg} in the atlas: {examples(names)}. Name genes as the atlas does.")


def check_species(symbols: Sequence[str], atlas: Sequence[str], path: Path) -> None:
    """Raise BadInput when a file's symbols are written as those of mouse are, and the atlas's are not."""
    if atlas and is_mouse_like(symbols) and not is_mouse_like(atlas):
        like = examples([symbol for symbol in symbols if is_mouse_symbol(symbol)])
        msg = f"{path} looks like another species: its gene symbols are written as those of mouse are ({like})"
        raise BadInput(f"{msg},\nthose of the atlas are not ({examples(atlas)}). Take the file of human.")


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
