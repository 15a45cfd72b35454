"""Below the map: compare it with another, and take it elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import streamlit as st

from subcell_atlas.errors import AtlasError
from subcell_atlas.export import ExportOptions, export
from subcell_atlas.maps import MAIN, known_maps
from subcell_atlas.pages import parts, reading
from subcell_atlas.pages.parts import plain
from subcell_atlas.store import Store

__all__ = ["show_tools"]

MAX_MB = 20
FORMATS = {  # what it is for -> format, suffix
    "HCX, for NDEx and Cytoscape Web": ("hcx", ".hcx"),
    "CX2, the network of its proteins": ("cx2", ".cx2"),
    "GraphML": ("graphml", ".graphml"),
    "Newick": ("newick", ".nwk"),
}
VERDICTS = {"shared": "shared", "partly": "shared in part", "new": "not there"}
BOTH_WAYS = {"here": "Of this map in the other", "there": "Of the other in this map"}


def show_tools(store: Store, name: str) -> None:
    """Offer what can be done with a whole map."""
    with st.expander("Compare with another map", icon=":material/compare_arrows:"):
        compare(store, name)
    with st.expander("Take the map elsewhere", icon=":material/download:"):
        download(store, name)


def compare(store: Store, name: str) -> None:
    """Compare a map with another of the atlas, or with one in a file, and show what is in both."""
    others = [other for other in known_maps(store) or [MAIN] if other != name]
    other = None
    if others:
        other = st.selectbox(
            "With", others, index=None, key="compare_with", placeholder="A map of this atlas", width=260
        )
    file = st.file_uploader(
        "Or a file: HCX, HiDeF's nodes or edges, an edge list", key="compare_file", max_upload_size=MAX_MB, width=420
    )
    try:
        if file is not None:
            found = reading.read_comparison_of_maps(store, name, file.name, file.getvalue())
        elif other:
            found = reading.read_comparison_of_maps(store, name, other, None)
        else:
            return
    except AtlasError as exc:
        st.warning("  \n".join(plain(line) for line in str(exc).splitlines()))
        return
    st.markdown(
        f"{parts.plural(found['n_common'], 'protein')} in both; {found['n_only_here']:,} only in this map, "
        f"{found['n_only_there']:,} only in the other."
    )
    tabs = st.tabs(list(BOTH_WAYS.values()))
    for tab, side in zip(tabs, BOTH_WAYS, strict=True):
        with tab:
            show_recovery(found[side], key=side)


def show_recovery(found: Mapping[str, Any], *, key: str) -> None:
    """Show how much of a map is in another, and the best match of each system."""
    compared = len(found["systems"])
    if not compared:
        st.caption("None of its systems keeps enough of the common proteins to be compared.")
        return
    st.markdown(
        f"Of {parts.plural(compared, 'system')} {found['share_shared']:.0%} are shared (Jaccard index 0.5 or more; "
        f"{found['expected_shared']:.0%} with the names permuted), {found['share_partly']:.0%} in part. "
        f":gray[{found['n_set_aside']:,} were too small, or whole, to compare.]"
    )
    rows = sorted(found["systems"], key=lambda row: -row["jaccard"])
    columns = ("system", "name", "match", "match_name", "n_shared", "jaccard", "p_adjusted")
    table = pa.table({column: [row[column] for row in rows] for column in columns})
    table = table.append_column("verdict", pa.array([VERDICTS.get(row["verdict"], row["verdict"]) for row in rows]))
    st.dataframe(
        table,
        hide_index=True,
        height=min(38 + 35 * len(rows), 320),
        key=f"compared_{key}",
        column_config={
            "system": "System", "name": "Name", "match": "Most like", "match_name": "Its name",
            "n_shared": "Proteins in both", "jaccard": st.column_config.NumberColumn("Jaccard", format="%.2f"),
            "p_adjusted": st.column_config.NumberColumn("Adjusted p", format="%.1g"), "verdict": "It is",
        },
    )  # fmt: skip


def download(store: Store, name: str) -> None:
    """Offer the map in the formats of other programs."""
    with st.container(horizontal=True, gap="xsmall"):
        for title, (kind, suffix) in FORMATS.items():
            st.download_button(
                title,
                partial(exported, store, name, kind, suffix),
                f"{parts.file_name('map', name)}{suffix}",
                icon=":material/download:",
                on_click="ignore",
                key=f"download_{kind}",
            )


def exported(store: Store, name: str, kind: str, suffix: str) -> bytes:
    """Return a map in a format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"map{suffix}"
        export(store, path, kind=kind, options=ExportOptions(map_name=name))
        return path.read_bytes()
