"""Several embeddings side by side: differences are paired, what one lacks is told."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image

from subcell_atlas.cli import main
from subcell_atlas.errors import BadInput, NotBuilt
from subcell_atlas.evaluated import EvaluationOptions, Subject
from subcell_atlas.evaluation.figure import draw_metrics
from subcell_atlas.evaluation_comparison import Comparison, compare_evaluations, figure_rows, name_subjects
from subcell_atlas.profiles import vector_array
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store


def write_profiles(uri, rng, *, signal):
    """An atlas of 40 proteins, each seen with three antibodies; how alike those are follows from `signal`."""
    store = Store.create(uri)
    of_protein = np.random.default_rng(0).normal(size=(40, 12))
    protein = np.repeat(np.arange(40), 3)
    vectors = signal * of_protein[protein] + rng.normal(size=(120, 12))
    columns = {
        "profile_id": [f"P{p:02}|{i}" for i, p in enumerate(protein)],
        "protein_id": [f"P{p:02}" for p in protein],
        "antibody": [f"HPA{i:04}" for i in range(120)],
        "cell_line": ["U2OS"] * 120,
        "n_cells": pa.array([5] * 120, pa.int32()),
        "embedding": vector_array(vectors),
        "uncentered": vector_array(vectors),
    }
    store.write("profiles", pa.table(columns))
    return store


@pytest.fixture
def strong(tmp_path, rng):
    return write_profiles(str(tmp_path / "strong"), rng, signal=2.0)


@pytest.fixture
def weak(tmp_path, rng):
    return write_profiles(str(tmp_path / "weak"), rng, signal=0.3)


def test_the_better_embedding_has_more_and_the_same_has_the_same(strong, weak):
    subjects = {"weak": Subject(weak), "again": Subject(weak), "strong": Subject(strong)}
    found = compare_evaluations(subjects, ["consistency"], EvaluationOptions())
    of = {(row["subject"], row["metric"]): row for row in found.differences}
    better, same = of["strong", "auc"], of["again", "auc"]
    assert better["low"] > 0.05
    assert better["p"] == pytest.approx(2 / 1001)
    assert better["n"] == 40
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    assert {row["against"] for row in found.differences} == {"weak"}
    kinds = weak.read("runs", ["kind", "counts"]).to_pylist()
    kept = next(json.loads(row["counts"]) for row in kinds if row["kind"] == "evaluate comparison")
    assert kept["subjects"] == ["weak", "again", "strong"]
    assert len(kept["differences"]) == len(found.differences)


def test_in_what_recipes_differ_is_told(strong, weak):
    last = Recipe(encoder="subcell-rybg-mae", dim=1536, block=12, pooling="gated attention")
    recipes = {"last": last, "best": replace(last, dim=768, block=9, pooling="cls"), "ready-made": None}
    found = Comparison({}, [], recipes, {})
    assert [row["recipe"] for row in found.recipe_rows()] == ["block", "dim", "encoder", "pooling"]
    assert found.recipe_rows()[0] == {"recipe": "block", "last": 12, "best": 9, "ready-made": None}
    assert found.as_object()["recipes"]["best"]["pooling"] == "cls"
    assert Comparison({}, [], {"one": last, "same": last}, {}).recipe_rows() == []
    subjects = {"weak": Subject(weak), "strong": Subject(strong)}
    assert compare_evaluations(subjects, ["consistency"], EvaluationOptions()).recipes == {"weak": None, "strong": None}


def test_embeddings_are_told_apart_by_the_shortest_names(strong, weak, tmp_path):
    names = name_subjects([strong.uri, weak.uri], ["image"], [None], controls=None)
    assert list(names) == ["strong", "weak"]
    assert list(name_subjects([weak.uri], ["image", "fused"], [None], controls=None)) == ["image", "fused"]
    assert list(name_subjects([weak.uri], ["image"], ["none", "center"], controls=None)) == ["none", "center"]
    other = write_profiles(str(tmp_path / "x" / "weak"), np.random.default_rng(1), signal=1)
    assert list(name_subjects([weak.uri, other.uri], ["image"], [None], controls=None)) == [weak.uri, other.uri]


def test_what_one_embedding_lacks_is_not_compared_and_the_reason_is_told(strong, weak):
    subjects = {"weak": Subject(weak), "strong": Subject(strong)}
    found = compare_evaluations(subjects, ["consistency", "map"], EvaluationOptions())
    assert set(found.skipped["weak"]) == {"map"}
    with pytest.raises(NotBuilt, match="Of weak nothing could be measured"):
        compare_evaluations(subjects, ["map"], EvaluationOptions())
    with pytest.raises(BadInput, match="nothing to be compared"):
        compare_evaluations({"weak": Subject(weak)}, [], EvaluationOptions())


def test_the_command_compares_prints_and_draws(strong, weak, tmp_path):
    file = tmp_path / "figures.png"
    asked = ["evaluate", "consistency", "--atlas", weak.uri, "--against", strong.uri]
    shown = CliRunner().invoke(main, [*asked, "--figure", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "More than weak" in shown.output
    with Image.open(file) as image:
        assert image.width > 800
        colors = {tuple(c) for c in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert {(27, 108, 168), (232, 89, 12)} <= colors  # both embeddings are drawn
    answer = json.loads(CliRunner().invoke(main, [*asked, "--json"]).stdout)
    assert set(answer["subjects"]) == {"weak", "strong"}
    assert answer["differences"][0]["evaluation"] == "consistency"


def test_a_figure_of_another_kind_is_refused_before_anything_is_measured(weak, tmp_path):
    for name, said in (("figures.jpg", "PNG|png"), ("none/figures.png", "no folder")):
        shown = CliRunner().invoke(main, ["evaluate", "--atlas", weak.uri, "--figure", str(tmp_path / name)])
        assert shown.exit_code == 1
        assert any(word in shown.output for word in said.split("|"))
    with pytest.raises(BadInput, match="figures with intervals"):
        draw_metrics([], tmp_path / "figures.png")


def test_each_point_has_its_interval(strong, weak):
    found = compare_evaluations(
        {"weak": Subject(weak), "strong": Subject(strong)}, ["consistency"], EvaluationOptions()
    )
    for row in figure_rows(found.measured):
        low, high = row["ends"]
        assert low <= row["value"] <= high or row["metric"].endswith("ks")  # see `Consistency.observed_ks`
