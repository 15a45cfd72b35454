"""The overview's points: what goes to the browser, and what a selection that comes back means."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from subcell_atlas.pages.scatter import HEIGHT, Points, pack, scaled, selected

PLACES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 4.0]], np.float32)
POINTS = Points(PLACES, np.array([0, 1, 1]), ["one", "<b>"], np.array([1, 0, 1]), ["#fff", "#000"], ["a", "b"], "m")


def test_the_bytes_hold_what_the_browser_reads():
    content = pack(POINTS, plot="p", highlight="#f00")
    (length,) = struct.unpack_from("<I", content)
    header = json.loads(content[4 : 4 + length])
    assert (header["n"], header["names"], header["plot"], header["height"]) == (3, ["one", "<b>"], "p", HEIGHT)
    at = (4 + length + 3) // 4 * 4
    x, y = np.frombuffer(content, "<f4", 6, at).reshape(2, 3)
    np.testing.assert_allclose(np.stack([x, y], axis=1), scaled(PLACES))
    assert np.frombuffer(content, "<u4", 3, at + 24).tolist() == [0, 1, 1]
    assert content[at + 36 :] == bytes([1, 0, 1])


def test_places_keep_their_shape_within_the_plot():
    found = scaled(PLACES)
    assert np.abs(found).max() <= 1
    assert np.ptp(found[:, 0]) == pytest.approx(2.5 * np.ptp(found[:, 1]))
    assert np.isfinite(scaled(np.zeros((1, 2)))).all()


def test_a_lasso_selects_what_lies_in_it_and_a_click_one_point():
    assert selected(POINTS, {"polygon": [-2, -2, 0, -2, 0, 2, -2, 2]}).tolist() == [0, 2]
    assert selected(POINTS, {"point": 1}).tolist() == [1]


@pytest.mark.parametrize(
    "selection",
    [
        None, "x", [], {}, {"point": 3}, {"point": -1}, {"point": "x"}, {"point": None}, {"polygon": [1, 2]},
        {"polygon": [1, 2, 3]}, {"polygon": "abc"}, {"polygon": [None] * 6}, {"polygon": [1e999] * 6},
    ],
)  # fmt: skip
def test_what_is_no_selection_selects_nothing(selection):
    assert selected(POINTS, selection).tolist() == []
