"""Older symbols: what HGNC's table gives an atlas, how names are settled, and what joins by them from then on."""

from __future__ import annotations

import json
import shutil

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from ingest.annotate import annotate
from ingest.embeddings import ingest_embeddings
from subcell_atlas import query
from subcell_atlas.build import build
from subcell_atlas.cli import main
from subcell_atlas.errors import BadInput, NotBuilt
from subcell_atlas.functions.annotations import read_annotations
from subcell_atlas.functions.gene_names import settle_synonyms
from subcell_atlas.functions.statements import GeneNames
from subcell_atlas.identifiers import NAME_COLUMNS, Gene, find_protein
from subcell_atlas.joining import join_genes
from subcell_atlas.profiles import vector_array
from subcell_atlas.schema import METADATA_KEY, table_schema
from subcell_atlas.store import Store

HEADER = "hgnc_id\tsymbol\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id\tuniprot_ids\n"
TOMM20 = 'HGNC:1\tTOMM20\tApproved\t"MAS20|TOM20"\t\tENSG00000173726\tQ15388\n'
PRKN = 'HGNC:2\tPRKN\tApproved\t"AR-JP|parkin"\tPARK2\tENSG00000185345\tO60260\n'
MARCHF1 = 'HGNC:3\tMARCHF1\tApproved\tSHARED\t"MARCH1|SHARED1"\tENSG00000145416\t"Q8TCQ1|A0A000"\n'
MTARC1 = "HGNC:4\tMTARC1\tApproved\tSHARED\tMARC1\tENSG00000186205\tQ5VT66\n"
CENPX = "HGNC:5\tCENPX\tApproved\tMHF2\tSTRA13\tENSG00000169689\t\n"
BHLHE40 = 'HGNC:6\tBHLHE40\tApproved\t"SHARP2|MAS20|PRKN"\t"BHLHB2|STRA13"\tENSG00000134107\tO14503\n'
HGNC = HEADER + TOMM20 + PRKN + MARCHF1 + MTARC1 + CENPX + BHLHE40
PROTEINS = [  # protein_id, ensembl_id, uniprot_accession, gene_symbol
    ("ENSG00000173726", "ENSG00000173726", None, "TOMM20"),
    ("PARK2", None, None, "PARK2"),  # its symbol of before
    ("ENSG00000145416", "ENSG00000145416", None, "MARCHF1"),
    ("MTARC1", None, "Q00000", "MTARC1"),
    ("O14503", None, "O14503", None),
    ("ENSG00000999999", "ENSG00000999999", None, "AL021546.1"),
]


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store.create(str(tmp_path / "atlas"))
    columns = [pa.array(column, pa.string()) for column in zip(*PROTEINS, strict=True)]
    table = pa.table(columns, list(NAME_COLUMNS[:-1]))
    table = table.append_column("localization", pa.array([["Cytosol"]] * len(PROTEINS)))
    store.write("proteins", table.append_column("image", vector_array(np.ones((len(PROTEINS), 2)))))
    return store


@pytest.fixture
def write(tmp_path):
    def write(content, name="hgnc_complete_set.txt"):
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


def by_id(store, *columns):
    rows = store.read("proteins").to_pylist()
    return {row["protein_id"]: tuple(row[name] for name in columns) for row in rows}


def found(store, *names, column="protein_id"):
    proteins = store.read("proteins", NAME_COLUMNS)
    return [proteins[column][find_protein(name, proteins)].as_py() for name in names]


def table(*symbols):
    return "gene_symbol,term_id\n" + "".join(f"{symbol},T:1\n" for symbol in symbols)


def annotated(store):
    return set(store.read("annotations")["protein_id"].to_pylist())


def test_both_tables_of_hgnc_are_read_the_same(tmp_path, write):
    custom = (
        "HGNC ID\tApproved symbol\tStatus\tPrevious symbols\tAlias symbols\tEnsembl gene ID\t"
        "UniProt ID(supplied by UniProt)\n"
        "HGNC:3\tMARCHF1\tApproved\tMARCH1, SHARED1\tSHARED\tENSG00000145416\tQ8TCQ1, A0A000\n"
        "HGNC:9\tOLD~withdrawn\tEntry Withdrawn\t\t\t\t\n"
    )
    names = GeneNames("MARCHF1", ("MARCH1", "SHARED1"), ("SHARED",), "ENSG00000145416", ("Q8TCQ1", "A0A000"))
    for content, skipped in ((HEADER + MARCHF1, {}), (custom, {"withdrawn": 1})):
        file = read_annotations(write(content))
        assert (file.format, list(file.names), file.skipped, file.rows) == ("hgnc", [names], skipped, [])


def test_rows_of_one_symbol_are_one_gene(write):
    file = read_annotations(write("Approved symbol,Previous symbol,Alias symbols\nA1,B1,C1\nA1,B1,C2\nA1,B2,\n"))
    assert list(file.names) == [GeneNames("A1", ("B1", "B2"), ("C1", "C2"))]


def test_a_table_with_terms_is_one_of_terms_even_with_older_symbols(write):
    file = read_annotations(write("symbol,prev_symbol,term_id\nA1,B1,T:1\n"))
    assert (file.format, file.names) == ("table", [])


def test_a_name_means_the_gene_whose_symbol_it_is_then_was_then_the_one_with_the_alias():
    genes = [
        GeneNames("TAZ1", ("A", "B"), ("C", "tomm20")),
        GeneNames("A", (), ("B", "C", "D")),
        GeneNames("TOMM20", ("b",), ("TOMM20", "D")),
    ]
    settled = settle_synonyms(genes)
    assert settled.of == {"TAZ1": ("B", "C"), "A": ("C", "D"), "TOMM20": ("b", "D")}
    assert settled.genes_called() == {"B": {"TAZ1", "TOMM20"}, "C": {"TAZ1", "A"}, "D": {"A", "TOMM20"}}
    assert settled.n_of_others == 3


def test_proteins_get_synonyms_and_the_ids_they_lack_and_keep_all_else(store, write):
    report = annotate(store, write(HGNC))
    assert by_id(store, "synonyms", "ensembl_id", "uniprot_accession", "gene_symbol") == {
        "ENSG00000173726": (["MAS20", "TOM20"], "ENSG00000173726", "Q15388", "TOMM20"),
        "PARK2": (["PRKN", "AR-JP", "parkin"], "ENSG00000185345", "O60260", "PARK2"),
        "ENSG00000145416": (["MARCH1", "SHARED1", "SHARED"], "ENSG00000145416", None, "MARCHF1"),
        "MTARC1": (["MARC1", "SHARED"], "ENSG00000186205", "Q00000", "MTARC1"),
        "O14503": (["BHLHE40", "BHLHB2", "SHARP2", "MAS20"], "ENSG00000134107", "O14503", None),
        "ENSG00000999999": ([], "ENSG00000999999", None, "AL021546.1"),
    }
    assert all(row == (["Cytosol"],) for row in by_id(store, "localization").values())
    counted = report.identifiers
    assert (counted.n, counted.joined, counted.missing_examples, counted.ambiguous) == (6, 5, ["ENSG00000999999"], 0)
    assert counted.joined_by == {"ensembl_id": 2, "synonym": 1, "gene_symbol": 1, "uniprot_accession": 1}
    assert (report.proteins, report.synonyms, report.ensembl_ids, report.uniprot_accessions) == (5, 14, 3, 2)
    # PRKN is the symbol of another gene than BHLHE40; STRA13 was that of CENPX as well, which is not in the atlas
    assert report.skipped == {"names that mean another gene": 1, "names that may mean another gene": 1}
    run = store.read("runs").to_pylist()[0]
    assert (run["kind"], json.loads(run["counts"])) == ("annotate", report.as_object())


def test_the_same_table_again_writes_nothing_and_another_one_replaces_the_synonyms(store, write):
    annotate(store, write(HGNC))
    version = store.version("proteins")
    annotate(store, write(HGNC))
    assert store.version("proteins") == version
    annotate(store, write(HEADER + TOMM20.replace("MAS20|", "")))
    assert by_id(store, "synonyms")["ENSG00000173726"] == (["TOM20"],)
    assert not by_id(store, "synonyms")["MTARC1"][0]
    assert by_id(store, "ensembl_id")["MTARC1"] == ("ENSG00000186205",)


def test_an_id_that_another_protein_has_is_not_given_twice(tmp_path, write):
    store = Store.create(str(tmp_path / "twice"))
    names = ["PARK2", "Q15388", "TOMM20"]
    ids = {"uniprot_accession": [None, "Q15388", None], "gene_symbol": ["PARK2", None, "TOMM20"]}
    store.write("proteins", pa.table({"protein_id": names, **ids}))
    report = annotate(store, write(HGNC))
    assert by_id(store, "uniprot_accession")["TOMM20"] == (None,)
    assert by_id(store, "ensembl_id") == {"PARK2": ("ENSG00000185345",), "Q15388": (None,), "TOMM20": (None,)}
    assert report.one_gene == {"TOMM20": ["Q15388", "TOMM20"]}
    assert any("TOMM20: Q15388, TOMM20" in note for note in report.notes())


def test_a_file_of_older_symbols_joins_and_says_by_what(store, write):
    older = write(table("TOM20", "PRKN", "MARCH1", "SHARED", "PARKIN", "STRA13", "NOBODY"), "older.csv")
    with pytest.raises(BadInput, match="another identifier"):
        annotate(store, older)
    annotate(store, write(HGNC))
    report = annotate(store, older)
    assert annotated(store) == {"ENSG00000173726", "PARK2", "ENSG00000145416"}
    counted = report.identifiers
    assert (counted.joined_by, counted.ambiguous_examples) == ({"synonym": 3}, ["SHARED"])
    assert counted.missing_examples == ["PARKIN", "STRA13", "NOBODY"]  # another case may be of another species
    assert "(3 by synonym)" in "\n".join(report.lines())


def test_symbols_go_before_synonyms_and_ids_before_both():
    columns = {
        "protein_id": ["a", "b", "c"],
        "uniprot_accession": ["P00001", "P00002", None],
        "ensembl_id": pa.array([None, None, "ENSG00000000003"]),
        "gene_symbol": ["A1", "B1", "c1"],
        "synonyms": [["B1", "C1", "OLD", "BOTH"], ["BOTH", "A0"], ["P00002"]],
    }
    genes = [
        Gene("B1", None, None, "B1"),
        Gene("C1", None, None, "C1"),
        Gene("OLD", None, None, "OLD"),
        Gene("BOTH", None, None, "BOTH"),
        Gene("both by accession", "P00002", None, "BOTH"),
        Gene.bare("P00002"),
        Gene("another id", None, "ENSG00000000009", "OLD"),
    ]
    joined = join_genes(genes[:-1], pa.table(columns))
    assert [joined.protein_of.get(gene) for gene in genes[:-1]] == ["b", "c", "a", None, "b", "b"]
    assert joined.ambiguous == [genes[3]]
    assert join_genes(genes[-1:], pa.table(columns)).protein_of == {genes[-1]: "a"}  # tables of different years


def test_what_a_file_names_beside_the_symbol_is_no_synonym_of_it(store, write):
    """Reactome has the human PNP and the influenza virus's NP."""
    annotate(store, write(HGNC))
    report = annotate(store, write(table("TOMM20", "TOM20", "MARC1"), "mixed.csv"))
    assert annotated(store) == {"ENSG00000173726", "MTARC1"}
    assert report.identifiers.ambiguous_examples == ["TOM20"]


def test_a_person_finds_a_protein_by_an_older_name_in_any_case(store, write):
    annotate(store, write(HGNC))
    assert found(store, "tom20", "Prkn", "PARK2", "MARCH1") == ["ENSG00000173726", "PARK2", "PARK2", "ENSG00000145416"]
    with pytest.raises(BadInput, match="'SHARED' means 2 proteins: ENSG00000145416, MTARC1"):
        found(store, "SHARED")
    assert query.protein_row(store, "TOM20")["gene_symbol"] == "TOMM20"


def test_an_atlas_of_an_earlier_version_is_asked_and_annotated_as_before_and_gets_the_column(tmp_path, write):
    uri = str(tmp_path / "old")
    Store.create(uri)
    metadata = {METADATA_KEY: table_schema("proteins").metadata[METADATA_KEY]}
    columns = [name for name in table_schema("proteins").names if name != "synonyms"]
    schema = pa.schema([table_schema("proteins").field(name) for name in columns], metadata=metadata)
    rows = [{"protein_id": "TOMM20", "gene_symbol": "TOMM20"}, {"protein_id": "LMNA", "gene_symbol": "LMNA"}]
    lancedb.connect(uri).create_table("proteins", pa.Table.from_pylist(rows, schema=schema), schema=schema)
    store = Store.open(uri)
    assert found(store, "tomm20") == ["TOMM20"]
    annotate(store, write(table("TOMM20"), "mine.csv"))
    annotate(store, write(HGNC))
    assert by_id(store, "synonyms", "uniprot_accession") == {
        "TOMM20": (["TOM20"], "Q15388"),
        "LMNA": ([], None),
    }


def test_synonyms_and_ids_survive_a_rebuild_and_leave_the_map_as_it_is(demo_atlas, tmp_path, write):
    uri = str(tmp_path / "copy")
    shutil.copytree(demo_atlas, uri)
    store = Store.open(uri)
    older = HEADER + "1\tDEMO001\tApproved\tTOM1\tDEMOOLD\tENSG00000000001\tP00001\n"
    annotate(store, write(older))
    assert build(store, seed=0) == []
    names = by_id(store, "synonyms", "ensembl_id", "uniprot_accession")
    protein = found(store, "DEMOOLD")[0]
    assert names[protein][0] == ["DEMOOLD", "TOM1"]
    build(store, ["profiles"], force=True)
    assert by_id(store, "synonyms", "ensembl_id", "uniprot_accession") == names


def test_vectors_labelled_by_older_symbols_join_and_change_no_name(store, tmp_path, write):
    annotate(store, write(HGNC))
    names = by_id(store, "synonyms", "ensembl_id", "uniprot_accession", "gene_symbol")
    np.savez(tmp_path / "v.npz", TOM20=np.ones(3), PRKN=np.full(3, 2.0))
    counts = ingest_embeddings(store, tmp_path / "v.npz", modality="sequence", level="protein")
    assert (counts.joined_by, counts.new) == ({"synonym": 2}, 0)
    assert by_id(store, "synonyms", "ensembl_id", "uniprot_accession", "gene_symbol") == names
    assert by_id(store, "sequence")["PARK2"] == ([2, 2, 2],)


def test_synonyms_of_proteins_from_cells_alone_survive_a_rebuild(tmp_path, write):
    store = Store.create(str(tmp_path / "cells"))
    np.savez(tmp_path / "c.npz", embedding=np.eye(3), gene_symbol=["TOMM20", "PRKN", "GONE"])
    ingest_embeddings(store, tmp_path / "c.npz", modality="image", level="cell")
    build(store, ["profiles"])
    annotate(store, write(HGNC))
    store.delete("cells", "gene_symbol = 'GONE'")
    build(store, ["profiles"])
    assert by_id(store, "synonyms", "uniprot_accession") == {
        "TOMM20": (["TOM20"], "Q15388"),
        "PRKN": (["PARK2", "AR-JP", "parkin"], "O60260"),
    }


BAD = {
    "web page": ("<!DOCTYPE html><html><body>502</body></html>", "a web page"),
    "json": ('{"response": {"docs": []}}', "is JSON"),
    "header only": (HEADER, "nothing below it"),
    "withdrawn ones only": (HEADER + "1\tX~withdrawn\tEntry Withdrawn\t\t\t\t\n", "withdrawn: 1"),
    "of other genes": (HEADER + TOMM20.replace("TOMM20", "A1").replace("ENSG", "ENSX"), "names none of the 6 proteins"),
}


@pytest.mark.parametrize("kind", BAD)
def test_tables_that_cannot_be_used_are_refused_and_nothing_is_written(store, write, kind):
    content, message = BAD[kind]
    with pytest.raises(BadInput, match=message) as caught:
        annotate(store, write(content))
    assert len(str(caught.value).splitlines()) <= 2
    assert store.names() == ["proteins"]


def test_an_ontology_does_not_go_with_names_nor_names_with_an_atlas_of_mouse_or_of_nothing(store, write, tmp_path):
    with pytest.raises(BadInput, match="leave --ontology out"):
        annotate(store, write(HGNC), ontology=write(HGNC, "go.obo"))
    mouse = Store.create(str(tmp_path / "mouse"))
    mouse.write("proteins", pa.table({"protein_id": ["Tomm20", "Lmna"], "gene_symbol": ["Tomm20", "Lmna"]}))
    with pytest.raises(BadInput, match="names human genes"):
        annotate(mouse, write(HGNC))
    empty = Store.create(str(tmp_path / "empty"))
    with pytest.raises(NotBuilt, match="subcell-atlas build"):
        annotate(empty, write(HGNC))


def test_the_command_reports_names_in_words_or_as_one_json_document(store, write):
    path = str(write(HGNC))
    said = CliRunner().invoke(main, ["annotate", path, "--atlas", store.uri], catch_exceptions=False)
    assert said.stdout.splitlines()[:3] == [
        "14 synonyms of 5 proteins stored (hgnc).",
        "Filled in: 3 Ensembl ids, 2 UniProt accessions.",
        "5 of 6 proteins of this atlas are genes of the file (2 by ensembl_id, 1 by synonym, 1 by gene_symbol, "
        "1 by uniprot_accession).",
    ]
    again = CliRunner().invoke(main, ["annotate", path, "--atlas", store.uri, "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["synonyms"] == 14


def test_real_sets_of_genes_of_2018_join_the_proteome_s_symbols_of_2022(real_data, tmp_path):
    hpa = read_annotations(real_data / "hpa_tables" / "subcellular_location_2022.tsv").genes()
    store = Store.create(str(tmp_path / "hpa"))
    ids = [gene.ensembl_id for gene in hpa]
    vectors = vector_array(np.ones((len(hpa), 2)))
    columns = [ids, ids, [gene.gene_symbol for gene in hpa], vectors]
    store.write("proteins", pa.table(columns, ["protein_id", "ensembl_id", "gene_symbol", "image"]))
    files = ("complexes/ReactomePathways.gmt", "go/c5.bp.v6.2.symbols.gmt")
    genes = [read_annotations(real_data / name).genes() for name in files]
    before = [len(join_genes(each, store.read("proteins")).protein_of) for each in genes]
    report = annotate(store, real_data / "idmaps" / "hgnc_genes.tsv")
    after = [len(join_genes(each, store.read("proteins")).protein_of) for each in genes]
    assert (before, after) == ([7105, 9637], [7142, 10_334])
    assert (report.identifiers.n, report.identifiers.joined) == (13_041, 12_925)
