"""The ingest job: what is stored, what is refused, and that a run can be stopped anywhere and goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from fake_encoder import CHANNELS, PIXEL_UM, SIDE, FakeEncoder, draw_cell, write_cell, write_manifest
from PIL import Image
from tiny_network import TINY, TINY_SPEC, published_head, published_state

from ingest import writer
from ingest.job import Options, ingest_pictures
from ingest.manifest import read_manifest
from ingest.simulated import SimulatedSource, write_files
from subcell_atlas.cli import main
from subcell_atlas.encoders import load_encoder
from subcell_atlas.encoders.localizations import name_localizations
from subcell_atlas.encoders.vit import SubCellNetwork
from subcell_atlas.encoders.weights import seed_weights
from subcell_atlas.errors import AtlasError, RecipeMismatch
from subcell_atlas.images.simulated import make_proteome
from subcell_atlas.images.thumbnails import decode_thumbnail
from subcell_atlas.store import Store

QUIET = Options(workers=0, progress=False, pixel_size_um=PIXEL_UM)
ROOT = Path(__file__).parents[1]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(str(tmp_path / "atlas"))


def ingest(store, manifest, *, encoder=None, options=QUIET, crops=True, name=None):
    source = read_manifest(manifest, channels=CHANNELS, encoder="fake", crops=crops, name=name)
    return ingest_pictures(store, source, encoder or FakeEncoder(), options)


def cells(store) -> dict[str, dict]:
    """Return the cells by the name of their picture; there must be one of each."""
    rows = store.read("cells").to_pylist()
    by_name = {row["image_id"]: row for row in rows}
    assert len(by_name) == len(rows)
    return by_name


def content(store) -> list[dict]:
    """Return all that two undisturbed runs have in common."""
    rows = store.read("cells").drop_columns(["run_id"]).to_pylist()
    return sorted(rows, key=lambda row: row["cell_id"])


def rejects(store) -> dict[str, str]:
    return {row["image"]: row["reason"] for row in store.read("rejects").to_pylist()} if store.has("rejects") else {}


def many_cells(folder, n=10, **columns):
    rows = [write_cell(folder, f"c{i}", i) | {"gene_symbol": f"G{i}", **columns} for i in range(n)]
    return write_manifest(folder / "m.csv", rows)


# what is stored


def test_a_cell_is_stored_with_its_vector_its_thumbnail_and_what_is_known_of_it(store, tmp_path):
    row = write_cell(tmp_path, "a", 5) | {"ensembl_id": "ENSG5", "localization": "Cytosol;Nucleoplasm", "dose": "3"}
    counts = ingest(store, write_manifest(tmp_path / "plate 1.csv", [row]))
    assert (counts.pictures, counts.cells, counts.done_before, counts.rejected) == (1, 1, 0, 0)
    cell = cells(store)["a"]
    assert cell["embedding"] == pytest.approx([plane.mean() for plane in draw_cell(5).values()], abs=1e-4)
    assert cell["protein_id"] == cell["ensembl_id"] == "ENSG5"
    assert cell["localization"] == ["Cytosol", "Nucleoplasm"]
    assert (cell["source"], cell["extra"], cell["mask_source"]) == (f"{tmp_path.name}/plate 1", '{"dose": "3"}', "none")
    assert cell["pixel_size_um"] == pytest.approx(PIXEL_UM)
    assert decode_thumbnail(cell["thumbnail"]).shape == (4, 128, 128)
    (run,) = store.read("runs").to_pylist()
    assert run["run_id"] == cell["run_id"]
    assert run["finished"] is not None
    assert store.recipe("cells", "embedding").masking == "cell"


def test_the_same_cell_from_every_kind_of_file_has_the_same_vector(store, tmp_path):
    planes = draw_cell(3)
    save = {
        "8.png": lambda path, plane: Image.fromarray(plane).save(path),
        "gray.jpg": lambda path, plane: Image.fromarray(plane).save(path, quality=95),
        "8.tif": tifffile.imwrite,
        "8.npy": np.save,
    }
    rows = []
    for kind, write in save.items():
        row = {"image_id": kind}
        for name, plane in planes.items():
            row[name] = f"{name}_{kind}"
            write(tmp_path / row[name], plane)
        rows.append(row)
    colored = {"image_id": "colored.jpg"}
    for name, used in {"microtubules": [0], "er": [0, 1], "nucleus": [2], "protein": [1]}.items():
        picture = np.zeros((32, 32, 3), np.uint8)
        picture[..., used] = planes[name][..., None]
        colored[name] = f"{name}_colored.jpg"
        Image.fromarray(picture).save(tmp_path / colored[name], quality=95, subsampling=0)
    rows.append(colored)
    stack = np.stack(list(planes.values()))
    for name, array in {"first.npy": stack, "last.npy": np.moveaxis(stack, 0, -1)}.items():
        np.save(tmp_path / name, array)
        rows.append({"image_id": name, "image": name, "channels": ";".join(CHANNELS)})
    counts = ingest(store, write_manifest(tmp_path / "m.csv", rows))
    assert (counts.cells, rejects(store)) == (len(rows), {})
    stored = cells(store)
    expected = np.array([plane.mean() for plane in planes.values()])
    for name, cell in stored.items():
        tolerance = 0.06 if name.endswith(".jpg") else 1e-5
        np.testing.assert_allclose(cell["embedding"], expected, rtol=tolerance, err_msg=name)


def test_deep_pictures_give_the_vector_of_shallow_ones_once_they_are_scaled(store, tmp_path):
    planes = draw_cell(3)
    rows = []
    for name, save in {"a.png": lambda p, x: Image.fromarray(x).save(p), "b.tif": tifffile.imwrite}.items():
        row = {"image_id": name}
        for channel, plane in planes.items():
            row[channel] = f"{channel}_{name}"
            save(tmp_path / row[channel], plane.astype(np.uint16) * 256)
        rows.append(row)
    ingest(store, write_manifest(tmp_path / "m.csv", rows))
    expected = [plane.mean() * 256 for plane in planes.values()]
    for cell in cells(store).values():
        assert cell["embedding"] == pytest.approx(expected, rel=1e-5)


def draw_masked_field(folder, mask):
    row = write_cell(folder, "field", side=64)
    Image.fromarray(mask).save(folder / "mask.png")
    return row | {"mask": "mask.png"}


def test_a_field_gives_a_cell_for_each_label_and_a_new_mask_replaces_them(store, tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 10:30], mask[10:30, 35:60], mask[40:60, 10:60] = 1, 2, 3
    manifest = write_manifest(tmp_path / "m.csv", [draw_masked_field(tmp_path, mask)])
    assert ingest(store, manifest, crops=False).cells == 3
    boxes = {(row["y0"], row["x0"], row["y1"], row["x1"]) for row in store.read("cells").to_pylist()}
    assert boxes == {(10, 10, 30, 30), (10, 35, 30, 60), (40, 10, 60, 60)}
    assert {row["mask_source"] for row in store.read("cells").to_pylist()} == {"given"}
    mask[mask == 3] = 0
    mask[12:28, 12:28], mask[10:12], mask[28:30] = 1, 0, 0
    draw_masked_field(tmp_path, mask)
    assert ingest(store, manifest, crops=False).cells == 2
    assert store.count("cells") == 2


# what is refused


def test_each_picture_that_cannot_be_used_is_one_reject_and_the_rest_is_stored(store, tmp_path):
    rows = {name: write_cell(tmp_path, name, seed) for seed, name in enumerate(BAD)}
    for name, (spoil, _) in BAD.items():
        spoil(rows[name], tmp_path)
    rows["good"] = write_cell(tmp_path, "good", 77)
    manifest = write_manifest(tmp_path / "m.csv", list(rows.values()))
    counts = ingest(store, manifest)
    assert (counts.pictures, counts.cells, counts.rejected) == (len(BAD) + 1, 1, len(BAD))
    assert set(cells(store)) == {"good"}
    found = rejects(store)
    assert {name for name, (_, reason) in BAD.items() if reason not in found[name]} == set()
    assert set(found) == set(BAD)
    assert {row["source"] for row in store.read("rejects").to_pylist()} == {f"{tmp_path.name}/m"}


def overwrite(name, write):
    def spoil(row, folder):
        write(folder / row[name])

    return spoil


def replace(**values):
    def spoil(row, folder):
        row.update(values)

    return spoil


def save_npy(array):
    def spoil(row, folder):
        np.save(folder / f"{row['image_id']}.npy", array)
        row["protein"] = f"{row['image_id']}.npy"

    return spoil


def mask_of_size(height, width):
    def spoil(row, folder):
        Image.fromarray(np.ones((height, width), np.uint8)).save(folder / "wrong mask.png")
        row["mask"] = "wrong mask.png"

    return spoil


FLAT = np.full((32, 32), 9, np.uint8)
BAD = {
    "broken": (overwrite("er", lambda p: p.write_bytes(p.read_bytes()[:60] + b"?" * 300)), "cannot be decoded"),
    "truncated": (overwrite("protein", lambda p: p.write_bytes(p.read_bytes()[:-120])), "cannot be decoded"),
    "empty": (overwrite("nucleus", lambda p: p.write_bytes(b"")), "the file is empty"),
    "constant": (overwrite("nucleus", lambda p: Image.fromarray(FLAT).save(p)), "the nucleus channel is constant (9)"),
    "other size": (overwrite("er", lambda p: Image.fromarray(FLAT[:20]).save(p)), "the channels differ in size"),
    "missing": (overwrite("er", Path.unlink), "the file is missing"),
    "folder": (replace(protein="."), "pictures are .png"),
    "text": (overwrite("er", lambda p: p.write_text("no picture")), "cannot be decoded"),
    "pixel": (overwrite("er", lambda p: Image.fromarray(FLAT[:1, :1]).save(p)), "the channels differ in size"),
    "no file": (replace(protein=""), "no file for the protein channel"),
    "bad mask": (mask_of_size(30, 31), "the mask is 30 x 31 px, the picture 32 x 32"),
    "nan": (save_npy(np.full((32, 32), np.nan)), "NaN or infinite"),
    "standardized": (save_npy(np.random.default_rng(0).normal(size=(32, 32))), "negative intensities"),
    "pixel size": (replace(pixel_size_um="80 nm"), "pixel_size_um is '80 nm'"),
    "tiny pixel": (replace(pixel_size_um="1e-9"), "µm between 0.001 and 10"),
    "nan pixel": (replace(pixel_size_um="nan"), "pixel_size_um is 'nan'"),
}


def test_a_file_that_is_mended_is_stored_by_the_next_run_and_no_longer_a_reject(store, tmp_path):
    manifest = many_cells(tmp_path, 3)
    path = tmp_path / "c1_er.png"
    good = path.read_bytes()
    path.write_bytes(b"")
    assert ingest(store, manifest).rejected == 1
    path.write_bytes(good)
    counts = ingest(store, manifest)
    assert (counts.cells, counts.done_before, counts.rejected) == (1, 2, 0)
    assert rejects(store) == {}
    assert len(cells(store)) == 3


def test_a_reject_goes_when_the_file_that_was_stored_before_comes_back(store, tmp_path):
    manifest = many_cells(tmp_path, 3)
    ingest(store, manifest)
    path = tmp_path / "c1_er.png"
    path.rename(tmp_path / "away.png")
    assert ingest(store, manifest).rejected == 1
    (tmp_path / "away.png").rename(path)
    assert ingest(store, manifest).done_before == 3
    assert rejects(store) == {}


def test_the_rejects_of_another_source_stay(store, tmp_path):
    bad = write_manifest(tmp_path / "bad.csv", [write_cell(tmp_path, "x") | {"er": "none.png"}])
    ingest(store, bad)
    ingest(store, many_cells(tmp_path, 2))
    assert set(rejects(store)) == {"x"}


def test_the_same_picture_twice_is_stored_once_and_rejected_once(store, tmp_path):
    row = write_cell(tmp_path, "a")
    manifest = write_manifest(tmp_path / "m.csv", [row, row | {"image_id": "b"}])
    for done in (0, 1):
        counts = ingest(store, manifest)
        assert (counts.cells + counts.done_before, counts.rejected, counts.done_before) == (1, 1, done)
        assert set(cells(store)) == {"a"}
        assert rejects(store) == {"b": "the same picture as a"}


# going on


def test_running_again_embeds_nothing_and_changes_nothing(store, tmp_path):
    manifest = many_cells(tmp_path)
    ingest(store, manifest)
    before = store.read("cells").to_pylist()
    encoder = FakeEncoder()
    counts = ingest(store, manifest, encoder=encoder)
    assert (counts.cells, counts.done_before, encoder.n_crops) == (0, 10, 0)
    assert store.read("cells").to_pylist() == before


def test_corrected_columns_overwrite_and_never_double(store, tmp_path):
    manifest = many_cells(tmp_path, 3)
    ingest(store, manifest)
    before = cells(store)
    for columns in ({"gene_symbol": "NEW"}, {"gene_symbol": "NEW", "dose": "3"}, {"localization": "Cytosol"}):
        many_cells(tmp_path, 3, **columns)
        assert ingest(store, manifest).cells == 3
        after = cells(store)
        assert {name: row["cell_id"] for name, row in after.items()} == {n: r["cell_id"] for n, r in before.items()}
    assert after["c0"]["gene_symbol"] == "G0"
    assert after["c0"]["localization"] == ["Cytosol"]
    assert after["c0"]["extra"] is None


def test_a_corrected_pixel_size_or_exchanged_channel_is_embedded_anew(store, tmp_path):
    row = write_cell(tmp_path, "a", 4)
    manifest = write_manifest(tmp_path / "m.csv", [row])
    ingest(store, manifest)
    first = cells(store)["a"]["embedding"]
    assert ingest(store, manifest, options=Options(workers=0, progress=False, pixel_size_um=0.4)).cells == 1
    assert cells(store)["a"]["embedding"] != pytest.approx(first, rel=0.01)
    write_manifest(manifest, [row | {"pixel_size_um": "0.8"}])
    assert ingest(store, manifest).cells == 1
    assert cells(store)["a"]["embedding"] == first
    write_manifest(manifest, [row | {"er": row["protein"], "protein": row["er"]}])
    assert ingest(store, manifest).cells == 1
    assert cells(store)["a"]["embedding"] == pytest.approx([first[i] for i in (0, 3, 2, 1)])


def test_a_corrected_order_of_channels_is_embedded_anew(store, tmp_path):
    np.save(tmp_path / "a.npy", np.stack(list(draw_cell(4).values())))
    manifest = tmp_path / "m.csv"
    vectors = []
    for channels in (CHANNELS, CHANNELS[::-1]):
        write_manifest(manifest, [{"image_id": "a", "image": "a.npy", "channels": ";".join(channels)}])
        assert ingest(store, manifest).cells == 1
        vectors.append(cells(store)["a"]["embedding"])
    assert vectors[0] == vectors[1][::-1]


def test_other_masking_or_another_encoder_is_refused_by_name_and_nothing_is_lost(store, tmp_path):
    manifest = many_cells(tmp_path, 3)
    ingest(store, manifest)
    before = content(store)
    unmasked = Options(workers=0, progress=False, masking="none", pixel_size_um=PIXEL_UM)
    with pytest.raises(RecipeMismatch, match="masking is 'none', not 'cell'"):
        ingest(store, manifest, options=unmasked)
    with pytest.raises(RecipeMismatch, match="encoder is 'other', not 'fake'"):
        ingest(store, manifest, encoder=FakeEncoder("other"))
    assert content(store) == before


@pytest.mark.parametrize("interrupt_at", [1, 2, 4])
@pytest.mark.parametrize("commit_cells", [4, 2048])
def test_an_interrupt_while_embedding_keeps_whole_pictures_and_the_next_run_goes_on(
    store, tmp_path, monkeypatch, interrupt_at, commit_cells
):
    monkeypatch.setattr(writer, "COMMIT_CELLS", commit_cells)
    manifest = many_cells(tmp_path)
    options = Options(workers=0, progress=False, pixel_size_um=PIXEL_UM, batch_size=3)
    with pytest.raises(AtlasError, match=r"Interrupted; .* Run the same command again to go on"):
        ingest(store, manifest, encoder=FakeEncoder(interrupt_at=interrupt_at), options=options)
    stored = 3 * (interrupt_at - 1)
    assert store.count("cells") == stored
    counts = ingest(store, manifest, options=options)
    assert (counts.done_before, counts.cells) == (stored, 10 - stored)
    undisturbed = Store.create(str(tmp_path / "undisturbed"))
    ingest(undisturbed, manifest, options=options)
    assert content(store) == content(undisturbed)
    assert sum(row["finished"] is None for row in store.read("runs").to_pylist()) == 0


def test_a_picture_is_never_stored_with_half_of_its_cells(store, tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 10:30], mask[10:30, 35:60], mask[40:60, 10:60] = 1, 2, 3
    manifest = write_manifest(tmp_path / "m.csv", [draw_masked_field(tmp_path, mask)])
    options = Options(workers=0, progress=False, pixel_size_um=PIXEL_UM, batch_size=2)
    with pytest.raises(AtlasError, match="Interrupted; 0 cells"):
        ingest(store, manifest, encoder=FakeEncoder(interrupt_at=2), options=options, crops=False)
    assert store.count("cells") == 0
    assert ingest(store, manifest, options=options, crops=False).cells == 3


def test_small_commits_and_workers_give_the_same_table(store, tmp_path, monkeypatch):
    manifest = many_cells(tmp_path, 34)
    (tmp_path / "c7_er.png").write_bytes(b"")
    ingest(store, manifest)
    monkeypatch.setattr(writer, "COMMIT_CELLS", 5)
    other = Store.create(str(tmp_path / "other"))
    counts = ingest(other, manifest, options=Options(workers=2, batch_size=2, progress=False, pixel_size_um=PIXEL_UM))
    assert (counts.cells, counts.rejected) == (33, 1)
    assert content(other) == content(store)


def test_files_of_the_simulated_proteome_give_the_vectors_of_its_source(tmp_path):
    source = SimulatedSource(make_proteome(3, seed=4), 3)
    encoder = load_encoder("demo")
    direct, by_file = Store.create(str(tmp_path / "direct")), Store.create(str(tmp_path / "by file"))
    ingest_pictures(direct, source, encoder, QUIET)
    ingest(by_file, write_files(source, tmp_path / "files"), encoder=encoder)
    drawn, read = cells(direct), cells(by_file)
    assert set(drawn) == set(read)
    assert len(drawn) == 9
    for name, cell in drawn.items():
        np.testing.assert_allclose(read[name]["embedding"], cell["embedding"], rtol=1e-4, atol=1e-5)
        same = (
            "protein_id",
            "gene_symbol",
            "antibody",
            "cell_line",
            "plate",
            "well",
            "fov",
            "localization",
            "thumbnail",
        )
        assert {key: read[name][key] for key in same} == {key: cell[key] for key in same}


def start(manifest, atlas, *options):
    command = [sys.executable, "-m", "ingest", "images", str(manifest), "--crops", "--atlas", str(atlas), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(condition, seconds=40.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def test_a_run_that_is_interrupted_and_then_killed_goes_on_to_the_undisturbed_table(tmp_path):
    source = SimulatedSource(make_proteome(20, seed=2), 6)
    manifest = write_files(source, tmp_path / "with space")
    atlas = tmp_path / "atlas"
    process = start(manifest, atlas, "--workers", "0", "--batch-size", "2")
    wait_for((atlas / "runs.lance" / "_versions").is_dir)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=40)[1]
    assert process.returncode == 1
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("Error: Interrupted;")

    runs = Store.open(str(atlas)).count("runs")
    process = start(manifest, atlas, "--workers", "2", "--batch-size", "2")
    wait_for(lambda: Store.open(str(atlas)).count("runs") > runs)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if children.exists():
        wait_for(lambda: process.poll() is not None or children.read_text().split())
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    process.kill()
    process.communicate(timeout=40)  # returns once the workers, who hold stderr too, have ended
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))

    store = Store.open(str(atlas))
    encoder = load_encoder("demo", precision="fastest")  # as the command takes it
    ingest(store, manifest, encoder=encoder, options=Options(workers=0, progress=False))
    assert len(cells(store)) == len(source)
    undisturbed = Store.create(str(tmp_path / "undisturbed"))
    ingest(undisturbed, manifest, encoder=encoder, options=Options(workers=0, progress=False))
    assert [row["cell_id"] for row in content(store)] == [row["cell_id"] for row in content(undisturbed)]
    one, other = (np.array([row["embedding"] for row in content(s)]) for s in (store, undisturbed))
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosines.min() > 0.9999  # half precision rounds differently in batches of another size


# what the encoder adds


def subcell_like(tmp_path, *, head=3, **options):
    """An encoder of all four channels, of the fake encoder's size, with a localization head unless it is None."""
    network = dataclasses.replace(TINY, n_channels=4, image_size=SIDE)
    spec = dataclasses.replace(TINY_SPEC, channels=CHANNELS, crop_px=SIDE, pixel_size_um=PIXEL_UM, network=network)
    files = [tmp_path / "network.pth"]
    made = SubCellNetwork(network)
    seed_weights(made, 0)
    torch.save(published_state(made), files[0])
    if head is not None:
        files.append(tmp_path / f"head_{head}.pth")
        torch.save(published_head(head), files[1])
    return load_encoder(spec, weights=files, device="cpu", **options)


def test_a_head_predicts_the_localization_of_each_cell(store, tmp_path):
    encoder = subcell_like(tmp_path, precision="float32")
    ingest(store, many_cells(tmp_path, 3), encoder=encoder)
    found = cells(store)
    for number in range(3):
        cell = found[f"c{number}"]
        probabilities = encoder.localize_embeddings(np.array([cell["embedding"]], np.float32))[0]
        assert cell["predicted_localization"] == name_localizations(probabilities.tolist())
        assert cell["predicted_localization"]


def test_predictions_of_two_heads_are_not_mixed_and_none_is_lost_without_a_head(store, tmp_path):
    manifest = many_cells(tmp_path, 3)
    ingest(store, manifest, encoder=subcell_like(tmp_path, head=3))
    before = content(store)
    counts = ingest(store, manifest, encoder=subcell_like(tmp_path, head=None))
    assert (counts.done_before, counts.cells) == (3, 0)
    assert content(store) == before
    with pytest.raises(RecipeMismatch, match="predicted by other heads"):
        ingest(store, manifest, encoder=subcell_like(tmp_path, head=4))


def test_channels_that_look_swapped_are_told_of_once_whatever_the_batch(store, tmp_path, capsys, monkeypatch):
    asked = []

    def swapped(crops, channels):
        asked.append((len(crops), tuple(channels)))
        return "The channels look swapped."

    monkeypatch.setattr(writer, "swapped_channels", swapped)
    ingest(store, many_cells(tmp_path, 20), options=Options(workers=0, progress=False, batch_size=2))
    assert asked == [(16, CHANNELS)]
    assert capsys.readouterr().err.count("The channels look swapped.") == 1
    (run,) = store.read("runs").to_pylist()
    assert json.loads(run["counts"])["remark"] == "The channels look swapped."


def test_a_precision_that_strays_stops_the_run_before_anything_is_stored(store, tmp_path, monkeypatch):
    encoder = subcell_like(tmp_path, precision="bfloat16")
    monkeypatch.setattr("subcell_atlas.encoders.encoder.LEAST_COSINE", 1.1)
    with pytest.raises(AtlasError, match="--precision float32"):
        ingest(store, many_cells(tmp_path, 3), encoder=encoder)
    assert not store.has("cells") or store.count("cells") == 0


def test_cells_cannot_be_found_without_a_nucleus_channel(store, tmp_path):
    network = dataclasses.replace(TINY, n_channels=2, image_size=SIDE)
    channels = ("er", "protein")
    spec = dataclasses.replace(TINY_SPEC, channels=channels, crop_px=SIDE, pixel_size_um=PIXEL_UM, network=network)
    ingest(store, many_cells(tmp_path, 1), encoder=load_encoder(spec, weights="random"), crops=False)
    assert "without a nucleus channel" in rejects(store)["c0"]


# the command line


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.csv"], 1, "There is no manifest 'none.csv'"),
        (["."], 1, "There is no manifest '.'"),
        (["m.csv", "--atlas", "full"], 1, "holds other files and no atlas"),
        (["m.csv", "--atlas", "m.csv"], 1, "'m.csv' is a file; an atlas is a folder"),
        (["m.csv", "--encoder", "dem"], 1, "Unknown encoder 'dem'; nearest: demo"),
        (["m.csv", "--encoder", "vit-large-8"], 1, "needs your own weights"),
        (["m.csv", "--block", "9"], 1, "has blocks 1 to 2; got 9"),
        (["m.csv", "--pooling", "max"], 1, "Unknown pooling 'max'"),
        (["m.csv", "--scale", "training"], 1, "'demo' has no training scale"),
        (["m.csv", "--channels", "er"], 1, "takes the channels microtubules"),
        (["m.csv", "--device", "toaster"], 1, "The device 'toaster' cannot be used on this machine"),
        (["m.csv", "--workers", "-1"], 2, "is not in the range"),
        (["m.csv", "--pixel-size", "0"], 2, "is not in the range"),
        (["m.csv", "--batch-size", "0"], 2, "is not in the range"),
        ([], 2, "Missing argument"),
    ],
)
def test_a_wrong_command_says_so_in_a_line_or_two(tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    many_cells(tmp_path, 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    result = CliRunner().invoke(main, ["ingest", "images", *arguments])
    assert result.exit_code == code
    assert said in result.stderr
    if code == 1:
        assert isinstance(result.exception, SystemExit)
        assert len(result.stderr.splitlines()) <= 3
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["thesis.txt"]


def test_the_command_reports_what_became_of_the_pictures(tmp_path, monkeypatch):
    folder = tmp_path / "with space" / "ünï"
    manifest = many_cells(folder, 2)
    (folder / "c1_er.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["ingest", "images", str(manifest), "--crops", "--atlas", "my ätlas"])
    assert result.exit_code == 0
    assert "1 cell stored in my ätlas" in result.stderr
    assert "1 rejected" in result.stderr
    assert Store.open("my ätlas").count("cells") == 1
