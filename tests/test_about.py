"""What is said of an atlas as a whole, and the page that shows it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from streamlit.testing.v1 import AppTest

from subcell_atlas import open_atlas
from subcell_atlas.about import describe, ordered, recipe_in_words, tally
from subcell_atlas.build import MapSettings, build, out_of_date
from subcell_atlas.cli import main
from subcell_atlas.encoders import ENCODERS
from subcell_atlas.evaluate import evaluate, last_evaluations, last_results
from subcell_atlas.evaluated import Subject
from subcell_atlas.pages import about as page
from subcell_atlas.printing import json_text
from subcell_atlas.recipe import Recipe
from subcell_atlas.runs import Run
from subcell_atlas.store import Store

APP = Path(__file__).parents[1] / "app.py"
HOSTILE = "<b>BOLD</b> :red[R] ![x](http://picture.invalid/x.png)"


@pytest.fixture
def open_about(monkeypatch):
    """Run the page on an atlas."""

    def open_(uri: str) -> AppTest:
        monkeypatch.setenv("SUBCELL_ATLAS", uri)
        app = AppTest.from_file(APP, default_timeout=60).run()
        app = app.switch_page("subcell_atlas/pages/about.py").run()
        assert not app.exception, [exception.message for exception in app.exception]
        assert not app.error, app.error[0].value
        return app

    return open_


@pytest.fixture
def own_atlas(demo_atlas, tmp_path) -> Store:
    """A copy of the demo's atlas, without what other tests measured on it."""
    shutil.copytree(demo_atlas, tmp_path / "copy")
    store = Store.open(str(tmp_path / "copy"))
    store.delete("runs", "kind LIKE 'evaluate%'")
    return store


@pytest.fixture
def bare_atlas(tmp_path) -> Store:
    """Two cells of which next to nothing is known."""
    store = Store.create(str(tmp_path / "bare"))
    store.write("cells", pa.table({"cell_id": ["a", "b"], "protein_id": ["P0", None]}))
    return store


def texts(app: AppTest) -> str:
    """Return every piece of Markdown of the page, and of its static tables."""
    found = [element.value for kind in (app.markdown, app.caption, app.subheader, app.info) for element in kind]
    for table in app.table:
        found += [str(value) for value in [*table.value.index, *table.value.to_numpy().ravel()]]
    return "\n".join(found)


def unmarked(app: AppTest) -> str:
    return texts(app).replace("\\", "")


def commands(app: AppTest) -> list[str]:
    """Return the commands that the page tells, without the atlas."""
    return [code.value.split(" --atlas")[0] for code in app.code if code.language == "bash"]


def rows_with(app: AppTest, column: str) -> list[dict]:
    """Return the rows of the first table that has a column."""
    return next(frame.value.to_dict("records") for frame in app.dataframe if column in frame.value.columns)


def checks_of(store: Store) -> dict[str, dict]:
    return {check["name"]: check for check in describe(store)["checks"]}


def test_the_page_tells_recipe_encoder_licence_and_counts(open_about, own_atlas):
    recipe = own_atlas.recipe("cells", "embedding")
    app = open_about(own_atlas.uri)
    said = unmarked(app)
    for value in (recipe.weights_sha256, recipe.pooling, recipe.normalization, ", ".join(recipe.channels), "32.0"):
        assert value in said
    for told in (ENCODERS["demo"].note[1:], "Licence of the weights: MIT", "stand-in for a protein language model"):
        assert told in said
    assert "concatenation of demo and composition" in said
    assert {metric.label: metric.value for metric in app.metric}["Cells"] == "160"
    tables = {row["table"]: row["rows"] for row in rows_with(app, "table")}
    assert tables == {name: own_atlas.count(name) for name in own_atlas.names()}
    assert sum(row["cells"] for row in rows_with(app, "cell line")) == 160
    assert [row["kind"] for row in rows_with(app, "kind")][-1] == "ingest"
    assert "Nothing was refused" in said
    app.session_state["snippets"] = True
    app.run()
    assert "atlas.info()" in app.code[-2].value
    assert app.code[-1].value.startswith("subcell-atlas info --json")


def test_without_evaluations_the_page_says_what_to_run_and_then_shows_their_figures(open_about, own_atlas):
    app = open_about(own_atlas.uri)
    assert "Nothing was measured" in texts(app)
    assert "subcell-atlas evaluate" in commands(app)
    measured = evaluate(Subject(own_atlas), ["retrieval"])["retrieval"].metrics
    app = open_about(own_atlas.uri)
    assert f"{measured['complex_map']:.3f}" in unmarked(app)
    assert "subcell-atlas evaluate map functions" in commands(app)
    assert "Out of date" not in texts(app)


def test_figures_are_out_of_date_once_something_they_read_is_written(open_about, own_atlas):
    evaluate(Subject(own_atlas))
    assert not any(found.since for found in last_evaluations(own_atlas).values())
    assert checks_of(own_atlas)["evaluations"]["status"] == "ok"
    build(own_atlas, ["map"], force=True, map_settings=MapSettings(method="average", tested=False))
    since = {name: found.since for name, found in last_evaluations(own_atlas).items()}
    assert {name for name, kinds in since.items() if kinds} == {"map"}
    assert set(since) >= {"retrieval", "map", "functions"}
    assert since["map"] == ["build map"]
    app = open_about(own_atlas.uri)
    assert "since then ran build map" in unmarked(app)
    assert set(last_results(own_atlas)) == set(since)
    assert rows_with(app, "By")[0].keys() == set(page.METRICS.values())
    consistency = last_results(own_atlas)["consistency"]
    assert {"metric": "auc", "value": consistency["auc"]}.items() <= rows_with(app, "metric")[0].items()


def test_what_is_out_of_date_is_what_a_build_makes_with_the_command_that_does(own_atlas):
    assert out_of_date(own_atlas) == {}
    row = own_atlas.read("annotations").slice(0, 1)
    own_atlas.upsert("annotations", row)
    assert out_of_date(own_atlas) == {name: f"subcell-atlas build {name}" for name in ("map", "functions")}
    assert {name for name, check in checks_of(own_atlas).items() if "out of date" in check["found"]} == {
        "map",
        "functions",
    }
    assert build(own_atlas) == ["map", "functions"]
    assert out_of_date(own_atlas) == {}


def test_what_was_built_with_another_seed_is_no_less_up_to_date(function_atlas, tmp_path):
    shutil.copytree(function_atlas, tmp_path / "copy")
    store = Store.open(str(tmp_path / "copy"))
    build(store, ["fusion"], seed=3)
    assert "fusion" not in out_of_date(store)
    store.delete("models", "kind = 'alignment'")
    assert out_of_date(store)["fusion"] == "subcell-atlas build fusion --seed 3"


def test_an_atlas_of_ready_made_vectors_has_no_cells_and_says_what_to_build(open_about, function_atlas):
    app = open_about(function_atlas)
    said = unmarked(app)
    assert "This atlas holds no single cells" in said
    assert "The vectors came ready-made, 6 numbers each" in said
    assert {"subcell-atlas build map", "subcell-atlas build fusion"} <= set(commands(app))
    assert "subcell-atlas build functions" not in commands(app)
    assert f"goa {Store.open(function_atlas).count('annotations')} annotations" in said.replace("*", "").replace(
        ":gray[", ""
    )


def test_an_atlas_without_anything_else_says_how_to_get_it(open_about, bare_atlas):
    app = open_about(bare_atlas.uri)
    said = unmarked(app)
    wanted = {"subcell-atlas build", "subcell-atlas ingest sequences FASTA", "subcell-atlas annotate FILE"}
    assert wanted | {"subcell-atlas evaluate"} <= set(commands(app))
    assert "nothing is known of how they came to be" in said
    assert "No encoder is known" in said
    assert "1 cell without a protein" in said
    assert "None is recorded" in said
    assert rows_with(app, "cell line") == [{"cell line": "not told", "cells": 2}]


def test_markup_in_names_is_shown_as_text(open_about, bare_atlas):
    rows = {"cell_id": ["a"], "protein_id": ["P0"], "source": [HOSTILE], "localization": [[HOSTILE]]}
    recipe = Recipe(encoder=HOSTILE, dim=2, channels=(HOSTILE,), crop_px=10, normalization=HOSTILE)
    metadata = {"recipes": {"embedding": json.loads(recipe.to_json())}}
    bare_atlas.write("cells", pa.table(rows), metadata=metadata)
    bare_atlas.write("rejects", pa.table({"source": [HOSTILE], "image": ["x"], "reason": [HOSTILE]}))
    bare_atlas.upsert(
        "annotations", pa.table({"protein_id": ["P0"], "term_id": [HOSTILE], "source": [f"{HOSTILE} terms"]})
    )
    app = open_about(bare_atlas.uri)
    assert HOSTILE in unmarked(app)
    for markup in ("<b>", ":red[", "![x]"):
        assert markup not in texts(app)
    assert not any(element.proto.allow_html for element in app.markdown)
    assert rows_with(app, "reason") == [{"reason": HOSTILE, "rejects": 1}]
    assert any(command.startswith("subcell-atlas sql") for command in commands(app))


def test_the_licence_that_a_file_states_is_told(bare_atlas):
    bare_atlas.upsert("annotations", pa.table({"protein_id": ["P0"], "term_id": ["GO:1"], "source": ["goa"]}))
    assert [source["licence"] for source in describe(bare_atlas)["sources"]] == [None, None]
    origin = {"file": "goa.gaf.gz", "sha256": "ab", "date": "2025-01-01", "licence": "CC BY 4.0"}
    Run.start(bare_atlas, kind="annotate").finish({"source": "goa", "origin": origin})
    source = describe(bare_atlas)["sources"][-1]
    assert {name: source[name] for name in origin} == origin


def test_info_is_the_same_in_python_and_on_the_command_line(demo_atlas):
    with open_atlas(demo_atlas) as atlas:
        found = json.loads(json_text(atlas.info()))
    printed = CliRunner().invoke(main, ["info", "--json", "--atlas", demo_atlas])
    assert json.loads(printed.stdout) == found
    assert found["tables"]["cells"] == 160
    assert found["recipe"]["encoder"] == "demo"
    assert "stand-in" in CliRunner().invoke(main, ["info", "--atlas", demo_atlas]).stdout


def test_a_published_encoder_is_told_with_its_paper_and_licence(bare_atlas):
    recipe = Recipe(encoder="subcell-rybg-mae", dim=1536, block=12, masking="cell", crop_px=640, crop_um=51.25664)
    metadata = {"recipes": {"embedding": json.loads(recipe.to_json())}}
    bare_atlas.write("cells", pa.table({"cell_id": ["a"]}), metadata=metadata)
    (encoder,) = describe(bare_atlas)["encoders"]
    assert encoder["licence"] == "MIT"
    assert "Gupta et al." in encoder["origin"]
    assert "12 blocks with 87.2 million parameters" in encoder["what"]


def test_weights_of_ones_own_are_not_said_to_have_the_licence_of_the_published(bare_atlas):
    recipe = Recipe(encoder="subcell-rybg-mae", dim=1536, weights="mine.pth")
    metadata = {"recipes": {"embedding": json.loads(recipe.to_json())}}
    bare_atlas.write("cells", pa.table({"cell_id": ["a"]}), metadata=metadata)
    assert describe(bare_atlas)["encoders"][0]["licence"] == "MIT if they are the published ones; these are mine.pth"


def test_a_recipe_is_told_in_words_with_what_is_not_known():
    full = Recipe(encoder="demo", dim=256, block=2, masking="none", crop_px=192, crop_um=32.0, channels=("er",))
    said = recipe_in_words(json.loads(full.to_json()))
    assert "192 px (32.0 µm) a side, what lies around it left visible" in said
    assert "256 numbers after block 2" in said
    part = Recipe(encoder="demo", dim=256, crop_px=192)
    assert "how its surroundings were treated is not known" in recipe_in_words(json.loads(part.to_json()))
    assert "Channels in this order: not known" in recipe_in_words(json.loads(part.to_json()))


def test_values_are_counted_as_a_loop_would():
    places = [["a", "b"], None, [], ["a"], [None]]
    lines = ["x", None, "x", "y", "x"]
    batches = pa.table({"places": places, "lines": lines}).to_batches(max_chunksize=2)
    naive = Counter(place for own in places for place in (own or [None]))
    counted = tally(batches, ["places", "lines"])
    assert counted == {"places": naive, "lines": Counter(lines)}
    assert ordered(counted["lines"]) == [("x", 3), ("y", 1), (None, 1)]


def test_what_a_run_counted_is_told_in_words():
    counts = {"cells": 1200, "rejected": 0, "left_out": {"border": 3}, "how": "mean", "interrupted": True}
    assert page.counted(counts) == "cells 1,200, how mean, interrupted"
    assert page.took(datetime(2025, 1, 1), None) == "not finished"
