"""The page about the atlas as a whole: how it came to be, what it holds, how good it is, what it lacks.

It shows what `Atlas.info` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import streamlit as st

from subcell_atlas.about import correction_in_words, recipe_in_words
from subcell_atlas.block_evaluation import block_rows, block_words
from subcell_atlas.evaluate import agreement_rows, function_rows
from subcell_atlas.localization_evaluation import localization_rows
from subcell_atlas.pages import parts, reading
from subcell_atlas.pages.parts import plain
from subcell_atlas.printing import json_text, metric_rows
from subcell_atlas.relationship_evaluation import relationship_rows
from subcell_atlas.store import Store

RECIPE = {  # field -> what it is called
    "encoder": "Encoder",
    "weights": "Weights",
    "weights_sha256": "SHA-256 of the weights",
    "block": "Block, counted from 1",
    "pooling": "Pooling",
    "dim": "Numbers a vector",
    "channels": "Channels, in order",
    "crop_px": "Crop, px a side",
    "crop_um": "Crop, µm a side",
    "masking": "Masking",
    "normalization": "Normalization",
    "precision": "Precision",
    "code_version": "Version of SubCell Atlas",
}
OF_VECTORS = ("encoder", "dim", "pooling", "precision", "weights", "weights_sha256", "code_version")  # not of crops
CALLED = {"image": "pictures", "sequence": "sequences", "fused": "both, fused"}
UNKNOWN = "not told"
EVALUATIONS = {
    "retrieval": "Neighbors",
    "map": "Map",
    "functions": "Functions",
    "localization": "Localization",
    "consistency": "Replicates",
    "perturbations": "Conditions",
    "relationships": "Relationships",
    "blocks": "Blocks of an encoder",
}
METRICS = {
    "modality": "By",
    "macro_ap": "Average precision",
    "95 %": "95 % interval",
    "micro_ap": "Over all pairs",
    "fmax": "Fmax",
    "calibration_error": "Calibration error",
}
REJECTED = "SELECT source, image, reason FROM rejects ORDER BY reason, image"
ROW_PX, HEADER_PX, MOST_PX = 35, 38, 420


def show() -> None:
    """Draw the page."""
    with parts.known_problems():
        store = parts.open_store()
        about = reading.read_about(store)
        st.subheader("About this atlas", anchor=False)
        show_totals(about)
        show_lacking(store, about["checks"])
        left, right = st.columns([3, 2], gap="large")
        with left:
            show_recipe(about)
        with right:
            show_encoders(about["encoders"])
            show_sources(about["sources"])
        show_other_recipes(about["recipes"])
        show_contents(store, about)
        show_quality(store, about["evaluations"])
        show_runs(about["runs"])
        st.download_button(
            "All of it as JSON",
            lambda: json_text(about, indent=2),
            "about.json",
            "application/json",
            icon=":material/download:",
            on_click="ignore",
        )
        parts.snippets(
            f"import subcell_atlas\n\nwith subcell_atlas.open_atlas({store.uri!r}) as atlas:\n    about = atlas.info()",
            f"subcell-atlas info --json --atlas {parts.shell(store.uri)}",
        )
        parts.footer(store)


def show_totals(about: Mapping[str, Any]) -> None:
    """Show the numbers that a reader asks for first."""
    tables, cells = about["tables"], about["counts"]["cells"]
    known_lines = [row for row in cells["cell_lines"] if row["cell_line"] is not None]
    totals = {
        "Proteins": tables.get("proteins", 0),
        "Cells": tables.get("cells", 0),
        "Cell lines": len(known_lines),
        "Antibodies": cells["antibodies"],
        "Plates": cells["plates"],
        "Systems": tables.get("systems", 0),
        "Annotations": tables.get("annotations", 0),
        "Rejects": tables.get("rejects", 0),
    }
    with st.container(horizontal=True, gap="medium"):
        for name, n in totals.items():
            st.metric(name, f"{n:,}", width="content")


def show_lacking(store: Store, checks: Sequence[Mapping[str, str]]) -> None:
    """Show what is missing or out of date with the command that helps, and what is in order."""
    heading("What is missing or out of date")
    lacking = [check for check in checks if check["status"] != "ok"]
    if not lacking:
        st.markdown(":material/check: Nothing is missing, and everything is up to date.")
    helped: dict[str, list[Mapping[str, str]]] = {}
    for check in lacking:
        helped.setdefault(check["fix"], []).append(check)
    for command, alike in helped.items():
        st.markdown("  \n".join(map(said_of, alike)))
        if command:
            parts.tell(f"{command} --atlas {parts.shell(store.uri)}")
    in_order = [check for check in checks if check["status"] == "ok"]
    st.caption("  \n".join(f":material/check: {plain(c['name'])}: {plain(c['found'])}" for c in in_order))


def said_of(check: Mapping[str, str]) -> str:
    """Return what a check found, as a line of Markdown."""
    icon = ":material/error:" if check["status"] == "missing" else ":material/info:"
    return f"{icon} **{plain(sentence(check['name']))}**: {plain(check['found'])}"


def show_recipe(about: Mapping[str, Any]) -> None:
    """Show the recipe of the cells' embeddings, or of the pictures' vectors where there are no cells."""
    recipe = about["recipe"] or about["recipes"].get("image")
    heading("How the embeddings came to be")
    if not recipe:
        st.caption("There are no vectors of pictures, or nothing is known of how they came to be.")
        return
    st.markdown(plain(recipe_in_words(recipe)))
    facts(((called, as_text(field, recipe.get(field))) for field, called in RECIPE.items()), alt="The recipe")
    if correction := about["correction"]:
        st.markdown(plain(correction_in_words(correction)))


def show_other_recipes(recipes: Mapping[str, Any]) -> None:
    """Show the recipes of the vectors of sequences, and of both."""
    heading("Vectors of sequences, and of both")
    shown = [name for name in ("sequence", "fused") if name in recipes]
    if not shown:
        st.caption("This atlas has none.")
        return
    for name, column in zip(shown, st.columns(2, gap="large"), strict=False):
        recipe = recipes[name]
        known = [field for field in OF_VECTORS if recipe.get(field) is not None]
        with column:
            st.markdown(f"**{sentence(CALLED[name])}**")
            facts(((RECIPE[field], as_text(field, recipe[field])) for field in known), alt=f"Recipe: {CALLED[name]}")


def show_encoders(encoders: Sequence[Mapping[str, Any]]) -> None:
    """Show what the encoders are, where they are from, and their licences."""
    heading("Encoders")
    if not encoders:
        st.caption("No encoder is known of this atlas.")
    for encoder in encoders:
        st.markdown(f"**{plain(encoder['name'])}** :gray[of {CALLED[encoder['of']]}]")
        st.markdown(plain(f"{sentence(encoder['what'])}."))
        if encoder["note"]:
            st.markdown(f":orange[{plain(sentence(encoder['note']))}.]")
        origin, licence = (plain(encoder[name] or UNKNOWN) for name in ("origin", "licence"))
        st.caption(f"From: {origin}  \nLicence of the weights: {licence}")


def show_sources(sources: Sequence[Mapping[str, Any]]) -> None:
    """Show where pictures and annotations are from, with the licences that are known."""
    heading("Sources and their licences")
    if not sources:
        st.caption("The atlas names no source of its pictures or annotations.")
        return
    for source in sources:
        st.markdown(f"**{plain(source['source'] or 'unnamed')}** :gray[{source['rows']:,} {plain(source['of'])}]")
        told = [f"Licence: {plain(source['licence'] or UNKNOWN)}"]
        told += [f"{word}: {plain(source[key])}" for key, word in (("file", "File"), ("date", "Of")) if source.get(key)]
        st.caption("  \n".join(told))
    st.caption(
        f"Where it says {plain(UNKNOWN)}, ask whoever gave the data. Thumbnails of cells are of the pictures, and "
        "under their licence."
    )


def show_contents(store: Store, about: Mapping[str, Any]) -> None:
    """Show what the atlas holds: tables, cells by cell line and localization, rejects."""
    heading("What it holds")
    counts, cells = about["counts"], about["counts"]["cells"]
    first, second, third = st.columns(3, gap="medium")
    with first:
        st.markdown("**Rows of each table**")
        grid([{"table": name, "rows": n} for name, n in about["tables"].items()])
    with second:
        st.markdown("**Cells by cell line**")
        if cells["cell_lines"]:
            bars(cells["cell_lines"], "cell_line", "cells", called="cell line")
        else:
            st.caption("This atlas holds no single cells.")
    with third:
        if cells["localizations"]:
            st.markdown("**Cells by localization**")
            bars(cells["localizations"], "localization", "cells", called="localization")
            st.caption("As their sources state; a cell in two places counts in both.")
        else:
            st.markdown("**Proteins by localization**")
            bars(counts["proteins"]["localizations"], "localization", "proteins", called="localization")
    if cells["without_protein"]:
        st.caption(f"{parts.plural(cells['without_protein'], 'cell')} without a protein: of no use to search and map.")
    show_rejects(store, counts["rejects"])


def show_rejects(store: Store, rejects: Mapping[str, Any]) -> None:
    """Show why input was refused, and how to list all of it."""
    st.markdown("**Refused input, by reason**")
    if not rejects["rejects"]:
        st.caption("Nothing was refused.")
        return
    grid(rejects["reasons"])
    more = rejects["n_reasons"] - len(rejects["reasons"])
    st.caption(f"{f'And {more:,} more reasons. ' if more else ''}All of it:")
    parts.tell(f"subcell-atlas sql {parts.shell(REJECTED)} --atlas {parts.shell(store.uri)}")


def show_quality(store: Store, evaluations: Mapping[str, Mapping[str, Any]]) -> None:
    """Show the latest figures of each evaluation, and whether what it read may have changed since."""
    heading("How good it is")
    command = f"subcell-atlas evaluate --atlas {parts.shell(store.uri)}"
    if not evaluations:
        st.caption("Nothing was measured on this atlas yet. It takes something known of its proteins; then run:")
        parts.tell(command)
        return
    for name, found in evaluations.items():
        st.markdown(f"**{EVALUATIONS.get(name, plain(name))}** :gray[measured {when(found['finished'])}]")
        if found["since"]:
            st.markdown(f":orange[Out of date: since then ran {plain(', '.join(found['since']))}.]")
        show_metrics(name, found["metrics"])
    if any(found["since"] for found in evaluations.values()):
        parts.tell(command)


def show_metrics(name: str, metrics: Mapping[str, Any]) -> None:
    """Show the figures of an evaluation that tell most; the download has all."""
    if name == "functions":
        for title, of in (("by protein", metrics), ("with their homologues", metrics.get("by_homology"))):
            if of:
                n = f"{parts.plural(of['n_terms'], 'term')}, {parts.plural(of['n_proteins'], 'protein')}"
                st.caption(f"{n}, held out {title}; average precision is the mean over terms.")
                grid([{METRICS[key]: row[key] for key in METRICS} for row in function_rows(of)])
        return
    if name == "relationships":
        st.caption("Pairs that are related and are among the most alike, or the least, of all pairs.")
        grid(relationship_rows(metrics))
        return
    if name == "localization":
        st.caption("Read off the vectors by a linear probe and by nearest neighbors; the mean over classes.")
        grid(localization_rows(metrics))
        return
    if name == "blocks":
        told = (
            f"How well {metrics['label']} is read off cells by each block of {metrics['encoder']}: balanced accuracy,"
        )
        st.caption(plain(f"{told} {metrics['group']} held out. {' '.join(block_words(metrics))}"))
        grid(block_rows(metrics))
        return
    if name in ("consistency", "perturbations"):
        grid([row for row in figures(metrics) if row["low"] is not None])
        return
    if rows := agreement_rows({name: metrics}):
        columns = {key: [plain(as_text(key, row[key])) for row in rows] for key in rows[0]}
        st.table(columns, border="horizontal", hide_index=True, alt=f"Evaluation of {name}")
    elif name == "map":
        st.caption("The map has no systems below the whole, so no level could be held against what is known.")
    if "complex_best_jaccard" in metrics:
        st.caption(
            f"Known complexes overlap with the system that fits them best by {metrics['complex_best_jaccard']:.2f} "
            "(Jaccard index, the mean over complexes; 1 is the same)."
        )


def figures(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the numbers of an evaluation with the ends of their 95 % intervals, a row each."""
    return [{key: row[key] for key in ("metric", "value", "low", "high")} for row in metric_rows("", metrics)]


def show_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """Show what was run on the atlas, the latest first."""
    heading("Runs")
    if not runs:
        st.caption("None is recorded.")
        return
    rows = [
        {
            "kind": run["kind"],
            "started (UTC)": when(run["started"], zone=False),
            "took": took(run["started"], run["finished"]),
            "counted": counted(run["counts"]),
            "version": run["code_version"],
        }
        for run in runs
    ]
    grid(rows)
    if any(run["finished"] is None for run in runs):
        st.caption("A run that is not finished is still going or was killed.")


def heading(text: str) -> None:
    """Begin a section."""
    st.markdown(f"##### {text}")


def facts(pairs: Iterable[tuple[str, str]], *, alt: str) -> None:
    """Show names with their values; both as they are."""
    rows = [(plain(name), plain(value)) for name, value in pairs]
    st.table(dict(rows), border="horizontal", alt=alt)


def sentence(text: str) -> str:
    """Return `text` with a large first letter."""
    return text[:1].upper() + text[1:]


def as_text(field: str, value: Any) -> str:
    """Return a value of a recipe or of a measurement as text."""
    if value is None:
        return UNKNOWN
    if isinstance(value, float):
        return f"{value:.1f}" if field == "crop_um" else f"{value:.3f}"
    return ", ".join(value) if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else str(value)


def grid(rows: Sequence[Mapping[str, Any]], **config: Any) -> None:
    """Show rows as a table, as high as they need up to a limit."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    height = min(HEADER_PX + ROW_PX * max(table.num_rows, 1), MOST_PX)
    st.dataframe(table, hide_index=True, height=height, column_config=config, lazy=False)


def bars(rows: Sequence[Mapping[str, Any]], name: str, number: str, *, called: str) -> None:
    """Show how many there are of each, with bars."""
    if not rows:
        st.caption("None is known.")
        return
    most = max(row[number] for row in rows)
    shown = [{called: row[name] if row[name] is not None else UNKNOWN, number: row[number]} for row in rows]
    column = st.column_config.ProgressColumn(number, min_value=0, max_value=most, format="localized")
    grid(shown, **{number: column})


def when(moment: datetime, *, zone: bool = True) -> str:
    """Return a time to the minute."""
    return f"{moment:%Y-%m-%d %H:%M}" + (" UTC" if zone else "")


def took(started: datetime, finished: datetime | None) -> str:
    """Return how long a run took, in seconds where that is short."""
    if finished is None:
        return "not finished"
    time = finished - started
    return f"{time.total_seconds():.1f} s" if time < timedelta(minutes=2) else str(timedelta(seconds=time.seconds))


def counted(counts: Mapping[str, Any]) -> str:
    """Return the plain numbers and words that a run noted, without those that are zero or empty."""
    told = {name: value for name, value in counts.items() if value and isinstance(value, int | float | str)}
    words = {name.replace("_", " "): "" if value is True else as_text(name, value) for name, value in told.items()}
    return ", ".join(f"{name} {value}".rstrip() for name, value in words.items())


if __name__ == "__main__":
    show()
