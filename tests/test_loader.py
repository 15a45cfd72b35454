"""The loader: the same pictures in the same order whoever prepares them, and no shared memory left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_encoder import CHANNELS, PIXEL_UM, SIDE, write_cell, write_manifest

from ingest import loader, parcels
from ingest.ledger import Digests
from ingest.loader import chunk_size, prepared_pictures
from ingest.manifest import read_manifest
from ingest.parcels import discard, pack, unpack
from ingest.prepare import Plan, Prepared
from subcell_atlas.errors import AtlasError

SHARED = Path("/dev/shm")
PLAN = Plan(
    source="s", channels=CHANNELS, crop_um=SIDE * PIXEL_UM, crop_px=SIDE, masking="cell",
    default_pixel_size_um=PIXEL_UM, recipe="", done=Digests(),
)  # fmt: skip


def shared() -> set[str]:
    return {path.name for path in SHARED.glob("psm_*")} if SHARED.is_dir() else set()


def picture(name: str, seed: int, dtype=np.uint8) -> Prepared:
    crops = np.random.default_rng(seed).integers(0, 200, (seed % 3 + 1, 4, 96, 96)).astype(dtype)
    return Prepared(image_id=name, crops=crops, masks=crops[:, 0] > 100, rows=({"n": seed},))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(parcels, "SMALL", 1)


@pytest.mark.parametrize("dtypes", [("uint8",), ("uint16", "float32", "uint8")])
def test_what_is_unpacked_is_what_was_packed_and_the_block_is_gone(dtypes):
    before = shared()
    sent = [picture(f"p{i}", i, dtypes[i % len(dtypes)]) for i in range(6)] + [Prepared(image_id="r", reject="no")]
    parcel = pack(sent)
    assert parcel.block is not None
    received = unpack(parcel)
    for one, other in zip(sent, received, strict=True):
        assert (one.image_id, one.rows, one.reject) == (other.image_id, other.rows, other.reject)
        for name in ("crops", "masks"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert received[0].crops.dtype == sent[0].crops.dtype
    assert shared() <= before  # blocks of others may go meanwhile


def test_small_pictures_and_full_shared_memory_go_through_the_pipe(monkeypatch):
    small = [Prepared(image_id="a", crops=np.zeros((1, 4, 8, 8), np.uint8))]
    assert pack(small).block is None
    assert unpack(pack(small)) == small
    monkeypatch.setattr(parcels, "has_room", lambda size: False)
    assert pack([picture("a", 1)]).block is None


def test_a_parcel_that_nobody_needs_leaves_nothing():
    before = shared()
    discard(pack([picture("a", 1)]))
    discard(pack([Prepared(image_id="r", reject="no")]))
    assert shared() <= before  # blocks of others may go meanwhile


def items_of(folder: Path, n: int):
    rows = [write_cell(folder, f"c{i}", i) for i in range(n)]
    (folder / "c3_er.png").write_bytes(b"")
    source = read_manifest(write_manifest(folder / "m.csv", rows), channels=CHANNELS, encoder="fake", crops=True)
    return [source.item(index) for index in range(n)]


@pytest.mark.parametrize("alone_s", [0.0, 60.0])
def test_whoever_prepares_them_the_pictures_are_the_same_in_the_same_order(
    tmp_path, monkeypatch, small_blocks, alone_s
):
    monkeypatch.setattr(loader, "ALONE_S", alone_s)
    before = shared()
    items = items_of(tmp_path, 12)
    here = list(prepared_pictures(PLAN, items, 0))
    assert [each.image_id for each in here] == [f"c{i}" for i in range(12)]
    assert [each.image_id for each in here if each.reject] == ["c3"]
    for workers in (None, 2):
        there = list(prepared_pictures(PLAN, iter(items), workers))
        for one, other in zip(here, there, strict=True):
            assert (one.image_id, one.rows, one.reject) == (other.image_id, other.rows, other.reject)
            assert (one.crops is None) == (other.crops is None)
            if one.crops is not None:
                np.testing.assert_array_equal(one.crops, other.crops)
    assert shared() <= before  # blocks of others may go meanwhile


def test_pictures_that_are_not_taken_leave_no_shared_memory(tmp_path, small_blocks):
    before = shared()
    pictures = prepared_pictures(PLAN, items_of(tmp_path, 12), 2)
    assert next(pictures).image_id == "c0"
    pictures.close()
    assert shared() <= before  # blocks of others may go meanwhile


def test_no_more_is_prepared_ahead_than_the_bound(tmp_path, monkeypatch):
    taken = []

    def items():
        for item in items_of(tmp_path, 60):
            taken.append(item.image_id)
            yield item

    monkeypatch.setattr(loader, "MAX_CHUNK", 2)
    pictures = prepared_pictures(PLAN, items(), 1)
    next(pictures)
    assert len(taken) <= 2 * loader.AHEAD + 1
    pictures.close()


def test_an_error_that_stops_the_run_comes_out_as_it_is(tmp_path):
    with pytest.raises(AtlasError, match="the server is gone"):
        list(prepared_pictures(PLAN, [Broken()], 1))


class Broken:
    """A picture whose source has broken down."""

    image_id, metadata = "b", {}

    def looks(self):
        return None

    def picture_id(self):
        raise AtlasError("the server is gone")


def test_chunks_hold_about_as_many_bytes_whatever_the_pictures():
    crop = np.zeros((1, 4, 640, 640), np.uint8)
    field = Prepared(image_id="f", crops=np.repeat(crop, 12, axis=0))
    assert chunk_size([field]) == 1
    assert chunk_size([Prepared(image_id="c", crops=crop)] * 3) == loader.CHUNK_BYTES // crop.nbytes
    assert chunk_size([Prepared(image_id="r", reject="no")]) == loader.MAX_CHUNK
