"""The atlas's questions as tools for LLM clients (Model Context Protocol, modelcontextprotocol.io), over stdio.

Tools only read. Each runs in a thread of its own, so that a slow question holds up no other; SQL runs in a process of
its own, which ends with its question, also when the client cancels it or leaves. Answers hold no vectors, and pictures
only where pictures were asked for. The docstring of a method of `Tools` is what the client's model reads of it.
"""

from __future__ import annotations

import inspect
import json
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import pyarrow as pa

from . import function_query, map_query, query
from ._version import __version__
from .errors import AtlasError, BadInput, MissingExtra, NotBuilt, QueryRefused, UnknownName
from .identifiers import NAME_COLUMNS, find_protein
from .images.thumbnails import COLORS, draw_strip
from .maps import MAIN, known_maps
from .printing import function_record, json_text, plain, system_record
from .sql import SqlSession
from .store import Store, quote

try:
    import anyio.to_thread
    from mcp.server import MCPServer
    from mcp.server.mcpserver import Image
    from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
    from mcp.server.mcpserver.tools import Tool
    from mcp_types import ToolAnnotations
    from pydantic import Field, ValidationError
except ImportError as exc:
    raise MissingExtra("mcp", "mcp", "A server for LLM clients") from exc

from .mcp_answers import About, Comparison, Found, Functions, Places, Protein, Rows, Similar, SystemFound

__all__ = ["make_server", "serve"]

INSTRUCTIONS = """\
SubCell Atlas: where human proteins sit in cells, what sits with them and what they may do, told from microscope
pictures that were embedded by a vision model, and from protein sequences.

- Begin with `about`: what this atlas holds, what made its vectors and what is missing. Find a gene with `find_protein`.
- Known and predicted are apart: `localization` and functions with `annotated` true were stated by somebody;
  similarity, systems of the map and functions with `annotated` false are predictions. Say so when you report them.
- Cite the evidence that comes with each answer: numbers of cells, similarities, p-values, probabilities beside the
  prior, the neighbors in `support`. Repeat `notes`. `pictures` shows the cells themselves.
- Looking alike is not interacting: pictures resolve about 0.2 µm. A gene that is not here was not imaged; that says
  nothing about it.
- For what no other tool answers, write SQL (DuckDB) with `sql`; `about` lists tables and columns.
"""
READS_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)

MOST_HITS, MOST_MEMBERS, MOST_ROWS, MOST_CELLS, MOST_GENES = 100, 500, 1000, 12, 50
MOST_TERMS = 10  # of a system, or that fit some words
MOST_CHARACTERS = 60_000  # of the rows of an answer to SQL: some 20,000 tokens
BRIEF_LIST = 32  # a longer list of numbers is taken for a vector
SQL_SECONDS = 30.0
SQL_AT_ONCE = 2  # each may take the memory that `SqlSession` allows

Gene = Annotated[
    str, Field(min_length=1, max_length=100, description="Symbol, synonym, Ensembl id or UniProt accession")
]
Hits = Annotated[int, Field(ge=1, le=MOST_HITS, description="How many")]
CellLine = Annotated[str | None, Field(description="Only what was seen in this cell line, such as 'U-2 OS'")]
MapName = Annotated[str, Field(description="Which of the atlas's maps; `about` lists them")]

WITHOUT = {  # table -> what cannot be answered without it, and what would change that
    "cells": "No cells, so no pictures and no evidence of them. Run: subcell-atlas ingest images MANIFEST.csv",
    "profiles": "Nothing to compare between cell lines, conditions or antibodies. Run: subcell-atlas build",
    "proteins": "No proteins yet. Run: subcell-atlas build",
    "systems": "No protein map. Run: subcell-atlas build map",
    "annotations": "Nothing is known of the genes: no named systems, no functions. Run: subcell-atlas annotate FILE",
    "functions": "No functions are predicted. Run: subcell-atlas build functions",
}


class Tools:
    """The questions to one atlas; each public method is a tool."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sql_slots = anyio.CapacityLimiter(SQL_AT_ONCE)

    def about(self) -> About:
        """Say what this atlas holds: tables with their columns (for `sql`), what made its vectors, what is missing.

        Ask this first.
        """
        store = self._store
        with self._sql_session() as session:
            columns = session.tables()
        recipes = store.metadata("proteins").get("recipes", {})
        maps = [{key: each[key] for key in ("map", "settings", "counts")} for each in map_query.map_summary(store)]
        return About.model_validate(
            {
                "version": __version__,
                "tables": [{"name": t, "n_rows": store.count(t), "columns": dict(columns[t])} for t in columns],
                "recipe": plain(query.recipe_of_cells(store)),
                "encoders": {name: each["encoder"] for name, each in recipes.items() if each},
                "cell_lines": self._cell_lines(),
                "maps": plain(maps),
                "aspects": self._aspects(),
                "missing": missing_from(store),
                "notes": self._notes(),
            }
        )

    def find_protein(self, name: Gene) -> Found:
        """Find the protein that a name means: a gene symbol, an older symbol, an Ensembl id or a UniProt accession.

        When the atlas has none of this name, `protein` is null and `suggestions` lists the nearest names.
        """
        names = self._store.read("proteins", NAME_COLUMNS)
        try:
            row = find_protein(name, names)
        except UnknownName as exc:
            found = {"protein": None, "suggestions": exc.suggestions, "note": str(exc)}
        else:
            found = {"protein": names.slice(row, 1).to_pylist()[0], "suggestions": []}
        return Found.model_validate({"query": name, **found})

    def protein(self, gene: Gene) -> Protein:
        """Tell what the atlas knows of a protein: where it was seen, in how many cells, by which antibodies, and more.

        Localization, cells by antibody, cell line and condition, how much its cells differ, the vectors it has, and the
        systems of the protein map that it sits in.
        """
        store = self._store
        row = plain(query.protein_row(store, gene))
        mine = f"protein_id = {quote(row['protein_id'])}"
        there = store.vector_columns("proteins")
        more = {
            "n_residues": len(row["amino_acids"]) if row.get("amino_acids") else None,
            "vectors": [name for name in there if store.count("proteins", f"{mine} AND {name} IS NOT NULL")],
            "seen": self._seen(mine),
            "places": self._places_if_mapped(row["protein_id"]),
            "notes": self._notes(),
        }
        return Protein.model_validate({**row, **more})

    def similar_proteins(
        self,
        genes: Annotated[list[Gene], Field(min_length=1, max_length=MOST_GENES, description="One, or several at once")],
        k: Hits = 10,
        modality: Annotated[
            Literal["image", "sequence", "fused"], Field(description="Compare pictures, sequences, or both")
        ] = "image",
        where: Annotated[
            str | None,
            Field(
                description='A SQL condition over the columns of `proteins`, such as "n_cells >= 20" or '
                "\"array_has(localization, 'Nucleoli')\""
            ),
        ] = None,
        cell_line: CellLine = None,
    ) -> Similar:
        """Find the proteins most like the given ones, by how they look in cells or by sequence.

        Several genes ask for what is like all of them together; they themselves are left out. `similarity` is a cosine
        (1 is alike). What looks alike sits in the same place, which is no proof of interaction.
        """
        hits = query.similar(self._store, genes, k=k, modality=modality, where=where, cell_line=cell_line)
        asked = {"genes": genes, "modality": modality, "k": k, "where": where, "cell_line": cell_line}
        return Similar.model_validate(
            {"query": without_none(asked), "hits": plain(hits.to_pylist()), "notes": self._notes()}
        )

    def compare(self, gene: Gene, by: Literal["cell_line", "condition", "antibody"] = "cell_line") -> Comparison:
        """Tell whether a protein looks different in other cell lines, in other conditions, or with another antibody.

        `percentile` says how many percent of such pairs, over all proteins, are less alike: low means that this one
        differs more than most. Antibodies differ for other reasons too.
        """
        pairs = plain(query.compare(self._store, gene, by=by).to_pylist())
        return Comparison.model_validate({"query": {"gene": gene, "by": by}, "pairs": pairs, "notes": self._notes()})

    def map_system(
        self,
        system: Annotated[str | None, Field(description="Such as 'S4'; null: the root, to walk down from")] = None,
        n_members: Annotated[int, Field(ge=0, le=MOST_MEMBERS, description="How many members are listed")] = 50,
        map_name: MapName = MAIN,
    ) -> SystemFound:
        """Show a system of the protein map: its facts, the systems above and below, members, terms, surprises.

        A system is a set of proteins whose pictures group together; it is named by a term only where annotations of its
        members are over-represented (`p_adjusted`). `discoveries` are members that nothing known of them puts there.
        """
        store = self._store
        name = map_query.map_meant(store, system, map_name)
        graph = query.map_graph(store, name)
        chosen = root_of(graph) if system is None else map_query.system_meant(graph, system)
        if chosen is None:
            raise UnknownName("system", str(system), graph, hint="Where a gene sits tells the tool place_in_map.")
        document = {
            "system": system_record(graph, chosen),
            "parents": [system_record(graph, each) for each in sorted(graph.predecessors(chosen))],
            "children": [system_record(graph, each) for each in largest_first(graph, graph.successors(chosen))],
            "members": query.system_members(store, chosen).slice(0, n_members).to_pylist(),
            "terms": map_query.terms_of(store, chosen).slice(0, MOST_TERMS).to_pylist(),
            "discoveries": map_query.news(store, name=name, system=chosen).slice(0, MOST_HITS).to_pylist(),
            "notes": self._notes(),
        }
        return SystemFound.model_validate(plain(document))

    def place_in_map(self, gene: Gene, map_name: MapName = MAIN) -> Places:
        """Tell where a gene sits in the protein map: the paths of systems from the root down to the smallest ones."""
        graph = query.map_graph(self._store, map_name)
        symbol, paths = query.paths_of(self._store, gene, map_name)
        systems = [system_record(graph, each) for each in dict.fromkeys(system for path in paths for system in path)]
        return Places.model_validate(plain({"gene_symbol": symbol, "paths": paths, "systems": systems}))

    def functions_of_gene(
        self,
        gene: Gene,
        k: Hits = 20,
        aspect: Annotated[str | None, Field(description="Only terms of this aspect; `about` lists them")] = None,
    ) -> Functions:
        """Tell what a gene does, as far as it is known, and then what it may do besides, with what speaks for it.

        At most k known terms (rarest first) and k predicted ones. `probability` is calibrated; compare it with `prior`,
        the share of proteins that have the term anyway.
        """
        found = function_query.functions_of_gene(self._store, gene, k=k, aspect=aspect)
        return self._functions(without_none({"gene": gene, "k": k, "aspect": aspect}), found, k=k)

    def genes_of_function(
        self,
        function: Annotated[
            str, Field(min_length=1, max_length=300, description="A term's id (GO:…), its name, or some words")
        ],
        k: Hits = 20,
    ) -> Functions:
        """Tell which genes are known to have a function, and which others most probably have it besides.

        Of some words that term is taken that fits best; `terms` lists others that fit. At most k known and k predicted.
        """
        found = function_query.genes_of_term(self._store, function, k=k)
        terms = function_query.find_terms(self._store, function, k=MOST_TERMS).to_pylist()
        return self._functions({"function": function, "k": k}, found, k=k, terms=terms)

    async def sql(
        self,
        statement: Annotated[str, Field(description="One SELECT in DuckDB's SQL; also DESCRIBE or SHOW TABLES")],
        limit: Annotated[int, Field(ge=1, le=MOST_ROWS, description="At most so many rows")] = 100,
    ) -> Rows:
        """Answer one SELECT over the tables of the atlas, read-only. `about` lists tables and columns.

        Aggregate or filter rather than fetch: a long answer is cut off, and `truncated` says so. Columns of vectors and
        pictures are left out, but may be used inside the query: array_cosine_similarity(a.image, b.image).
        """
        with self._sql_session(row_limit=limit) as session:  # a cancelled question leaves, and so ends the process
            answer = await anyio.to_thread.run_sync(
                session.query, statement, abandon_on_cancel=True, limiter=self._sql_slots
            )
        return rows_answer(answer)

    def pictures(
        self,
        gene: Gene,
        n: Annotated[int, Field(ge=1, le=MOST_CELLS, description="How many cells")] = 6,
        cell_line: CellLine = None,
    ) -> list[str | Image]:
        """Show cells of a protein side by side, as the Human Protein Atlas colours them: the evidence itself.

        The protein is green, the nucleus blue, microtubules red, the endoplasmic reticulum yellow, where they were
        stained. The text says of each cell, from left to right, its cell line, antibody and annotated localization.
        """
        row = query.protein_row(self._store, gene)
        name = row["gene_symbol"] or row["protein_id"]
        cells = query.thumbnails(self._store, [row["protein_id"]], n=n, cell_line=cell_line).to_pylist()
        if not cells:
            raise NotBuilt(f"The atlas has no pictures of {name}{f' in {cell_line!r}' if cell_line else ''}.")
        channels = query.recipe_of_cells(self._store).get("channels") or []
        shown = [channel for channel in channels if channel in COLORS]
        told = [{key: value for key, value in cell.items() if key != "thumbnail"} for cell in cells]
        caption = json_text({"gene_symbol": name, "channels": shown, "cells": told, "notes": self._notes()})
        strip = draw_strip([cell["thumbnail"] for cell in cells], channels, show=shown)
        return [caption, Image(data=strip, format="jpeg")]

    def _sql_session(self, **limits: int) -> SqlSession:
        return SqlSession(self._store.uri, time_limit_s=SQL_SECONDS, **limits)

    def _notes(self) -> list[str]:
        return function_query.notes_on_functions(self._store)

    def _cell_lines(self) -> list[str]:
        if "profiles" not in self._store.names():
            return []
        return sorted(self._store.read("profiles", ["cell_line"])["cell_line"].drop_null().unique().to_pylist())

    def _aspects(self) -> list[str]:
        if "functions" not in self._store.names():
            return []
        return sorted({term["aspect"] for term in function_query.predicted_terms(self._store).values()})

    def _seen(self, condition: str) -> list[dict[str, Any]]:
        if "profiles" not in self._store.names():
            return []
        wanted = ["antibody", "cell_line", "condition", "n_cells", "n_plates", "localization"]
        return plain(self._store.read("profiles", wanted, where=condition).to_pylist())

    def _places_if_mapped(self, protein: str) -> Places | None:
        """Return where a protein sits in the main map; None when there is no map, or it is not in it."""
        if MAIN not in known_maps(self._store):
            return None
        try:
            return self.place_in_map(protein)
        except NotBuilt:
            return None

    def _functions(
        self, asked: dict[str, Any], found: pa.Table, *, k: int, terms: Sequence[Mapping[str, Any]] = ()
    ) -> Functions:
        """Return an answer of `function_query`, of what is known and of what is predicted the first `k`."""
        hits = [function_record(row) for row in found.to_pylist()]
        known = [hit for hit in hits if hit["annotated"]]
        chosen = [*known[:k], *(hit for hit in hits if not hit["annotated"])]
        document = {"query": asked, "terms": terms, "n_known": len(known), "hits": chosen, "notes": self._notes()}
        return Functions.model_validate(plain(document))


class AtlasServer(MCPServer[Any]):
    """Gives a client every known problem, and wrong arguments, in one or two lines."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """Call a tool. Raise ToolError for what the client can mend."""
        await self._check_names(name, arguments)
        try:
            return await super().call_tool(name, arguments, context)
        except UnexpectedToolError as exc:
            if isinstance(exc.__cause__, AtlasError):
                raise ToolError(str(exc.__cause__)) from exc.__cause__
            raise
        except ToolError as exc:
            if isinstance(exc.__cause__, ValidationError):
                raise ToolError(wrong_arguments(name, exc.__cause__)) from exc.__cause__
            raise

    async def _check_names(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Raise ToolError for an argument that a tool does not have, which would else be passed over in silence."""
        known = next((list(t.input_schema["properties"]) for t in await self.list_tools() if t.name == name), None)
        wrong = [] if known is None else [each for each in arguments if each not in known]
        if wrong:
            raise ToolError(str(UnknownName(f"argument of {name}", wrong[0], known or ())))


def make_server(uri: str) -> AtlasServer:
    """Return a server that answers for the atlas at `uri`. Raise AtlasNotFound when there is none."""
    tools = Tools(Store.open(uri))
    return AtlasServer(
        "subcell-atlas",
        title="SubCell Atlas",
        version=__version__,
        instructions=INSTRUCTIONS,
        tools=[as_tool(method) for method in methods_of(tools)],
        log_level="WARNING",
    )


def serve(uri: str) -> None:
    """Answer a client on stdin and stdout until it closes them."""
    server = make_server(uri)
    if sys.stdin.isatty():
        print("Waiting for an LLM client, which starts this command itself. Ctrl-D ends it.", file=sys.stderr)  # noqa: T201
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # the thread that reads stdin cannot be interrupted else
    try:
        server.run("stdio")
    finally:
        signal.signal(signal.SIGINT, before)


def methods_of(tools: Tools) -> list[Callable[..., Any]]:
    """Return the methods that are tools, in the order of the class."""
    return [getattr(tools, name) for name in vars(Tools) if not name.startswith("_")]


def as_tool(method: Callable[..., Any]) -> Tool:
    """Return a method as a tool that says of itself what its docstring does, and that it only reads."""
    tool = Tool.from_function(method, description=inspect.getdoc(method), annotations=READS_ONLY)
    tool.parameters["additionalProperties"] = False
    return tool


def wrong_arguments(tool: str, problems: ValidationError) -> str:
    """Return what is wrong with the arguments of a tool in one line."""
    said = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems.errors()]
    return f"Wrong arguments for {tool}: {'; '.join(said)}."


def missing_from(store: Store) -> list[str]:
    """Return what an atlas cannot answer, and what would change that."""
    missing = [text for table, text in WITHOUT.items() if not store.has(table)]
    there = store.vector_columns("proteins") if "proteins" in store.names() else []
    if there and "sequence" not in there:
        missing.append("No sequences, so no modality sequence or fused. Run: subcell-atlas ingest sequences FASTA")
    elif there and "fused" not in there:
        missing.append("No fused vectors. Run: subcell-atlas build fusion")
    return missing


def root_of(graph: Any) -> str:
    """Return the system of a map that holds all others."""
    return next(system for system in graph if graph.in_degree(system) == 0)


def largest_first(graph: Any, systems: Iterable[str]) -> list[str]:
    """Return systems by their number of proteins."""
    return sorted(systems, key=lambda system: (-graph.nodes[system]["size"], system))


def without_none(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was said in a question."""
    return {key: value for key, value in asked.items() if value is not None}


def rows_answer(answer: pa.Table) -> Rows:
    """Return an answer to SQL without its vectors and pictures, cut off at what an LLM can hold."""
    left_out = [name for name in answer.column_names if holds_vectors(answer[name])]
    kept = answer.drop_columns(left_out)
    rows = json.loads(json_text(kept.to_pylist()))
    fitting = n_fitting(rows)
    if rows and not fitting:
        msg = f"One row is longer than {MOST_CHARACTERS:,} characters. Name fewer columns, or take parts of the texts."
        raise QueryRefused(msg)
    if left_out and not kept.column_names:
        msg = f"Vectors and pictures are not shown ({', '.join(left_out)}). Compare them inside the query, or ask for"
        raise BadInput(f"{msg} the tool pictures.")
    cut = (answer.schema.metadata or {}).get(b"truncated") == b"true" or fitting < len(rows)
    return Rows(columns=kept.column_names, rows=rows[:fitting], truncated=cut, left_out=left_out)


def n_fitting(rows: Sequence[Any]) -> int:
    """Return how many of the first rows fit into an answer."""
    length = 0
    for n, row in enumerate(rows):
        length += len(json_text(row))
        if length > MOST_CHARACTERS:
            return n
    return len(rows)


def holds_vectors(column: pa.ChunkedArray) -> bool:
    """Tell whether a column of an answer holds vectors or pictures, also inside structs and lists."""
    if is_vector_type(column.type):
        return True
    if not pa.types.is_list(column.type) or not pa.types.is_floating(column.type.value_type):
        return False
    return any(value is not None and len(value) > BRIEF_LIST for value in column.to_pylist())


def is_vector_type(kind: pa.DataType) -> bool:
    """Tell whether a type is of arrays of fixed length or of bytes, or has such inside."""
    if pa.types.is_fixed_size_list(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(is_vector_type(kind.field(i).type) for i in range(kind.num_fields))
