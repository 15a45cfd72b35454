"""Where proteins stand, and where those that come later are put among them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from subcell_atlas.cellmap.graph import unit_vectors
from subcell_atlas.cellmap.layout import PRESETS, layout_proteins, place_proteins
from subcell_atlas.errors import BadInput, UnknownName

PRESET = pytest.mark.parametrize("preset", PRESETS)


def grouped(rng, n, *, n_groups=6, dim=64):
    """Make `n` vectors around `n_groups` centers; return them and the group of each."""
    group = np.arange(n) % n_groups
    return (rng.normal(size=(n_groups, dim))[group] + rng.normal(size=(n, dim)) * 0.3).astype(np.float32), group


def nearest(places, among, k):
    return NearestNeighbors(n_neighbors=k).fit(among).kneighbors(places, return_distance=False)


def cosine_neighbors(vectors, k):
    distance, index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit_vectors(vectors)).kneighbors()
    return index, distance**2 / 2


@PRESET
@pytest.mark.parametrize("n", [16, 300])  # fewer than the preset's neighbors, and more
def test_proteins_that_are_alike_stand_together_and_the_seed_repeats_it(rng, preset, n):
    vectors, group = grouped(rng, n, n_groups=3)
    places = layout_proteins(vectors, seed=1, preset=preset)
    assert places.shape == (n, 2)
    assert places.dtype == np.float32
    assert (group[nearest(places, places, 4)[:, 1:]] == group[:, None]).mean() > (0.9 if n > 16 else 0.4)
    assert np.array_equal(places, layout_proteins(vectors, seed=1, preset=preset))
    assert not np.array_equal(places, layout_proteins(vectors, seed=2, preset=preset))


def test_the_presets_are_those_of_the_parameters_that_they_name(rng):
    vectors = rng.normal(size=(200, 16))
    longer = vectors * 2.0 ** rng.integers(0, 4, size=(200, 1))  # of no matter to the cosine
    default, subcell = ([layout_proteins(v, seed=0, preset=p) for v in (vectors, longer)] for p in PRESETS)
    assert np.array_equal(*default)
    assert np.abs(subcell[0] - subcell[1]).max() > 0.1 * np.ptp(subcell[0])
    with pytest.raises(UnknownName, match="Unknown preset of a layout 'umap'; known: default, subcell"):
        layout_proteins(vectors, seed=0, preset="umap")


def test_known_neighbors_give_the_layout_that_a_search_would(rng):
    vectors, group = grouped(rng, 300, n_groups=20)
    index, distance = cosine_neighbors(vectors, 20)
    kept = index.copy(), distance.copy()
    searched = layout_proteins(vectors, seed=1)
    known = layout_proteins(vectors, seed=1, neighbors=(index, distance))
    assert (group[nearest(known, known, 10)] == group[:, None]).mean() > 0.95
    shared = [
        len(set(a) & set(b)) for a, b in zip(nearest(known, known, 15), nearest(searched, searched, 15), strict=True)
    ]
    assert np.mean(shared) > 13
    assert np.array_equal(kept[0], index)
    assert np.array_equal(kept[1], distance)
    wrong = layout_proteins(vectors, seed=1, neighbors=(rng.permutation(index), distance))
    assert (group[nearest(wrong, wrong, 6)[:, 1:]] == group[:, None]).mean() < 0.5  # they are what it goes by


def test_neighbors_that_do_not_serve_are_searched_for_or_refused(rng):
    vectors, _ = grouped(rng, 40)
    few = cosine_neighbors(vectors, 5)
    assert np.array_equal(layout_proteins(vectors, seed=1, neighbors=few), layout_proteins(vectors, seed=1))
    with pytest.raises(BadInput, match="do not serve the preset 'subcell', which asks for euclidean distances"):
        layout_proteins(vectors, seed=1, preset="subcell", neighbors=few)
    with pytest.raises(BadInput, match=r"shapes \(39, 5\) and \(39, 5\); both must be \(proteins, k\) for 40"):
        layout_proteins(vectors, seed=1, neighbors=(few[0][1:], few[1][1:]))


def test_groups_that_nothing_joins_are_laid_out_without_a_warning():
    vectors = np.zeros((120, 6))
    vectors[np.arange(120), np.arange(120) % 6] = 1
    vectors += np.random.default_rng(0).normal(size=vectors.shape) * 1e-3
    assert np.isfinite(layout_proteins(vectors, seed=0)).all()


@PRESET
def test_new_proteins_stand_among_those_that_are_like_them(rng, preset):
    vectors, group = grouped(rng, 330)
    new, old = vectors[:30], vectors[30:]
    layout = layout_proteins(old, seed=1, preset=preset)
    before = layout.copy()
    places = place_proteins(new, old, layout, seed=1, preset=preset)
    assert places.shape == (30, 2)
    assert places.dtype == np.float32
    assert (group[30:][nearest(places, layout, 5)] == group[:30, None]).all()
    assert np.array_equal(layout, before)
    assert np.array_equal(places, place_proteins(new, old, layout, seed=1, preset=preset))


@PRESET
@pytest.mark.parametrize("n", [8, 16, 40, 300])
def test_a_vector_of_the_layout_stands_where_it_stood_and_one_nearly_it_beside_it(rng, preset, n):
    old, _ = grouped(rng, n, n_groups=4)
    layout = layout_proteins(old, seed=1, preset=preset)
    new = np.vstack([old[:4], old[:4] + 1e-4])
    places = place_proteins(new, old, layout, seed=1, preset=preset)
    assert np.array_equal(places[:4], layout[:4])
    assert np.linalg.norm(places[4:] - layout[:4], axis=1).max() < 0.15 * np.ptp(layout, axis=0).max()


def test_the_layout_may_be_one_that_umap_did_not_make(rng):
    old, group = grouped(rng, 120, n_groups=4)
    corners = np.array([[0, 0], [100, 0], [0, 100], [100, 100]], np.float32)[group]
    layout = corners + rng.normal(size=(120, 2))
    new, wanted = grouped(np.random.default_rng(7), 8, n_groups=4)  # the same centers
    assert np.abs(place_proteins(new, old, layout, seed=0) - corners[:4][wanted]).max() < 15


@PRESET
def test_in_a_layout_of_few_a_new_protein_stands_at_the_weighted_mean_of_the_nearest(preset):
    old = np.array([[1.0, 0], [0, 1], [-1, 0]])
    layout = np.array([[0.0, 0], [6, 0], [0, 6]])
    between = place_proteins(np.array([[1.0, 1]]) / 2**0.5, old, layout, seed=0, preset=preset)[0]
    distance = {"default": [1 - 0.5**0.5, 1 - 0.5**0.5, 1 + 0.5**0.5], "subcell": [0.765367, 0.765367, 1.847759]}[
        preset
    ]
    weight = 1 / np.array(distance)
    assert between == pytest.approx(weight @ layout / weight.sum(), abs=1e-3)
    assert place_proteins(np.array([[5.0, 5]]), old[:1], layout[:1], seed=0, preset=preset).tolist() == [[0, 0]]


def test_more_new_proteins_than_old_and_none_at_all_can_be_placed(rng):
    old, _ = grouped(rng, 20)
    layout = layout_proteins(old, seed=0)
    assert np.isfinite(place_proteins(grouped(rng, 50)[0], old, layout, seed=0)).all()
    assert place_proteins(np.empty((0, 64)), old, layout, seed=0).shape == (0, 2)


def test_what_cannot_be_placed_is_refused_with_what_to_do(rng):
    old, _ = grouped(rng, 20)
    layout = layout_proteins(old, seed=0)
    holed = old.copy()
    holed[[3, 5], 0] = np.nan
    with pytest.raises(BadInput, match=r"2 of 20 rows hold NaN or infinite numbers\. Leave these proteins out"):
        layout_proteins(holed, seed=0)
    with pytest.raises(BadInput, match="The new vectors: 2 of 20 rows"):
        place_proteins(holed, old, layout, seed=0)
    with pytest.raises(BadInput, match="The places of the layout: 20 of 20 rows"):
        place_proteins(old, old, layout * np.inf, seed=0)
    with pytest.raises(BadInput, match=r"places of shape \(19, 2\) for 20 vectors"):
        place_proteins(old, old, layout[:19], seed=0)
    with pytest.raises(BadInput, match="at least one protein"):
        place_proteins(old, old[:0], layout[:0], seed=0)
    with pytest.raises(BadInput, match="have 63 numbers and those of the layout 64"):
        place_proteins(old[:, :63], old, layout, seed=0)
    with pytest.raises(BadInput, match=r"have the shape \(20,\); they must be rows"):
        layout_proteins(old[:, 0], seed=0)
