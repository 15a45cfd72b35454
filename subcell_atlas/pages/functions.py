"""The functions page: what a gene may do, which genes may do something, and why one would think so.

The address holds the question: `?genes=TOMM20`, `?genes=TOMM20&genes=TOMM22` or `?ask=Function&about=GO:0006626`. A
sequence is too long for an address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import streamlit as st

from subcell_atlas import function_query, query
from subcell_atlas.errors import AtlasError, UnknownName
from subcell_atlas.fusion_vectors import say_error, stored_fusion
from subcell_atlas.pages import page_file, parts, reading
from subcell_atlas.pages.names import ask_names, choose_names
from subcell_atlas.pages.parts import plain
from subcell_atlas.pages.pictures import whole_view
from subcell_atlas.store import Store, quote

GENES, FUNCTION, SEQUENCE = "Genes", "Function", "Sequence"  # what is asked about
N_PREDICTED = 25
N_CARDS = 8
N_TERMS = 6  # that words may mean
N_EXAMPLES = 6
ROWS_SHOWN = 12
MODALITIES = {"image": "Picture", "sequence": "Sequence", "fused": "Both"}
PLACEHOLDER = "A gene symbol, Ensembl id or UniProt accession; of several, what they share"
PROBABILITY = "of pairs with this number about so many are true: 0.8, four of five"


def show() -> None:
    """Draw the page."""
    with parts.known_problems():
        store = parts.open_store("proteins", "functions")
        proteins = reading.read_proteins(store)
        names = dict(zip(proteins["protein_id"].to_pylist(), proteins["name"].to_pylist(), strict=True))
        ask = st.segmented_control(
            "Ask about", [GENES, FUNCTION, SEQUENCE], default=GENES, required=True, key="ask", bind="query-params",
            label_visibility="collapsed",
        )  # fmt: skip
        if ask == FUNCTION:
            of_function(store, names)
        elif ask == SEQUENCE:
            of_sequence(store, names)
        else:
            of_genes(store, names)
        for note in function_query.notes_on_functions(store):
            st.caption(plain(note))
        parts.footer(store)


def ask_gene(name: str) -> None:
    """Make a gene the question."""
    st.session_state["ask"] = GENES
    choose_names([name], key="genes")


def ask_function(term_id: str) -> None:
    """Make a term the question."""
    st.session_state.update(ask=FUNCTION, about=term_id)


def of_genes(store: Store, names: Mapping[str, str]) -> None:
    """Ask for genes, and show what one does and may do, or what several share."""
    asked = ask_names(list(names.values()), key="genes", label="Proteins", placeholder=PLACEHOLDER)
    if not asked:
        begin(store)
        return
    try:
        hits = reading.find_functions(store, genes=tuple(asked), k=N_PREDICTED)
    except UnknownName as exc:
        st.warning(plain(exc))
        parts.name_buttons(exc.suggestions, ask_gene, kind="instead")
        return
    if len(asked) > 1:
        show_shared(hits, asked)
    else:
        show_gene(store, names, hits)
    given = ", ".join(map(repr, asked))
    words = " ".join(map(parts.shell, asked))
    snippets(store, f"functions({given}, k={N_PREDICTED})", f"functions {words} -k {N_PREDICTED}")


def begin(store: Store) -> None:
    """Offer the functions that are told best."""
    terms = function_query.predicted_terms(store).values()
    best = sorted(terms, key=lambda row: -(row["ap_fused"] or row["ap_image"] or row["ap_sequence"] or 0.0))
    st.markdown("**Or ask which genes may do one of these**")
    with st.container(horizontal=True, gap="xsmall"):
        for row in best[:N_EXAMPLES]:
            st.button(plain(row["name"]), key=f"begin_{row['term_id']}", on_click=ask_function, args=(row["term_id"],))


def show_gene(store: Store, names: Mapping[str, str], hits: pa.Table) -> None:
    """Show what a gene may do besides what is known, what speaks for it, and what is known."""
    rows = hits.to_pylist()
    protein = rows[0]["protein_id"] if rows else None
    if protein:
        st.subheader(plain(names.get(protein, protein)), anchor=False)
    known, predicted = ([row for row in rows if row["annotated"] is kind] for kind in (True, False))
    st.markdown(f"**May do besides** :gray[{parts.plural(len(predicted), 'prediction')}, those that tell most first]")
    if predicted:
        chosen = term_table(predicted, key="predicted")
        show_why(store, names, protein, chosen)
    else:
        st.caption("Nothing is likelier of it than of any protein.")
    st.markdown(f"**Is known to do** :gray[{parts.plural(len(known), 'annotation')}, the rarest first]")
    if known:
        st.caption("The numbers are what the other proteins say of it: the models had not seen this one.")
        chosen = term_table(known, key="known")
        if predicted:
            offer_function(chosen, kind="known")
        else:
            show_why(store, names, protein, chosen)
    else:
        st.caption("Nothing is known of it here.")


def term_table(rows: Sequence[dict[str, Any]], *, key: str) -> dict[str, Any]:
    """Show terms of a protein, one of which can be chosen; return that, at first the first."""
    columns = {
        "function": [row["name"] for row in rows],
        "probability": [row["probability"] for row in rows],
        **by_modality(rows),
        "of all": [100 * row["prior"] for row in rows],
        "aspect": [row["aspect"].replace("_", " ") for row in rows],
        "because": [because(row) for row in rows],
    }
    row = choose_row(
        columns,
        key=f"{key}_{rows[0]['protein_id']}",
        titles={
            "function": st.column_config.TextColumn("Function", width="large"),
            "probability": probability_column(),
            **number_columns(),
            "of all": st.column_config.NumberColumn(
                "Of all", format="%.1f %%", width="small", help="the share of proteins that have it"
            ),
            "aspect": "Aspect",
            "because": st.column_config.TextColumn("Nearest neighbors that have it", width="medium"),
        },
    )
    return rows[row or 0]


def choose_row(columns: Mapping[str, Sequence[Any]], *, key: str, titles: Mapping[str, Any]) -> int | None:
    """Show a table, one row of which can be chosen; return its number, None before."""
    table = pa.table(dict(columns))
    event = st.dataframe(
        table,
        hide_index=True,
        height=38 + 35 * min(max(table.num_rows, 1), ROWS_SHOWN),
        on_select="rerun",
        selection_mode="single-row",
        key=key,
        column_config=dict(titles),
    )
    return next((row for row in event.selection.rows if row < table.num_rows), None)


def probability_column() -> Any:
    """Return how probabilities are shown."""
    return st.column_config.ProgressColumn("Probability", min_value=0, max_value=1, format="%.2f", help=PROBABILITY)


def by_modality(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Return the probabilities by each modality that tells any."""
    found = {name: [row[name] for row in rows] for name in MODALITIES}
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def number_columns() -> dict[str, Any]:
    """Return how the probabilities by each modality are shown."""
    column = st.column_config.NumberColumn
    return {name: column(title, format="%.2f", width="small") for name, title in MODALITIES.items()}


def because(row: Mapping[str, Any]) -> str:
    """Return the neighbors that speak for a prediction."""
    near: dict[str, list[str]] = {}
    for each in row["support"] or ():
        near.setdefault(MODALITIES[each["modality"]].lower(), []).append(each["gene_symbol"] or each["protein_id"])
    return "; ".join(f"by {modality} {', '.join(names)}" for modality, names in near.items())


def show_why(store: Store, names: Mapping[str, str], protein: str | None, row: dict[str, Any]) -> None:
    """Show a protein beside its nearest neighbors that have a function."""
    support = row["support"] or []
    st.markdown(f"Why **{plain(row['name'])}**? {why(row)}")
    shown = list(dict.fromkeys([*([protein] if protein else []), *(each["protein_id"] for each in support)]))
    likeness: dict[str, list[str]] = {}
    for each in support:
        likeness.setdefault(each["protein_id"], []).append(f"{MODALITIES[each['modality']]} {each['similarity']:.2f}")
    if support:
        show_cells(store, names, shown, captions={name: ", ".join(said) for name, said in likeness.items()})
    offer_function(row, kind="why")


def why(row: Mapping[str, Any]) -> str:
    """Return what speaks for a prediction, in a sentence."""
    told = [f"{title.lower()} {row[name]:.2f}" for name, title in MODALITIES.items() if row[name] is not None]
    by = f"By {', by '.join(told)}" if told else "No modality tells it"
    said = f"{by}; {row['prior']:.1%} of proteins have it."
    if row["support"]:
        return f"{said} These of its nearest neighbors do, with the cosine of their vectors:"
    return f"{said} None of its nearest neighbors has it: what speaks for it is spread over many proteins."


def offer_function(row: Mapping[str, Any], *, kind: str) -> None:
    """Offer to ask which genes may have a function."""
    text = f"Which genes have, or may have: {plain(row['name'])}"
    icon = ":material/arrow_forward:"
    st.button(text, key=f"{kind}_function", on_click=ask_function, args=(row["term_id"],), icon=icon)


def show_cells(
    store: Store, names: Mapping[str, str], ids: Sequence[str], *, captions: Mapping[str, str], kind: str = "cell"
) -> None:
    """Show a cell of each of some proteins, and offer to ask for it; without pictures the names alone."""
    cells_of = reading.read_cells(store, tuple(ids), n=1)
    view = whole_view(query.recipe_of_cells(store).get("channels") or ())
    with st.grid(N_CARDS, min_column_width=120, gap="xsmall") as grid:
        for protein in ids:
            name = names.get(protein, protein)
            with grid.cell(), st.container(gap="xxsmall"):
                if cells := cells_of.get(protein):
                    st.image(view.picture(cells), width="stretch", alt=f"A cell of {name}")
                st.button(plain(name), key=f"{kind}_{protein}", type="tertiary", on_click=ask_gene, args=(name,))
                if caption := captions.get(protein):
                    st.caption(plain(caption))


def show_shared(hits: pa.Table, asked: Sequence[str]) -> None:
    """Show what several genes share."""
    st.subheader(f"What {plain(', '.join(asked))} share", anchor=False)
    if not hits.num_rows:
        st.caption("They share nothing that is known or predicted.")
        return
    rows = hits.to_pylist()
    columns = {
        "function": [row["name"] for row in rows],
        "known": [f"{row['n_known']} of {row['n_genes']}" for row in rows],
        "genes": [row["genes"] for row in rows],
        "p": [row["p_adjusted"] for row in rows],
        "probability": [row["probability"] for row in rows],
        "members": [row["n_members"] for row in rows],
        "aspect": [row["aspect"].replace("_", " ") for row in rows],
    }
    row = choose_row(
        columns,
        key=f"shared_{'_'.join(asked)}",
        titles={
            "function": st.column_config.TextColumn("Function", width="large"),
            "known": st.column_config.TextColumn("Have it", help="of those of which the source says anything"),
            "genes": "Which",
            "p": st.column_config.NumberColumn(
                "Adjusted p", format="%.2g", help="hypergeometric, adjusted after Benjamini and Hochberg"
            ),
            "probability": probability_column(),
            "members": st.column_config.NumberColumn("Members", width="small", help="proteins that have it"),
            "aspect": "Aspect",
        },
    )
    offer_function(rows[row or 0], kind="shared")


def of_function(store: Store, names: Mapping[str, str]) -> None:
    """Ask for a function, and show the genes that have it and those that may."""
    wanted = st.text_input(
        "Function",
        key="about",
        bind="query-params",
        placeholder="Some words, such as mitochondrial translation, or the id of a term",
        label_visibility="collapsed",
        icon=":material/search:",
    )
    if not (wanted or "").strip():
        begin(store)
        return
    try:
        term = function_query.term_meant(store, wanted)
    except UnknownName as exc:
        st.warning(plain(exc))
        parts.name_buttons(exc.suggestions, ask_function, kind="instead")
        return
    show_term(store, term)
    offer_others(store, wanted, term["term_id"])
    rows = reading.find_functions(store, term=term["term_id"], k=N_PREDICTED).to_pylist()
    known, predicted = ([row for row in rows if row["annotated"] is kind] for kind in (True, False))
    st.markdown(f"**May have it** :gray[{parts.plural(len(predicted), 'prediction')}, the likeliest first]")
    if predicted:
        said = {row["protein_id"]: f"probability {row['probability']:.2f}" for row in predicted[:N_CARDS]}
        show_cells(store, names, list(said), captions=said)
        gene_table(names, predicted, key=f"may_{term['term_id']}")
    else:
        st.caption("No protein is likelier to have it than any other.")
    st.markdown(f"**Have it** :gray[{parts.plural(len(known), 'protein')}]")
    st.caption("The numbers are what the other proteins say of each: the models had not seen it.")
    gene_table(names, known, key=f"have_{term['term_id']}")
    asked = f"functions(term={term['term_id']!r}, k={N_PREDICTED})"
    snippets(store, asked, f"functions --term {parts.shell(term['term_id'])} -k {N_PREDICTED}")


def show_term(store: Store, term: Mapping[str, Any]) -> None:
    """Show the name, the definition and how well a term is told."""
    st.subheader(plain(term["name"]), anchor=False)
    where = f"term_id = {quote(term['term_id'])}"
    definition = store.lookup("terms", "term_id", "definition", where=where).get(term["term_id"])
    aps = {title.lower(): term[f"ap_{name}"] for name, title in MODALITIES.items()}
    told = [f"{title} {ap:.2f}" for title, ap in aps.items() if ap is not None]
    facts = [
        plain(term["term_id"]),
        plain(term["aspect"].replace("_", " ")),
        f"{parts.plural(term['n_members'], 'protein')} of {term['n_background']:,} have it ({term['prior']:.1%})",
        f"average precision by {', by '.join(told)}, by chance {term['prior']:.2f}" if told else "not told by anything",
    ]
    st.markdown(" · ".join(facts) + (f"  \n:gray[{plain(definition)}]" if definition else ""))


def offer_others(store: Store, wanted: str, term_id: str) -> None:
    """Offer the other terms that words may mean."""
    if wanted.strip().upper() == term_id.upper():
        return
    others = function_query.find_terms(store, wanted, k=N_TERMS).to_pylist()
    others = [row for row in others if row["is_predicted"] and row["term_id"] != term_id]
    if others:
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            st.markdown(":gray[Or]", width="content")
            for row in others:
                text = f"{plain(row['name'])} :gray[{row['n_members']:,}]"
                st.button(text, key=f"or_{row['term_id']}", on_click=ask_function, args=(row["term_id"],))


def gene_table(names: Mapping[str, str], rows: Sequence[dict[str, Any]], *, key: str) -> None:
    """Show proteins of a term; the chosen one can be asked for, or searched with."""
    genes = [names.get(row["protein_id"], row["protein_id"]) for row in rows]
    columns = {
        "gene": genes,
        "probability": [row["probability"] for row in rows],
        **by_modality(rows),
    }
    titles = {"gene": "Gene", "probability": probability_column(), **number_columns()}
    row = choose_row(columns, key=key, titles=titles)
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        if row is not None:
            st.button(f"What may {plain(genes[row])} do", key=f"{key}_ask", on_click=ask_gene, args=(genes[row],))
            if st.button(f"What looks like {plain(genes[row])}", key=f"{key}_search"):
                st.switch_page(page_file("search"), query_params={"gene": genes[row]})
        st.download_button(
            "CSV", parts.csv_of(pa.table(columns)), f"{parts.file_name(key)}.csv", "text/csv",
            icon=":material/download:", on_click="ignore", key=f"{key}_csv",
        )  # fmt: skip


def of_sequence(store: Store, names: Mapping[str, str]) -> None:
    """Ask for a sequence, and show what its protein may do and where it may go."""
    text = parts.ask_sequence()
    if not text:
        return
    with st.spinner("Embedding the sequence…"):
        rows = reading.find_functions(store, sequence=text, k=N_PREDICTED).to_pylist()
    st.markdown(f"**May do** :gray[{parts.plural(len(rows), 'prediction')}, those that tell most first]")
    if rows:
        show_why(store, names, None, term_table(rows, key="of_sequence"))
    else:
        st.caption("Nothing is likelier of it than of any protein.")
    show_place(store, names, text)
    snippets(store, "functions(sequence=…)", "functions --sequence FILE.fasta")


def show_place(store: Store, names: Mapping[str, str], text: str) -> None:
    """Show the pictures that a sequence would most likely give."""
    st.markdown("**Where it may go** :gray[the proteins whose pictures are most like the one told from its sequence]")
    try:
        hits = reading.find_places(store, text, k=N_CARDS).to_pylist()
    except AtlasError as exc:
        st.caption(plain(exc))
        return
    st.caption(plain(say_error(stored_fusion(store)["error"])))
    captions = {
        hit["protein_id"]: f"{', '.join(hit['localization'] or ['–'])}, {hit['similarity']:.2f}" for hit in hits
    }
    show_cells(store, names, list(captions), captions=captions, kind="place")


def snippets(store: Store, python: str, command: str) -> None:
    """Offer the question as Python and as a command."""
    parts.snippets(
        f"import subcell_atlas\n\natlas = subcell_atlas.open_atlas({store.uri!r})\nhits = atlas.{python}.to_pandas()",
        f"subcell-atlas {command} --atlas {parts.shell(store.uri)}",
    )


if __name__ == "__main__":
    show()
