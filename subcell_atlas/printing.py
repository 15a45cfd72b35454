"""How the command line shows its answers: tables, the map as an indented outline, or one JSON document."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .evaluation_comparison import Comparison

__all__ = [
    "describe",
    "function_record",
    "json_text",
    "print_json",
    "reply",
    "show",
    "show_blocks",
    "show_differences",
    "show_evaluations",
    "show_functions",
    "show_map",
    "system_record",
    "tree_lines",
]

BRIEF = 48  # characters of a list that a table shows
BRIEF_VECTOR = 8  # numbers of a vector that a table shows
BY_MODALITY = ("image", "sequence", "fused")  # each modality's probability of a function
SHARED = ("term_id", "name", "n_known", "n_genes", "n_members", "p_adjusted", "probability", "prior", "genes")
MOST_COLUMNS = 12  # of a printed table; wider rows are printed one below the other


def reply(
    document: Any,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    as_json: bool,
    title: str | None = None,
) -> None:
    """Print an answer: the whole `document` as JSON, or `columns` of `rows` as a table."""
    if as_json:
        print_json(document)
    else:
        show(rows, columns, title=title)


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, title: str | None = None) -> None:
    """Print `columns` of `rows` as a table."""
    if not rows:
        click.echo("Nothing found.")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if len(columns) > MOST_COLUMNS:
        for row in rows:
            show([{"column": name, "value": row.get(name)} for name in columns], ["column", "value"], title=title)
        return
    table = Table(*columns, box=SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(brief(row.get(column))) for column in columns))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def brief(value: object) -> str:
    """Return a value as a cell of a printed table."""
    formats: dict[type, Callable[[Any], str]] = {
        type(None): lambda _: "",
        float: lambda number: f"{number:.4g}",
        bytes: lambda content: f"{len(content)} bytes",
        list: brief_list,
    }
    return formats.get(type(value), str)(value)


def brief_list(items: Sequence[Any]) -> str:
    """Return a list as a cell of a printed table; of a vector only its length."""
    if len(items) > BRIEF_VECTOR and all(isinstance(item, float) for item in items):
        return f"{len(items)} numbers"
    text = ", ".join(brief(item) for item in items)
    return text if len(text) <= BRIEF else f"{text[: BRIEF - 1]}…"


def print_json(document: Any) -> None:
    """Print a JSON document, see `json_text`."""
    click.echo(json_text(document))


def json_text(document: Any, *, indent: int | None = None) -> str:
    """Return a document as JSON: NaN as null, bytes as base64, times in ISO 8601."""
    return json.dumps(plain(document), ensure_ascii=False, default=str, indent=indent)


def plain(value: Any) -> Any:
    """Return `value` with what JSON lacks replaced."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def system_record(graph: Any, system: str) -> dict[str, Any]:
    """Return one system as the map's JSON has it."""
    return {**graph.nodes[system], "parents": sorted(graph.predecessors(system))}


def describe(system: Mapping[str, Any]) -> str:
    """Return a system in a few words."""
    name = "all proteins" if system["level"] == 0 else system["term_name"] or "unnamed"
    return f"{system['system_id']} {name} ({system['size']})"


def show_map(graph: Any, about: Mapping[str, Any], *, as_json: bool) -> None:
    """Print every system, as JSON or as an indented tree; one with two parents stands under both."""
    if as_json:
        print_json({"systems": [system_record(graph, system) for system in graph], "about": about})
        return
    for line in tree_lines(graph):
        click.echo(line)
    counts = about.get("counts", {})
    if counts.get("not_trusted"):
        click.echo(f"{counts['not_trusted']} more were found and left out: they do not come back more than chance.")


def tree_lines(graph: Any, *, depth: int = 99) -> list[str]:
    """Return the map as indented lines, `depth` levels of it, large systems first."""
    lines: list[str] = []

    def visit(system: str, indent: int) -> None:
        node = graph.nodes[system]
        p = f"  p {node['p_adjusted']:.0e}" if node["p_adjusted"] is not None and node["level"] else ""
        lines.append(f"{'  ' * indent}{describe(node)}{p}")
        if indent < depth:
            for child in sorted(graph.successors(system), key=lambda c: (-graph.nodes[c]["size"], c)):
                visit(child, indent + 1)

    for root in [node for node in graph if graph.in_degree(node) == 0]:
        visit(root, 0)
    return lines


def show_functions(
    asked: dict[str, Any], rows: Sequence[dict[str, Any]], notes: Sequence[str], *, k: int, as_json: bool
) -> None:
    """Print functions: of one gene or one term what is known and what is predicted, apart; of several genes a list.

    k: how many of the known ones are printed at most; JSON has all.
    """
    shared = bool(rows) and "n_known" in rows[0]
    if as_json:
        hits = rows if shared else [function_record(row) for row in rows]
        print_json({"query": asked, "hits": hits, "notes": notes})
        return
    meant = {row["term_id"] for row in rows}
    for other in [each for each in asked.get("terms", []) if each["term_id"] not in meant][:3]:
        click.echo(f"Also: {other['name']} ({other['term_id']})", err=True)
    if shared or not rows:
        show(rows, SHARED)
    else:
        show_known_and_predicted(rows, of_term="term" in asked or "text" in asked, k=k)
    for note in notes:
        click.echo(note, err=True)


def function_record(row: dict[str, Any]) -> dict[str, Any]:
    """Return a hit as the JSON of functions has it."""
    rest = {key: value for key, value in row.items() if key not in BY_MODALITY}
    return {**rest, "modalities": {name: row[name] for name in BY_MODALITY}}


def show_known_and_predicted(rows: Sequence[dict[str, Any]], *, of_term: bool, k: int) -> None:
    """Print the genes of a term, or the terms of a gene, after the name of which it is; of each kind at most `k`."""
    first = rows[0]
    if of_term:
        click.echo(f"{first['term_id']} {first['name']} ({first['aspect']}); {first['prior']:.2%} of proteins have it")
    elif first["protein_id"]:  # which may have been asked for by a synonym
        click.echo(f"{first['gene_symbol'] or first['protein_id']} ({first['protein_id']})")
    what = ["gene_symbol"] if of_term else ["term_id", "name", "aspect", "prior"]
    columns = [*what, "probability", *BY_MODALITY, *([] if of_term else ["because of"])]
    for title, is_known in (("Known", True), ("Predicted", False)):
        chosen = [{**row, "because of": because(row)} for row in rows if row["annotated"] is is_known]
        if chosen:
            show(chosen[:k], columns, title=title)
        if len(chosen) > k:
            click.echo(f"and {len(chosen) - k:,} more; --json has all.", err=True)


def because(row: dict[str, Any]) -> str:
    """Return the neighbors that speak for a prediction, in a few words."""
    found = [f"{each['gene_symbol'] or each['protein_id']} ({each['modality']})" for each in row["support"] or ()]
    return ", ".join(found[:3])


def show_evaluations(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the numbers of evaluations, by name."""
    own = {  # tables of their own
        "functions": show_function_metrics,
        "localization": show_localization,
        "relationships": show_relationships,
    }
    rows = [row for name, metrics in results.items() if name not in own for row in metric_rows(name, metrics)]
    if rows:
        show(rows, ["evaluation", "metric", "value", "low", "high"])
    for name, show_own in own.items():
        if name in results:
            show_own(results[name])


def show_differences(compared: Comparison) -> None:
    """Print a column of figures for each embedding, then how much more the others have than the first."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for subject, of_one in compared.measured.items():
        for evaluation, found in of_one.items():
            for row in metric_rows(evaluation, found.metrics):
                at = rows.setdefault((evaluation, row["metric"]), {"evaluation": evaluation, "metric": row["metric"]})
                at[subject] = row["value"]
    show(list(rows.values()), ["evaluation", "metric", *compared.measured])
    if compared.differences:
        columns = ["subject", "evaluation", "metric", "difference", "low", "high", "p", "n"]
        against = compared.differences[0]["against"]
        show(compared.differences, columns, title=f"More than {against}, on what both have; 95 % intervals")
    if told := compared.recipe_rows():
        show(told, list(told[0]), title="in what their recipes differ")
    for subject, reasons in compared.skipped.items():
        for evaluation, reason in reasons.items():
            click.echo(f"{subject}, {evaluation}: {reason}", err=True)


def metric_rows(evaluation: str, metrics: Mapping[str, Any], *, under: str = "") -> Iterator[dict[str, Any]]:
    """Yield the numbers of an evaluation, a row each: its path, the value and the ends of its interval."""
    for name, value in metrics.items():
        path = f"{under}{name}"
        if isinstance(value, Mapping):
            yield from metric_rows(evaluation, value, under=f"{path}/")
        elif isinstance(value, int | float | str) and not is_end(name, metrics):
            low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
            yield {"evaluation": evaluation, "metric": path, "value": value, "low": low, "high": high}


def is_end(name: str, metrics: Mapping[str, Any]) -> bool:
    """Tell whether a number is the end of another's interval."""
    return any(name.endswith(end) and name.removesuffix(end) in metrics for end in ("_low", "_high"))


def show_function_metrics(found: Mapping[str, Any]) -> None:
    """Print how well functions are told by each modality, held out in two ways, and where fusion loses."""
    from .evaluate import function_rows

    columns = ["modality", "macro_ap", "95 %", "micro_ap", "fmax", "brier_skill", "calibration_error"]
    for title, of in (("by protein", found), ("with their homologues", found.get("by_homology"))):
        if of is None:
            continue
        show(
            function_rows(of),
            columns,
            title=f"{of['n_terms']} terms, {of['n_proteins']} proteins with both, held out {title}",
        )
        against = [each for each in of["differences"] if each["metric"] == "macro_ap"]
        for each in against:
            p = "< 0.001" if each["p"] < 0.001 else f"{each['p']:.2g}"
            low, high = f"{each['low']:+.3f}", f"{each['high']:+.3f}"
            click.echo(f"Fused against {each['against']}: {each['difference']:+.3f} ({low} to {high}), p {p}.")
        click.echo(f"Fusion gains on {len(of['gains'])} terms and loses on {len(of['loses'])}.")
        if of["loses"]:
            show(of["loses"][:10], ["term_id", "name", "n_positive", "better_single", "difference", "p_adjusted"])


def show_relationships(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print how many relationships of each source are recalled, and what chance would recall."""
    from .relationship_evaluation import relationship_rows

    own = next(iter(found.values()))
    low, high = own["tails"]
    title = f"relationships: recall of pairs that rank below {low:g} or above {high:g} of all {own['null_pairs']:,}"
    rows = relationship_rows(found)
    show(rows, list(rows[0]), title=f"{title}; chance {own['chance']:.3f}")


def show_localization(found: Mapping[str, Any]) -> None:
    """Print how well localizations are told, by how rows were held out, and each class with its genes held out."""
    from .localization_evaluation import localization_rows

    rows = localization_rows(found)
    title = f"localization: {len(found['classes'])} classes, {found['n_genes']:,} genes; mean over classes of precision"
    show(rows, list(rows[0]), title=title)
    classes = [{"class": name, **own} for name, own in found["classes"].items()]
    show(classes, ["class", "n_genes", "n_rows", "linear_ap", "nearest_ap"], title="genes held out")
    for row in rows:
        if row["genes on both sides"] and row["probe"] == "linear":
            n = f"{row['genes on both sides']:,} genes are on both sides of the split by {row['held out']}"
            click.echo(f"{n}: what was learned of them is asked again.")


def show_blocks(found: Mapping[str, Any]) -> None:
    """Print how well a label is read off each block, by each way to pool its tokens."""
    from .block_evaluation import block_rows, block_words, left_out_words

    figures = block_rows(found)
    rows = [{name: f"{v:.3f}" if isinstance(v, float) else v for name, v in row.items()} for row in figures]
    cells = f"{found['n_cells']:,} cells of {found['n_classes']} {found['label']}"
    title = f"balanced accuracy by block of {found['encoder']}: {cells}, {found['n_groups']} {found['group']} held out"
    show(rows, list(rows[0]), title=title)
    for sentence in (*left_out_words(found), *block_words(found)):
        click.echo(sentence)
