"""Manifests: what a row may say, and what is said of a manifest that cannot be used."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fake_encoder import CHANNELS, draw_cell, write_cell, write_manifest
from PIL import Image

from ingest.manifest import read_manifest
from subcell_atlas.errors import BadImage, BadInput


def read(path, **options):
    return read_manifest(path, **{"channels": CHANNELS, "encoder": "fake", "crops": True, **options})


def first_item(path, **options):
    item = read(path, **options).item(0)
    item.picture_id()
    return item


def test_one_file_a_channel_is_read_by_the_names_of_its_columns(tmp_path):
    item = first_item(write_manifest(tmp_path / "m.csv", [write_cell(tmp_path, "a", 3)]))
    picture = item.load()
    assert tuple(picture.channels) == CHANNELS
    for name, plane in draw_cell(3).items():
        np.testing.assert_array_equal(picture.channels[name], plane)
    assert picture.is_crop
    assert picture.labels is None


def test_channels_names_the_order_of_one_file_and_the_encoder_gets_its_own(tmp_path):
    planes = draw_cell(1)
    order = ("protein", "nucleus", "er", "microtubules")
    np.save(tmp_path / "a.npy", np.stack([planes[name] for name in order]))
    manifest = write_manifest(
        tmp_path / "m.csv", [{"image_id": "a", "image": "a.npy", "channels": "protein; nucleus;er;microtubules"}]
    )
    picture = first_item(manifest).load()
    assert tuple(picture.channels) == CHANNELS
    for name in CHANNELS:
        np.testing.assert_array_equal(picture.channels[name], planes[name])


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ("", "needs `channels`"),
        ("nucleus;protein", "has 4 channels, `channels` names 2"),
        ("microtubules;er;nucleus;other", "no protein channel"),
    ],
)
def test_wrong_channels_reject_the_picture_and_say_what_is_wrong(tmp_path, channels, message):
    np.save(tmp_path / "a.npy", np.stack(list(draw_cell().values())))
    item = first_item(write_manifest(tmp_path / "m.csv", [{"image_id": "a", "image": "a.npy", "channels": channels}]))
    with pytest.raises(BadImage, match=message):
        item.load()


def test_a_mask_comes_with_its_numbers_even_from_a_palette(tmp_path):
    labels = np.zeros((32, 32), np.uint8)
    labels[4:20, 4:20] = 7
    picture = Image.fromarray(labels)
    picture.putpalette([0, 0, 0] * 7 + [255, 0, 0] + [0, 0, 0] * 248)
    picture.save(tmp_path / "mask.png")
    manifest = write_manifest(tmp_path / "m.csv", [write_cell(tmp_path, "a") | {"mask": "mask.png"}])
    labels_read = first_item(manifest, crops=False).load().labels
    assert labels_read.dtype == np.int32
    np.testing.assert_array_equal(labels_read, labels)


def test_metadata_takes_the_known_columns_and_keeps_the_others_as_extra(tmp_path):
    row = {"image_id": "a", "nucleus": "n", "microtubules": "m", "er": "e", "protein": "p"}
    known = {"gene_symbol": "TOMM20", "cell_line": "U-2 OS", "localization": "Mitochondria; Cytosol ;"}
    manifest = write_manifest(tmp_path / "m.csv", [row | known | {"sirna": "x", "passage": "3", "empty": ""}])
    metadata = read(manifest).item(0).metadata
    assert metadata["gene_symbol"] == "TOMM20"
    assert metadata["localization"] == ["Mitochondria", "Cytosol"]
    assert metadata["antibody"] is None
    assert json.loads(metadata["extra"]) == {"sirna": "x", "passage": "3"}


def test_files_are_looked_for_beside_the_manifest(tmp_path, monkeypatch):
    folder = tmp_path / "with space" / "ünï"
    row = write_cell(folder / "pictures", "a")
    manifest = write_manifest(folder / "m.csv", [{**row, **{name: f"pictures/{row[name]}" for name in CHANNELS}}])
    monkeypatch.chdir(tmp_path)
    assert first_item(manifest.relative_to(tmp_path)).load().channels["er"].shape == (32, 32)


def test_a_byte_order_mark_blanks_and_tabs_do_no_harm(tmp_path):
    path = tmp_path / "m.tsv"
    header, line = "\ufeffimage_id\t nucleus \tprotein", " a \tn.png\t p.png"
    path.write_text(f"{header}\n{line}\n\n", encoding="utf-8")
    manifest = read(path, channels=("nucleus", "protein"))
    assert len(manifest) == 1
    assert manifest.item(0).image_id == "a"
    assert manifest.item(0).files() == {"nucleus": "n.png", "protein": "p.png"}


def test_the_source_is_called_as_its_folder_and_file_unless_it_is_named(tmp_path):
    path = write_manifest(tmp_path / "plate 7.csv", [write_cell(tmp_path, "a")])
    assert read(path).name == f"{tmp_path.name}/plate 7"
    assert read(path, name="seven").name == "seven"


HEADER = b"image_id,nucleus,microtubules,er,protein\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty. Expected: image_id,nucleus"),
        (HEADER, "has a header and no rows"),
        (b"name,nucleus\na,b\n", "lacks the column 'image_id'; it has: name, nucleus"),
        (b"image_id,nucleus,microtubules,protein\na,b,c,d\n", "lacks the column 'er', a channel that 'fake' uses"),
        (HEADER + b",b,c,d,e\n", "line 2: image_id is empty"),
        (HEADER + b"a,b,c,d,e\n\nx,b,c,d,e\na,f,g,h,i\n", "image_id 'a' is in line 2 and again in line"),
        (HEADER + b"a,b,c,d,e,f\n", "line 2: 6 values, 5 columns; quote values that hold a comma"),
        (b"image_id,nucleus,er,microtubules,protein,er\na,b,c,d,e,f\n", "has the column 'er' 2 times"),
        ("image_id,nucleus\nä,b\n".encode("latin-1"), "is not a readable CSV in UTF-8"),
        ("image_id,nucleus\na,b\n".encode("utf-16"), "is not a readable CSV in UTF-8"),
        (HEADER + b'a,"b,c\n', "is not a readable CSV"),
        (HEADER + b"a," + b"x" * 200_000 + b"\n", "is not a readable CSV"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_with_the_reason(tmp_path, content, message):
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_manifest_a_folder_and_an_endless_name_are_refused(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(BadInput, match=r"There is no manifest .* It is a CSV such as"):
            read(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read(tmp_path / f"{'a' * 300}.csv")


def test_a_channel_that_the_encoder_does_not_use_may_be_absent(tmp_path):
    row = {"image_id": "a", "nucleus": "n.png", "protein": "p.png", "er": ""}
    item = read(write_manifest(tmp_path / "m.csv", [row]), channels=("nucleus", "protein")).item(0)
    assert item.files() == {"nucleus": "n.png", "protein": "p.png"}
    with pytest.raises(BadInput, match="lacks the column 'microtubules'"):
        read(tmp_path / "m.csv")


def test_what_a_picture_shows_has_one_id_however_it_is_read(tmp_path):
    row = write_cell(tmp_path, "a")
    swapped = {**row, "er": row["microtubules"], "microtubules": row["er"]}
    items = [
        first_item(write_manifest(tmp_path / f"{i}.csv", [given]))
        for i, given in enumerate([row, swapped, row | {"pixel_size_um": "0.2"}])
    ]
    assert len({item.picture_id() for item in items}) == 1
    assert len({item.reading() for item in items}) == 3
