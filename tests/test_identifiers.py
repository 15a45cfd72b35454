"""Which protein a name means."""

from __future__ import annotations

import pyarrow as pa
import pytest

from subcell_atlas.errors import BadInput, UnknownName
from subcell_atlas.identifiers import find_protein, protein_id

PROTEINS = pa.table(
    {
        "protein_id": ["ENSG1", "ENSG2", "ENSG3", "P4"],
        "ensembl_id": ["ENSG1", "ENSG2", "ENSG3", None],
        "uniprot_accession": ["P1", "P2", None, "P4"],
        "gene_symbol": ["TOMM20", "TWIN", "TWIN", "tomm20"],
    }
)


@pytest.mark.parametrize(("name", "row"), [("ENSG2", 1), ("P1", 0), ("TOMM20", 0), (" tomm20 ", 3), ("ensg3", 2)])
def test_a_protein_is_found_by_any_of_its_names_exact_spelling_first(name, row):
    assert find_protein(name, PROTEINS) == row


def test_a_symbol_of_two_proteins_asks_for_their_ids():
    with pytest.raises(BadInput, match="ENSG2, ENSG3"):
        find_protein("TWIN", PROTEINS)


def test_an_unknown_gene_gets_the_nearest_names():
    with pytest.raises(UnknownName, match="TOMM20") as caught:
        find_protein("TOMM2", PROTEINS)
    assert "TOMM20" in caught.value.suggestions


def test_the_key_is_the_ensembl_id_then_the_accession_then_the_symbol():
    assert protein_id({"ensembl_id": "E", "uniprot_accession": "U", "gene_symbol": "S"}) == "E"
    assert protein_id({"ensembl_id": None, "uniprot_accession": "U", "gene_symbol": "S"}) == "U"
    assert protein_id({"gene_symbol": "S"}) == "S"
    assert protein_id({"gene_symbol": ""}) is None
