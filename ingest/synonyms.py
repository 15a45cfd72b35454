"""The names of genes into an atlas: of each protein, the other symbols of its gene and the ids that it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from subcell_atlas.errors import BadInput, NotBuilt
from subcell_atlas.functions.annotations import AnnotationFile
from subcell_atlas.functions.gene_names import Synonyms, settle_synonyms
from subcell_atlas.functions.statements import GeneNames
from subcell_atlas.identifiers import NAME_COLUMNS, Gene
from subcell_atlas.joining import ID_COLUMNS, Joined, examples, is_mouse_like, join_genes
from subcell_atlas.proteins import write_proteins
from subcell_atlas.runs import Run
from subcell_atlas.schema import STRINGS
from subcell_atlas.store import Store

from .reports import Identifiers, Origin, said_left_out

__all__ = ["NamesReport", "take_names"]

IDS = ("ensembl_id", "uniprot_accession")


@dataclass(frozen=True)
class NamesReport:
    """What a file of names told of the atlas's proteins."""

    source: str
    format: str
    origin: Origin
    identifiers: Identifiers
    proteins: int
    synonyms: int
    ensembl_ids: int
    uniprot_accessions: int
    one_gene: Mapping[str, Sequence[str]]
    skipped: Mapping[str, int]

    def lines(self) -> Iterator[str]:
        """Say it in a few lines."""
        yield f"{self.synonyms} synonyms of {self.proteins} proteins stored ({self.format})."
        if self.ensembl_ids or self.uniprot_accessions:
            yield f"Filled in: {self.ensembl_ids} Ensembl ids, {self.uniprot_accessions} UniProt accessions."
        yield from self.identifiers.lines("proteins of this atlas", "genes of the file")
        yield from said_left_out(self.skipped)

    def notes(self) -> Iterator[str]:
        """Say what to look at."""
        if self.synonyms:
            yield "Annotations that are there already join by synonyms when their file is given again."
        if self.one_gene:
            gene, proteins = next(iter(self.one_gene.items()))
            yield f"{len(self.one_gene)} genes are several proteins here, such as {gene}: {', '.join(proteins)}."

    def as_object(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def take_names(store: Store, path: Path, file: AnnotationFile) -> NamesReport:
    """Write `synonyms` of every protein, in place of those before, and ids that a protein lacks and the file says.

    Nothing else of a protein is changed. Raise BadInput when none of them is a gene of the file, NotBuilt when there
    are no proteins; then nothing is written.
    """
    proteins = store.read("proteins", NAME_COLUMNS)
    if not proteins.num_rows:
        raise NotBuilt(f"The atlas {store.uri!r} has no protein to name. Run: subcell-atlas build")
    settled = settle_synonyms(file.names)
    rows = proteins.to_pylist()
    joined = join_genes([gene_of(row) for row in rows], table_of(file.names, settled))
    check_names(joined, rows, path)
    gene_of_protein = {gene.written: symbol for gene, symbol in joined.protein_of.items()}
    proteins_of: dict[str, list[str]] = {}
    for protein, symbol in gene_of_protein.items():
        proteins_of.setdefault(symbol, []).append(protein)
    synonyms, n_shared = synonyms_of(rows, gene_of_protein, settled)
    only = {owners[0]: symbol for symbol, owners in proteins_of.items() if len(owners) == 1}
    ids = missing_ids(rows, only, {gene.symbol: gene for gene in file.names})
    left_out = {"names that mean another gene": settled.n_of_others, "names that may mean another gene": n_shared}
    report = NamesReport(
        source=file.source,
        format=file.format,
        origin=Origin.of(path, file),
        identifiers=Identifiers.of(joined),
        proteins=sum(map(bool, synonyms)),
        synonyms=sum(map(len, synonyms)),
        ensembl_ids=sum(value is not None for value in ids["ensembl_id"]),
        uniprot_accessions=sum(value is not None for value in ids["uniprot_accession"]),
        one_gene={symbol: owners for symbol, owners in proteins_of.items() if len(owners) > 1},
        skipped={**file.skipped, **{reason: n for reason, n in left_out.items() if n}},
    )
    run = Run.start(store, kind="annotate")
    if report.ensembl_ids or report.uniprot_accessions or synonyms != [row.get("synonyms") or [] for row in rows]:
        columns = {name: pa.array(values, pa.string()) for name, values in ids.items()}
        columns |= {"protein_id": proteins["protein_id"], "synonyms": pa.array(synonyms, STRINGS)}
        write_proteins(store, pa.table(columns), anew=("synonyms",))
        store.compact("proteins")
    run.finish(report.as_object())
    return report


def gene_of(row: Mapping[str, Any]) -> Gene:
    """Return a protein as a gene that is to be found in a file."""
    return Gene(row["protein_id"], *(row[kind] for kind in ID_COLUMNS))


def table_of(genes: Iterable[GeneNames], synonyms: Synonyms) -> pa.Table:
    """Return genes as a table that can be joined with; one of several accessions has as many rows."""
    rows = [
        (gene.symbol, accession, gene.ensembl_id, gene.symbol, synonyms.of[gene.symbol])
        for gene in genes
        for accession in gene.uniprot_accessions or (None,)
    ]
    names = ("protein_id", *ID_COLUMNS, "synonyms")
    kinds = [STRINGS if name == "synonyms" else pa.string() for name in names]
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    return pa.table(columns, names)


def check_names(joined: Joined, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raise BadInput when the atlas is of other genes than the file."""
    symbols = [row["gene_symbol"] for row in rows if row["gene_symbol"]]
    if is_mouse_like(symbols):
        msg = f"{path} names human genes; the symbols of this atlas are written as those of mouse are"
        raise BadInput(f"{msg} ({examples(symbols)}).")
    if not joined.protein_of:
        msg = f"{path} names none of the {len(rows)} proteins of this atlas, such as {examples(gene_names(rows))}."
        raise BadInput(f"{msg}\nThe atlas is of another species, or names its proteins by something else.")


def gene_names(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what to call each protein."""
    return (row["gene_symbol"] or row["protein_id"] for row in rows)


def synonyms_of(
    rows: Sequence[Mapping[str, Any]], gene_of_protein: Mapping[str, str], settled: Synonyms
) -> tuple[list[list[str]], int]:
    """Return the synonyms of each protein, and how many names were left out.

    A protein that goes by an older symbol has its gene's symbol as the first synonym. A name of several genes is left
    out where only one of them is in the atlas: it would be taken for that one.
    """
    here = set(gene_of_protein.values())
    genes_called = settled.genes_called()
    left_out = 0
    found: list[list[str]] = []
    for row in rows:
        symbol = gene_of_protein.get(row["protein_id"])
        names = [] if symbol is None else [symbol, *settled.of[symbol]]
        names = [name for name in names if name.upper() != (row["gene_symbol"] or "").upper()]
        genes_of = [genes_called.get(name.upper(), set[str]()) for name in names]
        kept = [name for name, genes in zip(names, genes_of, strict=True) if len(genes) < 2 or len(genes & here) > 1]
        left_out += len(names) - len(kept)
        found.append(kept)
    return found, left_out


def missing_ids(
    rows: Sequence[Mapping[str, Any]], gene_of_protein: Mapping[str, str], genes: Mapping[str, GeneNames]
) -> dict[str, list[str | None]]:
    """Return the ids to fill in: of a kind that a protein lacks, the gene's only one, unless another protein has it."""
    filled: dict[str, list[str | None]] = {kind: [] for kind in IDS}
    taken = {kind: {row[kind] for row in rows} for kind in IDS}
    for row in rows:
        gene = genes.get(gene_of_protein.get(row["protein_id"], ""), GeneNames(""))
        offered = {"ensembl_id": gene.ensembl_id, "uniprot_accession": None}
        if len(gene.uniprot_accessions) == 1:
            offered["uniprot_accession"] = gene.uniprot_accessions[0]
        for kind in IDS:
            new = offered[kind] if not row[kind] and offered[kind] not in taken[kind] else None
            taken[kind].add(new)
            filled[kind].append(new)
    return filled
