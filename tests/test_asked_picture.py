"""Pictures and sequences that a person gives to the search page."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from test_app import checked, hit_names, open_page, texts

from ingest.simulated import SimulatedSource
from subcell_atlas.images.simulated import CHANNELS
from subcell_atlas.pages.asked_picture import guess, read_planes
from subcell_atlas.store import Store

__all__ = ["open_page"]


def png(plane: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(plane).save(buffer, "PNG")
    return buffer.getvalue()


def claimed_png(width: int, height: int) -> bytes:
    """Return a gray PNG that claims to be so large and is a few bytes: a decompression bomb."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def cell_of(source: SimulatedSource, index: int) -> dict[str, np.ndarray]:
    """Return the channels of a simulated cell, outside of which all is black."""
    picture = source.item(index).load()
    return {
        name: np.where(picture.labels > 0, plane, 0).astype(plane.dtype) for name, plane in picture.channels.items()
    }


def upload(app, files: list[tuple[str, bytes]]):
    uploader = app.file_uploader(key="picture")
    return checked(uploader.set_value([(name, content, "image/png") for name, content in files]).run())


def test_a_cell_of_the_atlas_is_most_like_its_own_protein(open_page, demo_atlas, demo_source):
    item, channels = demo_source.item(21), cell_of(demo_source, 21)
    app = open_page(demo_atlas, by="Picture")
    app = upload(app, [(f"x_{name}.png", png(plane)) for name, plane in channels.items()])
    pixel = item.load().pixel_size_um
    app = checked(app.number_input(key="pixel_size").set_value(pixel).run())
    assert item.metadata["gene_symbol"] in hit_names(app)[:3]
    assert "What the encoder sees" in texts(app)
    app.session_state["snippets"] = True
    assert "similar_to_image" in app.run().code[0].value


def test_a_file_of_all_channels_is_taken_and_a_square_of_it(open_page, demo_atlas, demo_source):
    stack = np.stack([np.pad(plane, 100) for plane in cell_of(demo_source, 3).values()])
    buffer = io.BytesIO()
    np.save(buffer, stack)
    app = upload(open_page(demo_atlas, by="Picture"), [("field.npy", buffer.getvalue())])
    app = checked(app.radio(key="picture_shows").set_value("A field: a square of it").run())
    assert len(hit_names(app)) == 12


def field_of(source: SimulatedSource) -> dict[str, np.ndarray]:
    """Return a field of four cells, far from each other."""
    cells = [cell_of(source, index) for index in (0, 5, 9, 13)]
    return {
        name: np.pad(np.block([[np.pad(cells[2 * r + c][name], 30) for c in (0, 1)] for r in (0, 1)]), 40)
        for name in CHANNELS
    }


def test_the_cells_of_a_field_are_found_and_can_be_chosen(open_page, demo_atlas, demo_source):
    field = field_of(demo_source)
    app = upload(open_page(demo_atlas, by="Picture"), [(f"x_{n}.png", png(plane)) for n, plane in field.items()])
    app = checked(app.number_input(key="pixel_size").set_value(demo_source.item(0).load().pixel_size_um).run())
    app = checked(app.radio(key="picture_shows").set_value("A field: find its cells").run())
    cells = next(group for group in app.button_group if (group.key or "").startswith("cells_"))
    assert len(cells.value) >= 2
    before = hit_names(app)
    app = checked(cells.set_value([cells.value[0]]).run())
    assert "1 cell," in texts(app).replace("\\", "")
    assert hit_names(app) != before


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([("a.png", b"MZ\x90\0 an executable")] * 1, "cannot be decoded"),
        ([("a.png", b"")], "cannot be decoded"),
        ([("a.png", claimed_png(20_000, 20_000))], "more than the limit"),
        ([("a.png", claimed_png(60_000, 60_000))], "more than the limit"),
        ([("a.tif", b"II*\0garbage")], "cannot be decoded"),
        ([("a.npy", b"\x93NUMPY\x01\0v\0{'descr': '|O'")], "cannot be decoded"),
        ([(f"{n}.png", png(np.ones((1, 1), np.uint8))) for n in CHANNELS], "too small"),
        ([(f"{n}.png", png(np.zeros((99, 99), np.uint8))) for n in CHANNELS], "constant"),
        ([("a.png", png(np.eye(99, dtype=np.uint8)))], "1 channel given"),
        ([("a.png", png(np.eye(99, dtype=np.uint8))), ("b.png", png(np.eye(98, dtype=np.uint8)))], "differ in size"),
        ([(f"{i}.png", png(np.eye(50, dtype=np.uint8))) for i in range(9)], "9 files"),
    ],
)
def test_what_is_no_picture_is_told_in_a_sentence(open_page, demo_atlas, files, told):
    app = upload(open_page(demo_atlas, by="Picture"), files)
    assert told in app.error[0].value.replace("\\", "")
    assert len(app.error[0].value.splitlines()) <= 2
    assert not hit_names(app)


def test_channels_are_guessed_from_names_and_the_rest_in_order():
    names = ["57_blue.png", "57_green.png", "57_yellow.png", "57_red.png"]
    assert guess(CHANNELS, names) == {
        "microtubules": "57_red.png", "er": "57_yellow.png", "nucleus": "57_blue.png", "protein": "57_green.png",
    }  # fmt: skip
    assert guess(("nucleus", "protein"), ["1", "2", "3"]) == {"nucleus": "1", "protein": "2"}
    assert guess(("er", "nucleus"), ["other.png", "DAPI.tif"]) == {"er": "other.png", "nucleus": "DAPI.tif"}


def test_a_gray_picture_saved_in_colors_is_one_plane():
    gray = np.eye(40, dtype=np.uint8) * 9
    contents = {"a.png": png(np.dstack([gray] * 3)), "b.png": png(gray)}
    assert list(read_planes(contents)) == ["a.png", "b.png"]
    colored = {"a.png": png(np.dstack([gray, gray + 1, gray]))}
    assert list(read_planes(colored)) == ["a.png · red", "a.png · green", "a.png · blue"]


def test_a_sequence_finds_its_own_protein(open_page, demo_atlas):
    row = Store.open(demo_atlas).read("proteins", ["gene_symbol", "amino_acids"]).to_pylist()[4]
    app = open_page(demo_atlas, by="Sequence")
    app.text_area(key="sequence").set_value(f">mine\n{row['amino_acids']}")
    app = checked(app.button[0].click().run())
    assert hit_names(app)[0] == row["gene_symbol"]
