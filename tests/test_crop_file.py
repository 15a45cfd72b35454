"""The file of crops: what is read is what was cut, it is cut once, and nothing that is not whole passes for it."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_encoder import CHANNELS, PIXEL_UM, SIDE, draw_cell, write_cell, write_manifest

from ingest import crop_file
from ingest.crop_file import BLOCKS, CELLS, METADATA_KEY, open_crops, write_crops
from ingest.ledger import Digests
from ingest.manifest import read_manifest
from ingest.prepare import Plan, prepare
from ingest.simulated import SimulatedSource
from subcell_atlas.errors import AtlasError, BadInput
from subcell_atlas.images.simulated import make_proteome

SETTINGS = {
    "channels": CHANNELS,
    "crop_um": SIDE * PIXEL_UM,
    "crop_px": SIDE,
    "pixel_size_um": PIXEL_UM,
    "workers": 0,
    "progress": False,
}


def read(manifest, *, crops=True, channels=CHANNELS):
    return read_manifest(manifest, channels=channels, encoder="fake", crops=crops)


def write(source, path, **options):
    return write_crops(source, path, **{**SETTINGS, **options})


def many_cells(folder, n=5, **columns):
    """Write cells, each with a mask of its own."""
    rows = []
    for number in range(n):
        row = write_cell(folder, f"c{number}", number) | {
            "mask": f"m{number}.npy",
            "antibody": f"HPA{number}",
            **columns,
        }
        np.save(folder / row["mask"], mask_of(number))
        rows.append(row)
    return write_manifest(folder / "m.csv", rows)


def mask_of(number):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[number % 9 : 20 + number % 9, 3:29] = 1
    return mask


def crop_of(number):
    return np.stack(list(draw_cell(number).values()))


@pytest.fixture
def manifest(tmp_path):
    return many_cells(tmp_path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "cells"


@pytest.fixture
def runs(monkeypatch):
    """What was cut: the plan of each run, and an interrupt where one is to come."""

    class Runs(list):
        interrupt_at: int | None = None

        def prepared_pictures(self, plan, items, workers):
            self.append(plan)
            for number, prepared in enumerate(before(plan, items, workers)):
                if number == self.interrupt_at:
                    raise KeyboardInterrupt
                yield prepared

    runs, before = Runs(), crop_file.prepared_pictures
    monkeypatch.setattr(crop_file, "prepared_pictures", runs.prepared_pictures)
    return runs


@pytest.fixture(scope="module")
def processes():
    """Two of them, with a barrier that they can meet at."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=begin, initargs=(context.Barrier(2),)) as pool:
        yield pool


def begin(barrier):
    global both
    both = barrier


both = None


# what is read is what was cut


def test_crops_and_masks_are_those_that_were_cut_in_any_order(manifest, path):
    made = write(read(manifest), path)
    assert len(made) == 5
    assert (made.channels, made.crop_px, made.crop_um, made.dtype) == (CHANNELS, SIDE, SIDE * PIXEL_UM, np.uint8)
    for indices in ([0, 1, 2, 3, 4], np.array([3, 0, 3]), [4]):
        crops, masks = made.read(indices)
        assert (crops.dtype, masks.dtype) == (np.uint8, bool)
        np.testing.assert_array_equal(crops, [crop_of(number) for number in indices])
        np.testing.assert_array_equal(masks, [mask_of(number) > 0 for number in indices])
    crops, masks = made.read([])
    assert (crops.shape, masks.shape) == ((0, 4, SIDE, SIDE), (0, SIDE, SIDE))


@pytest.mark.parametrize("index", [-1, 5])
def test_a_cell_that_there_is_not_is_an_index_error(manifest, path, index):
    with pytest.raises(IndexError, match="of 5"):
        write(read(manifest), path).read([0, index])


def test_the_table_tells_of_each_cell_what_training_needs_in_the_order_of_the_numbers(tmp_path, path):
    manifest = many_cells(tmp_path, 3, gene_symbol="G", cell_line="U2OS", localization="Cytosol;Nucleoplasm", well="A1")
    cells = write(read(manifest), path).cells
    assert cells.num_rows == 3
    assert cells["antibody"].to_pylist() == ["HPA0", "HPA1", "HPA2"]
    first = cells.to_pylist()[0]
    known = {"image_id": "c0", "gene_symbol": "G", "cell_line": "U2OS", "well": "A1", "fov": None}
    assert {name: first[name] for name in known} == known
    assert first["localization"] == ["Cytosol", "Nucleoplasm"]
    assert first["protein_id"]
    assert len(set(cells["cell_id"].to_pylist())) == 3


def test_the_cells_of_a_field_keep_their_neighbors_and_each_its_own_mask(tmp_path, path):
    labels = np.zeros((64, 64), np.uint8)
    labels[10:30, 10:30], labels[10:30, 32:52], labels[40:60, 10:60] = 1, 2, 3
    row = write_cell(tmp_path, "a", side=64) | {"mask": "labels.npy"}
    np.save(tmp_path / "labels.npy", labels)
    made = write(read(write_manifest(tmp_path / "m.csv", [row]), crops=False), path)
    crops, masks = made.read(range(3))
    np.testing.assert_array_equal(crops[0], np.stack(list(draw_cell(side=64).values()))[:, 4:36, 4:36])
    np.testing.assert_array_equal(masks[0], labels[4:36, 4:36] == 1)


def test_simulated_cells_are_what_a_plan_without_a_file_gives(path):
    source = SimulatedSource(make_proteome(3, seed=4), 2)
    made = write(source, path, crop_um=40.0, crop_px=48)
    plan = Plan(
        source=source.name, channels=CHANNELS, crop_um=40.0, crop_px=48, masking="none", default_pixel_size_um=PIXEL_UM,
        recipe="", done=Digests(), keep_masks=True,
    )  # fmt: skip
    prepared = [prepare(plan, source.item(index)) for index in range(6)]
    crops, masks = made.read(range(6))
    np.testing.assert_array_equal(crops, np.concatenate([one.crops for one in prepared]))
    np.testing.assert_array_equal(masks, np.concatenate([one.masks for one in prepared]))
    assert 0.02 < masks.mean() < 0.98
    assert made.cells["cell_id"].to_pylist() == [one.rows[0]["cell_id"] for one in prepared]
    assert "thumbnail" not in prepared[0].rows[0]


def test_without_masks_every_pixel_is_the_cells(tmp_path, path):
    made = write(read(write_manifest(tmp_path / "m.csv", [write_cell(tmp_path, "a")])), path)
    assert made.read([0])[1].all()


@pytest.mark.parametrize(
    ("kinds", "widest"),
    [
        ((np.uint8, np.uint8), np.uint8),
        ((np.uint8, np.uint16), np.uint16),
        ((np.uint16, np.float32), np.float32),
        ((np.uint8, np.float32, np.uint16), np.float32),
    ],
)
def test_pictures_of_several_depths_are_read_at_the_widest_and_lose_nothing(tmp_path, path, rng, kinds, widest):
    rows, drawn = [], []
    for number, kind in enumerate(kinds):
        top = 255 if kind == np.uint8 else 65535
        planes = rng.integers(0, top + 1, (4, SIDE, SIDE)).astype(kind)
        drawn.append(planes if kind != np.float32 else planes / np.float32(7))
        np.save(tmp_path / f"{number}.npy", drawn[-1])
        rows.append({"image_id": str(number), "image": f"{number}.npy", "channels": ";".join(CHANNELS)})
    made = write(read(write_manifest(tmp_path / "m.csv", rows)), path)
    assert made.dtype == widest
    assert made.read([0])[0].dtype == widest
    np.testing.assert_array_equal(made.read(range(len(kinds)))[0], np.stack([one.astype(widest) for one in drawn]))


def test_a_mask_whose_pixels_fill_no_whole_bytes_comes_back(tmp_path, path):
    made = write(read(many_cells(tmp_path, 2)), path, crop_px=27, crop_um=27 * PIXEL_UM)
    crops, masks = made.read([1])
    assert crops.shape == (1, 4, 27, 27)
    np.testing.assert_array_equal(masks[0], (mask_of(1) > 0)[2:29, 2:29])


def test_reading_touches_the_blocks_of_its_cells_only(manifest, path):
    made = write(read(manifest), path)
    offset, length = (made.cells[name][0].as_py() for name in ("offset", "length"))
    content = bytearray((path / BLOCKS).read_bytes())
    content[offset : offset + length] = bytes(length)
    (path / BLOCKS).write_bytes(content)
    damaged = open_crops(path)
    np.testing.assert_array_equal(damaged.read([3])[0], [crop_of(3)])
    with pytest.raises(BadInput, match=r"crops.bin is damaged: cell 0 .*\nRemove the folder"):
        damaged.read([3, 0])


def test_threads_read_at_once(manifest, path):
    write(read(manifest), path)
    opened = open_crops(path)
    with ThreadPoolExecutor(8) as pool:
        for number, (crops, _) in enumerate(pool.map(opened.read, [[number % 5] for number in range(100)])):
            np.testing.assert_array_equal(crops[0], crop_of(number % 5))


# in other processes


def read_elsewhere(opened, indices):
    return opened.read(indices), opened.cells["image_id"].to_pylist()


def write_elsewhere(source, path):
    both.wait(timeout=60)
    write(source, path)
    return (path / BLOCKS).stat().st_ino


def test_it_travels_to_another_process_without_what_it_has_read(manifest, path, processes):
    made = write(read(manifest), path)
    unread = len(pickle.dumps(made))
    here = made.read([4, 1])
    assert made.cells.num_rows == 5
    assert len(pickle.dumps(made)) == unread
    there, names = processes.submit(read_elsewhere, made, [4, 1]).result()
    np.testing.assert_array_equal(there[0], here[0])
    np.testing.assert_array_equal(there[1], here[1])
    assert names == ["c0", "c1", "c2", "c3", "c4"]


def test_one_that_was_made_anew_from_something_else_is_not_mixed_with_what_was_opened(manifest, path):
    sent = pickle.dumps(write(read(manifest), path))
    write(read(many_cells(manifest.parent, 3)), path)
    with pytest.raises(BadInput, match="was made anew"):
        pickle.loads(sent).read([0])


def test_of_two_processes_that_start_at_once_one_cuts_and_both_have_it(tmp_path, path, processes):
    source = read(many_cells(tmp_path, 30))
    first, second = (processes.submit(write_elsewhere, source, path) for _ in range(2))
    assert first.result() == second.result() == (path / BLOCKS).stat().st_ino
    assert len(open_crops(path)) == 30
    assert sorted(child.name for child in path.iterdir()) == [CELLS, BLOCKS]


def test_worker_processes_give_the_same_file(tmp_path, path):
    source = read(many_cells(tmp_path, 34))
    here, there = write(source, path), write(source, path.with_name("by workers"), workers=2)
    assert (there.path / BLOCKS).read_bytes() == (here.path / BLOCKS).read_bytes()
    assert there.cells.equals(here.cells)


# cut once


def test_what_is_there_is_taken_when_nothing_changed(manifest, path, runs):
    made = write(read(manifest), path)
    again = write(read(manifest), path)
    assert len(runs) == 1
    assert again.digest == made.digest
    np.testing.assert_array_equal(again.read([2])[0], made.read([2])[0])
    write(SimulatedSource(make_proteome(2, seed=1), 2), path)
    write(SimulatedSource(make_proteome(2, seed=1), 2), path)
    assert len(runs) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"channels": CHANNELS[:3]},
        {"channels": CHANNELS[::-1]},
        {"crop_px": SIDE // 2},
        {"crop_um": SIDE * PIXEL_UM / 2},
        {"pixel_size_um": PIXEL_UM / 2},
    ],
)
def test_other_settings_cut_anew(manifest, path, runs, changed):
    before = write(read(manifest), path).digest
    made = write(read(manifest, channels=changed.get("channels", CHANNELS)), path, **changed)
    assert made.digest != before
    assert len(runs) == 2
    assert made.read([0])[0].shape[1:] == (len(made.channels), made.crop_px, made.crop_px)


def change_a_row(folder):
    many_cells(folder, cell_line="HeLa")


def leave_out_a_row(folder):
    many_cells(folder, 4)


def touch_a_file(folder):
    os.utime(folder / "c3_er.png", ns=(1, 1))


def touch_a_mask(folder):
    os.utime(folder / "m3.npy", ns=(1, 1))


def remove_a_file(folder):
    (folder / "c3_er.png").unlink()


def lengthen_a_file(folder):
    file = folder / "c3_er.png"
    before = file.stat()
    file.write_bytes(file.read_bytes() + b" ")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change", [change_a_row, leave_out_a_row, touch_a_file, touch_a_mask, remove_a_file, lengthen_a_file]
)
def test_another_row_or_file_cuts_anew(manifest, path, runs, change):
    before = write(read(manifest), path).digest
    change(manifest.parent)
    assert write(read(manifest), path).digest != before
    assert len(runs) == 2


def test_pictures_that_are_crops_are_not_taken_for_fields(manifest, path):
    assert read(manifest).item(0).looks() != read(manifest, crops=False).item(0).looks()


def test_another_simulated_proteome_or_number_of_cells_cuts_anew(path, runs):
    sources = [SimulatedSource(make_proteome(2, seed=seed), n) for seed, n in ((1, 1), (2, 1), (2, 2))]
    assert len({write(source, path).digest for source in sources}) == len(runs) == 3


# refused pictures


def test_refused_pictures_are_counted_with_their_reasons_and_stop_nothing(manifest, path):
    (manifest.parent / "c1_er.png").write_bytes(b"")
    with manifest.open("a", encoding="utf-8") as file:
        file.write(manifest.read_text(encoding="utf-8").splitlines()[-1].replace("c4,", "twin,", 1) + "\n")
    for made in (write(read(manifest), path), open_crops(path)):
        assert (len(made), made.n_rejected, set(made.rejects)) == (4, 2, {"c1", "twin"})
        assert made.rejects["twin"] == "the same picture as c4"
        assert made.cells["image_id"].to_pylist() == ["c0", "c2", "c3", "c4"]


def test_a_source_without_any_cell_is_refused_with_the_first_reasons(manifest, path):
    for number in range(5):
        (manifest.parent / f"c{number}_er.png").unlink()
    with pytest.raises(
        BadInput, match=r"No cell was found in the 5 pictures of '.*'\.\nc0: .*; c1: .*; c2: "
    ) as caught:
        write(read(manifest), path)
    assert "c3" not in str(caught.value)
    assert [child.name for child in path.parent.iterdir()] == [".cells.lock"]


# nothing that is not whole passes for it


def test_an_interrupt_leaves_what_was_there_and_nothing_else(manifest, path, runs):
    before = write(read(manifest), path).digest
    runs.interrupt_at = 3
    with pytest.raises(AtlasError, match=r"Interrupted after 3 of 5 pictures; .*\nRun the same command again"):
        write(read(manifest), path, crop_px=16)
    assert sorted(child.name for child in path.parent.iterdir()) == [".cells.lock", "cells"]
    assert open_crops(path).digest == before
    runs.interrupt_at = None
    assert write(read(manifest), path, crop_px=16).crop_px == 16


def test_what_a_killed_run_left_is_cleared_away(manifest, path):
    part = path.with_name(".cells.part")
    part.mkdir(parents=True)
    (part / BLOCKS).write_bytes(b"half")
    assert len(write(read(manifest), path)) == 5
    assert not part.exists()


def truncate_blocks(path):
    os.truncate(path / BLOCKS, (path / BLOCKS).stat().st_size - 1)


def truncate_table(path):
    os.truncate(path / CELLS, 100)


def lose_blocks(path):
    (path / BLOCKS).unlink()


def lose_table(path):
    (path / CELLS).unlink()


def make_other_version(path):
    table = pq.read_table(path / CELLS)
    about = json.loads(table.schema.metadata[METADATA_KEY])
    pq.write_table(
        table.replace_schema_metadata({METADATA_KEY: json.dumps({"version": 99, "of": about})}), path / CELLS
    )


def make_other_table(path):
    pq.write_table(pq.read_table(path / CELLS).replace_schema_metadata(None), path / CELLS)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate_blocks, r"crops.bin is damaged: it has \d+ bytes, not \d+\."),
        (truncate_table, r"cells.parquet is damaged\."),
        (lose_blocks, r"incomplete: it lacks crops.bin\."),
        (lose_table, r"incomplete: it lacks cells.parquet\."),
        (make_other_version, r"holds crops of version 99; this package reads version 1\."),
        (make_other_table, r"is not of a file of crops\."),
    ],
)
def test_what_is_not_whole_is_refused_by_name_and_made_anew(manifest, path, runs, damage, said):
    made = write(read(manifest), path)
    damage(path)
    with pytest.raises(BadInput, match=rf"{said}\n.*write_crops") as caught:
        open_crops(path)
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(BadInput):
        pickle.loads(pickle.dumps(made)).read([0])
    assert len(write(read(manifest), path)) == 5
    assert len(runs) == 2
    assert len(open_crops(path).read(range(5))[0]) == 5


def test_where_there_is_nothing_it_says_so(path):
    with pytest.raises(BadInput, match=r"There are no crops at .*\n.*write_crops"):
        open_crops(path)


def test_other_files_are_never_replaced(manifest, path, runs):
    path.mkdir(parents=True)
    (path / "thesis.txt").write_text("done")
    with pytest.raises(BadInput, match=r"holds other files, such as 'thesis.txt'"):
        write(read(manifest), path)
    with pytest.raises(BadInput, match="is a file"):
        write(read(manifest), path / "thesis.txt")
    with pytest.raises(BadInput, match="cannot be written: "):
        write(read(manifest), path / "thesis.txt" / "cells")
    assert (path / "thesis.txt").read_text() == "done"
    assert not runs


def test_a_full_disk_is_told_of_in_two_lines_and_leaves_nothing(manifest, path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(BadInput, match=r"cannot be written: No space left on device\.\n"):
        write(read(manifest), path)
    assert [child.name for child in path.parent.iterdir()] == [".cells.lock"]
