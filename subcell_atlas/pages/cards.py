"""Pictures with a name and a few words each, as one element of the page.

As elements of Streamlit's own, dozens of pictures with their buttons take a browser longer to show than to find.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st

__all__ = ["Card", "draw_cards"]

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Card:
    """One picture and what is said of it, as plain text. picture: JPEG; alt: for those who do not see it.

    name, before, after: above the picture, the name to be clicked; text: below it.
    """

    picture: bytes | None
    alt: str
    text: str
    name: str = ""
    before: str = ""
    after: str = ""

    def record(self) -> dict[str, str | None]:
        """Return it as an object of JSON."""
        picture = base64.b64encode(self.picture).decode() if self.picture else None
        return asdict(self) | {"picture": picture}


def draw_cards(
    cards: Sequence[Card], *, key: str, min_width: int, on_click: Callable[..., None] | None = None, tip: str = ""
) -> None:
    """Draw cards side by side, each at least `min_width` px wide; a click on a name calls `on_click` with it.

    key: tells them from other cards of the page. tip: what a click does.
    """
    html, css, js = ((HERE / f"cards.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    draw = st.components.v2.component("subcell_atlas_cards", html=html, css=css, js=js)

    def clicked() -> None:
        name = st.session_state[key].get("clicked")
        if on_click and isinstance(name, str):
            on_click(name)

    draw(
        key=key,
        data={"cards": [card.record() for card in cards], "min_width": min_width, "tip": tip},
        on_clicked_change=clicked,
    )
