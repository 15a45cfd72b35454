"""Which protein a name means."""

from __future__ import annotations

import pyarrow as pa
import pytest

from subcell_atlas.errors import BadInput, UnknownName
from subcell_atlas.identifiers import Gene, find_protein, protein_id

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


SYNONYMS = [["TOM20", "twin", "P2"], ["both"], ["BOTH", "tom20x"], None]


@pytest.mark.parametrize(("name", "row"), [("TOM20", 0), ("tom20", 0), ("both", 1), ("P2", 1), ("TOM20X", 2)])
def test_a_synonym_is_looked_for_last(name, row):
    assert find_protein(name, PROTEINS.append_column("synonyms", pa.array(SYNONYMS))) == row


def test_a_synonym_of_two_proteins_asks_for_their_ids_and_is_suggested_for_a_name_like_it():
    proteins = PROTEINS.append_column("synonyms", pa.array(SYNONYMS))
    with pytest.raises(BadInput, match="'Both' means 2 proteins: ENSG2, ENSG3"):
        find_protein("Both", proteins)
    with pytest.raises(UnknownName) as caught:
        find_protein("TOM20XY", proteins)
    assert caught.value.suggestions[0] == "tom20x"


@pytest.mark.parametrize("name", ["", " ", "NONE"])
def test_a_missing_name_is_nobody_s(name):
    proteins = pa.table({"protein_id": ["", "x"], **{k: [None, None] for k in PROTEINS.column_names[1:]}})
    with pytest.raises(UnknownName):
        find_protein(name, proteins.append_column("synonyms", pa.array([[""], []], pa.list_(pa.string()))))


@pytest.mark.parametrize(
    ("label", "gene", "names"),
    [
        ("sp|Q15388|TOM20_HUMAN", ("Q15388", None, None), ("Q15388", None, None)),
        (">tr|A0A024R1R8-2|X Description OS=Homo sapiens OX=9606 GN=ABC PE=1", ("A0A024R1R8", None, "ABC"), None),
        ("ENSP00000000233.5 pep gene:ENSG00000004059.11 gene_symbol:ARF5", (None, "ENSG00000004059", "ARF5"), None),
        ("Q15388", ("Q15388",) * 3, ("Q15388", None, None)),
        ("Q15388-2 some words", ("Q15388",) * 3, ("Q15388", None, None)),
        ("ENSG00000173726.12", ("ENSG00000173726",) * 3, (None, "ENSG00000173726", None)),
        ("TOMM20", ("TOMM20",) * 3, (None, None, "TOMM20")),
        ("HLA-A", ("HLA-A",) * 3, (None, None, "HLA-A")),
        ("AL021546.1", ("AL021546.1",) * 3, (None, None, "AL021546.1")),
    ],
)
def test_a_label_of_a_sequence_is_a_gene(label, gene, names):
    found = Gene.of_label(label)
    assert found == (label.removeprefix(">").split()[0], *gene)
    kinds = ("uniprot_accession", "ensembl_id", "gene_symbol")
    assert tuple(found.names()[kind] for kind in kinds) == (names or gene)


def test_names_are_stored_without_isoform_and_version():
    names = {"uniprot_accession": "Q15388", "ensembl_id": "ENSG00000173726", "gene_symbol": "X-2"}
    assert Gene("x", "Q15388-2", "ENSG00000173726.3", "X-2").names() == names
