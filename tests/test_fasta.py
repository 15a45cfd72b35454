"""What FASTA files say of proteins, which of several sequences of a gene is taken, and what is refused."""

from __future__ import annotations

import gzip

import pytest

from subcell_atlas.errors import BadInput
from subcell_atlas.identifiers import Gene
from subcell_atlas.sequences import fasta
from subcell_atlas.sequences.fasta import read_fasta

HUMAN = "OS=Homo sapiens OX=9606"


@pytest.fixture
def read(tmp_path):
    """Return what is read from text or bytes."""

    def read(content):
        path = tmp_path / "proteins.fasta"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_fasta(path)

    return read


def only(file):
    (record,) = file.records
    return record


def residues_of(file):
    return {record.gene.written: record.residues for record in file.records}


def test_a_header_of_uniprot_names_accession_gene_and_protein(read):
    record = only(read(f">sp|Q15388|TOM20_HUMAN Mitochondrial import receptor {HUMAN} GN=TOMM20 PE=1 SV=1\nMVGR\n"))
    assert record.gene == Gene("Q15388", "Q15388", None, "TOMM20")
    assert record.name == "Mitochondrial import receptor"
    assert record.residues == "MVGR"


def test_a_header_of_uniprot_may_say_little(read):
    assert only(read(">sp|Q15388|TOM20_HUMAN\nMVGR\n")).gene == Gene("Q15388", "Q15388", None, None)
    assert only(read(">tr|Q15388|Q15388\nMVGR\n")).gene == Gene("Q15388", "Q15388", None, None)
    assert only(read(">tr|A0A024|A0A024_HUMAN OS=Homo sapiens\nMVGR\n")).name == ""


def test_an_isoform_alone_in_a_file_is_its_gene(read):
    record = only(read(f">sp|Q15388-2|TOM20_HUMAN Isoform 2 of Mitochondrial {HUMAN} GN=TOMM20\nMVGR\n"))
    assert record.gene == Gene("Q15388-2", "Q15388", None, "TOMM20")


def test_a_header_of_ensembl_names_its_gene(read):
    record = only(read(
        ">ENSP00000419801.1 pep chromosome:GRCh38:14:22438547:22438554:1 gene:ENSG00000223997.1 "
        "transcript:ENST00000415118.1 gene_biotype:TR_D_gene gene_symbol:TRDD1 "
        "description:T cell receptor delta diversity 1 [Source:HGNC Symbol;Acc:HGNC:12254]\nEI\n"
    ))  # fmt: skip
    assert record.gene == Gene("ENSG00000223997", None, "ENSG00000223997", "TRDD1")
    assert record.name == "T cell receptor delta diversity 1"
    bare = only(read(">ENSP00000419801.1 pep gene:ENSG00000223997.1\nEI\n"))
    assert bare.gene == Gene("ENSG00000223997", None, "ENSG00000223997", None)


def test_any_other_header_is_a_bare_name(read):
    file = read(">A0A087X0K9\nMSAR\n>TOMM20 a receptor\nMVGR\n>\tLMNA\nMETP\n> NP_000537.3 p53 [Homo sapiens]\nMEEP\n")
    assert [record.gene for record in file.records] == [
        Gene.bare("A0A087X0K9"), Gene.bare("TOMM20"), Gene.bare("LMNA"), Gene.bare("NP_000537.3")
    ]  # fmt: skip
    assert [record.name for record in file.records] == ["", "a receptor", "", "p53 [Homo sapiens]"]


def test_residues_are_cleaned(read):
    file = read(">a\r\nmvg r-l\r\n\r\nM.V*\r\n>b\nBZJXUO\n>c\rMMM\r")
    assert residues_of(file) == {"a": "MVGRLMV", "b": "BZXXUO", "c": "MMM"}


def test_gzip_and_a_byte_order_mark_are_read(read):
    assert residues_of(read(gzip.compress(b">a\nMVGR\n"))) == {"a": "MVGR"}
    assert residues_of(read(b"\xef\xbb\xbf>a\nMVGR")) == {"a": "MVGR"}


def test_a_very_long_protein_is_read_on_one_line_and_on_many(read):
    titin = "MTTQAPTFWL" * 3600
    assert residues_of(read(f">TTN\n{titin}\n")) == {"TTN": titin}
    assert residues_of(read(">TTN\n" + "MTTQAPTFWL\n" * 3600)) == {"TTN": titin}


def test_what_is_refused_is_listed_by_its_reason(read):
    file = read(
        ">good\nMVGR\n>stop\nMV*GR\n>digit\nMV1\n>accent\nMVÄ\n>dotless\nMVı\n>empty\n>gap\n--\n>unknown\nXXJ\n>\nMVGL\n"
        ">sp|P1|A_MOUSE Thing OS=Mus musculus OX=10090 GN=A\nMVGR\n>sp|P2|B_MOUSE\nMVGR\n"
        ">ENSMUSP00000000001.1 pep gene:ENSMUSG00000000001.1\nMVGR\n>ENSMUSG00000000002\nMVGR\n"
        ">dna\nATGACGATAGCATAGACGAT\n"
    )
    assert residues_of(file) == {"good": "MVGR"}
    assert file.skipped == {
        "has a stop (*) inside": ("stop",),
        "has characters that are no residues": ("digit", "accent", "dotless"),
        "is empty": ("empty", "gap"),
        "has unknown residues only": ("unknown",),
        "has no name": ("sequence 9",),
        "is of another species than human": ("P1", "P2", "ENSMUSG00000000001", "ENSMUSG00000000002"),
        "is of nucleotides": ("dna",),
    }
    assert file.n_skipped == 13


def test_the_same_sequence_again_is_counted_as_repeated(read):
    file = read(">P12345\nMVGR\n>P12345\nmvgr*\n>P12345-2\nMVGR\n>Q99999\nMVGR\n")
    assert residues_of(file) == {"P12345": "MVGR", "Q99999": "MVGR"}
    assert (file.n_repeated, file.n_isoforms) == (2, 0)


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_sequences_of_a_gene_the_reviewed_then_the_canonical_then_the_longest_is_taken(read, order):
    entries = [
        f">sp|P00001-2|A_HUMAN {HUMAN} GN=A\nMVGRRRRR\n",
        f">sp|P00001|A_HUMAN {HUMAN} GN=A\nMVGR\n",
        f">tr|A0A001|A0A001_HUMAN {HUMAN} GN=A\nMVGRRRRRRRRRR\n",
        f">tr|A0A002|A0A002_HUMAN {HUMAN} GN=B\nMLLL\n",
        f">tr|A0A003|A0A003_HUMAN {HUMAN} GN=B\nMLLLLL\n",
        ">ENSP1 pep gene:ENSG00000000003.1\nMEE\n",
        ">ENSP2 pep gene:ENSG00000000003.1\nMEEE\n",
    ]
    file = read("".join(entries[::order]))
    assert residues_of(file) == {"P00001": "MVGR", "A0A003": "MLLLLL", "ENSG00000000003": "MEEE"}
    assert (file.n_repeated, file.n_isoforms) == (0, 4)


def test_two_reviewed_entries_of_one_symbol_are_two_proteins(read):
    file = read(f">sp|P42771|CDN2A_HUMAN {HUMAN} GN=CDKN2A\nMEPA\n>sp|Q8N726|ARF_HUMAN {HUMAN} GN=CDKN2A\nMVRR\n")
    assert residues_of(file) == {"P42771": "MEPA", "Q8N726": "MVRR"}


def test_a_short_peptide_may_have_the_letters_of_nucleotides(read):
    file = read(">TRBD1\nGTGG\n>LMNA\nMETPSQRRATRSGAQASSTPLS\n")
    assert residues_of(file)["TRBD1"] == "GTGG"


def test_a_protein_of_many_such_letters_is_a_protein(read):
    assert only(read(">a\nMAGTCAGTCAGTCAGTCAGTCMWLKR\n"))


DNA = ">NM_000546.6\nATGGAGGAGCCGCAGTCAGATCCTAGCGTCGAG\n"
REFUSED = {
    "DNA": (DNA.encode(), "of DNA or RNA"),
    "RNA": (DNA.replace("T", "u").encode(), "of DNA or RNA"),
    "a genome": (b">chr1\n" + b"ACGTTGCAGGAT\n" * 9000, "of DNA or RNA: 'chr1' has more than 100000 letters"),
    "a long line": (b">x\n" + b"MKWV" * 30_000, "of no proteins: 'x' has more than 100000 letters"),
    "a huge line": (b">x\n" + b"MKWV" * 2_000_000, "longer than 4000000 characters"),
    "mouse": (b">sp|P1|A_MOUSE T OS=Mus musculus OX=10090 GN=A\nMVGR\n", "of another species than human, such as 'P1'"),
    "empty": (b"", "is empty"),
    "blank": (b"\n \r\n\n", "is empty"),
    "only a header": (b">P12345", "no protein that can be used. Refused: 1 is empty"),
    "only refused": (b">a\nM*M\n>b\nM1\n>c\nM2\n", "1 has a stop (*) inside; 2 has characters that are no residues"),
    "plain residues": (b"MVGRNSAIAAGVCGALFIGYCIYFDRKRRSDPNFKNRLRERRKKQKLAKERAGLSKLPDLKD", "begins 'MVGRNSAIAA"),
    "a table": (b"gene,sequence\nLMNA,METP\n", "no FASTA file: it begins 'gene,sequence'"),
    "a web page": (b"<!DOCTYPE html>\n<html>", "no FASTA file: it begins '<!DOCTYPE html>'"),
    "zeros": (bytes(200), "zero bytes"),
    "binary": (bytes(range(128, 256)), "not text in UTF-8"),
    "zip": (b"PK\x03\x04 and more", "a zip archive"),
    "UTF-16": (">a\nMVGR\n".encode("utf-16"), "UTF-16"),
    "half a gzip": (gzip.compress(b">a\nMVGR\n" * 999)[:-20], "cannot be read"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_files_that_cannot_be_used_are_refused_by_what_they_are(read, what):
    content, message = REFUSED[what]
    with pytest.raises(BadInput) as found:
        read(content)
    assert message in str(found.value)
    assert len(str(found.value).splitlines()) <= 2


@pytest.mark.parametrize("text", ["MVJX*", ">sp|P1|A_HUMAN\nMV\n jx*\n", "\n> \r\nmv-\r\nJ.X\n"])
def test_pasted_residues_are_taken_with_or_without_a_header(text):
    assert fasta.residues_of(text) == "MVXX"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        (">a\n", "is empty"),
        (">a\nMK\n>b\nMV", "more than one"),
        ("MK\n>b\nMV", "more than one"),
        ("MK1", "no residues"),
        ("M*K", "stop"),
        ("XXX", "unknown residues only"),
        ("acgt" * 9, "is of nucleotides: 'ACGT"),
        ("MKWV" * 30_000, "too long for a protein"),
    ],
)
def test_pasted_text_that_is_no_protein_is_refused(text, why):
    with pytest.raises(BadInput, match=why):
        fasta.residues_of(text)


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is a folder; name a file"):
        read_fasta(tmp_path)
    with pytest.raises(BadInput, match="There is no file"):
        read_fasta(tmp_path / "none.fasta")


def test_real_sequences_are_read(real_data):
    file = read_fasta(real_data / "sequences" / "hou.fasta")
    assert (len(file.records), file.n_skipped, file.n_isoforms) == (5140, 0, 0)
    assert file.records[0].gene == Gene.bare("A0A087X0K9")
