"""The block search as a user asks it: by the command, of a demo and of a manifest, and what it says."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from fake_encoder import write_cell, write_manifest
from PIL import Image

from ingest.labelled_cells import pick_pictures
from subcell_atlas.block_evaluation import block_rows, block_words, left_out_words, measure_blocks
from subcell_atlas.cli import how_to_ingest, main
from subcell_atlas.encoders import load_encoder
from subcell_atlas.encoders.encoder import load_encoder_of
from subcell_atlas.encoders.specs import HPA_PIXEL_SIZE_UM
from subcell_atlas.errors import NotBuilt
from subcell_atlas.evaluate import evaluate, last_results
from subcell_atlas.evaluated import EvaluationOptions, LabelledPictures, Subject
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

WAYS = ("own", "cls", "patches", "cls, no final norm", "patches, no final norm")


@pytest.fixture(scope="module")
def measured(demo_source):
    """The demonstration encoder on cells of 40 made-up proteins, by their localization."""
    pictures = LabelledPictures(
        source=demo_source,
        picked=pick_pictures(demo_source, label="localization", group=None, seed=1),
        encoder=load_encoder("demo"),
        untrained=load_encoder("demo", weights="random"),
        n_cells=160,
    )
    return measure_blocks(Subject(Store("nowhere", None)), EvaluationOptions(seed=2, pictures=pictures)).metrics


def run(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_what_was_trained_tells_more_than_what_was_not_and_guessing_least(measured):
    assert measured["label"] == "localization"
    assert measured["group"] == "protein_id"
    assert measured["n_cells"] == sum(measured["classes"].values()) <= 160
    assert measured["chance"] == 1 / len(measured["classes"])
    best, final, untrained = measured["best"], measured["final"], measured["untrained"]
    assert best["balanced_accuracy"] > untrained["balanced_accuracy"] + 0.1
    assert best["balanced_accuracy_low"] < best["balanced_accuracy"] < best["balanced_accuracy_high"]
    assert (final["block"], final["pooling"], final["final_norm"]) == (2, "own", True)
    gain = best["balanced_accuracy"] - final["balanced_accuracy"]
    assert measured["difference"]["value"] == pytest.approx(gain)
    for curve in (measured["curve"], measured["untrained_curve"]):
        assert tuple(curve) == WAYS
        assert {len(values) for own in curve.values() for values in own.values()} == {2}
        own = curve["own"]
        assert all(
            low < at < high for low, at, high in zip(own["low"], own["balanced_accuracy"], own["high"], strict=True)
        )


def test_a_row_for_each_block(measured):
    rows = block_rows(measured)
    assert [row["block"] for row in rows] == [1, 2]
    assert list(rows[0]) == ["block", *WAYS, "untrained, best"]
    untrained = measured["untrained_curve"].values()
    assert rows[1]["untrained, best"] == max(own["balanced_accuracy"][1] for own in untrained)


def test_the_recipe_is_of_the_encoder_that_ends_at_the_best(measured, rng):
    recipe, best = Recipe.from_json(json.dumps(measured["recipe"])), measured["best"]
    ended = load_encoder(
        "demo", block=best["block"], pooling=best["pooling"], final_norm=best["final_norm"], with_heads=False
    )
    assert ended.recipe(masking="cell") == recipe
    crops = rng.integers(0, 255, (2, 4, 192, 192), dtype=np.uint8)
    assert np.array_equal(load_encoder_of(recipe).embed(crops), ended.embed(crops))


@pytest.mark.parametrize(
    ("best", "low", "wanted"),
    [
        ((1, "cls"), 0.01, "gains +0.040 (+0.010 to +0.070)."),
        ((1, "cls"), -0.01, "is not shown: +0.040 (-0.010 to +0.070)."),
        ((2, "own"), -0.01, "The last block as published is the best"),
        ((1, "cls"), float("nan"), "Fewer than 5 "),
    ],
)
def test_whether_anything_is_gained_is_said(measured, best, low, wanted):
    block, pooling = best
    other = {"best": measured["best"] | {"block": block, "pooling": pooling, "final_norm": True}}
    other["difference"] = {"value": 0.04, "low": low, "high": 0.07, "p": 0.5}
    sentences = list(block_words(measured | other))
    assert f"block {block} ({pooling}): " in sentences[0]
    assert "untrained" in sentences[2]
    assert wanted in sentences[3]
    alone = {name: value for name, value in (measured | other).items() if "untrained" not in name}
    assert len(list(block_words(alone))) == 3


def test_the_command_on_a_demo_prints_keeps_draws_and_writes(demo_atlas, tmp_path):
    uri = tmp_path / "atlas"
    shutil.copytree(demo_atlas, uri)
    figure, out = tmp_path / "curve.svg", tmp_path / "best.json"
    asked = ("blocks", "--atlas", uri, "--n-cells", 40, "--figure", figure, "--out", out)
    shown = run(*asked)
    assert shown.exit_code == 0, shown.output
    assert "balanced accuracy by block of demo: " in shown.stdout
    assert "Best: block " in shown.stdout
    assert figure.stat().st_size > 10_000
    kept = last_results(Store.open(str(uri)))["blocks"]
    assert json.loads(out.read_text(encoding="utf-8")) == kept["recipe"]
    printed = json.loads(run(*asked, "--json").stdout)["blocks"]
    assert printed["best"] == kept["best"]
    runs = Store.open(str(uri)).read("runs", ["kind", "recipe"]).to_pylist()
    assert [row["recipe"] for row in runs if row["kind"] == "evaluate blocks"] == [None, None]


def test_blocks_of_a_manifest_are_searched_before_there_is_an_atlas(tmp_path):
    rows = [write_cell(tmp_path, f"cell{at}", seed=60 * (at % 2) + at) for at in range(12)]
    rows = [row | {"moa": f"way {at % 2}"} for at, row in enumerate(rows)]
    manifest, uri = write_manifest(tmp_path / "my cells.csv", rows), tmp_path / "atlas"
    done = run("blocks", "--manifest", manifest, "--crops", "--label", "moa", "--atlas", uri, "--weights", "random",
               "--encoder", "demo", "--pixel-size", 0.5)  # fmt: skip
    assert done.exit_code == 0, done.output
    command = done.stdout.splitlines()[-1]
    assert command.startswith(f"subcell-atlas ingest images '{manifest}' --crops --encoder demo --weights random ")
    assert "--pixel-size 0.5 --block " in command
    assert "untrained" not in done.stdout
    best = last_results(Store.open(str(uri)))["blocks"]["best"]
    assert ("--no-final-norm" in command) is not best["final_norm"]
    assert Store.open(str(uri)).names() == ["runs"]


def test_the_best_block_is_what_ingest_takes(tmp_path):
    row = write_cell(tmp_path, "cell", seed=3) | {"gene_symbol": "G"}
    manifest, uri = write_manifest(tmp_path / "cells.csv", [row]), str(tmp_path / "atlas")
    options = ["--block", "1", "--pooling", "patches", "--no-final-norm"]
    done = CliRunner().invoke(main, ["ingest", "images", str(manifest), "--crops", "--encoder", "demo",
                                     "--atlas", uri, *options])  # fmt: skip
    assert done.exit_code == 0, done.output
    recipe = Store.open(uri).recipe("cells", "embedding")
    assert (recipe.block, recipe.pooling) == (1, "patches, no final norm")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["blocks", "retrieval"], "name it alone"),
        (["blocks", "--against", "other"], "--against is not for blocks"),
        (["blocks", "--vectors", "fused"], "--vectors is not for blocks"),
        (["blocks", "--controls", "true"], "--controls is not for blocks"),
        (["retrieval", "--manifest", "cells.csv"], "evaluate blocks --manifest"),
        (["--out", "best.json"], "evaluate blocks --out"),
        (["blocks"], "--manifest FILE.csv"),
        (["blocks", "--manifest", "absent.csv"], "There is no manifest 'absent.csv'"),
        (["blocks", "--encoder", "moon", "--manifest", "absent.csv"], "'moon'"),
    ],
)
def test_what_cannot_be_asked_is_said_and_leaves_nothing_behind(tmp_path, arguments, wanted):
    done = run(*arguments, "--atlas", tmp_path / "atlas")
    assert done.exit_code in (1, 2)
    assert wanted in done.output
    assert not isinstance(done.exception, Exception) or isinstance(done.exception, SystemExit)
    assert not (tmp_path / "atlas").exists()


@pytest.mark.parametrize(
    ("column", "make", "wanted"),
    [
        ("moa", lambda at: "same", "All pictures have the same 'moa': same"),
        ("moa", lambda at: f"way {at}", "No two values of 'moa'"),
        ("mode", lambda at: "a", "No picture says its 'moa'"),
    ],
)
def test_labels_that_cannot_be_told_leave_nothing_behind(tmp_path, column, make, wanted):
    rows = [write_cell(tmp_path, f"cell{at}") | {column: make(at)} for at in range(4)]
    manifest, uri = write_manifest(tmp_path / "cells.csv", rows), tmp_path / "atlas"
    done = run("blocks", "--manifest", manifest, "--crops", "--label", "moa", "--encoder", "demo", "--atlas", uri)
    assert (done.exit_code, wanted in done.output) == (1, True), done.output
    assert not uri.exists()


def test_what_breaks_off_is_no_run(demo_atlas, tmp_path, monkeypatch):
    uri = tmp_path / "atlas"
    shutil.copytree(demo_atlas, uri)
    before = Store.open(str(uri)).count("runs")

    def broken(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("subcell_atlas.block_evaluation.read_labels", broken)
    assert run("blocks", "--atlas", uri, "--n-cells", 40).exit_code == 1
    assert Store.open(str(uri)).count("runs") == before


@pytest.mark.parametrize(
    ("best", "low", "wanted", "ends"),
    [
        ((2, "own"), 0.0, "as published:", "--masking none --atlas a"),
        ((1, "cls"), 0.1, "by it:", "--masking none --block 1 --pooling cls --no-final-norm --atlas a"),
        ((1, "cls"), -0.1, "by it all the same:", "--pooling cls --no-final-norm --atlas a"),
    ],
)
def test_the_command_that_is_told_is_of_the_best_and_how_sure_it_is(measured, best, low, wanted, ends):
    block, pooling = best
    found = measured | {"best": {"block": block, "pooling": pooling, "final_norm": pooling == "own"}}
    found["difference"] = {"value": 0.04, "low": low, "high": 0.2, "p": 0.5}
    given = {"manifest": "c.csv", "crops": False, "weights": [], "channels": None, "scale": "native"}
    given |= {"masking": "none", "pixel_size": HPA_PIXEL_SIZE_UM}
    told, command = how_to_ingest(found, given, encoder="demo", uri="a")
    assert told.endswith(wanted)
    assert command.startswith("subcell-atlas ingest images c.csv --encoder demo ")
    assert command.endswith(ends)
    assert ("--block" in command) is (block == 1)


def test_what_was_left_out_is_said(measured):
    assert measured["n_unlabelled"] + sum(measured["left_out"].values()) > 0  # cells in two places
    left = {"n_unlabelled": 1200, "n_ungrouped": 3, "n_rejected": 0, "n_dropped": 2}
    sentences = list(left_out_words(measured | left | {"left_out": {f"c{at}": 1 for at in range(9)}}))
    assert sentences[0] == "Pictures left out: 1,200 without a single localization, 3 without protein_id."
    assert sentences[1].endswith(" asked: 9 (c0, c1, c2, c3, c4, c5, …).")
    assert sentences[2].endswith("found in one protein_id alone: 2.")
    none = dict.fromkeys(left, 0) | {"left_out": {}}
    assert not list(left_out_words(measured | none))


@pytest.mark.parametrize("option", ["--out", "--figure"])
def test_no_picture_of_the_manifest_is_written_over(tmp_path, option):
    rows = [write_cell(tmp_path, f"cell{at}") | {"moa": f"way {at % 2}"} for at in range(4)]
    manifest, picture = write_manifest(tmp_path / "cells.csv", rows), tmp_path / rows[1]["nucleus"]
    before = picture.read_bytes()
    done = run(
        "blocks", "--manifest", manifest, "--crops", "--label", "moa", "--atlas", tmp_path / "a", option, picture
    )
    assert (done.exit_code, "written over" in done.output) == (1, True), done.output
    assert picture.read_bytes() == before


@pytest.mark.parametrize("option", ["--out", "--figure"])
def test_the_manifest_is_never_written_over(tmp_path, option):
    manifest = write_manifest(tmp_path / "cells.svg", [write_cell(tmp_path, "cell") | {"moa": "a"}])
    before = manifest.read_bytes()
    done = run(
        "blocks", "--manifest", manifest, "--crops", "--label", "moa", "--atlas", tmp_path / "a", option, manifest
    )
    assert done.exit_code == 1
    assert "written over" in done.output
    assert manifest.read_bytes() == before


def test_blocks_are_not_searched_unless_they_are_named(demo_atlas, tmp_path):
    uri = tmp_path / "atlas"
    shutil.copytree(demo_atlas, uri)
    store = Store.open(str(uri))
    assert "blocks" not in evaluate(Subject(store))
    with pytest.raises(NotBuilt, match="not on an atlas"):
        evaluate(Subject(store), ["blocks"])


def test_real_cells_are_told_apart_by_what_was_trained(real_data, tmp_path):
    folder = real_data / "hpa_cells"
    with (folder / "cells.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    rows = []
    for image in sorted({cell["image"] for cell in cells}):
        colors = {"microtubules": "red", "er": "yellow", "nucleus": "blue", "protein": "green"}
        planes = {name: Image.open(folder / "images" / f"{image}_{color}.jpg") for name, color in colors.items()}
        for cell in [cell for cell in cells if cell["image"] == image][::3]:
            x, y = 512 * int(cell["tile_col"]), 512 * int(cell["tile_row"])
            row = {"image_id": f"{image}_{x}_{y}", "picture": image, "localization": cell["localization"]}
            for name, plane in planes.items():
                row[name] = f"{row['image_id']}_{name}.png"
                plane.convert("L").crop((x, y, x + 512, y + 512)).save(tmp_path / row[name])
            rows.append(row)
    manifest = write_manifest(tmp_path / "cells.csv", rows)
    done = run("blocks", "--manifest", manifest, "--crops", "--group", "picture", "--encoder", "demo",
               "--atlas", tmp_path / "atlas", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["blocks"]
    assert found["n_classes"] == 5
    assert found["best"]["balanced_accuracy"] > found["untrained"]["balanced_accuracy"] > found["chance"]
