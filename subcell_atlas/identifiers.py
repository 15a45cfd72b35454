"""Names of genes and proteins: which identifier is the key of a protein, and what a person may have typed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import BadInput, UnknownName

__all__ = ["NAME_COLUMNS", "SEVERAL_NAMES", "Gene", "find_protein", "plain_accession", "plain_ensembl_id", "protein_id"]

OWN_COLUMNS = ("protein_id", "ensembl_id", "uniprot_accession", "gene_symbol")
NAME_COLUMNS = (*OWN_COLUMNS, "synonyms")  # of `proteins`; an older atlas has no synonyms

ACCESSION = re.compile(r"[OPQ]\d[A-Z\d]{3}\d|[A-NR-Z]\d([A-Z][A-Z\d]{2}\d){1,2}")  # uniprot.org/help/accession_numbers
ENSEMBL_GENE = re.compile(r"ENS[A-Z]*G\d{11}")
ISOFORM = re.compile(r"(?<=[A-Z0-9]{6})-\d+$")
BEGINNING = 2  # letters, in which few err
SEVERAL_NAMES = re.compile(r"[,;]")  # in one value: the genes of an antibody that binds them all, as HPA lists them
VERSION = re.compile(r"\.\d+$")
LABEL_OF_UNIPROT = re.compile(r"(?:sp|tr)\|([^|\s]+)")
GENE_IN_HEADER = re.compile(r"\bgene:(ENS\S+)")  # as Ensembl writes
SYMBOL_IN_HEADER = re.compile(r"\b(?:GN=|gene_symbol:)(\S+)")  # as UniProt and Ensembl write


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

    @classmethod
    def of_label(cls, text: str) -> Gene:
        """Return the gene that the label of a sequence, or of its vector, means.

        `sp|P12345|NAME_HUMAN …` is an accession; what else a header of UniProt or Ensembl says (GN=, gene:,
        gene_symbol:) is taken as well. Of any other label the first word is a bare name, without the isoform of an
        accession (P12345-2) and the version of an Ensembl id (ENSG00000173726.12).
        """
        label = text.strip().removeprefix(">").strip()
        word = label.split(maxsplit=1)[0] if label else ""
        accession = LABEL_OF_UNIPROT.match(word)
        ensembl_id, symbol = GENE_IN_HEADER.search(label), SYMBOL_IN_HEADER.search(label)
        if not accession and not ensembl_id:
            return cls.bare(looks_like(word)[1])._replace(written=word)
        return cls(
            word,
            plain_accession(accession[1]) if accession else None,
            plain_ensembl_id(ensembl_id[1]) if ensembl_id else None,
            symbol[1] if symbol else None,
        )

    @property
    def is_bare(self) -> bool:
        """Whether all that is known is a name that may be of any kind."""
        return self.gene_symbol is not None and self.gene_symbol == self.ensembl_id == self.uniprot_accession

    def names(self) -> dict[str, str | None]:
        """Return the names to store with a protein that is new; a bare name is what it looks like."""
        if self.is_bare:
            kind, name = looks_like(self.gene_symbol or "")
            return {"ensembl_id": None, "uniprot_accession": None, "gene_symbol": None, kind: name}
        return {
            "ensembl_id": plain_ensembl_id(self.ensembl_id) if self.ensembl_id else None,
            "uniprot_accession": plain_accession(self.uniprot_accession) if self.uniprot_accession else None,
            "gene_symbol": self.gene_symbol,
        }


def plain_accession(accession: str) -> str:
    """Return a UniProt accession without the number of its isoform: of P12345-2, P12345."""
    return ISOFORM.sub("", accession)


def plain_ensembl_id(ensembl_id: str) -> str:
    """Return an Ensembl id without its version."""
    return VERSION.sub("", ensembl_id)


def looks_like(name: str) -> tuple[str, str]:
    """Return what kind of name a bare one looks like, and the name without isoform or version."""
    if ACCESSION.fullmatch(plain_accession(name)):
        return "uniprot_accession", plain_accession(name)
    if ENSEMBL_GENE.fullmatch(plain_ensembl_id(name)):
        return "ensembl_id", plain_ensembl_id(name)
    return "gene_symbol", name


def protein_id(row: Mapping[str, Any]) -> str | None:
    """Return the key of the protein that `row` is about: its Ensembl id, else its UniProt accession, else its symbol.

    None when it names no protein, or several, as an antibody does that binds them all: such a cell is stored and can
    be found by likeness, but belongs to no profile.
    """
    name = row.get("ensembl_id") or row.get("uniprot_accession") or row.get("gene_symbol") or None
    return None if name is not None and SEVERAL_NAMES.search(name) else name


def find_protein(name: str, proteins: pa.Table) -> int:
    """Return the row of `proteins` that `name` means: an Ensembl id, a UniProt accession, a gene symbol or a synonym.

    Exact spelling comes before any other case, an Ensembl id before all, a synonym after all. An unknown name raises
    UnknownName with the nearest names; a name of several proteins raises BadInput, which lists them.
    """
    wanted = name.strip()
    for rows_of in (rows_named, rows_with_synonym):
        for any_case in (False, True):
            rows = rows_of(wanted, proteins, any_case=any_case) if wanted else []
            if len(rows) == 1:
                return rows[0]
            if rows:
                ids = [proteins["protein_id"][i].as_py() for i in rows]
                own = [i for i in rows if proteins["ensembl_id"][i].as_py() == wanted]
                if len(own) == 1:
                    return own[0]
                msg = f"{name!r} means {len(rows)} proteins: {', '.join(ids)}. Ask by another of their names."
                raise BadInput(msg)
    near = [*known_names(proteins), *synonyms_like(wanted, proteins)]
    raise UnknownName("gene", name, near, hint="It may be a real gene that this atlas has not imaged.")


def rows_named(wanted: str, proteins: pa.Table, *, any_case: bool) -> list[int]:
    """Return the rows that have a name as their own."""
    columns = [proteins[column].cast(pa.string()) for column in OWN_COLUMNS]
    found = [np.flatnonzero(is_name(column, wanted, any_case=any_case)) for column in columns]
    return np.unique(np.concatenate(found)).tolist()


def rows_with_synonym(wanted: str, proteins: pa.Table, *, any_case: bool) -> list[int]:
    """Return the rows that have a name as a synonym."""
    if "synonyms" not in proteins.column_names:
        return []
    synonyms = all_synonyms(proteins)
    rows = pc.list_parent_indices(synonyms).to_numpy()
    return np.unique(rows[is_name(pc.list_flatten(synonyms), wanted, any_case=any_case)]).tolist()


def is_name(names: pa.Array | pa.ChunkedArray, wanted: str, *, any_case: bool) -> np.ndarray:
    """Tell of each of `names` (n,) whether it is the wanted one."""
    same = pc.equal(pc.utf8_upper(names), wanted.upper()) if any_case else pc.equal(names, wanted)
    return np.asarray(pc.fill_null(same, pa.scalar(value=False)), bool)


def known_names(proteins: pa.Table) -> Sequence[str]:
    """Return every name that proteins have as their own."""
    return [value for column in OWN_COLUMNS for value in proteins[column].to_pylist() if value]


def synonyms_like(wanted: str, proteins: pa.Table) -> Sequence[str]:
    """Return the synonyms that begin as a name does: to compare it with all of them would take seconds."""
    if "synonyms" not in proteins.column_names:
        return []
    synonyms = pc.list_flatten(all_synonyms(proteins))
    return synonyms.filter(pc.starts_with(pc.utf8_upper(synonyms), wanted[:BEGINNING].upper())).to_pylist()


def all_synonyms(proteins: pa.Table) -> pa.Array:
    """Return the synonyms of each protein, a list each."""
    return proteins["synonyms"].cast(pa.list_(pa.string())).combine_chunks()
