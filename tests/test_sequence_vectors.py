"""Sequences into an atlas: joined, embedded, gone on with, replaced."""

import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from ingest.sequences import ingest_sequences
from subcell_atlas import sequence_vectors
from subcell_atlas.build import build
from subcell_atlas.cli import main
from subcell_atlas.errors import AtlasError, BadInput, NotBuilt, RecipeMismatch
from subcell_atlas.proteins import write_proteins
from subcell_atlas.recipe import Recipe
from subcell_atlas.sequence_vectors import embed_sequences
from subcell_atlas.store import Store

FIRST, SECOND, THIRD = "MKTAYIAKQRQISFVKSH", "MSTNPKPQRKTKRNTNRR", "MLLAVLYCLLWSFQTSAG"


class LengthEncoder:
    """One vector a sequence: its length, and how many M it has. `fails_after`: sequences, then Ctrl-C."""

    dim = 2
    note = None

    def __init__(self, name="lengths", fails_after=None):
        self.name = name
        self.fails_after = fails_after
        self.seen = []

    def recipe(self):
        return Recipe(encoder=self.name, dim=2)

    def batches(self, sequences):
        for place, residues in enumerate(sequences):
            if len(self.seen) == self.fails_after:
                raise KeyboardInterrupt
            self.seen.append(residues)
            yield np.array([place]), np.array([[len(residues), residues.count("M")]], np.float32)


@pytest.fixture
def store(tmp_path):
    found = Store.create(str(tmp_path / "atlas"))
    names = {
        "protein_id": ["ENSG00000000001", "ENSG00000000002"],
        "ensembl_id": ["ENSG00000000001", "ENSG00000000002"],
        "gene_symbol": ["ABC1", "XYZ2"],
        "uniprot_accession": ["P00001", None],
    }
    write_proteins(found, pa.table({**names, "amino_acids": pa.array([None, None], pa.string())}))
    return found


def fasta(tmp_path, *entries):
    path = tmp_path / "some.fasta"
    path.write_text("".join(f">{header}\n{residues}\n" for header, residues in entries))
    return path


def stored(store):
    rows = store.read("proteins").to_pylist()
    return {row["protein_id"]: row for row in rows}


def run(store, path, encoder, **options):
    return ingest_sequences(store, path, encoder, progress=False, **options)


ENTRIES = (
    ("sp|P00001|ABC1_HUMAN Abc OS=Homo sapiens OX=9606 GN=ABC1 PE=1 SV=1", FIRST),
    ("sp|P00002|XYZ2_HUMAN Xyz OS=Homo sapiens OX=9606 GN=XYZ2 PE=1 SV=1", SECOND),
    ("sp|P00003|NEW_HUMAN New OS=Homo sapiens OX=9606 GN=NEW PE=1 SV=1", THIRD),
)


def test_sequences_are_joined_by_accession_and_symbol_and_others_are_new_proteins(store, tmp_path):
    report = run(store, fasta(tmp_path, *ENTRIES), LengthEncoder())
    assert (report.joined, report.new, report.embedded) == (2, 1, 3)
    assert report.joined_by == {"uniprot_accession": 1, "gene_symbol": 1}
    rows = stored(store)
    assert rows["ENSG00000000002"]["uniprot_accession"] == "P00002"
    assert rows["P00003"]["gene_symbol"] == "NEW"
    assert rows["ENSG00000000001"]["sequence"] == [18, 1]
    assert store.recipe("proteins", "sequence").encoder == "lengths"


def test_only_proteins_of_the_atlas_when_asked(store, tmp_path):
    report = run(store, fasta(tmp_path, *ENTRIES), LengthEncoder(), known_only=True)
    assert (report.joined, report.new, report.left_out) == (2, 0, 1)
    assert len(stored(store)) == 2
    with pytest.raises(BadInput, match="None of the 1 sequences"):
        run(store, fasta(tmp_path, ENTRIES[2]), LengthEncoder(), known_only=True)


def test_what_is_there_is_not_embedded_again_and_what_changed_is(store, tmp_path):
    run(store, fasta(tmp_path, *ENTRIES), LengthEncoder())
    again = LengthEncoder()
    assert run(store, fasta(tmp_path, *ENTRIES), again).embedded == 0
    assert again.seen == []
    report = run(store, fasta(tmp_path, (ENTRIES[0][0], FIRST + "MM"), *ENTRIES[1:]), again)
    assert (report.changed, report.embedded, again.seen) == (1, 1, [FIRST + "MM"])
    assert stored(store)["ENSG00000000001"]["sequence"] == [20, 3]


def test_the_same_sequence_is_embedded_once(store, tmp_path):
    encoder = LengthEncoder()
    run(store, fasta(tmp_path, ENTRIES[0], (ENTRIES[1][0], FIRST)), encoder)
    assert encoder.seen == [FIRST]
    assert [row["sequence"] for row in stored(store).values()] == [[18, 1], [18, 1]]


def test_interrupted_it_keeps_what_is_embedded_and_goes_on(store, tmp_path):
    path = fasta(tmp_path, *ENTRIES)
    with pytest.raises(AtlasError, match="2 of 3 sequences are embedded"):
        run(store, path, LengthEncoder(fails_after=2))
    rest = LengthEncoder()
    assert run(store, path, rest).embedded == 1
    assert len(rest.seen) == 1
    assert all(row["sequence"] for row in stored(store).values())


def test_it_commits_from_time_to_time(store, tmp_path, monkeypatch):
    monkeypatch.setattr(sequence_vectors, "COMMIT_SECONDS", 0.0)
    before = store.version("proteins")
    run(store, fasta(tmp_path, *ENTRIES), LengthEncoder())
    assert store.version("proteins") >= before + 4  # residues, and each of three sequences


def test_vectors_of_two_encoders_are_not_mixed_but_may_be_replaced(store, tmp_path):
    path = fasta(tmp_path, *ENTRIES)
    run(store, path, LengthEncoder())
    with pytest.raises(RecipeMismatch, match="--replace"):
        run(store, path, LengthEncoder("others"))
    assert stored(store)["P00003"]["sequence"] == [18, 1]
    assert run(store, path, LengthEncoder("others"), replace=True).embedded == 3
    assert store.recipe("proteins", "sequence").encoder == "others"


def test_without_sequences_there_is_nothing_to_embed(store):
    with pytest.raises(NotBuilt, match="ingest sequences FASTA"):
        embed_sequences(store, LengthEncoder(), progress=False)


def test_the_build_embeds_by_the_stand_in_what_has_no_vector(store):
    write_proteins(store, pa.table({"protein_id": ["ENSG00000000001"], "amino_acids": [FIRST]}))
    assert build(store, ["sequence"]) == ["sequence"]
    assert store.recipe("proteins", "sequence").encoder == "composition"
    assert build(store, ["sequence"]) == []


def test_the_command_reports_and_names_the_stand_in(store, tmp_path):
    path = fasta(tmp_path, *ENTRIES, ("sp|P00004|BAD_HUMAN Bad OX=9606 GN=BAD", "MK*TA"))
    done = CliRunner().invoke(main, ["ingest", "sequences", str(path), "--atlas", store.uri, "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert (record["encoder"], record["embedded"], sum(record["refused"].values())) == ("composition", 3, 1)
    assert "stand-in" in done.stderr
