"""Batches of antibodies and cells: who is in them, stratified, and always the same ones."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from subcell_atlas.errors import BadInput
from subcell_atlas.pretraining.batches import Batches, LeftOut, draw_cells


def cells_of(sizes, *, shuffle=None):
    """Make labels and strata from {antibody: [cells of each of its strata]}."""
    rows = [
        (antibody, f"{antibody or 'none'}/field {field}")
        for antibody, fields in sizes.items()
        for field, n in enumerate(fields)
        for _ in range(n)
    ]
    if shuffle is not None:
        rows = [rows[i] for i in shuffle.permutation(len(rows))]
    return [antibody for antibody, _ in rows], [stratum for _, stratum in rows]


def make(sizes, *, n_antibodies=2, n_cells=4, seed=3, **options):
    labels, strata = cells_of(sizes, shuffle=np.random.default_rng(0))
    made = Batches(labels, strata, n_antibodies=n_antibodies, n_cells=n_cells, seed=seed, **options)
    return made, np.array(labels, object), np.array(strata, object)


def slow_order(strata, generator):
    """Deal the cells out as a person would, with the same random numbers."""
    piles = {}
    for cell in generator.permutation(len(strata)):
        piles.setdefault(strata[cell], []).append(int(cell))
    names = sorted(piles)
    turns = [names[i] for i in np.argsort(generator.permutation(len(names)))]
    dealt = []
    while any(piles.values()):
        dealt += [piles[name].pop(0) for name in turns if piles[name]]
    return dealt


@pytest.mark.parametrize("n_cells", [1, 2, 5, 8, 30])
@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [9, 1, 2], [1, 1, 1], [7], [12, 1]])
def test_the_draw_equals_a_slow_twin(sizes, n_cells):
    strata = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)) * 5, sizes))
    drawn = draw_cells(strata, n_cells, generator=np.random.default_rng(8))
    generator = np.random.default_rng(8)
    slow = []
    while len(slow) < n_cells:
        slow += slow_order(strata, generator)
    assert drawn.tolist() == slow[:n_cells]


def test_every_antibody_comes_once_an_epoch_in_another_order():
    batches, labels, _ = make({f"A{i:02d}": [3, 3] for i in range(12)}, n_antibodies=4)
    assert batches.steps_per_epoch == 3
    orders = []
    for epoch in range(3):
        seen = []
        for step in range(3 * epoch, 3 * epoch + 3):
            cells, numbers = batches.batch(step)
            assert cells.dtype == numbers.dtype == np.int64
            assert len(set(cells)) == len(cells) == 16
            assert labels[cells].tolist() == [batches.antibodies[number] for number in numbers]
            seen += numbers[::4].tolist()
            assert numbers.tolist() == np.repeat(numbers[::4], 4).tolist()
        assert sorted(seen) == list(range(12))
        orders.append(tuple(seen))
    assert len(set(orders)) == 3


def test_antibodies_that_remain_change_from_epoch_to_epoch():
    batches, _, _ = make({f"A{i}": [2] for i in range(7)}, n_antibodies=3, n_cells=2)
    assert batches.steps_per_epoch == 2
    missing = [set(range(7)) - {n for s in (0, 1) for n in batches.batch(2 * e + s)[1]} for e in range(12)]
    assert {len(left) for left in missing} == {1}
    assert len(set.union(*missing)) > 3


def test_four_fields_give_a_cell_each_however_uneven_they_are():
    batches, _, strata = make({f"A{i}": [50, 1, 2, 9] for i in range(4)})
    for step in range(20):
        cells, _ = batches.batch(step)
        for own in cells.reshape(2, 4):
            assert len(set(strata[own])) == 4


def test_small_fields_give_all_they_have_and_large_ones_the_rest():
    batches, _, strata = make({"A": [50, 1, 2], "B": [50, 1, 2]}, n_cells=8)
    cells, numbers = batches.batch(0)
    of_a = Counter(strata[cells[numbers == 0]])
    assert sorted(of_a.values()) == [1, 2, 5]


def test_over_the_epochs_all_cells_of_a_field_come_equally_often():
    batches, _, _ = make({"A": [6, 6], "B": [6, 6]}, n_cells=2)
    seen = Counter(int(cell) for step in range(600) for cell in batches.batch(step)[0])
    assert len(seen) == 24
    assert all(60 < n < 145 for n in seen.values())  # 100 ± 5 standard deviations


def test_few_cells_come_again_but_none_twice_before_all_once():
    batches, _, _ = make({"A": [2, 1], "B": [9]}, n_cells=8)
    for step in range(10):
        cells, numbers = batches.batch(step)
        of_a = cells[numbers == 0]
        assert len(set(of_a[:3])) == len(set(of_a[3:6])) == 3
        assert sorted(Counter(of_a.tolist()).values()) == [2, 3, 3]
        assert len(set(cells[numbers == 1])) == 8


def test_a_batch_depends_on_its_number_and_the_seed_alone():
    sizes = {f"A{i}": [5, 2] for i in range(8)}
    first, _, _ = make(sizes)
    one_after_another = [first.batch(step) for step in range(12)]
    other = pickle.loads(pickle.dumps(make(sizes)[0]))
    for step in (11, 3, 0, 7, 3):
        np.testing.assert_array_equal(other.batch(step)[0], one_after_another[step][0])
        np.testing.assert_array_equal(other.batch(step)[1], one_after_another[step][1])
    assert not np.array_equal(make(sizes, seed=4)[0].batch(0)[0], one_after_another[0][0])
    assert not np.array_equal(one_after_another[0][0], one_after_another[4][0])


def test_the_first_antibodys_cells_are_not_drawn_with_the_numbers_of_the_order():
    batches, _, _ = make({f"A{i}": [4] for i in range(4)})
    streams = [batches._generator(0, stream).random() for stream in range(5)]
    assert len(set(streams)) == 5


def test_the_digest_tells_cells_apart():
    sizes = {"A": [3], "B": [2, 2]}
    assert make(sizes)[0].digest == make(sizes, seed=9, n_cells=2)[0].digest
    assert make(sizes)[0].digest != make({"A": [3], "B": [3, 1]})[0].digest
    assert make(sizes)[0].digest != make({"A": [3], "C": [2, 2]})[0].digest


def test_what_cannot_be_used_is_left_out_and_counted():
    sizes = {"A": [3], None: [5], "lone": [1], "B": [1, 1], "": [2], "C": [4], "alone": [1]}
    batches, labels, _ = make(sizes)
    assert batches.left_out == LeftOut(n_cells_unknown=7, n_antibodies_few=2, n_cells_few=2)
    assert batches.antibodies == ("A", "B", "C")
    assert {name for step in range(6) for name in labels[batches.batch(step)[0]]} == {"A", "B", "C"}
    strict, _, _ = make(sizes, min_cells=3)
    assert strict.antibodies == ("A", "C")
    assert strict.left_out == LeftOut(7, 3, 4)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({"A": [3], "B": [3], "C": [1], None: [2]}, {"n_antibodies": 3}, "more: 2; with fewer: 1; .* antibody: 2"),
        ({"A": [3], "B": [3]}, {"n_antibodies": 9}, "9 antibodies was asked for; lower the number to 2 or less"),
        ({"A": [3], "B": [1]}, {}, "more: 1; with fewer: 1; .*\nThe protein loss needs two"),
        ({None: [3]}, {}, "more: 0; with fewer: 0; cells of no known antibody: 3"),
        ({}, {}, "The protein loss needs two antibodies"),
        ({"A": [3], "B": [3]}, {"n_antibodies": 1}, "needs at least 2"),
        ({"A": [3], "B": [3]}, {"n_cells": 1}, "at least 2 cells"),
        ({"A": [3], "B": [3]}, {"min_cells": 1}, "at least 2 cells"),
    ],
)
def test_what_gives_no_batch_is_refused_with_the_numbers(sizes, options, message):
    with pytest.raises(BadInput, match=message):
        make(sizes, **options)


def test_a_stratum_is_needed_for_every_cell():
    with pytest.raises(ValueError, match="2 labels and 1 strata"):
        Batches(["A", "A"], ["s"], n_antibodies=2, n_cells=2, seed=0)
