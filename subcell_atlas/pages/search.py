"""The search page: a protein, its cells, and the proteins that look most like it.

The address holds the question: `?gene=TOMM20&gene=VDAC1&k=20&cell_line=U-2+OS&localization=Cytosol`. With `?by=Picture`
and `?by=Sequence` the question is too long for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import streamlit as st

from subcell_atlas import query
from subcell_atlas.errors import AtlasError, UnknownName
from subcell_atlas.identifiers import find_protein
from subcell_atlas.pages import page_file, parts, reading
from subcell_atlas.pages.cards import Card, draw_cards
from subcell_atlas.pages.hits import show_hits
from subcell_atlas.pages.names import ask_names, choose_names
from subcell_atlas.pages.overview import show_overview
from subcell_atlas.pages.parts import plain
from subcell_atlas.pages.pictures import View, choose_view
from subcell_atlas.pages.reading import Question
from subcell_atlas.schema import VECTORS
from subcell_atlas.sequence_vectors import note_on_sequences
from subcell_atlas.store import Store

PROTEINS, PICTURE, SEQUENCE = "Proteins", "Picture", "Sequence"  # what is asked by
MAX_K = 200
COLUMNS = (11, 10)  # widths: the question, the overview
N_EXAMPLES = 8
CELLS_OF_QUERY = 6
CELLS_OF_HIT = 3
RELIABILITIES = ("Enhanced", "Supported", "Approved", "Uncertain")  # of HPA, the surest first
PLACEHOLDER = "A gene symbol, Ensembl id or UniProt accession; several ask for what is like all of them"


def show() -> None:
    """Draw the page."""
    with parts.known_problems():
        store = parts.open_store("proteins")
        proteins = reading.read_proteins(store)
        channels = query.recipe_of_cells(store).get("channels") or ()
        ask = st.segmented_control(
            "Ask by", [PROTEINS, PICTURE, SEQUENCE], default=PROTEINS, required=True, key="by", bind="query-params",
            label_visibility="collapsed",
        )  # fmt: skip
        names = []
        if ask == PROTEINS:
            names = ask_names(proteins["name"].to_pylist(), key="gene", label="Proteins", placeholder=PLACEHOLDER)
        question, view = ask_rest(store, proteins, channels, ask=ask or PROTEINS)
        if ask == PICTURE:
            of_picture(store, proteins, question, view)
        elif ask == SEQUENCE:
            of_sequence(store, proteins, question, view)
        elif rows := find_rows(names, proteins):
            answer(store, proteins, rows, question, view)
        else:
            begin(store, proteins)
        parts.footer(store)


def search_for(*names: str) -> None:
    """Make these proteins the query."""
    st.session_state["by"] = PROTEINS
    choose_names(names, key="gene")


def ask_rest(store: Store, proteins: pa.Table, channels: Sequence[str], *, ask: str) -> tuple[Question, View]:
    """Return the rest of the question, and how to show cells."""
    labels, lines = reading.read_choices(store)
    modalities = [name for name in VECTORS if name in store.vector_columns("proteins")]
    row = st.container(horizontal=True)
    with row:
        k = st.number_input("Neighbors", 1, MAX_K, 12, key="k", bind="query-params", width=130)
        modality = "sequence" if ask == SEQUENCE else modalities[0] if modalities else "image"
        if len(modalities) > 1 and ask == PROTEINS:
            modality = st.selectbox("Compare by", modalities, key="modality", bind="query-params", width=140)
        line = None
        if lines and modality == "image":
            line = st.selectbox(
                "Cell line", lines, index=None, key="cell_line", bind="query-params", placeholder="All", width=180
            )
        wanted = st.multiselect(
            "Localization", labels, key="localization", bind="query-params", placeholder="Any", select_all=False,
            width=280,
        )  # fmt: skip
        graded = proteins["reliability"].unique().to_pylist()
        grades = [grade for grade in RELIABILITIES if grade in graded]
        sure: list[str] = []
        if grades:
            sure = st.multiselect(
                "Reliability", grades, key="reliability", bind="query-params", placeholder="Any", select_all=False,
                width=200, help="how sure the Human Protein Atlas is of the localization",
            )  # fmt: skip
        view = choose_view(channels)
    return Question(int(k), modality, line, tuple(wanted), tuple(sure)), view


def find_rows(names: Sequence[str], proteins: pa.Table) -> list[dict[str, Any]]:
    """Return the proteins that `names` mean; say of each name that means none what is near it."""
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            row = proteins.slice(find_protein(name, proteins), 1).to_pylist()[0]
            rows[row["protein_id"]] = row
        except UnknownName as exc:
            st.warning(plain(exc))
            suggest(name, names, exc.suggestions)
        except AtlasError as exc:
            st.warning(plain(exc))
    return list(rows.values())


def suggest(name: str, names: Sequence[str], suggestions: Sequence[str]) -> None:
    """Offer the nearest names in place of an unknown one."""
    with st.container(horizontal=True, gap="xsmall"):
        for other in suggestions:
            instead = [other if each == name else each for each in names]
            st.button(plain(other), key=f"instead_{name}_{other}", on_click=search_for, args=instead)


def begin(store: Store, proteins: pa.Table) -> None:
    """Offer a first question: a protein of each of the most frequent localizations, and the overview."""
    examples: dict[str, str] = {}
    for row in proteins.select(["name", "localization"]).to_pylist():
        if row["localization"]:
            examples.setdefault(row["localization"][0], row["name"])
    labels = [label for label in parts.colors_of(proteins) if label in examples][:N_EXAMPLES]
    left, right = st.columns(COLUMNS, gap="medium")  # as answers have them: the overview stays, and is not drawn anew
    with left:
        if labels:
            st.markdown("**Begin with one of these**")
            with st.container(horizontal=True, gap="small"):
                for label in labels:
                    text = f"{plain(examples[label])} :gray[{plain(label)}]"
                    st.button(text, key=f"begin_{examples[label]}", on_click=search_for, args=(examples[label],))
    with right:
        show_overview(store, proteins, (), (), search_for=search_for)


def answer(
    store: Store,
    proteins: pa.Table,
    rows: Sequence[dict[str, Any]],
    question: Question,
    view: View,
) -> None:
    """Show the query's own cells, the overview, and below the hits, which are made first: they were asked for."""
    ids = tuple(row["protein_id"] for row in rows)
    names = [row["name"] for row in rows]
    left, right = st.columns(COLUMNS, gap="medium")
    hits = None
    with st.container():
        try:
            hits = reading.find_hits(store, ids, question)
        except AtlasError as exc:
            st.warning(plain(exc))
        else:
            likeness = "Looks most like" if question.modality == "image" else f"Most like, by {question.modality},"
            title = f"{likeness} {plain(' + '.join(names))}"
            show_answer(store, proteins, hits, question, view, title=title, file=parts.file_name("similar", *names))
            same_question(
                store,
                question,
                ["similar", *map(repr, names)],
                map(parts.shell, names),
                modality=None if question.modality == "image" else question.modality,
            )
    with left:
        if len(rows) > 2:
            show_cohesion(store, rows, question)
        show_query(store, rows, question, view)
    with right:
        found = hits["protein_id"].to_pylist() if hits else ()
        show_overview(store, proteins, ids, found, search_for=search_for)


def show_cohesion(store: Store, rows: Sequence[dict[str, Any]], question: Question) -> None:
    """Say how well some proteins go together, and which of them the others are least like."""
    try:
        found = query.cohesion(
            store, [row["protein_id"] for row in rows], modality=question.modality, cell_line=question.cell_line
        )
    except AtlasError:  # which the answer says
        return
    ranked = sorted(zip(found, rows, strict=True), key=lambda each: each[0])
    odd, lowest = ranked[0][1], ranked[0][0]
    st.markdown(f"The odd one out: **{plain(odd['name'])}** :gray[cosine with the mean of the others {lowest:.2f}]")
    others = ", ".join(f"{plain(row['name'])} {similarity:.2f}" for similarity, row in ranked[:0:-1])
    st.caption(f"The others, those that go together best first: {others}")


def show_query(
    store: Store,
    rows: Sequence[dict[str, Any]],
    question: Question,
    view: View,
) -> None:
    """Show the cells and the facts of each protein asked for."""
    n = CELLS_OF_QUERY if len(rows) == 1 else CELLS_OF_HIT
    cells_of = reading.read_cells(store, tuple(r["protein_id"] for r in rows), n=n, cell_line=question.cell_line)
    for row in rows:
        st.subheader(plain(row["name"]), anchor=False)
        st.markdown(parts.facts(row))
        st.page_link(
            page_file("protein"), label="All about it", icon=":material/info:", query_params={"name": row["name"]}
        )
        cells = cells_of.get(row["protein_id"], [])
        if not cells:
            where = f" in {plain(question.cell_line)}" if question.cell_line else ""
            st.caption(f"No pictures of its cells are stored{where}: its vectors came ready-made, or it was not seen.")
            continue
        drawn = [
            Card(picture=view.picture([cell]), alt=f"Cell {number} of {row['name']}", text=cell.cell_line or "")
            for number, cell in enumerate(cells, 1)
        ]
        draw_cards(drawn, key=f"cells_{row['protein_id']}", min_width=160)


def of_picture(store: Store, proteins: pa.Table, question: Question, view: View) -> None:
    """Ask for what looks like a picture that a person uploads."""
    from subcell_atlas.pages.asked_picture import ask_picture

    encoder = reading.encoder_of(store)
    masking = query.recipe_for_pictures(store).masking or "none"
    asked = ask_picture(encoder.spec, masking)
    if asked is None:
        return
    with st.spinner("Embedding it…"):
        hits = reading.find_like_crops(store, asked.crops, asked.mark, question)
    title = f"Looks most like {plain(asked.name)}"
    show_answer(store, proteins, hits, question, view, title=title, file="like_picture")
    show_overview(store, proteins, (), hits["protein_id"].to_pylist(), search_for=search_for)
    remark = f"  # (C, H, W): {', '.join(encoder.spec.channels)}"
    same_question(store, question, ["similar_to_image", "picture"], ["--image FILE"], remark=remark)


def of_sequence(store: Store, proteins: pa.Table, question: Question, view: View) -> None:
    """Ask for proteins whose sequences are like one that a person pastes."""
    text = parts.ask_sequence()
    if not text:
        return
    with st.spinner("Embedding the sequence…"):
        hits = reading.find_like_sequence(store, text, question)
    show_answer(store, proteins, hits, question, view, title="Most like this sequence", file="like_sequence")
    show_overview(store, proteins, (), hits["protein_id"].to_pylist(), search_for=search_for)
    st.page_link(page_file("functions"), label="What such a protein may do", query_params={"ask": "Sequence"})
    same_question(store, question, ["similar_to_sequence", "sequence"], ["--sequence FILE.fasta"])


def show_answer(
    store: Store, proteins: pa.Table, hits: pa.Table, question: Question, view: View, *, title: str, file: str
) -> None:
    """Show the neighbors as cards, and what is to be said of the vectors that were compared."""
    note = note_on_sequences(store) if question.modality != "image" else None
    show_hits(
        store, proteins, hits, title=title, file=file, notes=[note] if note else [], cell_line=question.cell_line,
        view=view, search_for=search_for,
    )  # fmt: skip


def same_question(
    store: Store,
    question: Question,
    call: Sequence[str],
    words: Iterable[str],
    *,
    modality: str | None = None,
    remark: str = "",
) -> None:
    """Offer the question as Python and as a command. call: the method and its arguments; words: the command's."""
    options = {"modality": modality, "where": question.where, "cell_line": question.cell_line}
    asked = {option: value for option, value in options.items() if value}
    method, *given = call
    given += [f"k={question.k}", *(f"{option}={value!r}" for option, value in asked.items())]
    chosen = [f"--{option.replace('_', '-')} {parts.shell(value)}" for option, value in asked.items()]
    where = f"--atlas {parts.shell(store.uri)}"
    parts.snippets(
        f"import subcell_atlas\n\natlas = subcell_atlas.open_atlas({store.uri!r})\n"
        f"hits = atlas.{method}({', '.join(given)}).to_pandas(){remark}",
        " ".join(["subcell-atlas similar", *words, f"-k {question.k}", *chosen, where]),
    )


if __name__ == "__main__":
    show()
