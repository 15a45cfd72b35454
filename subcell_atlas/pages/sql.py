"""The SQL page: a query, its answer as a table or a chart, and the tables it can ask.

The address holds the query: `?sql=SELECT …`. The engine runs in a process of its own, one a session.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import streamlit as st

from subcell_atlas.errors import AtlasError
from subcell_atlas.pages import parts, reading
from subcell_atlas.pages.parts import plain
from subcell_atlas.schema import TABLES
from subcell_atlas.sql import SqlSession
from subcell_atlas.store import Store

EXAMPLES = {
    "Places": (
        "SELECT localization[1] AS place, count(*) AS proteins, sum(n_cells) AS cells\n"
        "FROM proteins GROUP BY 1 ORDER BY 2 DESC"
    ),
    "Variable proteins": (
        "SELECT gene_symbol, localization, variability, n_cells\n"
        "FROM proteins WHERE variability IS NOT NULL ORDER BY variability DESC LIMIT 25"
    ),
    "In two places": (
        "SELECT gene_symbol, localization, n_cells\nFROM proteins WHERE len(localization) > 1 ORDER BY gene_symbol"
    ),
    "Cells of each cell line": (
        "SELECT cell_line, count(*) AS cells, count(DISTINCT protein_id) AS proteins, count(DISTINCT plate) AS plates\n"
        "FROM cells GROUP BY 1 ORDER BY 2 DESC"
    ),
    "Nearest, by hand": (
        "SELECT b.gene_symbol, array_cosine_similarity(a.image, b.image) AS similarity, b.localization\n"
        "FROM proteins a, proteins b\n"
        "WHERE a.gene_symbol = (SELECT min(gene_symbol) FROM proteins) AND a.protein_id <> b.protein_id\n"
        "ORDER BY similarity DESC LIMIT 10"
    ),
    "Systems and their members": (
        "SELECT s.system_id, s.level, s.size, s.term_name, s.p_adjusted,\n"
        "       string_agg(p.gene_symbol, ', ' ORDER BY p.gene_symbol) AS members\n"
        "FROM systems s JOIN system_members m USING (system_id) JOIN proteins p USING (protein_id)\n"
        "WHERE s.level > 0 GROUP BY ALL ORDER BY s.size LIMIT 25"
    ),
}
FIRST = EXAMPLES["Places"]
QUICK_S = 1.5  # an answer that comes in this time is waited for without a word
MAX_BARS = 60
MAX_POINTS = 5000
COLOR = "#4e79a7"


@st.cache_resource(scope="session", on_release=SqlSession.close, show_spinner=False)
def open_session(uri: str) -> SqlSession:
    """Return the session's own process; it ends when the person leaves."""
    return SqlSession(uri)


def show() -> None:
    """Draw the page."""
    with parts.known_problems():
        store = parts.open_store()
        session = open_session(store.uri)
        versions = reading.versions(store, *TABLES)
        columns = columns_of(store.uri, versions, session)  # before a query keeps the process busy
        left, right = st.columns([3, 1], gap="medium")
        with left:
            asked = ask(FIRST if store.has("proteins") else "SHOW TABLES")
            answered = answer(session, asked, versions)
            if isinstance(answered, pa.Table):
                show_answer(answered, session.row_limit)
            elif answered:
                st.error(answered)
        with right:
            list_tables(store, columns)
        if asked.strip():
            parts.snippets(*same_query(store, asked))
        parts.footer(store)


def ask(first: str) -> str:
    """Return the query that a person wrote or took from the examples; `first` before that."""

    def take(sql: str) -> None:
        st.session_state["sql"] = sql

    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(":gray[Examples]", width="content")
        for title, sql in EXAMPLES.items():
            st.button(f":blue[{title}]", key=f"example_{title}", type="tertiary", on_click=take, args=(sql,))
    if "sql" not in st.session_state and "sql" not in st.query_params:
        st.session_state["sql"] = first
    with st.form("query", border=False):
        asked = st.text_area(
            "Query", height=150, key="sql", bind="query-params", label_visibility="collapsed",
            placeholder="SELECT … FROM proteins",
        )  # fmt: skip
        with st.container(horizontal=True, vertical_alignment="center"):
            if st.form_submit_button("Run", type="primary", icon=":material/play_arrow:"):
                st.session_state.pop("answered", None)
            st.caption("DuckDB, read-only. Ctrl+Enter runs it.", width="content")
    return asked or ""


def answer(session: SqlSession, asked: str, versions: Sequence[int]) -> pa.Table | str | None:
    """Return the answer, or the message of what went wrong; None while it is awaited.

    It is asked once as long as query and tables stay the same. What takes long can be cancelled.
    """
    if not asked.strip():
        return None
    key = (session.uri, asked, tuple(versions))
    kept = st.session_state.get("answered")
    if kept is not None and kept[0] == key:
        answered: pa.Table | str = kept[1]
        return answered
    asking = st.session_state.get("asking")
    if asking is None or asking[0] != key:
        if asking is not None:
            session.cancel()
        asking = (key, in_thread(query_or_message, session, asked))
        st.session_state["asking"] = asking
    try:
        answered = asking[1].result(QUICK_S)
    except TimeoutError:
        await_answer(session)
        return None
    st.session_state["answered"] = (key, answered)
    st.session_state.pop("asking", None)
    return answered


def in_thread(does: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Call something in a thread that does not keep the server from ending."""
    future: Future[Any] = Future()
    Thread(target=lambda: future.set_result(does(*arguments)), daemon=True).start()
    return future


@st.fragment(run_every=0.5)
def await_answer(session: SqlSession) -> None:
    """Say that the answer is awaited, offer to cancel, and show it once it is there."""
    asking = st.session_state.get("asking")
    if asking is None or asking[1].done():
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"Asking… it may take {session.time_limit_s:.0f} s.", width="content")
        st.button("Cancel", icon=":material/stop_circle:", key="cancel", on_click=session.cancel)


def query_or_message(session: SqlSession, asked: str) -> pa.Table | str:
    """Return the answer, or the message of a problem as Markdown."""
    try:
        return session.query(asked)
    except AtlasError as exc:
        return "  \n".join(plain(line) for line in str(exc).splitlines())


def show_answer(table: pa.Table, row_limit: int) -> None:
    """Show the rows, their number, the downloads and, when they suit one, a chart."""
    truncated = (table.schema.metadata or {}).get(b"truncated") == b"true"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{parts.plural(table.num_rows, 'row')}**", width="content")
        if truncated:
            st.badge(f"only the first {row_limit:,} rows are here", icon=":material/content_cut:", color="orange")
    chart = suitable_chart(table)
    if chart is None:
        show_rows(table)
    else:
        rows, drawn = st.tabs(["Table", "Chart"])
        with rows:
            show_rows(table)
        with drawn:
            st.plotly_chart(chart, key="chart", config={"displaylogo": False}, alt="The answer as a chart")
    with st.container(horizontal=True, gap="xsmall"):
        download(table)


def download(table: pa.Table) -> None:
    """Offer the answer as files."""
    st.download_button(
        "CSV", lambda: parts.csv_of(table), "answer.csv", "text/csv", icon=":material/download:", on_click="ignore"
    )
    st.download_button(
        "Parquet",
        lambda: parquet_of(table),
        "answer.parquet",
        "application/vnd.apache.parquet",
        icon=":material/download:",
        on_click="ignore",
    )


def parquet_of(table: pa.Table) -> bytes:
    """Return a table as Parquet."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def show_rows(table: pa.Table) -> None:
    """Show the rows; bytes, such as a cell's thumbnail, by their length."""
    fields = {
        name: parts.flat(table[name]) if pa.types.is_binary(table.schema.field(name).type) else table[name]
        for name in table.column_names
    }
    st.dataframe(pa.table(fields), hide_index=True, height=min(38 + 35 * max(table.num_rows, 1), 420), lazy=False)


def suitable_chart(table: pa.Table) -> go.Figure | None:
    """Return bars for a label and a number, points for two numbers; None when the answer is neither."""
    numbers = [field.name for field in table.schema if is_number(field.type)]
    labels = [field.name for field in table.schema if pa.types.is_string(field.type)]
    if labels and numbers and 2 <= table.num_rows <= MAX_BARS:
        return draw_bars(table, labels[0], numbers[0])
    if len(numbers) >= 2 and 2 <= table.num_rows <= MAX_POINTS:
        return draw_points(table, numbers[0], numbers[1], labels[0] if labels else None)
    return None


def is_number(kind: pa.DataType) -> bool:
    """Tell whether a column can be an axis."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def as_numbers(table: pa.Table, column: str) -> list[float | None]:
    """Return a column of numbers of any kind as floats."""
    return table[column].cast(pa.float64()).to_pylist()


def draw_bars(table: pa.Table, label: str, number: str) -> go.Figure:
    """Draw a bar for each row, the first at the top."""
    names = [parts.svg_text("–" if value is None else value) for value in table[label].to_pylist()]
    figure = go.Figure(
        go.Bar(
            x=as_numbers(table, number),
            y=list(range(table.num_rows)),
            orientation="h",
            marker={"color": COLOR},
            text=names,
            hovertemplate="%{text}: %{x}<extra></extra>",
            textposition="none",
        )
    )
    figure.update_yaxes(tickvals=list(range(table.num_rows)), ticktext=names, autorange="reversed", title=None)
    return framed(figure, x=number, height=max(240, 22 * table.num_rows + 60))


def draw_points(table: pa.Table, x: str, y: str, label: str | None) -> go.Figure:
    """Draw a point for each row."""
    names = [parts.svg_text(value) for value in table[label].to_pylist()] if label else None
    figure = go.Figure(
        go.Scatter(
            x=as_numbers(table, x), y=as_numbers(table, y), text=names, mode="markers",
            marker={"color": COLOR, "size": 7, "opacity": 0.7},
        )
    )  # fmt: skip
    figure.update_yaxes(title=parts.svg_text(y))
    return framed(figure, x=x, height=420)


def framed(figure: go.Figure, *, x: str, height: int) -> go.Figure:
    """Give a chart its size and the name of its first axis."""
    figure.update_xaxes(title=parts.svg_text(x))
    figure.update_layout(height=height, margin={"l": 0, "r": 8, "t": 8, "b": 0})
    return figure


@st.cache_data(show_spinner=False, max_entries=4)
def columns_of(uri: str, key: tuple[int, ...], _session: SqlSession) -> dict[str, list[tuple[str, str]]]:
    """Return the columns of each table with their types."""
    del uri, key
    return _session.tables()


def list_tables(store: Store, columns_of_table: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """List the tables with their columns, folded."""
    st.markdown("**Tables**")
    with st.container(gap="xsmall"):
        for table, columns in columns_of_table.items():
            with st.expander(f"{plain(table)} :gray[{store.count(table):,}]"):
                st.markdown("  \n".join(f"{plain(name)} :gray[{plain(kind.lower())}]" for name, kind in columns))


def same_query(store: Store, asked: str) -> tuple[str, str]:
    """Return the query as Python and as a command."""
    python = (
        "import subcell_atlas\n\n"
        f"with subcell_atlas.open_atlas({store.uri!r}) as atlas:\n"
        f"    answer = atlas.sql({asked!r}).to_pandas()"
    )
    return python, f"subcell-atlas sql {parts.shell(asked)} --atlas {parts.shell(store.uri)}"


if __name__ == "__main__":
    show()
