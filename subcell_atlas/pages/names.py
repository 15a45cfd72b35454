"""A field for names of proteins, completed from all that the atlas has; by tom-select, which lists thousands quickly.

The names go to the browser once: their message is the same at every run of the page, so Streamlit sends its hash alone.
What is chosen goes in a small message of its own, and is kept in the address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from subcell_atlas.pages import installed

__all__ = ["ask_names", "choose_names"]

HERE = Path(__file__).parent
LIBRARY = "tom-select"


def is_there() -> bool:
    """Tell whether the library is installed; without it Streamlit's own list asks."""
    return installed.file_of(LIBRARY, "js") is not None


def choose_names(chosen: Sequence[str], *, key: str) -> None:
    """Make these names the ones that the field `key` of this page shows."""
    st.query_params[key] = list(chosen)


def ask_names(
    names: Sequence[str],
    *,
    key: str,
    label: str,
    placeholder: str,
    single: bool = False,
) -> list[str]:
    """Return the names that a person typed or picked, which the address holds under `key`.

    label: for those who do not see it. single: one name alone.
    """
    chosen = st.query_params.get_all(key)
    state = f"{key}_asked"

    def take(found: Sequence[str] | None) -> None:
        if found is not None:
            choose_names(found, key=key)

    if is_there():
        field(
            names, chosen, state=state, label=label, placeholder=placeholder, single=single,
            on_change=lambda: take(st.session_state[state].get("chosen")),
        )  # fmt: skip
        return chosen
    st.session_state[state] = chosen
    st.multiselect(
        label,
        names,
        key=state,
        on_change=lambda: take(st.session_state[state]),
        accept_new_options=True,
        select_all=False,  # else Enter takes every name that matches what is typed
        max_selections=1 if single else None,
        placeholder=placeholder,
        label_visibility="collapsed",
    )
    return chosen


@st.cache_resource(show_spinner=False)
def component_code() -> tuple[str, str]:
    """Return our JavaScript with that of the library in it, and the styles of both."""
    js, css = ((HERE / f"names.{kind}").read_text("utf-8") for kind in ("js", "css"))
    return installed.put_into(js, [LIBRARY]), installed.text_of(LIBRARY, "css") + css


def field(
    names: Sequence[str],
    chosen: Sequence[str],
    *,
    state: str,
    label: str,
    placeholder: str,
    single: bool,
    on_change: Callable[[], None],
) -> None:
    """Draw the field, and send the names that complete what is typed."""
    js, css = component_code()
    draw = st.components.v2.component("subcell_atlas_names", html='<div class="names"></div>', css=css, js=js)
    send = st.components.v2.component("subcell_atlas_name_list", js=(HERE / "name_list.js").read_text("utf-8"))
    mark = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    with st.container(gap=None):
        draw(
            key=state,
            data={"list": mark, "chosen": chosen, "label": label, "placeholder": placeholder, "single": single},
            on_chosen_change=on_change,
        )
        send(key=f"{state}_list", data={"mark": mark, "names": list(names)}, height=1)
