"""The demonstration: the whole job on a simulated proteome, offline, and a few answers."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from . import function_query, query
from .build import build
from .encoders import load_encoder
from .errors import BadInput, NotBuilt
from .evaluate import agreement_rows, evaluate, last_results
from .evaluated import Subject
from .printing import show, tree_lines
from .sql import SqlSession
from .store import Store, quote

__all__ = ["run_demo"]

MOST_ROWS = 6  # of how well the truth was found: neighbors of three kinds, three levels of the map
SUMMARY = """\
SELECT localization[1] AS main_place, count(*) AS proteins, sum(n_cells) AS cells,
       round(avg(variability), 2) AS variability
FROM proteins GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 6"""


def run_demo(uri: str, *, n_proteins: int, n_cells: int, seed: int) -> None:
    """Make an atlas of a simulated proteome at `uri`, as far as it is not there yet, and show what it answers."""
    from ingest.job import Options, ingest_pictures
    from ingest.simulated import SimulatedSource, write_truth

    from .images.simulated import make_proteome

    store = Store.create(uri)
    source = SimulatedSource(make_proteome(n_proteins, seed=seed), n_cells)
    check_own(store, source.name)
    encoder = load_encoder("demo", precision="float32")  # the same numbers on every machine
    click.echo(f"A simulated proteome: {n_proteins} made-up proteins, {n_cells} cells each, seed {seed}.", err=True)
    click.echo(f"Encoder 'demo': {encoder.spec.note}.", err=True)
    write_truth(store, source)
    counts = ingest_pictures(store, source, encoder, Options())
    click.echo(f"{counts.cells} cells embedded; {counts.done_before} were there before.", err=True)
    made = build(store, seed=seed)
    click.echo(f"Built: {', '.join(made)}." if made else "The map is up to date.", err=True)
    measured = {} if counts.cells or made else last_results(store)
    with contextlib.suppress(NotBuilt):  # too few proteins for any truth
        measured = measured or {name: found.metrics for name, found in evaluate(Subject(store)).items()}
    show_answers(store, uri, measured)


def check_own(store: Store, source: str) -> None:
    """Raise BadInput when the atlas holds other cells than those of this demo."""
    others = store.count("cells", f"source <> {quote(source)}") or store.count(
        "annotations", f"source <> {quote(source)}"
    )
    if others:
        msg = (
            f"The atlas {store.uri!r} holds other cells, or a demo of another size or seed.\n"
            "Choose a new place: subcell-atlas demo --atlas FOLDER"
        )
        raise BadInput(msg)


def show_answers(store: Store, uri: str, measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Print neighbors of a protein, the top of the map, a SQL summary, how well the truth was found, and what next."""
    asked = "DEMO001"
    places = ", ".join(query.protein_row(store, asked)["localization"])
    click.secho(f"\nWhich proteins look like {asked} ({places})?  subcell-atlas similar {asked} -k 5", bold=True)
    hits = query.similar(store, [asked], k=5).to_pylist() if store.count("proteins") > 1 else []
    show(hits, ["rank", "gene_symbol", "similarity", "localization", "n_cells"])
    click.secho("The top of the protein map  (subcell-atlas map)", bold=True)
    for line in tree_lines(query.map_graph(store), depth=2)[:12]:
        click.echo(f"  {line}")
    click.secho(f'\nsubcell-atlas sql "{SUMMARY}"', bold=True)
    with SqlSession(uri) as session:
        answer = session.query(SUMMARY)
    show(answer.to_pylist(), answer.column_names)
    show_functions(store)
    show_truth(measured)
    click.secho(f"Now look at it:  {own_command()} app --atlas {shlex.quote(uri)}", bold=True)


def show_functions(store: Store) -> None:
    """Print what a protein may do, told by its picture, its sequence and both."""
    if "functions" not in store.names():
        return
    asked = "DEMO001"
    rows = function_query.functions_of_gene(store, asked, k=3).to_pylist()
    rows = [row for row in rows if row["aspect"] == "molecular_function"]
    if rows:
        click.secho(f"What does {asked} do, and what may it do?  subcell-atlas functions {asked}", bold=True)
        show(rows, ["term_id", "name", "annotated", "prior", "probability", "image", "sequence", "fused"])


def own_command() -> str:
    """Return how a person starts this program: by its name where it is on the PATH, else by where it is."""
    if shutil.which("subcell-atlas") or Path(sys.argv[0]).name != "subcell-atlas":
        return "subcell-atlas"
    return os.path.relpath(sys.argv[0])


def show_truth(measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Print how well neighbors and map recover what was planted, beside shuffled labels."""
    click.secho("How much of the planted truth was found  (subcell-atlas evaluate)", bold=True)
    rows = agreement_rows(measured)[:MOST_ROWS]
    show(rows, ["what", "found", "labels shuffled"])
    told = measured.get("functions", {})
    if told:
        click.secho("Functions of proteins that were held out, mean average precision over terms", bold=True)
        modalities = {name: told[name]["macro_ap"] for name in ("image", "sequence", "fused")}
        show([{"held out": "by protein", **modalities}], ["held out", *modalities])
