"""What is evaluated: an atlas as it is, or under another batch correction."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from subcell_atlas.cli import main
from subcell_atlas.errors import BadInput, NotBuilt, UnknownName
from subcell_atlas.evaluate import evaluate, last_results
from subcell_atlas.evaluated import Subject
from subcell_atlas.store import Store


@pytest.fixture
def copy(demo_atlas, tmp_path) -> Store:
    shutil.copytree(demo_atlas, tmp_path / "copy")
    return Store.open(str(tmp_path / "copy"))


def test_the_stored_correction_made_again_is_what_is_stored(copy):
    stored, again = Subject(copy), Subject(copy, correction="center")
    assert stored.proteins.ids == again.proteins.ids
    assert np.array_equal(stored.proteins.vectors, again.proteins.vectors)
    assert stored.profiles.equals(again.profiles)
    assert stored.recipe.difference(again.recipe) is None


def test_another_correction_is_evaluated_and_nothing_is_written_but_the_run(copy):
    versions = {name: copy.version(name) for name in copy.names() if name != "runs"}
    subject = Subject(copy, correction="spherize")
    plain = evaluate(Subject(copy), ["retrieval"])["retrieval"].metrics
    found = evaluate(subject, ["retrieval"])["retrieval"].metrics
    assert found["localization_queries"] == plain["localization_queries"]
    assert found["localization_map"] != plain["localization_map"]
    assert Subject(copy).recipe.difference(subject.recipe) == "correction is 'spherize', not 'center'"
    assert {name: copy.version(name) for name in versions} == versions
    assert last_results(copy)["retrieval"] == plain
    run = copy.read("runs", where="kind = 'evaluate retrieval'").sort_by("finished").to_pylist()[-1]
    assert json.loads(run["counts"])["correction"] == "spherize"
    assert json.loads(run["recipe"])["correction"] == "spherize"


def test_what_is_stored_is_not_evaluated_under_another_correction(copy):
    subject = Subject(copy, correction="none")
    assert not {"map", "functions"} & set(evaluate(subject))
    for name in ("map", "functions"):
        with pytest.raises(NotBuilt, match="build --correction"):
            evaluate(subject, [name])


def test_what_cannot_be_asked_says_why(copy):
    with pytest.raises(UnknownName, match="correction"):
        Subject(copy, correction="centre")
    with pytest.raises(BadInput, match="sequence"):
        Subject(copy, "sequence", correction="none")
    with pytest.raises(BadInput, match="Human Protein Atlas"):
        Subject(copy, correction="tvn")
    assert Subject(copy, correction="harmony", controls="condition = 'x'").settings.controls is None


def test_the_command_compares_corrections(copy):
    asked = ["evaluate", "retrieval", "--json", "--atlas", copy.uri, "--correction"]
    found = {name: json.loads(CliRunner().invoke(main, [*asked, name]).stdout) for name in ("center", "none")}
    assert found["center"] != found["none"]
