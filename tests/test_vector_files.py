"""Files with an array a protein: those of UniProt, bio_embeddings and esm-extract, what is refused and why."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ingest.embeddings import ingest_embeddings
from ingest.vector_files import ROWS_AT_A_TIME, read_vectors
from subcell_atlas.cli import main
from subcell_atlas.errors import BadInput
from subcell_atlas.store import Store

VECTORS = {"Q15388": [1.0, 2, 3], "sp|P02545-2|LMNA_HUMAN": [4.0, 5, 6], "TOMM40": [7.0, 8, 10]}
IDS = ["Q15388", "P02545", "TOMM40"]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(str(tmp_path / "atlas"))


def ingest(store, path, *, modality="sequence", level="protein"):
    return ingest_embeddings(store, path, modality=modality, level=level, encoder="esm")


def stored(store) -> dict[str, list[float]]:
    return {row["protein_id"]: row["sequence"] for row in store.read("proteins").to_pylist()}


def write_h5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def make_uniprot(path):
    return write_h5(path / "per-protein.h5", {name: np.array(v, np.float16) for name, v in VECTORS.items()})


def make_per_residue(path):
    matrices = {name: np.add([v, v, v], [[-1], [0], [1]], dtype=np.float16) for name, v in VECTORS.items()}
    return write_h5(path / "per-residue.hdf5", matrices)


def make_bio_embeddings(path):
    with h5py.File(path / "reduced_embeddings_file.h5", "w") as file:
        for number, (name, vector) in enumerate(VECTORS.items()):
            file[str(number)] = np.array(vector, np.float32)
            file[str(number)].attrs["original_id"] = name
    return path / "reduced_embeddings_file.h5"


def make_h5_matrix(path):
    return write_h5(path / "v.h5", {"embeddings": np.array(list(VECTORS.values())), "ids": list(VECTORS)})


def make_npz(path):
    np.savez(path / "v.npz", **{name: np.array(v) for name, v in VECTORS.items()})
    return path / "v.npz"


def make_npz_matrix(path):
    np.savez(path / "v.npz", embeddings=np.array(list(VECTORS.values())), labels=np.array(list(VECTORS)))
    return path / "v.npz"


def make_esm_folder(path):
    folder = path / "esm"
    folder.mkdir()
    for name, vector in VECTORS.items():
        layers = {6: torch.zeros(3), 33: torch.tensor(vector), 12: torch.ones(3)}
        torch.save({"label": name, "mean_representations": layers}, folder / f"{name}.pt")
    return folder


def make_esm_residues(path):
    folder = path / "esm"
    folder.mkdir()
    for name, vector in VECTORS.items():
        layers = {33: torch.tensor([vector, vector]) + torch.tensor([[-1.0], [1.0]])}
        torch.save({"label": name, "representations": layers}, folder / f"{name}.pt")
    return folder


def make_tensor_folder(path):
    (path / "esm").mkdir()
    for name, vector in VECTORS.items():
        torch.save(torch.tensor(vector, dtype=torch.bfloat16, requires_grad=True), path / "esm" / f"{name}.pt")
    return path / "esm"


def make_tensors(path):
    torch.save({name: torch.tensor(v, dtype=torch.float16) for name, v in VECTORS.items()}, path / "v.pt")
    return path / "v.pt"


def make_tensor_matrix(path):
    torch.save({"ids": list(VECTORS), "embeddings": torch.tensor(list(VECTORS.values()))}, path / "v.pt")
    return path / "v.pt"


MAKERS = [
    make_uniprot,
    make_per_residue,
    make_bio_embeddings,
    make_h5_matrix,
    make_npz,
    make_npz_matrix,
    make_esm_folder,
    make_esm_residues,
    make_tensor_folder,
    make_tensors,
    make_tensor_matrix,
]


@pytest.mark.parametrize("make", MAKERS)
def test_every_file_of_a_protein_language_model_gives_the_same_proteins(store, tmp_path, make):
    counts = ingest(store, make(tmp_path))
    assert (counts.cells, counts.rejected, counts.new) == (3, 0, 3)
    assert counts.matrices == (3 if "residue" in make.__name__ else 0)
    assert stored(store) == dict(zip(IDS, VECTORS.values(), strict=True))
    names = store.read("proteins", ["uniprot_accession", "gene_symbol"]).to_pydict()
    assert sorted(filter(None, names["uniprot_accession"])) == ["P02545", "Q15388"]
    assert [name for name in names["gene_symbol"] if name] == ["TOMM40"]


def test_one_output_of_esm_extract_is_one_protein(store, tmp_path):
    label = "sp|Q15388|TOM20_HUMAN Mitochondrial import receptor OS=Homo sapiens OX=9606 GN=TOMM20 PE=1 SV=1"
    torch.save({"label": label, "mean_representations": {36: torch.ones(4)}}, tmp_path / "one.pt")
    ingest(store, tmp_path / "one.pt")
    (row,) = store.read("proteins").to_pylist()
    assert (row["protein_id"], row["gene_symbol"]) == ("Q15388", "TOMM20")


def test_a_proteome_is_read_some_thousands_at_a_time(tmp_path):
    n = ROWS_AT_A_TIME + 3
    np.savez(tmp_path / "v.npz", **{f"P{i}": np.array([i, 1.0]) for i in range(n)})
    chunks = list(read_vectors(tmp_path / "v.npz"))
    assert [len(chunk.vectors) for chunk in chunks] == [ROWS_AT_A_TIME, 3]
    assert chunks[1].vectors[-1].tolist() == [n - 1, 1]


def test_rows_that_cannot_be_used_are_rejected_by_their_label(store, tmp_path):
    arrays = {"Q15388": [1, 2], "P1": [np.nan, 1], "P2": [0, 0], "P3": np.zeros((0, 2)), "Q15388-2": [3, 4]}
    counts = ingest(store, write_h5(tmp_path / "v.h5", {name: np.array(a, float) for name, a in arrays.items()}))
    assert (counts.cells, counts.rejected) == (1, 4)
    assert {row["image"]: row["reason"] for row in store.read("rejects").to_pylist()} == {
        "P1": "the vector holds NaN or infinite numbers",
        "P2": "the vector is zero",
        "P3": "the vector holds NaN or infinite numbers",
        "Q15388-2": "a second vector of Q15388; use --level cell to average them",
    }


def test_an_array_a_protein_is_not_taken_for_cells(store, tmp_path):
    with pytest.raises(BadInput, match="use --level protein"):
        ingest(store, make_npz(tmp_path), modality="image", level="cell")
    assert store.names() == []


class Code:
    def __reduce__(self):
        return (Path("ran").touch, ())


def truncated(make):
    def write(path):
        made = make(path)
        made.write_bytes(made.read_bytes()[: made.stat().st_size // 2])
        return made

    return write


def damaged(make):
    def write(path):
        made = make(path)
        content = bytearray(made.read_bytes())
        content[len(content) // 3 : len(content) // 3 * 2] = bytes(len(content) // 3)
        made.write_bytes(content)
        return made

    return write


def file(name, content=b""):
    def write(path):
        (path / name).write_bytes(content)
        return path / name

    return write


def h5(**arrays):
    return lambda path: write_h5(path / "v.h5", arrays)


def npz(*unnamed, **arrays):
    def write(path):
        np.savez(path / "v.npz", *unnamed, **arrays)
        return path / "v.npz"

    return write


def pt(content):
    def write(path):
        torch.save(content, path / "v.pt")
        return path / "v.pt"

    return write


def pickled(path):
    (path / "v.pt").write_bytes(pickle.dumps({"Q15388": Code()}))
    return path / "v.pt"


def group(path):
    return write_h5(path / "v.h5", {"Q15388/layer": np.ones(3)})


def vast(path):
    with h5py.File(path / "v.h5", "w") as file:
        file.create_dataset("Q15388", shape=(2**40,), chunks=(2**20,), dtype=np.float16)
    return path / "v.h5"


def broken_link(path):
    with h5py.File(path / "v.h5", "w") as file:
        file["Q15388"] = h5py.SoftLink("/nowhere")
    return path / "v.h5"


def empty_folder(path):
    (path / "esm").mkdir()
    return path / "esm"


def single_array(path):
    with (path / "v.npz").open("wb") as file:
        np.save(file, np.ones((2, 3)))
    return path / "v.npz"


BAD = {
    "truncated h5": (truncated(make_uniprot), "cannot be read as h5"),
    "empty h5": (file("v.h5"), "cannot be read as h5"),
    "web page for h5": (file("v.h5", b"<html>"), "cannot be read as h5"),
    "h5 without arrays": (h5(), "has no rows"),
    "h5 of groups": (group, "no array but a group"),
    "h5 of text": (h5(Q15388=["a", "b"]), "is no vector of a protein"),
    "h5 of single numbers": (h5(Q15388=1.5), "is no vector of a protein"),
    "h5 of three axes": (h5(Q15388=np.ones((3, 4, 5))), "is no vector of a protein"),
    "h5 of two lengths": (h5(P1=np.ones(3), P2=np.ones(4)), "one length; found 4 and 3 (of 'P2')"),
    "vast h5": (vast, "too large"),
    "h5 with a broken link": (broken_link, "cannot be read as h5"),
    "truncated npz": (truncated(make_npz), "cannot be read as npz"),
    "npz of objects": (npz(Q15388=np.array([{}, {}])), "cannot be read as npz"),
    "npz of unnamed arrays": (npz(np.ones((3, 4))), "'arr_0' (3, 4) of float64 is no vector of a protein"),
    "npz of text": (npz(Q15388=np.array(["a", "b"])), "is no vector of a protein"),
    "npz of features and names": (npz(features=np.ones((2, 3)), gene=np.array(["a", "b"])), "is no vector"),
    "npz that is npy": (single_array, "names no protein"),
    "pt with code": (pt({"Q15388": Code()}), "holds code, which is never run"),
    "pickle": (pickled, "holds code, which is never run"),
    "truncated pt": (truncated(make_tensors), "no readable file of tensors"),
    "empty pt": (file("v.pt"), "no readable file of tensors"),
    "text for pt": (file("v.pt", b"hello"), "no readable file of tensors"),
    "pt of one matrix": (pt(torch.ones(3, 4)), "holds no labelled vectors"),
    "pt of a list": (pt([torch.ones(3)]), "holds no labelled vectors"),
    "pt of one tensor for all": (pt({"representations": torch.ones(2, 3)}), "is no vector of a protein"),
    "pt of nested tensors": (pt({"a": {"b": torch.ones(3)}}), "holds no labelled vectors"),
    "pt without layers": (pt({"label": "Q15388", "mean_representations": {}}), "holds no labelled vectors"),
    "pt of fewer ids": (pt({"ids": ["Q15388"], "embeddings": torch.ones(2, 3)}), "holds no labelled vectors"),
    "pt of complex numbers": (pt({"Q15388": torch.ones(3, dtype=torch.complex64)}), "other than plain numbers"),
    "sparse pt": (pt({"Q15388": torch.ones(3).to_sparse()}), "other than plain numbers"),
    "folder without pt": (empty_folder, "holds no .pt file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_cannot_be_used_are_refused_in_two_lines_and_nothing_is_run(store, tmp_path, kind, monkeypatch):
    make, message = BAD[kind]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as caught:
        ingest(store, make(tmp_path))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
    assert not Path("ran").exists()
    assert not store.has("proteins")


@pytest.mark.parametrize("make", [make_uniprot, make_npz, make_tensors, make_tensor_matrix])
def test_damage_anywhere_is_told_or_does_no_harm(tmp_path, make):
    made = make(tmp_path)
    whole = made.read_bytes()
    for start in range(0, len(whole), max(1, len(whole) // 60)):
        made.write_bytes(whole[:start] + b"\xff" * 8 + whole[start + 8 :])
        with contextlib.suppress(BadInput):
            list(read_vectors(made))


def run(*arguments):
    return CliRunner().invoke(main, ["ingest", "embeddings", *map(str, arguments)], catch_exceptions=False)


def test_the_command_says_whose_the_vectors_are(store, tmp_path):
    np.savez(tmp_path / "known.npz", embedding=np.eye(2), gene_symbol=["TOMM40", "LMNA"])
    ingest(store, tmp_path / "known.npz", modality="image")
    options = ("--atlas", store.uri, "--modality", "sequence", "--level", "protein")
    said = run(make_per_residue(tmp_path), *options).stderr.splitlines()
    assert said[0].startswith("3 vectors stored in")
    assert said[1:] == [
        "1 are of proteins of this atlas (1 by gene_symbol), 2 of new ones.",
        "3 were matrices of residues: the mean over the residues is stored.",
    ]


def test_vectors_of_another_species_join_nothing_and_that_is_said(store, tmp_path):
    np.savez(tmp_path / "known.npz", embedding=np.eye(2), gene_symbol=["TOMM20", "LMNA"])
    ingest(store, tmp_path / "known.npz", modality="image")
    np.savez(tmp_path / "mouse.npz", Q9DCC8=np.ones(3), P48678=np.ones(3))
    said = run(tmp_path / "mouse.npz", "--atlas", store.uri, "--modality", "sequence", "--level", "protein").stderr
    assert "0 are of proteins of this atlas, 2 of new ones." in said
    assert "another species, or named by something else?" in said
    assert "In the file: 'Q9DCC8', 'P48678'; in the atlas: 'TOMM20'." in said


def test_vectors_of_mouse_symbols_are_refused_though_they_would_join(store, tmp_path):
    np.savez(tmp_path / "known.npz", embedding=np.eye(2), gene_symbol=["TOMM20", "LMNA"])
    ingest(store, tmp_path / "known.npz", modality="image")
    labels = ("sp|Q9DCC8|TOM20_MOUSE OX=10090 GN=Tomm20", "sp|P48678|LMNA_MOUSE OX=10090 GN=Lmna")
    torch.save({label: torch.ones(3) for label in labels}, tmp_path / "mouse.pt")
    with pytest.raises(BadInput, match="written as those of mouse are"):
        ingest(store, tmp_path / "mouse.pt")
    assert store.count("proteins", "sequence IS NOT NULL") == 0
