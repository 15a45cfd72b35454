"""A manifest is curated by an atlas of its pictures: which rows are kept, where their files are, what is refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from fake_encoder import CHANNELS, write_cell, write_manifest

from ingest.curate import MIN_ANTIBODIES, curate, read_replicates, strata_of
from ingest.manifest import read_manifest
from subcell_atlas.cli import main
from subcell_atlas.errors import BadInput, NotBuilt, UnknownName
from subcell_atlas.profiles import vector_array
from subcell_atlas.store import Store

DIM = 12
N_FIELDS, N_CELLS = 4, 2


def make_cells(rng, *, consistent=8, other=8, **columns):
    """Make cells of antibodies GOOD00 … that look alike in their fields of view, and of BAD00 … that do not."""
    rows, vectors = [], []
    for name, n, shared, free in (("GOOD", consistent, 3, 1), ("BAD", other, 0, 3)):
        for antibody in range(n):
            own = shared * rng.normal(size=DIM)
            for field in range(N_FIELDS):
                look = own + free * rng.normal(size=DIM)
                for cell in range(N_CELLS):
                    vectors.append(look + 0.3 * rng.normal(size=DIM) + 4)
                    row = {"antibody": f"{name}{antibody:02d}", "gene_symbol": f"GENE{antibody}", "cell_line": "U-2 OS"}
                    row |= {"plate": "p1", "well": f"{name}{antibody}", "fov": f"f{field}", "source": "s"}
                    row["image_id"] = f"{name}{antibody}_{field}"
                    rows.append({**row, "cell_id": f"{row['image_id']}_{cell}", **columns})
    return rows, np.array(vectors)


def write_atlas(uri, rows, vectors):
    table = pa.Table.from_pylist(rows)
    Store.create(str(uri)).write("cells", table.append_column("embedding", vector_array(vectors)))
    return Store.open(str(uri))


def manifest_of(path, rows, **columns):
    """Write a manifest of the fields of view of some cells."""
    names = ("image_id", "antibody", "gene_symbol", "cell_line", "fov")
    fields = {row["image_id"]: {name: row.get(name) or "" for name in names} for row in rows}
    files = {name: f"pictures/{name}.png" for name in CHANNELS}
    return write_manifest(path, [{**files, **row, **columns} for row in fields.values()])


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def cells(rng):
    return make_cells(rng)


@pytest.fixture
def store(tmp_path, cells):
    return write_atlas(tmp_path / "atlas", *cells)


@pytest.fixture
def manifest(tmp_path, cells):
    return manifest_of(tmp_path / "m.csv", cells[0], note="ünï, quoted")


def kept_names(path):
    return {row["antibody"] for row in read_csv(path)}


def test_the_rows_of_consistent_antibodies_are_kept_as_they_were(tmp_path, store, manifest):
    found = curate([store], manifest, tmp_path / "out.csv")
    before, after = read_csv(manifest), read_csv(tmp_path / "out.csv")
    assert kept_names(tmp_path / "out.csv") == {f"GOOD{i:02d}" for i in range(8)}
    assert after == [row for row in before if row["antibody"].startswith("GOOD")]
    assert found.reasons() == {"kept": 8, "not consistent": 8, "too few replicates": 0, "too few to compare with": 0}
    assert found.table["n_replicates"].to_pylist() == [N_FIELDS] * 16
    assert (found.n_rows, found.n_written, found.n_rows_not_kept) == (64, 32, 32)
    assert found.notes() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["atlas", "m.csv", "out.csv"]


def test_a_field_of_view_is_the_mean_of_its_cells_at_length_1_however_they_are_batched(store, cells, monkeypatch):
    found = read_replicates(store, by_cell=False, by_protein=False, source=None)
    monkeypatch.setattr(Store, "batches", lambda self, *args: self.read(*args).to_batches(max_chunksize=7))
    pieces = read_replicates(store, by_cell=False, by_protein=False, source=None)
    rows, vectors = cells
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = {}
    for row, unit in zip(rows, units, strict=True):
        expected.setdefault((row["antibody"], row["fov"]), []).append(unit)
    slow = sorted(np.round(np.sum(own, axis=0), 4).tolist() for own in expected.values())
    for got in (found, pieces):
        assert len(got.vectors) == 16 * N_FIELDS
        np.testing.assert_allclose(sorted(np.round(got.vectors, 4).tolist()), slow, atol=2e-4)
        assert set(got.labels) == {row["antibody"] for row in rows}


def test_each_cell_may_be_a_replicate(tmp_path, store, manifest):
    found = curate([store], manifest, tmp_path / "out.csv", replicate="cell")
    assert found.table["n_replicates"].to_pylist() == [N_FIELDS * N_CELLS] * 16


def test_the_same_field_name_in_another_well_is_another_field(tmp_path, cells):
    rows, vectors = cells
    rows = [{**row, "well": f"{row['well']}{number % 2}"} for number, row in enumerate(rows)]
    found = read_replicates(
        write_atlas(tmp_path / "wells", rows, vectors), by_cell=False, by_protein=False, source=None
    )
    assert len(found.vectors) == 2 * 16 * N_FIELDS


def test_large_plates_are_compared_within_and_small_ones_together():
    keys = [(f"A{i}", "U-2 OS", "", "large", "w", "f", "") for i in range(MIN_ANTIBODIES)]
    keys += [(f"A{i}", "U-2 OS", "", f"small {i}", "w", "f", "") for i in range(5)]
    keys += [(f"A{i}", "U-2 OS", "drug", "large", "w", "f", "") for i in range(3)]
    strata = strata_of(keys)
    assert len(set(strata)) == 3
    assert strata[:MIN_ANTIBODIES] == ["U-2 OS\0\0large"] * MIN_ANTIBODIES
    assert set(strata[MIN_ANTIBODIES : MIN_ANTIBODIES + 5]) == {"U-2 OS\0"}


def test_an_antibody_is_kept_when_either_of_two_encoders_finds_it_consistent(tmp_path, cells, manifest):
    rows, vectors = cells
    noise = np.random.default_rng(3).normal(size=vectors.shape)
    uneven = np.array([int(row["antibody"][-2:]) % 2 for row in rows], bool)
    first = write_atlas(tmp_path / "first", rows, np.where(uneven[:, None], vectors, noise))
    second = write_atlas(tmp_path / "second", rows, np.where(uneven[:, None], noise, vectors))
    n_kept = [curate([one], manifest, tmp_path / "one.csv").reasons()["kept"] for one in (first, second)]
    assert max(n_kept) < 8
    curate([first, second], manifest, tmp_path / "both.csv")
    assert kept_names(tmp_path / "both.csv") >= {f"GOOD{i:02d}" for i in range(8)}


def test_without_an_antibody_the_protein_stands_for_it(tmp_path, cells):
    rows = [{**row, "antibody": None, "gene_symbol": row["antibody"]} for row in cells[0]]
    store = write_atlas(tmp_path / "genes", rows, cells[1])
    path = manifest_of(tmp_path / "m.csv", rows)
    found = curate([store], path, tmp_path / "out.csv")
    assert {row["gene_symbol"] for row in read_csv(tmp_path / "out.csv")} == {f"GOOD{i:02d}" for i in range(8)}
    assert "64 rows name no antibody; they were taken by their gene." in found.notes()
    named = [{**row, "ensembl_id": "ENSG"} for row in read_csv(path)]
    with pytest.raises(BadInput, match="No row of"):  # the atlas knows these genes by their symbol
        curate([store], write_manifest(tmp_path / "named.csv", named), tmp_path / "no.csv")


def test_a_manifest_without_antibodies_is_curated_by_protein(tmp_path, cells):
    rows = [{**row, "gene_symbol": f"{row['antibody'][:-2]}-{int(row['antibody'][-2:]) // 2}"} for row in cells[0]]
    path = manifest_of(tmp_path / "m.csv", [{**row, "antibody": ""} for row in rows])
    found = curate([write_atlas(tmp_path / "genes", rows, cells[1])], path, tmp_path / "out.csv")
    assert found.table["antibody"].to_pylist() == [f"{name}-{i}" for name in ("BAD", "GOOD") for i in range(4)]
    assert found.table["n_replicates"].to_pylist() == [2 * N_FIELDS] * 8
    assert found.n_rows_by_protein == 64


def test_rows_that_were_never_embedded_or_name_nothing_are_left_out_and_counted(tmp_path, store, cells):
    extra = [{"image_id": f"new{i}", "antibody": "NEW"} for i in range(3)] + [{"image_id": "nameless"}]
    found = curate([store], manifest_of(tmp_path / "m.csv", [*cells[0], *extra]), tmp_path / "out.csv")
    assert (found.n_rows_not_embedded, found.n_rows_unnamed, found.n_rows) == (3, 1, 68)
    assert sum(list(found.rows().values())[1:]) == found.rows()["all"]
    assert len(found.notes()) == 2
    assert len(read_csv(tmp_path / "out.csv")) == 32


def test_a_picture_stands_for_a_field_that_has_no_name(tmp_path, cells, manifest):
    store = write_atlas(tmp_path / "nofov", [{**row, "fov": None} for row in cells[0]], cells[1])
    found = curate([store], manifest, tmp_path / "out.csv")
    assert found.table["n_replicates"].to_pylist() == [N_FIELDS] * 16
    assert found.notes() == ["128 cells name no field of view; their picture was taken for it."]


def test_cells_of_one_source_can_be_chosen(tmp_path, cells, manifest):
    rows, vectors = cells
    doubled = [
        *rows,
        *[{**row, "source": "t", "fov": f"t{row['fov']}", "cell_id": f"t{row['cell_id']}"} for row in rows],
    ]
    store = write_atlas(tmp_path / "two", doubled, np.concatenate([vectors, vectors[::-1]]))
    whole = curate([store], manifest, tmp_path / "out.csv", source="s")
    assert whole.table["n_replicates"].to_pylist() == [N_FIELDS] * 16
    with pytest.raises(UnknownName, match="Unknown source 'r'"):
        curate([store], manifest, tmp_path / "out.csv", source="r")


@pytest.mark.parametrize("place", [".", "below/it", "../other"])
def test_the_files_are_found_from_where_the_manifest_is_written(tmp_path, store, cells, place):
    folder = tmp_path / "data"
    rows = []
    for number, name in enumerate(dict.fromkeys(row["image_id"] for row in cells[0])):
        files = write_cell(folder / "pictures", name, number)
        about = next(row for row in cells[0] if row["image_id"] == name)
        named = {channel: f"pictures/{files[channel]}" for channel in CHANNELS}
        rows.append({"image_id": name, "antibody": about["antibody"], "note": "pictures/x.png", "mask": "", **named})
    rows[0]["nucleus"] = str((folder / rows[0]["nucleus"]).resolve())
    path = write_manifest(folder / "m.csv", rows)
    out = folder / place
    out.mkdir(parents=True, exist_ok=True)
    curate([store], path, out / "kept.csv")
    before, after = (
        read_manifest(manifest, channels=CHANNELS, encoder="fake", crops=True) for manifest in (path, out / "kept.csv")
    )
    pictures = {before.item(i).image_id: before.item(i).picture_id() for i in range(len(before))}
    assert len(after) == 32
    for item in map(after.item, range(len(after))):
        assert item.picture_id() == pictures[item.image_id]
        assert (item.row["note"], item.row["mask"]) == ("pictures/x.png", "")
    assert after.rows[0]["nucleus"] == rows[0]["nucleus"]


def test_a_table_may_be_read_and_written_with_tabs(tmp_path, store, manifest):
    tabs = tmp_path / "m.tsv"
    tabs.write_text(manifest.read_text().replace(",", "\t").replace('"ünï\t quoted"', "x"), encoding="utf-8")
    curate([store], tabs, tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_text().splitlines()[0] == tabs.read_text().splitlines()[0]
    curate([store], tabs, tmp_path / "out.csv")
    assert kept_names(tmp_path / "out.csv") == {f"GOOD{i:02d}" for i in range(8)}


def test_places_that_cannot_be_written_are_refused_before_any_work(tmp_path, manifest):
    link = tmp_path / "link.csv"
    link.symlink_to(manifest)
    before = manifest.read_bytes()
    for place, message in [
        (manifest, "would be written over"),
        (link, "would be written over"),
        (tmp_path / "none" / "out.csv", "There is no folder"),
        (tmp_path, "is a folder; name a file"),
        (tmp_path / f"{'a' * 300}.csv", "cannot be"),
    ]:
        with pytest.raises(BadInput, match=message):
            curate([], manifest, place)
    assert manifest.read_bytes() == before


def test_when_nothing_is_kept_nothing_is_written_and_the_numbers_are_told(tmp_path, rng):
    rows, vectors = make_cells(rng, consistent=0, other=6)
    store = write_atlas(tmp_path / "noise", rows, rng.normal(size=vectors.shape))
    with pytest.raises(
        BadInput, match=r"None of 6 antibodies is consistent at p < 0.01 \(6 not consistent; the lowest"
    ):
        curate([store], manifest_of(tmp_path / "m.csv", rows), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_manifest_without_the_consistent_antibodies_leaves_nothing(tmp_path, store, cells):
    path = manifest_of(tmp_path / "bad.csv", [row for row in cells[0] if row["antibody"].startswith("BAD")])
    with pytest.raises(BadInput, match="None of the 8 antibodies that are consistent is in this manifest"):
        curate([store], path, tmp_path / "out.csv")


def test_too_few_fields_of_view_say_what_to_do(tmp_path, cells, manifest):
    rows, vectors = cells
    two = [i for i, row in enumerate(rows) if row["fov"] in ("f0", "f1")]
    store = write_atlas(tmp_path / "two", [rows[i] for i in two], vectors[two])
    with pytest.raises(BadInput) as caught:
        curate([store], manifest, tmp_path / "out.csv")
    assert "has 3 fields of view; the most is 2.\nTry --min-replicates 2 or --replicate cell" in str(caught.value)
    assert curate([store], manifest, tmp_path / "out.csv", replicate="cell").n_written
    one = [i for i, row in enumerate(rows) if row["cell_id"].endswith("f0_0") or row["cell_id"].endswith("_0_0")]
    store = write_atlas(tmp_path / "one", [rows[i] for i in one], vectors[one])
    with pytest.raises(BadInput, match=r"3 cells; the most is 1\. Ingest more pictures"):
        curate([store], manifest, tmp_path / "out.csv", replicate="cell")


def test_what_cannot_be_grouped_is_refused(tmp_path, cells, manifest):
    rows, vectors = cells
    bare = [{**row, "antibody": None, "gene_symbol": None} for row in rows]
    with pytest.raises(BadInput, match="names its antibody or its protein"):
        curate([write_atlas(tmp_path / "bare", bare, vectors)], manifest, tmp_path / "out.csv")
    vectors[5] = 0
    with pytest.raises(BadInput, match="1 of 128 cells"):
        curate([write_atlas(tmp_path / "zero", rows, vectors)], manifest, tmp_path / "out.csv")
    with pytest.raises(UnknownName, match="kind of replicate 'well'"):
        curate([], manifest, tmp_path / "out.csv", replicate="well")
    empty = Store.create(str(tmp_path / "empty"))
    empty.ensure("cells")
    with pytest.raises(NotBuilt, match="has no cells yet"):
        curate([empty], manifest, tmp_path / "out.csv")


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["curate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_the_command_tells_the_counts_and_writes_the_table(tmp_path, store, manifest):
    out, table = tmp_path / "out.csv", tmp_path / "p.csv"
    told = run(manifest, "-o", out, "--atlas", store.uri, "--table", table)
    assert "8 kept, 8 not consistent, 0 too few replicates" in told.stdout
    assert f"Wrote 32 of 64 rows to {out}." in told.stdout
    rows = {row["antibody"]: row for row in read_csv(table)}
    assert rows["GOOD03"]["kept"] == "true"
    assert float(rows["BAD03"]["p_value"]) >= 0.01
    found = json.loads(run(manifest, "-o", out, "--atlas", store.uri, "--or-atlas", store.uri, "--json").stdout)
    assert found["antibodies"]["kept"] == 8
    assert found["rows"]["written"] == 32
    assert found["settings"]["seed"] == 0


def test_the_command_refuses_what_it_cannot_do(tmp_path, store, manifest):
    out = tmp_path / "out.csv"
    for arguments, message in [
        (["--atlas", tmp_path / "none"], "There is no atlas"),
        (["--or-atlas", tmp_path / "none"], "There is no atlas"),
        (["--permutations", "50"], "take at least 100"),
        (["--table", out], "would be written over"),
        (["--table", manifest], "would be written over"),
        (["--table", tmp_path / "none" / "p.csv"], "There is no folder"),
    ]:
        told = run(
            manifest, "-o", out, *(["--atlas", store.uri] if "--atlas" not in arguments else []), *arguments, code=1
        )
        assert message in told.stderr
        assert len(told.stderr.strip().splitlines()) <= 2
    for value in ("0", "2", "1"):
        run(manifest, "-o", out, "--atlas", store.uri, "--alpha", value, code=2)
    assert not out.exists()
