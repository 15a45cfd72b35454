"""The small pieces that pages are made of: safe text, messages, colours of localizations, snippets, the footer."""

from __future__ import annotations

import html
import re
import shlex
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import streamlit as st

from subcell_atlas import query
from subcell_atlas.errors import AtlasError, AtlasNotFound
from subcell_atlas.pages.reading import OTHER, colors_of
from subcell_atlas.store import Store, default_uri

__all__ = [
    "OTHER",
    "STYLE",
    "ask_sequence",
    "blend",
    "colors_of",
    "csv_of",
    "facts",
    "file_name",
    "flat",
    "footer",
    "known_problems",
    "listed",
    "name_buttons",
    "open_store",
    "plain",
    "plural",
    "shell",
    "snippets",
    "svg_text",
]

STYLE = """<style>
.stMainBlockContainer { padding: 4.25rem 3rem 1.5rem; }
.stTable td p { overflow-wrap: anywhere !important; }
@media (max-width: 640px) { .stMainBlockContainer { padding: 4.25rem 1rem 1.5rem; } }
</style>"""

PALE = "#d4d7dc"
MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in string.punctuation})


def plain(text: object) -> str:
    """Return `text` so that Markdown shows it as it is."""
    return " ".join(str(text).split()).translate(MARKDOWN)


def listed(values: Sequence[str] | None) -> str:
    """Return a list of labels as plain text; a dash when there are none."""
    return plain(", ".join(values)) if values else "–"


def plural(n: int, noun: str) -> str:
    """Return the number with its noun."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


@contextmanager
def known_problems() -> Iterator[None]:
    """Show a known problem as one message."""
    try:
        yield
    except AtlasError as exc:
        st.error("  \n".join(plain(line) for line in str(exc).splitlines()))


def open_store(*tables: str) -> Store:
    """Open the atlas; where there is none, or one of `tables` is empty, say what to do and end the page."""
    uri = default_uri()
    try:
        store = Store.open(uri)
    except AtlasNotFound:
        st.info(f"There is no atlas at **{plain(uri)}** yet. Make one of a simulated proteome, or of your pictures:")
        where = f"--atlas {shell(uri)}"
        tell(f"subcell-atlas demo {where}", f"subcell-atlas ingest images MANIFEST.csv {where}")
        st.caption("Another atlas: `subcell-atlas app --atlas` and its folder.")
        st.stop()
    missing = [table for table in tables if not store.has(table)]
    if missing == ["systems"]:
        st.info("This atlas has no map yet. It takes a few proteins with pictures or vectors; then run:")
        tell(f"subcell-atlas build map --atlas {shell(uri)}")
        st.stop()
    if missing == ["functions"]:
        st.info("This atlas tells no functions yet. Put in what is known of its proteins, then run:")
        tell(f"subcell-atlas annotate FILE --atlas {shell(uri)}", f"subcell-atlas build --atlas {shell(uri)}")
        st.stop()
    if missing:
        st.info(f"This atlas holds {plural(store.count('cells'), 'cell')} and no proteins yet. Run:")
        tell(f"subcell-atlas build --atlas {shell(uri)}")
        st.stop()
    return store


def facts(row: Mapping[str, Any]) -> str:
    """Return what is known of a protein, as a line of Markdown."""
    known = [f"**{listed(row['localization'])}**"]
    known.append(plural(row["n_cells"] or 0, "cell"))
    if row["n_antibodies"]:
        known.append(f"{row['n_antibodies']} antibod{'y' if row['n_antibodies'] == 1 else 'ies'}")
    if row["cell_lines"]:
        known.append(listed(row["cell_lines"]))
    if row["variability"] is not None:
        known.append(f"cell-to-cell variability {row['variability']:.2f} (1: the atlas's median)")
    ids = [value for value in (row["ensembl_id"], row["uniprot_accession"]) if value]
    return " · ".join(known) + (f"  \n:gray[{plain(', '.join(ids))}]" if ids else "")


def ask_sequence() -> str:
    """Return the residues that a person pasted, "" before."""
    with st.form("residues", border=False):
        text = st.text_area(
            "Sequence", key="sequence", height=120, label_visibility="collapsed", max_chars=50_000,
            placeholder="Residues of a protein, as they are or below a FASTA header",
        )  # fmt: skip
        st.form_submit_button("Ask", type="primary")
    return (text or "").strip()


def name_buttons(names: Sequence[str], go: Callable[[str], None], *, kind: str) -> None:
    """Offer some names, a click on which calls `go`."""
    with st.container(horizontal=True, gap="xsmall"):
        for name in names:
            st.button(plain(name), key=f"{kind}_{name}", on_click=go, args=(name,))


def tell(*commands: str) -> None:
    """Show commands to copy."""
    st.code("\n".join(commands), language="bash", wrap_lines=True)


def shell(text: str) -> str:
    """Return `text` as one word of a shell command."""
    return shlex.quote(text)


@st.fragment
def snippets(python: str, command: str) -> None:
    """Offer an answer as Python and as a command, to copy; drawn when asked for, since colors take a browser long."""
    place = st.expander(
        "The same in Python or in a terminal", icon=":material/code:", key="snippets", on_change="rerun"
    )
    if place.open:
        with place:
            st.code(python, language="python", wrap_lines=True)
            st.code(command, language="bash", wrap_lines=True)


def footer(store: Store) -> None:
    """Say what the answers rest on: the atlas and the recipe of its embeddings."""
    recipe = query.recipe_of_cells(store)
    said = [
        f"Atlas {plain(store.uri)}",
        plural(store.count("proteins"), "protein"),
        plural(store.count("cells"), "cell"),
        f"encoder {plain(recipe['encoder'])}" if recipe.get("encoder") else "",
        f"block {recipe['block']}" if recipe.get("block") is not None else "",
        f"weights {plain(recipe['weights_sha256'][:12])}" if recipe.get("weights_sha256") else "",
    ]
    st.space("small")
    st.caption(" · ".join(part for part in said if part))


def blend(color: str, share: float) -> str:
    """Return `color` mixed with gray: all of it at share 1, none at 0."""
    pairs = [(int(color[i : i + 2], 16), int(PALE[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * hue + (1 - share) * gray):02x}" for hue, gray in pairs)


def csv_of(table: pa.Table) -> bytes:
    """Return a table as CSV, lists joined by `;`."""
    columns: Mapping[str, Any] = {name: flat(table[name]) for name in table.column_names}
    buffer = pa.BufferOutputStream()
    pa_csv.write_csv(pa.table(columns), buffer)
    return buffer.getvalue().to_pybytes()


def flat(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Return a column that CSV can hold."""
    if not pa.types.is_nested(column.type) and not pa.types.is_binary(column.type):
        return column
    return pa.array([as_text(value) for value in column.to_pylist()], pa.string())


def as_text(value: Any) -> str | None:
    """Return a nested value as text: lists joined by `;`, bytes by their number."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return ";".join(map(str, value)) if isinstance(value, list) else str(value)


def file_name(*words: str) -> str:
    """Return a name for a download that every system takes."""
    return re.sub(r"[^\w-]+", "_", "_".join(words))[:80]


def svg_text(text: object) -> str:
    """Return `text` so that Plotly, which reads some HTML, shows it as it is."""
    return html.escape(str(text))
