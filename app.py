"""`streamlit run app.py`: the pages and how to move between them. The atlas is `$SUBCELL_ATLAS`, else `./atlas`."""

from __future__ import annotations

import streamlit as st

from subcell_atlas.pages import page_file
from subcell_atlas.pages.parts import STYLE
from subcell_atlas.pages.pictures import draw_icon

st.set_page_config(page_title="SubCell Atlas", page_icon=draw_icon(), layout="wide")
st.html(STYLE)
st.navigation(
    [
        st.Page(page_file("search"), title="Search", icon=":material/search:", default=True),
        st.Page(page_file("protein"), title="Protein", icon=":material/biotech:", url_path="protein"),
        st.Page(page_file("map"), title="Map", icon=":material/account_tree:", url_path="map"),
        st.Page(page_file("functions"), title="Functions", icon=":material/science:", url_path="functions"),
        st.Page(page_file("sql"), title="SQL", icon=":material/table:", url_path="sql"),
        st.Page(page_file("about"), title="About", icon=":material/info:", url_path="about"),
    ],
    position="top",
).run()
