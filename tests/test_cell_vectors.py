"""Vectors of many cells: every layout of files, names of columns, going on after a kill, and what is skipped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ingest import vector_files
from ingest.columns import localization_lists
from ingest.embeddings import Reading, ingest_embeddings
from subcell_atlas.cli import main
from subcell_atlas.encoders.localizations import LOCALIZATIONS, name_localizations
from subcell_atlas.errors import BadInput
from subcell_atlas.store import Store

ROOT = Path(__file__).parents[1]
N, DIM = 30, 4
IDS = [f"cell{i}" for i in range(N)]
GENES = [f"G{i % 7}" for i in range(N)]
LINES = [("U-2 OS", "A-431")[i % 2] for i in range(N)]
VECTORS = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
PROBABILITIES = np.random.default_rng(1).random((N, len(LOCALIZATIONS))).astype(np.float32)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(str(tmp_path / "atlas"))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(vector_files, "ROWS_AT_A_TIME", 8)
    monkeypatch.setattr(vector_files, "MOST_ROWS", 8)


def ingest(store, path, **reading):
    return ingest_embeddings(store, path, modality="image", level="cell", reading=Reading(**reading))


def by_own_id(store) -> dict[str, dict]:
    """Return the cells by the id that the file gave them; there must be one of each."""
    rows = store.read("cells").to_pylist()
    named = {json.loads(row["extra"])["cell_id"]: row for row in rows}
    assert len(named) == len(rows)
    return named


def text_array(file, name, values):
    file.create_dataset(name, data=np.array(values, object), dtype=h5py.string_dtype())


def anndata_like(path, *, sparse=False, old=False, key="X", probabilities=False):
    """An AnnData file as anndata writes it, by h5py, so that the test does not need anndata."""
    with h5py.File(path, "w") as file:
        if sparse:
            from scipy.sparse import csr_array

            matrix = csr_array(np.where(np.abs(VECTORS) > 0.3, VECTORS, 0))
            group = file.create_group(key)
            group.attrs["encoding-type"] = "csr_matrix"
            group.attrs["shape"] = matrix.shape
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(matrix, name)
        else:
            file[key] = VECTORS
        obs = file.create_group("obs")
        obs.attrs["_index"] = "barcode"
        text_array(file, "obs/barcode", IDS)
        text_array(file, "obs/gene_names", GENES)
        codes = np.array([sorted(set(LINES)).index(line) for line in LINES], np.int8)
        if old:
            text_array(file, "obs/__categories/atlas_name", sorted(set(LINES)))
            obs["atlas_name"] = codes
            obs["atlas_name"].attrs["categories"] = file["obs/__categories/atlas_name"].ref
        else:
            group = obs.create_group("atlas_name")
            group["codes"] = codes
            text_array(file, "obs/atlas_name/categories", sorted(set(LINES)))
        obs["area"] = np.arange(N)
        if probabilities:
            file["obsm/probabilities"] = PROBABILITIES
    return path


def real_anndata(path):
    anndata = pytest.importorskip("anndata")
    import pandas as pd

    obs = pd.DataFrame({"gene_names": GENES, "atlas_name": pd.Categorical(LINES), "area": range(N)}, index=IDS)
    anndata.AnnData(VECTORS, obs=obs).write_h5ad(path)
    return path


def as_parquet(path):
    pq.write_table(
        pa.table(
            {"cell_id": IDS, "gene_names": GENES, "atlas_name": LINES, "area": range(N), "embedding": VECTORS.tolist()}
        ),
        path,
        row_group_size=11,
    )
    return path


def as_npz(path, *, save=np.savez):
    save(
        path,
        embedding=VECTORS,
        cell_id=np.array(IDS),
        gene_names=np.array(GENES),
        atlas_name=np.array(LINES),
        area=np.arange(N),
    )
    return path


MAKERS = {
    "parquet": lambda folder: as_parquet(folder / "v.parquet"),
    "h5ad": lambda folder: anndata_like(folder / "v.h5ad"),
    "older h5ad": lambda folder: anndata_like(folder / "v.h5ad", old=True),
    "h5ad of anndata": lambda folder: real_anndata(folder / "v.h5ad"),
    "npz": lambda folder: as_npz(folder / "v.npz"),
    "compressed npz": lambda folder: as_npz(folder / "v.npz", save=np.savez_compressed),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_layout_gives_the_same_cells_in_parts_under_the_atlas_s_names(store, tmp_path, kind):
    counts = ingest(store, MAKERS[kind](tmp_path))
    assert (counts.cells, counts.pictures, counts.rejected) == (N, N, 0)
    assert {"gene_names": "gene_symbol", "atlas_name": "cell_line"}.items() <= counts.renamed.items()
    cells = by_own_id(store)
    assert list(cells) == IDS
    for number, cell in enumerate(cells.values()):
        assert cell["embedding"] == pytest.approx(VECTORS[number].tolist())
        assert (cell["gene_symbol"], cell["protein_id"], cell["cell_line"]) == (
            GENES[number],
            GENES[number],
            LINES[number],
        )
        assert json.loads(cell["extra"])["area"] in (number, str(number))


def test_a_sparse_matrix_is_filled_and_another_than_x_is_named(store, tmp_path):
    ingest(store, anndata_like(tmp_path / "v.h5ad", sparse=True, key="layers/embedding"), vectors="layers/embedding")
    expected = np.where(np.abs(VECTORS) > 0.3, VECTORS, 0)
    for number, cell in enumerate(by_own_id(store).values()):
        assert cell["embedding"] == pytest.approx(expected[number].tolist())


def test_subcellportables_h5ad_without_encoding_joins_a_table_by_its_index(store, tmp_path):
    with h5py.File(tmp_path / "embeddings.h5ad", "w") as file:
        file["X"] = VECTORS
        text_array(file, "obs/index", IDS)
        file["obsm/probabilities"] = PROBABILITIES
    table = tmp_path / "cells.csv"
    lines = [f"{cell},{gene},{line}" for cell, gene, line in zip(IDS, GENES, LINES, strict=True)]
    table.write_text("\n".join(["output_prefix,gene_names,atlas_name", *lines[::-1], "unused,G1,U-2 OS"]))
    counts = ingest(store, tmp_path / "embeddings.h5ad", metadata=table)
    assert counts.cells == N
    for number, cell in enumerate(by_own_id(store).values()):
        assert (cell["gene_symbol"], cell["cell_line"]) == (GENES[number], LINES[number])
        assert cell["predicted_localization"] == name_localizations(PROBABILITIES[number])


def test_without_a_table_its_cells_are_stored_without_a_name(store, tmp_path):
    with h5py.File(tmp_path / "embeddings.h5ad", "w") as file:
        file["X"] = VECTORS
        text_array(file, "obs/index", IDS)
    assert ingest(store, tmp_path / "embeddings.h5ad").cells == N
    assert store.count("cells", "protein_id IS NULL") == N


def test_a_folder_of_subcellportables_files_is_read_with_its_probabilities(store, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    for number, cell in enumerate(IDS):
        np.save(folder / f"{cell}_embedding.npy", VECTORS[number])
        np.save(folder / f"{cell}_probabilities.npy", PROBABILITIES[number])
    assert ingest(store, folder).cells == N
    cells = by_own_id(store)
    assert cells["cell3"]["embedding"] == pytest.approx(VECTORS[3].tolist())
    assert cells["cell3"]["predicted_localization"] == name_localizations(PROBABILITIES[3])


def test_subcellportables_result_csv_gives_localizations_of_its_probabilities(store, tmp_path):
    names = [f"prob{i:02d}" for i in range(31)] + [f"feat{i:04d}" for i in range(40)]
    numbers = np.hstack([PROBABILITIES, np.random.default_rng(2).random((N, 40))]).astype(np.float32)
    lines = [",".join([cell, *map(repr, map(float, row))]) for cell, row in zip(IDS, numbers, strict=True)]
    (tmp_path / "result.csv").write_text("\n".join([",".join(["id", *names]), *lines]))
    assert ingest(store, tmp_path / "result.csv").cells == N
    cell = by_own_id(store)["cell5"]
    assert cell["embedding"] == pytest.approx(numbers[5, 31:].tolist())
    assert cell["predicted_localization"] == name_localizations(PROBABILITIES[5])


def test_localizations_of_many_are_those_of_each():
    assert localization_lists(PROBABILITIES).to_pylist() == [name_localizations(row) for row in PROBABILITIES]
    assert localization_lists(PROBABILITIES[:0]).to_pylist() == []


# names of columns


def test_columns_are_named_by_hand_and_what_was_given_comes_first(store, tmp_path):
    table = pa.table(
        {"who": GENES, "gene_symbol": ["x"] * N, "where": ["Cytosol, Nucleoplasm;Nucleoli"] * N, "v": VECTORS.tolist()}
    )
    pq.write_table(table, tmp_path / "v.parquet")
    names = {"who": "gene_symbol", "where": "localization", "v": "embedding"}
    ingest(store, tmp_path / "v.parquet", names=names)
    cells = store.read("cells").to_pylist()
    assert {cell["gene_symbol"] for cell in cells} == set(GENES)
    assert cells[0]["localization"] == ["Cytosol", "Nucleoplasm", "Nucleoli"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"atlas": "cell_line"}, "has no such column; it has: cell_id, gene_names"),
        ({"atlas_name": "line"}, "the atlas's columns are cell_id, gene_symbol"),
        ({"atlas_name": "plate", "area": "plate"}, "names 'plate' for more than one"),
    ],
)
def test_names_that_cannot_be_are_refused(store, tmp_path, names, said):
    with pytest.raises(BadInput, match=said):
        ingest(store, as_parquet(tmp_path / "v.parquet"), names=names)
    assert not store.has("cells")


def test_an_antibody_of_several_genes_is_stored_and_is_no_protein(store, tmp_path):
    pq.write_table(
        pa.table(
            {"gene_symbol": ["A,B", "A"], "ensembl_id": ["ENSG1;ENSG2", "ENSG1"], "embedding": VECTORS[:2].tolist()}
        ),
        tmp_path / "v.parquet",
    )
    ingest(store, tmp_path / "v.parquet")
    assert store.lookup("cells", "gene_symbol", "protein_id") == {"A,B": None, "A": "ENSG1"}


@pytest.mark.parametrize(
    ("make", "reading", "said"),
    [
        (
            lambda f: anndata_like(f / "v.h5ad", key="obsm/X_subcell"),
            {},
            "has no 'X'; it has: obsm/X_subcell.*--vectors",
        ),
        (lambda f: anndata_like(f / "v.h5ad"), {"vectors": "obsm/no"}, "has no 'obsm/no'; it has: X"),
        (lambda f: as_npz(f / "v.npz"), {"vectors": "no"}, "has no array 'no'; it has: embedding"),
        (lambda f: as_parquet(f / "v.parquet"), {"vectors": "X"}, "is for h5ad and npz"),
    ],
)
def test_a_matrix_that_is_not_there_is_refused_with_those_that_are(store, tmp_path, make, reading, said):
    with pytest.raises(BadInput, match=said):
        ingest(store, make(tmp_path), **reading)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "id,gene\nother,G1\n",
            "has none of the ids of v.parquet, such as 'cell0'; its first column has such as 'other'",
        ),
        ("id,gene\ncell1,G1\ncell1,G2\n", "has an id more than once"),
        ("id\ncell1\n", "needs a column of the cells' ids"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(store, tmp_path, content, said):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(BadInput, match=said):
        ingest(store, as_parquet(tmp_path / "v.parquet"), metadata=tmp_path / "t.csv")


def test_damage_in_the_middle_keeps_what_came_before_and_says_how_to_go_on(store, tmp_path):
    path = as_npz(tmp_path / "v.npz", save=np.savez_compressed)
    with h5py.File(tmp_path / "v.h5ad", "w") as file:
        file["X"] = VECTORS
        text_array(file, "obs/index", IDS)
        text_array(file, "obs/other", IDS[:5])
    with pytest.raises(BadInput, match="obs/other has 5 rows, the vectors 30"):
        ingest(store, tmp_path / "v.h5ad")
    assert not store.has("cells")
    vectors = VECTORS.tolist()
    vectors[20] = [1.0]
    pq.write_table(pa.table({"gene_symbol": GENES, "embedding": vectors}), tmp_path / "v.parquet")
    with pytest.raises(BadInput, match=r"one length; found 1, 4.*\n.*rows before are stored: mend the file"):
        ingest(store, tmp_path / "v.parquet")
    assert 0 < store.count("cells") <= 20
    assert ingest(Store.create(str(tmp_path / "other")), path).cells == N


# going on


def test_what_is_there_is_skipped_and_what_changed_replaced(store, tmp_path):
    first = ingest(store, as_parquet(tmp_path / "v.parquet"))
    version = store.version("cells")
    again = ingest(store, tmp_path / "v.parquet")
    assert (first.cells, again.cells, again.done_before) == (N, 0, N)
    assert store.version("cells") == version
    table = pq.read_table(tmp_path / "v.parquet")
    lines = ["HeLa" if i in (3, 20) else line for i, line in enumerate(LINES)]
    corrected = table.set_column(table.column_names.index("atlas_name"), "atlas_name", pa.array(lines))
    pq.write_table(
        pa.concat_tables([corrected, corrected.slice(29).set_column(3, "area", pa.array([99]))]), tmp_path / "v.parquet"
    )
    counts = ingest(store, tmp_path / "v.parquet")
    assert (counts.cells, counts.done_before) == (3, N - 3)
    cells = by_own_id(store)
    assert len(cells) == N
    assert [i for i, cell in enumerate(IDS) if cells[cell]["cell_line"] == "HeLa"] == [3, 20]
    assert json.loads(cells["cell29"]["extra"])["area"] == 99


def test_bad_rows_of_every_part_are_rejected_by_their_number(store, tmp_path):
    vectors = VECTORS.copy()
    vectors[4], vectors[17, 2], vectors[29, 0] = 0, np.nan, np.inf
    np.savez(tmp_path / "v.npz", embedding=vectors, gene_symbol=np.array(GENES))
    counts = ingest(store, tmp_path / "v.npz")
    assert (counts.cells, counts.rejected) == (N - 3, 3)
    assert store.lookup("rejects", "image", "reason") == {
        "row 5": "the vector is zero",
        "row 18": "the vector holds NaN or infinite numbers",
        "row 30": "the vector holds NaN or infinite numbers",
    }
    np.savez(tmp_path / "v.npz", embedding=VECTORS, gene_symbol=np.array(GENES))
    assert ingest(store, tmp_path / "v.npz").rejected == 0
    assert store.count("rejects") == 0


def test_an_import_that_is_killed_goes_on_to_the_undisturbed_table(store, tmp_path):
    n = 3000
    vectors = np.random.default_rng(3).standard_normal((n, 64)).astype(np.float32)
    pq.write_table(
        pa.table({"cell_id": [f"c{i}" for i in range(n)], "gene_symbol": ["G"] * n, "embedding": vectors.tolist()}),
        tmp_path / "v.parquet",
    )
    code = (
        "import sys; from ingest import vector_files; vector_files.MOST_ROWS = vector_files.ROWS_AT_A_TIME = 50\n"
        "from subcell_atlas.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "ingest", "embeddings", str(tmp_path / "v.parquet"), "--level", "cell"]
    atlas = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    seen = []
    for wait in (0, 0.4, 1.1):
        process = subprocess.Popen([*command, "--atlas", str(atlas)], env=environment, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        before = seen[-1] if seen else 0
        while process.poll() is None and time.monotonic() < end:
            if (atlas / "cells.lance" / "_versions").is_dir() and Store.open(str(atlas)).count("cells") > before:
                break
            time.sleep(0.02)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(Store.open(str(atlas)).count("cells"))
    assert 0 < seen[0] < n
    assert all(count % 50 == 0 for count in seen)
    killed = Store.open(str(atlas))
    counts = ingest(killed, tmp_path / "v.parquet")
    assert counts.cells + counts.done_before == n
    ingest(store, tmp_path / "v.parquet")
    one, other = (each.read("cells").drop_columns(["run_id"]).sort_by("cell_id") for each in (killed, store))
    assert one.equals(other)


def test_the_command_names_columns_and_says_what_it_took(tmp_path):
    path = as_parquet(tmp_path / "v.parquet")
    command = ["ingest", "embeddings", str(path), "--level", "cell", "--atlas", str(tmp_path / "a")]
    said = CliRunner().invoke(main, [*command, "--map", "area=plate"])
    assert said.exit_code == 0
    assert f"{N} vectors stored" in said.stderr
    assert "gene_names as gene_symbol, atlas_name as cell_line" in said.stderr
    again = CliRunner().invoke(main, [*command, "--map", "area=plate"])
    assert f"0 vectors stored in {tmp_path / 'a'}; {N} vectors were done before" in again.stderr
    wrong = CliRunner().invoke(main, [*command, "--map", "area"])
    assert (wrong.exit_code, "--map 'area'" in wrong.stderr) == (1, True)
