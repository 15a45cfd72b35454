"""Cards: what a browser is sent of a cell is text, never markup."""

from __future__ import annotations

import base64
import json
import sys

import pytest
from streamlit.testing.v1 import AppTest


def page() -> None:
    from subcell_atlas.pages.cards import Card, draw_cards

    cards = [
        Card(name="<b>A</b>", before="1", after="0.98", picture=b"jpeg", alt="3 cells of A", text="Cytosol"),
        Card(picture=None, alt="none", text=""),
    ]
    draw_cards(cards, key="some", min_width=320, tip="Search")


@pytest.fixture
def data(monkeypatch) -> dict:
    # the app becomes the main module, from a file that is gone when other tests begin processes
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    app = AppTest.from_function(page).run()
    assert not app.exception
    return json.loads(app.get("bidi_component")[0].proto.json)


def test_a_card_reaches_the_browser_as_plain_text_with_its_picture(data):
    first, second = data["cards"]
    assert (first["name"], first["before"], first["after"], first["text"]) == ("<b>A</b>", "1", "0.98", "Cytosol")
    assert base64.b64decode(first["picture"]) == b"jpeg"
    assert second["picture"] is None
    assert (data["min_width"], data["tip"]) == (320, "Search")
