"""Names of genes and proteins: which identifier is the key of a protein, and what a person may have typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from .errors import BadInput, UnknownName

__all__ = ["Gene", "find_protein", "protein_id"]

NAME_COLUMNS = ("protein_id", "ensembl_id", "uniprot_accession", "gene_symbol")


class Gene(NamedTuple):
    """A gene as a file names it, and what each name may be; a bare name may be of any kind."""

    written: str
    uniprot_accession: str | None = None
    ensembl_id: str | None = None
    gene_symbol: str | None = None

    @classmethod
    def bare(cls, name: str) -> Gene:
        """Return the gene of a name of which the file does not say what kind it is."""
        return cls(name, name, name, name)


def protein_id(row: Mapping[str, Any]) -> str | None:
    """Return the key of the protein that `row` is about: its Ensembl id, else its UniProt accession, else its symbol.

    None when it names no protein: such a cell is stored and can be found by likeness, but belongs to no profile.
    """
    return row.get("ensembl_id") or row.get("uniprot_accession") or row.get("gene_symbol") or None


def find_protein(name: str, proteins: pa.Table) -> int:
    """Return the row of `proteins` that `name` means: an Ensembl id, a UniProt accession or a gene symbol.

    Exact spelling comes before any other case, an Ensembl id before all. An unknown name raises UnknownName with the
    nearest names; a name of several proteins raises BadInput, which lists them.
    """
    wanted = name.strip()
    columns = [proteins[column].to_pylist() for column in NAME_COLUMNS]
    for fold in (str, str.upper):
        rows = sorted(
            {i for column in columns for i, value in enumerate(column) if value and fold(value) == fold(wanted)}
        )
        if len(rows) == 1:
            return rows[0]
        if rows:
            ids = [proteins["protein_id"][i].as_py() for i in rows]
            own = [i for i in rows if proteins["ensembl_id"][i].as_py() == wanted]
            if len(own) == 1:
                return own[0]
            msg = f"{name!r} means {len(rows)} proteins: {', '.join(ids)}. Ask by another of their names."
            raise BadInput(msg)
    raise UnknownName("gene", name, known_names(proteins), hint="It may be a real gene that this atlas has not imaged.")


def known_names(proteins: pa.Table) -> Sequence[str]:
    """Return every name by which a protein can be asked for."""
    return [value for column in NAME_COLUMNS for value in proteins[column].to_pylist() if value]
