"""Which recipes may be mixed, and what is said when they may not."""

from __future__ import annotations

import pytest

from subcell_atlas.errors import RecipeMismatch
from subcell_atlas.recipe import Recipe

RECIPE = Recipe(encoder="demo", dim=4, channels=("nucleus", "protein"), crop_um=51.2, code_version="0.1")


def test_a_recipe_survives_json_and_later_fields():
    assert Recipe.from_json(RECIPE.to_json()) == RECIPE
    assert Recipe.from_json('{"encoder": "x", "dim": 2, "invented_later": 1}') == Recipe(encoder="x", dim=2)


def test_the_error_names_the_field_that_differs():
    other = Recipe(encoder="demo", dim=4, channels=("nucleus", "protein"), crop_um=71.8)
    with pytest.raises(RecipeMismatch, match=r"crop_um is 71\.8, not 51\.2") as caught:
        RECIPE.check_same(other, here="the atlas", there="These cells")
    assert len(str(caught.value).splitlines()) == 2


def test_another_release_may_go_on():
    later = Recipe.from_json(RECIPE.to_json().replace("0.1", "9.9"))
    assert RECIPE.difference(later) is None
    assert RECIPE.comparable() == later.comparable()


def test_vectors_of_two_batch_corrections_are_not_compared_and_older_atlases_have_the_usual_one():
    older = Recipe(encoder="demo", dim=4)
    usual, other = Recipe(encoder="demo", dim=4, correction="center"), Recipe(encoder="demo", dim=2, correction="tvn")
    assert older.difference(usual) is None
    assert usual.difference(older) is None
    assert older.difference(other) == "correction is 'tvn', not 'center'"
    assert Recipe.from_json(other.to_json()) == other


def test_cells_keep_the_fingerprint_of_releases_that_knew_no_correction():
    assert "correction" not in RECIPE.comparable()
