"""What files of annotations state, format by format, and what is refused."""

from __future__ import annotations

import gzip
import logging

import pytest

from subcell_atlas import text
from subcell_atlas.errors import BadInput
from subcell_atlas.functions.annotations import read_annotations

GAF_ROW = {
    "db": "UniProtKB",
    "id": "Q15388",
    "symbol": "TOMM20",
    "qualifier": "located_in",
    "term": "GO:0005742",
    "reference": "PMID:1",
    "code": "IDA",
    "with": "",
    "aspect": "C",
    "name": "",
    "synonym": "",
    "type": "protein",
    "taxon": "taxon:9606",
    "date": "20240101",
    "who": "UniProt",
    "extension": "",
    "form": "",
}
OBO = """\
format-version: 1.2
data-version: releases/2024-01-17
property_value: terms:license "http://creativecommons.org/licenses/by/4.0/" xsd:string

! a comment
[Term]
id: GO:0005575
name: cellular_component
namespace: cellular_component

[Term]
id: GO:0043226
name: organelle
namespace: cellular_component
def: "A \\"structure\\" in {a} cell! [x]" [GOC:go_curators] {source="y"}
is_a: GO:0005575 ! cellular_component
[Term]
id: GO:0005634
name: nucleus
namespace: cellular_component
alt_id: GO:0000001
is_a: GO:0043226 {source="z"} ! organelle
relationship: part_of GO:0005575 ! cellular_component
relationship: regulates GO:0008150 ! biological_process
relationship: part_of GO:7777777 ! not in this file

[Term]
id: GO:0000002
name: obsolete thing
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""
HPA_HEADER = (
    "Gene\tGene name\tReliability\tMain location\tAdditional location\tExtracellular location\tEnhanced\tSupported\t"
    "Approved\tUncertain\tGO id\n"
)


def gaf(*changes, header="!gaf-version: 2.2\n!date-generated: 2024-01-17\n"):
    return header + "".join("\t".join({**GAF_ROW, **change}.values()) + "\n" for change in changes)


def read(tmp_path, content, name="file.txt", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_annotations(path, **options)


def stated(file):
    return {(row.gene.written, row.term_id, row.evidence) for row in file.rows}


def test_gmt_of_msigdb_has_readable_names_and_the_aspect_of_its_file(tmp_path):
    content = "GO_NUCLEAR_PORE\thttp://x/y\tNUP98\tNUP107\nGO_FILOPODIUM\thttp://x/z\tOSBPL3\n"
    file = read(tmp_path, content, "c5.cc.v6.2.symbols.gmt")
    assert (file.format, file.source, file.aspect) == ("gmt", "c5.cc.v6.2.symbols", "cellular_component")
    assert file.terms["GO_NUCLEAR_PORE"].name == "nuclear pore"
    assert stated(file) == {(gene, term, None) for gene, term in (
        ("NUP98", "GO_NUCLEAR_PORE"), ("NUP107", "GO_NUCLEAR_PORE"), ("OSBPL3", "GO_FILOPODIUM"),
    )}  # fmt: skip


def test_newer_msigdb_names_the_aspect_in_each_set_and_other_sets_keep_their_names(tmp_path):
    file = read(tmp_path, "GOBP_LYSIS\thttp://x\tA1\nHALLMARK_HYPOXIA\thttp://x\tA1\tB2,1.0\n", "m.gmt")
    assert [(t.name, t.aspect) for t in file.terms.values()] == [
        ("lysis", "biological_process"),
        ("HALLMARK_HYPOXIA", None),
    ]
    assert ("B2", "HALLMARK_HYPOXIA", None) in stated(file)


def test_gmt_of_reactome_keeps_its_ids_is_told_by_content_and_of_mouse_is_refused(tmp_path):
    content = "ABC disorders\tR-HSA-1\tABCA1\nApoptosis\tR-HSA-2\tCASP3\tCASP8\n"
    file = read(tmp_path, content, "pathways")
    assert {t.term_id: (t.name, t.aspect) for t in file.terms.values()} == {
        "R-HSA-1": ("ABC disorders", "pathway"),
        "R-HSA-2": ("Apoptosis", "pathway"),
    }
    with pytest.raises(BadInput, match=r"another species \(R-MMU"):
        read(tmp_path, content.replace("HSA", "MMU"), "pathways")


@pytest.mark.parametrize("name", ["goa_human.gaf.gz", "goa_human"])
def test_gaf_keeps_evidence_with_who_gave_it_and_leaves_out_what_is_no_annotation(tmp_path, name):
    content = gaf(
        {},
        {"reference": "PMID:2"},
        {"code": "IDA", "who": "HPA"},
        {"qualifier": "NOT|located_in", "term": "GO:0000001"},
        {"code": "ND", "term": "GO:0005575"},
        {"taxon": "taxon:10090", "symbol": "Tomm20"},
        {"taxon": "taxon:9606|taxon:1280", "term": "GO:0000003", "aspect": "P", "who": ""},
    )
    file = read(tmp_path, gzip.compress((content + "short\trow\n").encode()), name)
    assert stated(file) == {
        ("Q15388", "GO:0005742", "IDA:UniProt"),
        ("Q15388", "GO:0005742", "IDA:HPA"),
        ("Q15388", "GO:0000003", "IDA"),
    }
    assert file.skipped == {
        "said twice": 1,
        "qualifier NOT": 1,
        "nothing is known (ND)": 1,
        "another species": 1,
        "not a row of GAF": 1,
    }
    assert {t.term_id: t.aspect for t in file.terms.values()} == {
        "GO:0005742": "cellular_component",
        "GO:0000003": "biological_process",
    }
    assert (file.format, file.source, file.date) == ("gaf", "goa_human", "2024-01-17")
    gene = file.genes()[0]
    assert (gene.uniprot_accession, gene.ensembl_id, gene.gene_symbol) == ("Q15388", None, "TOMM20")


def test_gaf_without_its_header_is_told_by_its_columns(tmp_path):
    assert read(tmp_path, gaf({}, header="")).format == "gaf"


def test_gaf_of_another_species_is_refused_by_its_taxon(tmp_path):
    with pytest.raises(BadInput, match="another species: its genes are of taxon:10090"):
        read(tmp_path, gaf({"taxon": "taxon:10090"}))


def test_obo_gives_names_definitions_and_parents_over_is_a_and_part_of(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        file = read(tmp_path, OBO, "go.obo")
    assert not caplog.records
    assert set(file.terms) == {"GO:0005575", "GO:0043226", "GO:0005634"}
    nucleus = file.terms["GO:0005634"]
    assert (nucleus.name, nucleus.aspect) == ("nucleus", "cellular_component")
    assert set(nucleus.parents) == {"GO:0043226", "GO:0005575"}
    assert nucleus.xrefs == ("GO:0000001",)
    assert file.terms["GO:0005575"].parents == ()
    assert file.terms["GO:0043226"].definition == 'A "structure" in {a} cell! [x]'
    assert (file.date, file.licence) == ("releases/2024-01-17", "http://creativecommons.org/licenses/by/4.0/")


@pytest.mark.parametrize("line", ["no colon here", "relationship: part_of a b c", "relationship: lonely"])
def test_a_damaged_obo_is_refused(tmp_path, line):
    with pytest.raises(BadInput, match="cannot be read as OBO"):
        read(tmp_path, f"{OBO}\n[Term]\nid: GO:1\nname: x\n{line}\n", "go.obo")
    with pytest.raises(BadInput, match="cannot be read as OBO"):
        read(tmp_path, f"{OBO}\n[Term]\nname: no id\n", "go.obo")


def test_hpa_gives_each_location_its_own_reliability_and_go_id(tmp_path):
    rows = (
        "ENSG1\tTSPAN6\tApproved\tCytosol;Cell Junctions\tNucleoli\t\tCytosol\t\t\tNucleoli\t"
        "Cytosol (GO:0005829);Nucleoli (GO:0005730)\n"
        "ENSG2\tSCYL3\tUncertain\t\t\tPredicted to be secreted\t\t\t\t\t\n"
    )
    file = read(tmp_path, HPA_HEADER + rows, "subcellular_location.tsv")
    assert (file.format, file.aspect) == ("hpa", "cellular_component")
    assert {(row.term_id, row.evidence, row.qualifier) for row in file.rows} == {
        ("HPA:Cytosol", "Enhanced:HPA", "main location"),
        ("HPA:Cell Junctions", "Approved:HPA", "main location"),
        ("HPA:Nucleoli", "Uncertain:HPA", "additional location"),
    }
    assert file.terms["HPA:Nucleoli"].xrefs == ("GO:0005730",)
    assert file.skipped == {"no location": 1}


def test_clusters_of_corum_are_complexes(tmp_path):
    file = read(tmp_path, "(E.F.G) complex\tSNRPE SNRPF\n12S U11\tSNRNP48 C1orf43 TOE1\n", "CORUM_clusters.tsv")
    assert (file.format, file.aspect) == ("corum", "complex")
    assert ("TOE1", "CORUM:12S U11", None) in stated(file)
    assert file.terms["CORUM:12S U11"].name == "12S U11"


def test_ids_that_are_names_have_single_spaces_in_terms_and_in_annotations(tmp_path):
    file = read(tmp_path, "ULK1-ATG13  complex\tULK1 ATG13\nULK1-ATG13 complex\tRB1CC1 ULK1\n", "CORUM_clusters.tsv")
    assert set(file.terms) == {"CORUM:ULK1-ATG13 complex"}
    assert {gene for gene, term, _ in stated(file) if term in file.terms} == {"ULK1", "ATG13", "RB1CC1"}


def test_sets_of_music_have_go_ids_and_no_names(tmp_path):
    file = read(tmp_path, "GO:0044445\t2\tAHR,AHSP,\nGO:0005634\t1\tHTT,\n", "GO_CC_human_no_hpa.txt")
    assert (file.format, file.aspect) == ("go sets", "cellular_component")
    assert stated(file) == {(g, t, None) for g, t in (
        ("AHR", "GO:0044445"), ("AHSP", "GO:0044445"), ("HTT", "GO:0005634"),
    )}  # fmt: skip
    assert {term.name for term in file.terms.values()} == {None}


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_a_table_of_ones_own_with_any_delimiter(tmp_path, delimiter):
    rows = [
        ("Gene Symbol", "Ensembl ID", "term_id", "Term name", "aspect", "evidence"),
        ("TOMM20", "", "GO:1", "place", "CC", "seen"),
        ("", "ENSG2.3", "GO:2", "", "my kind", ""),
        ("", "", "GO:2", "", "", ""),
        ("A1", "", "", "", "", ""),
        ("one", "too", "few"),
    ]
    content = "\ufeff" + "\r\n".join(delimiter.join(row) for row in rows)
    file = read(tmp_path, content, "mine.csv", source="lab")
    assert stated(file) == {("TOMM20", "GO:1", "seen"), ("ENSG2.3", "GO:2", None)}
    assert {t.term_id: (t.name, t.aspect) for t in file.terms.values()} == {
        "GO:1": ("place", "cellular_component"),
        "GO:2": (None, "my kind"),
    }
    assert file.skipped == {"no protein": 1, "no term": 1, "another number of columns than the header": 1}
    assert file.source == "lab"


def test_a_table_with_names_of_terms_only_makes_ids_from_the_source(tmp_path):
    file = read(tmp_path, '# mine\nprotein,term_name\nP12345,"big, round"\nP12345,"big, round"\n', "mine.csv")
    assert stated(file) == {("P12345", "mine:big, round", None)}
    assert file.skipped == {"said twice": 1}
    assert file.genes()[0].gene_symbol == file.genes()[0].uniprot_accession == "P12345"


def test_pairs_of_genes_are_read_once_in_either_direction(tmp_path):
    lines = ["SUB1,GTF3C3", "GTF3C3,SUB1", "SUB1,GTF3C3", "SUB1,SUB1", "SUB1,", "SUB1,PCNA,3", "CAT , PCNA"]
    file = read(tmp_path, "\n".join(["Entity1,Entity2", *lines]), "CORUM.txt")
    assert {frozenset((one.written, other.written)) for one, other in file.pairs} == {
        frozenset(("SUB1", "GTF3C3")),
        frozenset(("CAT", "PCNA")),
    }
    assert len(file.pairs) == 2
    assert (file.format, file.source, len(file.terms), len(file.rows)) == ("pairs", "CORUM", 0, 0)
    assert [gene.written for gene in file.genes()] == ["GTF3C3", "SUB1", "CAT", "PCNA"]
    assert file.skipped == {"a gene with itself": 1, "no two genes": 1, "another number of columns than the header": 1}


BAD = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \n\n", "is empty"),
    "only comments": (b"# one\n# two\n", "only comments"),
    "only a gaf header": (b"!gaf-version: 2.2\n", "only comments"),
    "header only": (b"gene_symbol,term_id\n", "holds no annotation"),
    "binary": (b"\x00\x01\x02" * 999, "zero bytes"),
    "zip": (b"PK\x03\x04abc", "zip archive"),
    "web page": (b"\n<!DOCTYPE html><html>not found</html>", "a web page"),
    "xml": (b"<?xml version='1.0'?><rdf/>", "is XML"),
    "json": (b'{"a": 1}', "is JSON"),
    "latin-1": ("gene_symbol,term_name\nA1,caf\xe9\n".encode("latin-1"), "not text in UTF-8"),
    "utf-16": ("gene_symbol,term_id\n".encode("utf-16"), "UTF-16"),
    "truncated gzip": (gzip.compress(b"gene_symbol,term_id\n" + b"A1,x\n" * 9999)[:-20], "ends too early"),
    "damaged gzip": (b"\x1f\x8b\x08\x00" + b"no" * 99, "cannot be read"),
    "no protein column": (b"term_id,term_name\nx,y\n", "It needs a column of proteins"),
    "no term column": (b"gene_symbol,colour\nx,y\n", "It needs a column of proteins"),
    "other columns": (b"a,b\n1,2\n", "is no file of annotations"),
    "list of genes": (b"TOMM20\nLMNA\n", "is no file of annotations"),
    "pairs of one gene": (b"entity1,entity2\nA,A\n", "a gene with itself: 1"),
    "open quotation": (b'gene,term_id\n"A1,x\n' + b"A1,x\n" * 50_000, "open quotation mark"),
    "one long line": (b"A" * 10_000_000, "longer than"),
    "gmt without genes": (b"SET\thttp://x\t\t\n", "no genes: 1"),
    "obo without terms": (b"format-version: 1.2\nontology: go\n", "holds no annotation"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_cannot_be_used_are_refused_in_two_lines(tmp_path, kind):
    content, message = BAD[kind]
    with pytest.raises(BadInput, match=message) as caught:
        read(tmp_path, content, "file.gmt" if "gmt" in kind else "file")
    assert len(str(caught.value).splitlines()) <= 2
    assert len(str(caught.value)) < 700


def test_missing_files_folders_and_empty_names_are_refused(tmp_path):
    with pytest.raises(BadInput, match="There is no file"):
        read_annotations(tmp_path / "none.gmt")
    with pytest.raises(BadInput, match="is a folder"):
        read_annotations(tmp_path)
    with pytest.raises(BadInput, match="cannot be empty"):
        read(tmp_path, "gene,term_id\nA1,x\n", source=" ")


def test_a_long_line_ends_the_reading_before_it_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MAX_LINE", 10)
    (tmp_path / "long").write_text("short\n" + "x" * 100)
    with pytest.raises(BadInput, match="Line 2 of"):
        list(text.read_lines(tmp_path / "long"))


REAL = {  # format, terms, annotations, genes; counted in the files by other means
    "go/GO_CC_human_no_hpa.txt": ("go sets", 1602, 406_178, 18_535),
    "go/c5.cc.v6.2.symbols.gmt": ("gmt", 580, 87_785, 12_198),
    "go/goslim_generic.obo": ("obo", 148, 0, 0),
    "complexes/CORUM_clusters.tsv": ("corum", 2696, 10_830, 3541),
    "complexes/ReactomePathways.gmt": ("gmt", 1448, 113_746, 11_194),
    "hpa_tables/subcellular_location_2022.tsv": ("hpa", 35, 23_169, 13_041),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_whole(real_data, name):
    file = read_annotations(real_data / name)
    assert (file.format, len(file.terms), len(file.rows), len(file.genes())) == REAL[name]
    assert not file.skipped


REAL_PAIRS = {"CORUM": (37_649, 3505), "SIGNOR": (11_617, 4544), "StringDB": (58_059, 10_335)}  # pairs, genes


@pytest.mark.parametrize("name", REAL_PAIRS)
def test_real_pairs_are_read_whole(real_data, name):
    file = read_annotations(real_data / "complexes" / f"{name}.txt")
    assert (len(file.pairs), len(file.genes())) == REAL_PAIRS[name]
    assert not file.skipped


@pytest.mark.parametrize("name", ["idmaps/gene_ids.csv", "sequences/hou.fasta"])
def test_real_files_of_other_things_are_refused(real_data, name):
    with pytest.raises(BadInput):
        read_annotations(real_data / name)
