"""Ready-made vectors: every format, both levels, what is refused, and that nothing doubles."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.embeddings import ingest_embeddings
from subcell_atlas.build import build
from subcell_atlas.errors import BadInput, RecipeMismatch, UnknownName
from subcell_atlas.store import Store

VECTORS = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
SYMBOLS = ["A1", "B2", "C3"]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(str(tmp_path / "atlas"))


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def text(path, rows, *, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def stored(store, table="proteins", vector="image") -> dict[str, list[float]]:
    rows = store.read(table, ["gene_symbol", vector]).to_pylist()
    return {row["gene_symbol"]: row[vector] for row in rows}


def reasons(store) -> dict[str, str]:
    return {row["image"]: row["reason"] for row in store.read("rejects").to_pylist()}


def make_list(path):
    return parquet(path / "v.parquet", gene_symbol=SYMBOLS, embedding=VECTORS.tolist())


def make_fixed_list(path):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), 3)
    return parquet(path / "v.parquet", gene_symbol=SYMBOLS, embedding=vectors)


def make_numbered(path):
    rows = [[s, *v, 0.5] for s, v in zip(SYMBOLS, VECTORS.tolist(), strict=True)]
    return text(path / "v.csv", [["gene_symbol", "x0", "x1", "x2", "quality1"], *rows])


def make_json(path):
    rows = [[s, str(v)] for s, v in zip(SYMBOLS, VECTORS.tolist(), strict=True)]
    return text(path / "v.tsv", [["gene_symbol", "embedding"], *rows], delimiter="\t")


def make_subcell_portable(path):
    """Columns as in SubCellPortable's result.csv, and the gene; there are more features than probabilities."""
    header = ["id", "top_class_name", "prob00", "prob01", "feat0000", "feat0001", "feat0002", "gene_symbol"]
    rows = [
        [f"c{i}", "Cytosol", 0.1, 0.9, *v, s] for i, (s, v) in enumerate(zip(SYMBOLS, VECTORS.tolist(), strict=True))
    ]
    return text(path / "result.csv", [header, *rows])


def make_npz(path):
    np.savez(path / "v.npz", embedding=VECTORS.astype(np.float64), gene_symbol=np.array(SYMBOLS))
    return path / "v.npz"


MAKERS = [make_list, make_fixed_list, make_numbered, make_json, make_subcell_portable, make_npz]


@pytest.mark.parametrize("make", MAKERS)
def test_every_format_gives_the_same_cells(store, tmp_path, make):
    counts = ingest_embeddings(store, make(tmp_path), modality="image", level="cell")
    assert (counts.cells, counts.rejected) == (3, 0)
    assert stored(store, "cells", "embedding") == dict(zip(SYMBOLS, VECTORS.tolist(), strict=True))


@pytest.mark.parametrize("modality", ["image", "sequence"])
def test_vectors_of_proteins_go_into_their_modality(store, tmp_path, modality):
    ingest_embeddings(store, make_list(tmp_path), modality=modality, level="protein", encoder="esm")
    assert stored(store, vector=modality) == dict(zip(SYMBOLS, VECTORS.tolist(), strict=True))
    assert store.recipe("proteins", modality).encoder == "esm"


def test_running_twice_doubles_nothing(store, tmp_path):
    for _ in range(2):
        ingest_embeddings(store, make_list(tmp_path), modality="image", level="cell")
        ingest_embeddings(store, make_list(tmp_path), modality="sequence", level="protein")
    assert store.count("cells") == 3
    assert store.count("proteins") == 3


def test_columns_of_cells_are_kept_and_unknown_ones_become_extra(store, tmp_path):
    path = parquet(
        tmp_path / "v.parquet",
        embedding=VECTORS.tolist(),
        gene_symbol=SYMBOLS,
        cell_id=["x", "y", "z"],
        plate=pa.array([1, 2, 3]),
        localization=["Cytosol;Nucleoplasm", "", None],
        passage=[4, None, 5],
    )
    ingest_embeddings(store, path, modality="image", level="cell")
    rows = {json.loads(row["extra"])["cell_id"]: row for row in store.read("cells").to_pylist()}
    assert rows["x"]["localization"] == ["Cytosol", "Nucleoplasm"]
    assert rows["y"]["localization"] == []
    assert rows["z"]["plate"] == "3"
    assert json.loads(rows["x"]["extra"]) == {"cell_id": "x", "passage": 4}


def test_the_same_cell_id_in_two_files_is_two_cells_and_in_one_file_corrected_is_one(store, tmp_path):
    for name, gene in (("a", "G1"), ("b", "G2"), ("b", "G3")):
        path = parquet(
            tmp_path / f"{name}.parquet", embedding=VECTORS.tolist(), gene_symbol=[gene] * 3, cell_id=[*"012"]
        )
        ingest_embeddings(store, path, modality="image", level="cell")
    assert sorted(store.read("cells")["gene_symbol"].to_pylist()) == ["G1"] * 3 + ["G3"] * 3


def test_a_second_file_of_proteins_adds_to_the_first(store, tmp_path):
    for name in ("P", "Q"):
        path = parquet(
            tmp_path / f"{name}.parquet", embedding=VECTORS.tolist(), gene_symbol=[f"{name}{i}" for i in "123"]
        )
        ingest_embeddings(store, path, modality="image", level="protein", encoder="one")
    assert store.count("proteins", "image IS NOT NULL") == 6


def test_picture_vectors_of_proteins_do_not_go_beside_those_made_from_cells(store, tmp_path):
    ingest_embeddings(store, make_list(tmp_path), modality="image", level="cell")
    with pytest.raises(RecipeMismatch, match="made from its cells"):
        ingest_embeddings(store, make_list(tmp_path), modality="image", level="protein")


def test_cells_are_not_averaged_beside_ready_made_proteins(store, tmp_path):
    ingest_embeddings(store, make_list(tmp_path), modality="image", level="protein")
    ingest_embeddings(store, make_list(tmp_path), modality="image", level="cell")
    with pytest.raises(RecipeMismatch, match="another atlas"):
        build(store)


def test_rows_without_a_usable_vector_or_name_are_rejected_and_the_rest_stored(store, tmp_path):
    vectors = [[1.0, 2], [float("nan"), 1], [0, 0], None, [float("inf"), 1], [3, 4], [5, 6], [7, None]]
    path = parquet(tmp_path / "v.parquet", embedding=vectors, gene_symbol=["A", "B", "C", "D", "E", None, "A", "H"])
    counts = ingest_embeddings(store, path, modality="image", level="protein")
    assert (counts.pictures, counts.cells, counts.rejected) == (8, 1, 7)
    assert reasons(store) == {
        "row 2": "the vector holds NaN or infinite numbers",
        "row 3": "the vector is zero",
        "row 4": "the vector holds NaN or infinite numbers",
        "row 5": "the vector holds NaN or infinite numbers",
        "row 6": "it names no protein",
        "row 7": "a second vector of A; use --level cell to average them",
        "row 8": "the vector holds NaN or infinite numbers",
    }
    mended = parquet(tmp_path / "v.parquet", embedding=[[1.0, 2]], gene_symbol=["A"])
    ingest_embeddings(store, mended, modality="image", level="protein")
    assert not store.has("rejects")


def test_a_nameless_cell_is_stored(store, tmp_path):
    path = parquet(tmp_path / "v.parquet", embedding=[[1.0, 2], [3, 4]], gene_symbol=["A", None])
    assert ingest_embeddings(store, path, modality="image", level="cell").cells == 2


def test_sequences_named_by_accession_join_the_proteins_known_by_ensembl_id(store, tmp_path):
    cells = parquet(
        tmp_path / "cells.parquet",
        embedding=[[1.0, 0], [0, 1], [1, 1]],
        ensembl_id=["ENSG1", "ENSG2", "ENSG3"],
        uniprot_accession=["P1", "P2", None],
        gene_symbol=["A", "B", "C"],
    )
    ingest_embeddings(store, cells, modality="image", level="cell")
    build(store, ["profiles"])
    sequences = parquet(
        tmp_path / "s.parquet", embedding=[[1.0, 1], [2, 2], [3, 3]], uniprot_accession=["P2", "P1", "P9"]
    )
    ingest_embeddings(store, sequences, modality="sequence", level="protein", encoder="esm")
    rows = {row["protein_id"]: row for row in store.read("proteins").to_pylist()}
    assert set(rows) == {"ENSG1", "ENSG2", "ENSG3", "P9"}
    assert rows["ENSG1"]["sequence"] == [2, 2]
    assert rows["ENSG2"]["sequence"] == [1, 1]
    assert rows["ENSG3"]["sequence"] is None
    assert rows["ENSG1"]["gene_symbol"] == "A"
    assert rows["P9"]["image"] is None


def test_a_symbol_does_not_join_what_the_better_ids_tell_apart(store, tmp_path):
    known = parquet(tmp_path / "k.parquet", embedding=[[1.0, 0]], ensembl_id=["ENSG1"], gene_symbol=["A"])
    ingest_embeddings(store, known, modality="image", level="protein")
    other = parquet(tmp_path / "o.parquet", embedding=[[2.0, 2]], ensembl_id=["ENSG2"], gene_symbol=["A"])
    ingest_embeddings(store, other, modality="sequence", level="protein")
    rows = {row["protein_id"]: row for row in store.read("proteins").to_pylist()}
    assert rows["ENSG1"]["sequence"] is None
    assert rows["ENSG2"]["sequence"] == [2, 2]


def test_two_names_of_one_protein_are_two_vectors_of_it(store, tmp_path):
    known = parquet(
        tmp_path / "k.parquet", embedding=[[1.0, 0]], ensembl_id=["ENSG1"], uniprot_accession=["P1"], gene_symbol=["A"]
    )
    ingest_embeddings(store, known, modality="image", level="protein")
    names = {"uniprot_accession": ["P1", None], "gene_symbol": [None, "A"]}
    twice = parquet(tmp_path / "t.parquet", embedding=[[1.0, 1], [2, 2]], **names)
    counts = ingest_embeddings(store, twice, modality="sequence", level="protein")
    assert (counts.cells, counts.rejected) == (1, 1)
    assert reasons(store) == {"row 2": "a second vector of ENSG1; use --level cell to average them"}


def test_vectors_of_another_encoder_or_length_are_not_mixed_in(store, tmp_path):
    ingest_embeddings(store, make_list(tmp_path), modality="image", level="cell", encoder="one")
    with pytest.raises(RecipeMismatch, match="encoder is 'two', not 'one'"):
        ingest_embeddings(store, make_list(tmp_path), modality="image", level="cell", encoder="two")
    ingest_embeddings(store, make_list(tmp_path), modality="sequence", level="protein", encoder="one")
    longer = parquet(tmp_path / "l.parquet", embedding=[[1.0] * 4], gene_symbol=["A"])
    for modality, level in (("image", "cell"), ("sequence", "protein")):
        with pytest.raises(RecipeMismatch, match="dim is 4, not 3"):
            ingest_embeddings(store, longer, modality=modality, level=level, encoder="one")
    assert store.count("cells") == 3


def test_a_length_that_changes_far_down_the_file_is_refused(store, tmp_path):
    vectors = [[1.0, 2]] * 4096 + [[1.0, 2, 3]] * 10
    path = parquet(tmp_path / "v.parquet", embedding=vectors, gene_symbol=["A"] * 4106)
    for modality, level in (("image", "cell"), ("sequence", "protein")):
        with pytest.raises(BadInput, match=r"all vectors must have one length; found (3 and 2|2, 3)"):
            ingest_embeddings(store, path, modality=modality, level=level)


def test_whole_numbers_at_the_top_of_a_column_do_not_forbid_fractions_below(store, tmp_path):
    """A CSV reader that guesses types from the first megabyte would."""
    header = ["gene_symbol", *(f"x{i}" for i in range(64))]
    rows = [[f"G{i}", *[1] * 64] for i in range(12_000)]
    path = text(tmp_path / "v.csv", [header, *rows, ["LAST", *[0.5] * 64]])
    assert ingest_embeddings(store, path, modality="image", level="protein").cells == 12_001


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.txt", b"a", "vectors are read from .parquet, .csv, .tsv, .npz, .h5ad, .h5, .hdf5, .pt, not '.txt'"),
        ("v.parquet", b"no parquet", "cannot be read as parquet"),
        ("v.npz", b"no zip", "cannot be read as npz"),
        ("v.csv", b"", "cannot be read as csv"),
        ("v.csv", b"gene_symbol,x0,x1\n", "has no rows"),
        ("v.csv", b"gene_symbol,x0\nA,1\n", "holds no vectors"),
        ("v.csv", b"gene_symbol,x0,x1,x3\nA,1,2,3\n", "have gaps"),
        ("v.csv", b"name,x0,x1\nA,1,2\n", "names no protein: it needs one of ensembl_id"),
        ("v.csv", b"gene_symbol,embedding\nA,7\n", "must hold lists of numbers"),
        ("v.csv", b'gene_symbol,embedding\nA,"[1, 2"\n', "cannot be read as csv"),
        ("v.csv", b'gene_symbol,embedding\nA,"[1, 2]"\nB,[1]\n', "all vectors must have one length; found 1, 2"),
        ("v.csv", b"gene_symbol,x0,x1\nA,1,2\nB,1\n", "cannot be read as csv"),
        ("v.csv", b"gene_symbol,y0,x0,x1\nA,left,1,2\n", "must hold int32 values"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(store, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        ingest_embeddings(store, tmp_path / name, modality="image", level="cell")
    assert message in str(caught.value)


def test_a_missing_file_and_wrong_words_are_refused(store, tmp_path):
    with pytest.raises(BadInput, match="There is no file"):
        ingest_embeddings(store, tmp_path / "none.csv", modality="image", level="cell")
    with pytest.raises(BadInput, match="cannot be read"):
        ingest_embeddings(store, tmp_path / f"{'a' * 300}.csv", modality="image", level="cell")
    with pytest.raises(UnknownName, match="Unknown level 'organ'"):
        ingest_embeddings(store, tmp_path / "none.csv", modality="image", level="organ")
    with pytest.raises(BadInput, match="use --level protein"):
        ingest_embeddings(store, tmp_path / "none.csv", modality="sequence", level="cell")


def test_arrays_of_another_shape_in_npz_are_named(store, tmp_path):
    np.savez(tmp_path / "v.npz", embedding=np.zeros(3), gene_symbol=np.array(SYMBOLS))
    with pytest.raises(BadInput, match=r"needs an array 'embedding' of shape \(n, dim\); it has: embedding \(3,\)"):
        ingest_embeddings(store, tmp_path / "v.npz", modality="image", level="cell")
    np.savez(tmp_path / "o.npz", embedding=np.array([["a", "b"]], object))
    with pytest.raises(BadInput, match=r"it has: embedding \(1, 2\) of object"):
        ingest_embeddings(store, tmp_path / "o.npz", modality="image", level="cell")
