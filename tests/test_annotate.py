"""Annotations into an atlas: which protein is meant, what follows from the ontology, what is replaced and refused."""

from __future__ import annotations

import json
import shutil

import lancedb
import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from test_annotations import HPA_HEADER, OBO, gaf

from ingest.annotate import annotate
from subcell_atlas.cli import main
from subcell_atlas.errors import AtlasNotFound, BadInput, NotBuilt
from subcell_atlas.functions.ontology import Ontology
from subcell_atlas.identifiers import Gene
from subcell_atlas.joining import join_genes
from subcell_atlas.profiles import vector_array
from subcell_atlas.schema import METADATA_KEY, table_schema
from subcell_atlas.store import Store

PROTEINS = [  # ensembl_id, uniprot_accession, gene_symbol
    ("ENSG00000173726", "Q15388", "TOMM20"),
    ("ENSG00000160789", "P02545", "LMNA"),
    ("ENSG00000000457", None, "SCYL3"),
    ("ENSG00000188612", "P61956", "SUMO2"),
    ("ENSG00000270882", "P62805", "H4C14"),
    ("ENSG00000197061", "P62805", "H4C3"),
    ("ENSG00000000460", "Q9NSG2", "C1orf112"),
    (None, "Q00000", "TWIN"),
    (None, "Q00001", "TWIN"),
]
NAMES = [(ensembl or accession, ensembl, accession, symbol) for ensembl, accession, symbol in PROTEINS]
TOMM20, LMNA, SCYL3, SUMO2, H4C14, H4C3, C1ORF112 = [row[0] for row in NAMES[:7]]


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store.create(str(tmp_path / "atlas"))
    columns = [list(column) for column in zip(*NAMES, strict=True)]
    vectors = vector_array(np.random.default_rng(0).normal(size=(len(NAMES), 4)))
    rows = pa.table([*columns, vectors], ["protein_id", "ensembl_id", "uniprot_accession", "gene_symbol", "image"])
    store.write("proteins", rows)
    return store


@pytest.fixture
def write(tmp_path):
    def write(content, name="mine.csv"):
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


def table(*rows, header="gene,term_id"):
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


def said(store, *columns, where=None):
    rows = store.read("annotations", where=where).to_pylist()
    return {tuple(row[column] for column in ("protein_id", "term_id", *columns)) for row in rows}


def versions(store):
    return {name: store.version(name) for name in ("terms", "annotations")}


@pytest.mark.parametrize(
    ("gene", "protein"),
    [
        (Gene.bare("Q15388"), TOMM20),
        (Gene.bare("Q15388-2"), TOMM20),
        (Gene.bare("ENSG00000173726.12"), TOMM20),
        (Gene.bare("TOMM20"), TOMM20),
        (Gene.bare("tomm20"), TOMM20),
        (Gene.bare("C1ORF112"), C1ORF112),
        (Gene("x", "P02545", None, "TOMM20"), LMNA),  # the accession goes before the symbol
        (Gene("x", None, "ENSG00000160789", "TOMM20"), LMNA),
        (Gene("x", "A0A000", None, "SCYL3"), SCYL3),
        (Gene("x", "P62805", None, "H4C3"), H4C3),  # the symbol tells which of two has the accession
        (Gene("x", None, "ENSG00000999999", "LMNA"), LMNA),  # tables of different years
        (Gene.bare("NOBODY"), None),
        (Gene("x", None, None, "Q15388"), None),  # a symbol is not looked for among accessions
        (Gene.bare("P62805"), "ambiguous"),
        (Gene.bare("TWIN"), "ambiguous"),
        (Gene("x", "P62805", None, "LMNA"), "ambiguous"),
    ],
)
def test_a_gene_is_found_by_its_surest_name(store, gene, protein):
    found = join_genes([gene], store.read("proteins"))
    assert found.protein_of.get(gene) == (None if protein == "ambiguous" else protein)
    assert (list(found.ambiguous), list(found.missing)) == (
        [gene] if protein == "ambiguous" else [],
        [gene] if protein is None else [],
    )


def test_of_two_genes_of_one_symbol_the_one_with_the_protein_s_ensembl_id_is_it(store):
    genes = [Gene("b", None, "ENSG00000999999", "LMNA"), Gene("a", None, "ENSG00000160789", "LMNA")]
    found = join_genes(genes, store.read("proteins"))
    assert found.protein_of == {genes[1]: LMNA}
    assert found.ambiguous == [genes[0]]


def test_a_table_of_ones_own_is_stored_with_a_report_and_a_run(store, write):
    path = write(table(("TOMM20", "T:1"), ("lmna", "T:1"), ("NOBODY", "T:2"), ("TWIN", "T:1")))
    report = annotate(store, path)
    assert said(store, "source", "direct") == {(TOMM20, "T:1", "mine", True), (LMNA, "T:1", "mine", True)}
    assert store.read("terms", ["term_id", "name"]).to_pylist() == [{"term_id": "T:1", "name": "T:1"}]
    found = report.identifiers
    assert (found.n, found.joined, found.missing, found.ambiguous) == (4, 2, 1, 1)
    assert found.joined_by == {"gene_symbol": 1, "gene_symbol in another case": 1}
    assert (found.missing_examples, found.ambiguous_examples) == (["NOBODY"], ["TWIN"])
    run = store.read("runs").to_pylist()[0]
    assert (run["kind"], run["finished"] is not None) == ("annotate", True)
    assert json.loads(run["counts"]) == report.as_object()
    assert len(report.origin.sha256) == 64


def test_the_same_source_again_replaces_what_it_said_and_others_keep_theirs(store, write):
    annotate(store, write(table(("TOMM20", "T:1"), ("LMNA", "T:2"))))
    annotate(store, write(table(("TOMM20", "T:1")), "other.csv"))
    before = versions(store)
    annotate(store, write(table(("TOMM20", "T:1"), ("LMNA", "T:2"))))
    assert versions(store) == before
    report = annotate(store, write(table(("SCYL3", "T:3"))))
    assert report.replaced == 2
    assert said(store, "source") == {(SCYL3, "T:3", "mine"), (TOMM20, "T:1", "other")}
    assert set(store.read("terms")["term_id"].to_pylist()) == {"T:1", "T:3"}
    annotate(store, write(table(("SCYL3", "T:3"))), source="other")
    assert said(store, "source") == {(SCYL3, "T:3", "mine"), (SCYL3, "T:3", "other")}


def test_gaf_is_propagated_to_ancestors_with_all_that_speaks_for_them(store, write):
    rows = [
        {"term": "GO:0000001", "who": "HPA"},  # a former id of the nucleus
        {"term": "GO:0043226", "code": "IEA", "who": "InterPro", "qualifier": "part_of"},
        {"id": "P02545", "symbol": "LMNA", "term": "GO:0005634", "who": "HPA"},
        {"id": "P02545", "symbol": "LMNA", "term": "GO:9999999"},
    ]
    report = annotate(store, write(gaf(*rows), "g.gaf"), ontology=write(OBO, "go.obo"))
    assert said(store, "evidence", "qualifier", "direct") == {
        (TOMM20, "GO:0005634", "IDA:HPA", "located_in", True),
        (TOMM20, "GO:0043226", "IDA:HPA;IEA:InterPro", "part_of", True),
        (TOMM20, "GO:0005575", "IDA:HPA;IEA:InterPro", None, False),
        (LMNA, "GO:0005634", "IDA:HPA", "located_in", True),
        (LMNA, "GO:0043226", "IDA:HPA", None, False),
        (LMNA, "GO:0005575", "IDA:HPA", None, False),
        (LMNA, "GO:9999999", "IDA:UniProt", "located_in", True),
    }
    assert (report.propagated, report.terms, report.terms_outside_ontology) == (3, 4, 1)
    assert (report.ontology.file, report.ontology.date) == ("go.obo", "releases/2024-01-17")
    terms = {row["term_id"]: row for row in store.read("terms").to_pylist()}
    assert set(terms) == {"GO:0005575", "GO:0043226", "GO:0005634", "GO:9999999"}
    assert (terms["GO:0005634"]["name"], terms["GO:0005634"]["source"]) == ("nucleus", "go")


def test_an_ontology_that_is_there_already_is_used_and_outlives_its_namesake(store, write):
    obo = annotate(store, write(OBO, "go.obo"), source="GO")
    assert (obo.terms, obo.annotations, store.count("annotations")) == (3, 0, 0)
    annotate(store, write(gaf({"term": "GO:0043226"}), "g.gaf"), source="GO")
    assert said(store, "direct") == {(TOMM20, "GO:0043226", True), (TOMM20, "GO:0005575", False)}
    assert store.count("terms") == 3
    annotate(store, write(OBO, "go.obo"), source="GO")
    assert store.count("annotations") == 2
    assert json.loads(store.read("runs").sort_by("started").to_pylist()[-1]["counts"])["replaced"] == 0


def test_without_an_ontology_gaf_is_stored_as_it_is_and_the_report_says_so(store, write):
    report = annotate(store, write(gaf({}), "g.gaf"))
    assert said(store, "evidence") == {(TOMM20, "GO:0005742", "IDA:UniProt")}
    assert any("--ontology" in note for note in report.notes())


def test_names_of_terms_come_from_whoever_has_them(store, write):
    annotate(store, write("GO:0005634\t1\tLMNA,\n", "GO_CC.txt"))
    assert store.read("terms").to_pylist()[0]["name"] == "GO:0005634"
    annotate(store, write(OBO, "go.obo"))
    annotate(store, write("GO:0005634\t1\tLMNA,TOMM20\n", "GO_CC.txt"))
    terms = {row["term_id"]: row for row in store.read("terms").to_pylist()}
    assert terms["GO:0005634"]["name"] == "nucleus"
    assert terms["GO:0005634"]["parents"] == ["GO:0043226", "GO:0005575"]
    assert said(store) == {(LMNA, "GO:0005634"), (TOMM20, "GO:0005634")}  # sets are not propagated


def test_what_pictures_told_can_be_told_apart(store, write):
    row = "ENSG00000173726\tTOMM20\tEnhanced\tMitochondria\t\t\tMitochondria\t\t\t\tMitochondria (GO:0005739)\n"
    annotate(store, write(HPA_HEADER + row, "subcellular_location.tsv"))
    assert said(store, "evidence", "qualifier") == {(TOMM20, "HPA:Mitochondria", "Enhanced:HPA", "main location")}
    assert store.read("terms").to_pylist()[0]["xrefs"] == ["GO:0005739"]


def test_ancestors_are_those_of_a_slow_twin_also_with_a_cycle(rng):
    graph = nx.DiGraph([(str(a), str(b)) for a, b in rng.integers(0, 30, (40, 2))])
    rows = [{"term_id": n, "parents": list(graph.successors(n)), "xrefs": None} for n in graph]
    ontology = Ontology(rows)
    assert {n: ontology.ancestors(n) for n in graph} == {n: nx.descendants(graph, n) for n in graph}


def test_mouse_symbols_are_refused_though_they_would_join(store, write):
    path = write(table(("Tomm20", "T:1"), ("Lmna", "T:1"), ("Sumo2", "T:1")))
    with pytest.raises(BadInput, match=r"looks like another species.*'Tomm20'") as caught:
        annotate(store, path)
    assert "'TOMM20'" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert store.names() == ["proteins"]


def test_an_atlas_of_mouse_takes_mouse_symbols(tmp_path, write):
    store = Store.create(str(tmp_path / "mouse"))
    store.write("proteins", pa.table({"protein_id": ["Tomm20", "Lmna"], "gene_symbol": ["Tomm20", "Lmna"]}))
    assert annotate(store, write(table(("Tomm20", "T:1")))).identifiers.joined == 1


def test_identifiers_that_mean_nothing_here_are_refused_with_an_example_of_both_sides(store, write):
    path = write(table(*((f"ENSMUSG{i:011}", "T:1") for i in range(30))))
    with pytest.raises(BadInput, match=r"of its 30 identifiers 0 are in the atlas") as caught:
        annotate(store, path)
    assert "'ENSMUSG00000000000'" in str(caught.value)
    assert "'TOMM20', 'ENSG00000173726', 'Q15388'" in str(caught.value)


def test_a_whole_proteome_s_file_is_fine_for_a_small_atlas(store, write):
    rows = [("TOMM20", "T:1"), *((f"OTHER{i}", "T:1") for i in range(1000))]
    assert annotate(store, write(table(*rows))).identifiers.joined == 1


def test_nothing_is_written_when_a_file_is_refused(store, write):
    good = write(table(("TOMM20", "T:1")))
    annotate(store, good)
    before = {name: store.version(name) for name in store.names()}
    bad = write(gaf({}, header="")[:-1] + "\n" + "x" * 5_000_000, "bad.gaf")
    for path, ontology in ((bad, None), (good, bad), (good, good), (write(OBO, "go.obo"), write(OBO, "b.obo"))):
        with pytest.raises(BadInput):
            annotate(store, path, source="mine", ontology=ontology)
    assert {name: store.version(name) for name in store.names()} == before


def test_an_atlas_without_proteins_says_what_to_do_and_takes_an_ontology(tmp_path, write):
    store = Store.create(str(tmp_path / "empty"))
    with pytest.raises(NotBuilt, match="subcell-atlas build"):
        annotate(store, write(table(("TOMM20", "T:1"))))
    assert annotate(store, write(OBO, "go.obo")).terms == 3
    store.write("proteins", pa.table({"protein_id": pa.array([], pa.string())}))
    with pytest.raises(NotBuilt, match="no protein"):
        annotate(store, write(table(("TOMM20", "T:1"))))


def test_an_atlas_of_an_earlier_version_gets_the_new_columns_and_keeps_its_rows(store, write):
    metadata = {METADATA_KEY: table_schema("terms").metadata[METADATA_KEY]}
    old = {
        "terms": {"term_id": ["T:0"], "name": ["zero"], "aspect": ["complex"], "source": ["before"]},
        "annotations": {"protein_id": [LMNA], "term_id": ["T:0"], "evidence": ["seen"], "source": ["before"]},
    }
    for name, columns in old.items():
        rows = pa.table(columns).replace_schema_metadata(metadata)
        lancedb.connect(store.uri).create_table(name, rows, schema=rows.schema)
    annotate(store, write(table(("TOMM20", "T:1"))))
    assert said(store, "evidence", "direct") == {(LMNA, "T:0", "seen", None), (TOMM20, "T:1", None, True)}
    assert {"definition", "parents", "xrefs"} <= set(store.columns("terms"))


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_the_command_reports_in_words_or_as_one_json_document(store, write):
    path = write(table(("TOMM20", "T:1"), ("NOBODY", "T:1")))
    text = run("annotate", path, "--atlas", store.uri, "--source", "lab").stdout
    assert "1 annotations of 1 proteins with 1 terms; stored as 'lab' (table)." in text
    assert "1 of 2 identifiers are proteins of this atlas (1 by gene_symbol)." in text
    document = json.loads(run("annotate", path, "--atlas", store.uri, "--source", "lab", "--json").stdout)
    assert (document["source"], document["replaced"], document["identifiers"]["missing_examples"]) == (
        "lab",
        1,
        ["NOBODY"],
    )


def test_the_command_tells_problems_in_two_lines_and_exits_with_1(store, write, tmp_path):
    for path in (tmp_path / "none", tmp_path, write(""), write("<html>", "x.gmt")):
        result = run("annotate", path, "--atlas", store.uri, code=1)
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) <= 2
    result = run("annotate", write(table(("A", "T:1"))), "--atlas", tmp_path / "nowhere", code=1)
    assert "There is no atlas" in result.stderr
    with pytest.raises(AtlasNotFound):
        Store.open(str(tmp_path / "nowhere"))


def test_annotations_of_a_demo_stand_beside_what_was_planted_and_outdate_its_map(demo_atlas, tmp_path, write):
    from subcell_atlas.build import build

    uri = str(tmp_path / "copy")
    shutil.copytree(demo_atlas, uri)
    store = Store.open(uri)
    planted = store.count("annotations")
    assert build(store, seed=0) == []
    annotate(store, write(table(("DEMO001", "T:1"), ("DEMO002", "T:1"))))
    assert store.count("annotations") == planted + 2
    assert build(store, seed=0) == ["map", "functions"]


def test_real_files_join_real_proteins(real_data, tmp_path):
    import pyarrow.csv as pa_csv

    names = {"gene_name": "gene_symbol", "ensg_id": "ensembl_id", "uniprot_id": "uniprot_accession"}
    rows = pa_csv.read_csv(real_data / "idmaps" / "gene_ids.csv").select(list(names)).rename_columns(names)
    ids = [row["ensembl_id"] or row["gene_symbol"] for row in rows.to_pylist()]
    store = Store.create(str(tmp_path / "atlas"))
    store.write("proteins", rows.append_column("protein_id", pa.array(ids)).slice(0, 4000))
    joined = {}
    for name in (
        "go/GO_CC_human_no_hpa.txt",
        "complexes/CORUM_clusters.tsv",
        "hpa_tables/subcellular_location_2022.tsv",
    ):
        report = annotate(store, real_data / name)
        joined[report.format] = (report.identifiers.joined, report.identifiers.ambiguous)
    # counted from the two files by set operations alone
    assert joined == {"go sets": (3455, 0), "corum": (675, 0), "hpa": (2612, 3)}


def test_names_of_terms_are_one_line_that_every_reader_can_show(store, write):
    path = write('gene,term_id,term_name\nTOMM20,X:1,"\x1b[31mred\n<b>bold</b>\ttab"\nLMNA,X:1,\n')
    annotate(store, path)
    (name,) = store.read("terms", ["name"])["name"].to_pylist()
    assert name == "[31mred <b>bold</b> tab"
