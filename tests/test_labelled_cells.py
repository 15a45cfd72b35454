"""Labelled cells: classes and groups come evenly, few cells of a picture, and what cannot be asked is said."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from fake_encoder import CHANNELS, draw_cell, write_cell, write_manifest
from PIL import Image

from ingest.job import Options
from ingest.labelled_cells import MOST_CLASSES, Picked, pick_pictures, read_cells, some_of_each
from ingest.manifest import read_manifest
from ingest.prepare import Prepared
from subcell_atlas.encoders import load_encoder
from subcell_atlas.errors import BadInput


def source_of(folder, rows):
    """A source of crops, whose files are all the same where a row names none."""
    cell = write_cell(folder, "cell")
    return read_manifest(
        write_manifest(folder / "cells.csv", [cell | row for row in rows]),
        channels=CHANNELS, encoder="demo", crops=True,
    )  # fmt: skip


def rows_of(n, **columns):
    """Rows 0 to n, whose columns are made of their numbers."""
    return [{"image_id": f"cell{at}", **{name: make(at) for name, make in columns.items()}} for at in range(n)]


def test_classes_and_their_groups_take_turns(tmp_path):
    rows = rows_of(
        60,
        localization=lambda at: "Nucleoli" if at < 50 else "Cytosol",
        gene_symbol=lambda at: f"G{0 if at < 40 else at}",
    )
    picked = pick_pictures(source_of(tmp_path, rows), label="localization", group=None, seed=0)
    assert picked.group == "protein_id"
    names = [f"cell{index}" for index in picked.indices]
    assert sorted(names) == sorted(row["image_id"] for row in rows)
    first = names[:20]
    assert Counter(picked.label_of[name] for name in first) == {"Nucleoli": 10, "Cytosol": 10}
    assert sum(picked.group_of[name] == "G0" for name in first) == 1  # of 40 pictures of it
    other = pick_pictures(source_of(tmp_path, rows), label="localization", group=None, seed=1)
    assert list(other.indices) != list(picked.indices)
    again = pick_pictures(source_of(tmp_path, rows), label="localization", group=None, seed=0)
    assert list(again.indices) == list(picked.indices)


def test_cells_in_two_places_or_of_an_unknown_group_are_not_asked(tmp_path):
    rows = rows_of(
        12, localization=lambda at: ("Nucleoli", "Cytosol", "Cytosol;Nucleoli")[at % 3], plate=lambda at: at % 2 or ""
    )
    picked = pick_pictures(source_of(tmp_path, rows), label="localization", group="image_id", seed=0)
    assert sorted(picked.indices) == [at for at in range(12) if at % 3 != 2]
    assert picked.n_unlabelled == 4
    with pytest.raises(BadInput, match=r"two values of 'localization'.*two values of 'plate'"):
        pick_pictures(source_of(tmp_path, rows), label="localization", group="plate", seed=0)


@pytest.mark.parametrize(("plates", "group"), [(2, "plate"), (1, "image_id")])
def test_genes_are_held_out_by_plate_and_without_plates_by_picture(tmp_path, plates, group):
    rows = rows_of(12, gene_symbol=lambda at: f"G{at % 3}", plate=lambda at: f"plate {at // 3 % plates}")
    assert pick_pictures(source_of(tmp_path, rows), label="gene_symbol", group=None, seed=0).group == group


def test_a_plate_that_few_pictures_tell_is_not_held_out_unless_asked(tmp_path):
    rows = rows_of(12, gene_symbol=lambda at: f"G{at % 3}", plate=lambda at: f"plate {at % 2}" if at < 6 else "")
    source = source_of(tmp_path, rows)
    picked = pick_pictures(source, label="gene_symbol", group=None, seed=0)
    assert (picked.group, picked.n_ungrouped, len(picked.indices)) == ("image_id", 0, 12)
    asked = pick_pictures(source, label="gene_symbol", group="plate", seed=0)
    assert (asked.n_unlabelled, asked.n_ungrouped, len(asked.indices)) == (0, 6, 6)


def test_a_column_of_ones_own_can_be_told(tmp_path):
    rows = rows_of(8, moa=lambda at: f"way {at % 2}", well=lambda at: f"A{at // 2}")
    picked = pick_pictures(source_of(tmp_path, rows), label="moa", group="well", seed=0)
    assert set(picked.label_of.values()) == {"way 0", "way 1"}
    assert set(picked.group_of.values()) == {"A0", "A1", "A2", "A3"}


def test_the_protein_is_the_atlases_whatever_column_the_manifest_has_of_that_name(tmp_path):
    rows = rows_of(
        8, condition=lambda at: f"c{at % 2}", gene_symbol=lambda at: f"G{at // 2}", protein_id=lambda at: "mine"
    )
    picked = pick_pictures(source_of(tmp_path, rows), label="condition", group="protein_id", seed=0)
    assert set(picked.group_of.values()) == {"G0", "G1", "G2", "G3"}


def test_of_many_classes_those_of_the_most_groups_are_asked(tmp_path):
    rows = rows_of(
        4 * MOST_CLASSES + 9,
        condition=lambda at: f"c{at % (MOST_CLASSES + 3)}" if at < 4 * MOST_CLASSES + 8 else "alone",
    )
    picked = pick_pictures(source_of(tmp_path, rows), label="condition", group=None, seed=0)
    assert len(set(picked.label_of.values())) == MOST_CLASSES
    assert "alone" in picked.left_out
    assert len(picked.left_out) == 4


def test_a_column_that_nobody_has_is_named_with_those_that_are_there(tmp_path):
    source = source_of(tmp_path, rows_of(4, gene_symbol=lambda at: f"G{at}"))
    with pytest.raises(BadInput, match=r"'localization'; known of them: .*gene_symbol"):
        pick_pictures(source, label="localization", group=None, seed=0)
    with pytest.raises(BadInput, match="'well'"):
        pick_pictures(source, label="gene_symbol", group="well", seed=0)
    with pytest.raises(BadInput, match="cannot be held out too"):
        pick_pictures(source, label="gene_symbol", group="gene_symbol", seed=0)


def test_one_class_alone_is_called_so_and_pictures_are_not_proposed_where_they_were_held_out(tmp_path):
    with pytest.raises(BadInput, match="All pictures have the same 'condition': c0"):
        pick_pictures(source_of(tmp_path, rows_of(4, condition=lambda at: "c0")), label="condition", group=None, seed=0)
    with pytest.raises(BadInput, match=r"another --label\.$"):
        pick_pictures(
            source_of(tmp_path, rows_of(4, condition=lambda at: f"c{at}")), label="condition", group=None, seed=0
        )


def test_cells_are_read_by_every_encoder_in_every_way(tmp_path):
    rows = [write_cell(tmp_path, f"cell{at}", seed=at) | {"condition": f"c{at % 2}"} for at in range(6)]
    source = read_manifest(write_manifest(tmp_path / "cells.csv", rows), channels=CHANNELS, encoder="demo", crops=True)
    encoders = [load_encoder("demo"), load_encoder("demo", weights="random")]
    picked = pick_pictures(source, label="condition", group=None, seed=0)
    options = Options(workers=0, progress=False)
    cells = read_cells(source, picked, encoders, n_cells=5, options=options, seed=0)
    assert cells.labels == [picked.label_of[name] for name in (f"cell{index}" for index in picked.indices[:5])]
    assert cells.groups == [f"cell{index}" for index in picked.indices[:5]]
    for own, encoder in zip(cells.vectors, encoders, strict=True):
        assert len(own) == 5 * encoder.n_blocks
        assert {len(vectors) for vectors in own.values()} == {5}
    last = encoders[0].readout
    assert not np.allclose(cells.vectors[0][last], cells.vectors[1][last])
    assert len(np.unique(cells.vectors[0][last].round(4), axis=0)) == 5


def test_pictures_that_cannot_be_read_are_counted_and_without_any_cell_it_is_said(tmp_path):
    rows = [write_cell(tmp_path, f"cell{at}", seed=at) | {"condition": f"c{at % 2}"} for at in range(6)]
    (tmp_path / "cell3_protein.png").write_bytes(b"no picture")
    source = read_manifest(write_manifest(tmp_path / "cells.csv", rows), channels=CHANNELS, encoder="demo", crops=True)
    picked = pick_pictures(source, label="condition", group=None, seed=0)
    options, encoders = Options(workers=0, progress=False), [load_encoder("demo")]
    cells = read_cells(source, picked, encoders, n_cells=50, options=options, seed=0)
    assert (len(cells.labels), cells.n_rejected) == (5, 1)
    for at in range(6):
        (tmp_path / f"cell{at}_protein.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="No cell was found in 6 pictures"):
        read_cells(source, picked, encoders, n_cells=50, options=options, seed=0)


def some(picked_labels, n_in, *, n_cells):
    """How many cells are taken of each class, and of each picture, of which so many have so many cells."""
    names = [f"p{at}" for at in range(len(picked_labels))]
    picked = Picked(
        indices=range(len(names)),
        label="condition",
        group="image_id",
        label_of=dict(zip(names, picked_labels, strict=True)),
        group_of={name: name for name in names},
        n_unlabelled=0,
        n_ungrouped=0,
        left_out={},
    )
    crops = [np.zeros((n, 1, 1, 1), np.uint8) for n in n_in]
    pictures = [
        Prepared(image_id=name, crops=own) if len(own) else Prepared(image_id=name, reject="dark")
        for name, own in zip(names, crops, strict=True)
    ]
    rejected = {}
    taken = [name for name, _ in some_of_each(pictures, picked, rejected, n_cells=n_cells, rng=np.random.default_rng())]
    return Counter(picked.label_of[name] for name in taken), Counter(taken), rejected


def test_all_cells_that_were_asked_for_come_spread_over_pictures():
    of_class, of_picture, _ = some("ab" * 150, [5] * 300, n_cells=400)
    assert of_class == {"a": 200, "b": 200}
    assert set(of_picture.values()) == {1, 2}
    assert len(of_picture) == 300


def test_a_class_of_few_pictures_gives_more_of_each_and_what_it_lacks_the_others_give():
    of_class, of_picture, _ = some(["a", "b"] * 3 + ["b"] * 27, [30] * 33, n_cells=120)
    assert of_class == {"a": 60, "b": 60}
    assert {of_picture[f"p{at}"] for at in (0, 2, 4)} == {20}
    assert set(of_picture.values()) == {2, 20}
    of_class, _, _ = some(["a", "b"] * 3 + ["b"] * 27, [4] * 33, n_cells=100)
    assert of_class == {"a": 12, "b": 88}
    of_class, of_picture, rejected = some("abab", [0, 3, 9, 9], n_cells=12)
    assert of_class == {"a": 6, "b": 6}
    assert rejected == {"p0": "dark"}
    assert of_picture["p3"] == 3


def test_more_cells_than_there_are_gives_all_and_fewer_than_pictures_one_each():
    assert some("abab", [2, 3, 4, 5], n_cells=100)[0] == {"a": 6, "b": 8}
    assert some("ab" * 20, [2] * 40, n_cells=7)[1] == {f"p{at}": 1 for at in range(7)}


def test_few_cells_of_each_field_are_taken(tmp_path):
    planes = {name: np.tile(plane, (2, 3)) for name, plane in draw_cell(side=64).items()}
    labels = np.kron(np.arange(1, 7).reshape(2, 3), np.ones((64, 64), int)) * (planes["er"] > 40)
    rows = []
    for at in range(4):
        files = {name: f"field{at}_{name}.png" for name in [*planes, "mask"]}
        for name, plane in {**planes, "mask": labels}.items():
            Image.fromarray(np.asarray(plane, np.uint8)).save(tmp_path / files[name])
        rows.append({"image_id": f"field{at}", **files, "condition": f"c{at % 2}", "pixel_size_um": 0.5})
    manifest = write_manifest(tmp_path / "fields.csv", rows)
    source = read_manifest(manifest, channels=CHANNELS, encoder="demo", crops=False)
    picked = pick_pictures(source, label="condition", group=None, seed=0)
    options = Options(workers=0, progress=False)
    cells = read_cells(source, picked, [load_encoder("demo")], n_cells=8, options=options, seed=0)
    assert max(Counter(cells.groups).values()) <= 2
    assert len(set(cells.groups)) == 4
