"""The tools for LLM clients: the same answers as `query` gives, problems in a line, and a real run over stdio."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import numpy as np
import pytest
from PIL import Image

from subcell_atlas import function_query, map_query, query
from subcell_atlas.atlas import open_atlas
from subcell_atlas.printing import plain, system_record
from subcell_atlas.sql import SqlSession
from subcell_atlas.store import Store

pytest.importorskip("mcp.server.mcpserver")

import mcp
from mcp.client.stdio import StdioServerParameters, stdio_client

from subcell_atlas import mcp_server
from subcell_atlas._version import __version__
from subcell_atlas.mcp_server import make_server

TOOLS = [
    "about", "find_protein", "protein", "similar_proteins", "compare", "map_system", "place_in_map",
    "functions_of_gene", "genes_of_function", "sql", "pictures",
]  # fmt: skip
SLOW = "SELECT count(*) FROM range(10000000000) a, range(1000) b WHERE a.range * b.range % 7 = 3"


def with_client(uri, talk):
    """Return what `talk` does with a client of the atlas at `uri`."""

    async def run():
        async with mcp.Client(make_server(uri)) as client:
            return await talk(client)

    return anyio.run(run)


def call(uri, tool, **arguments):
    return with_client(uri, lambda client: client.call_tool(tool, arguments))


def ask(uri, tool, **arguments):
    """Return the structured answer, which the text repeats."""
    result = call(uri, tool, **arguments)
    assert not result.is_error, result.content[0].text
    assert json.loads(result.content[0].text) == result.structured_content
    return result.structured_content


def problem(uri, tool, **arguments):
    """Return the text of an error."""
    result = call(uri, tool, **arguments)
    assert result.is_error
    return result.content[0].text


def only(columns, rows):
    """Return some columns of rows, as JSON has them."""
    return plain([{name: row[name] for name in columns} for row in rows])


@pytest.fixture(scope="module")
def store(demo_atlas) -> Store:
    return Store.open(demo_atlas)


def test_every_tool_only_reads_says_what_it_does_and_has_a_schema_of_its_answer(demo_atlas):
    tools = with_client(demo_atlas, lambda client: client.list_tools()).tools
    assert [tool.name for tool in tools] == TOOLS
    for tool in tools:
        assert tool.annotations.read_only_hint
        assert tool.description[0].isupper()
        assert "\n    " not in tool.description
        assert tool.input_schema["additionalProperties"] is False
        assert (tool.output_schema is None) == (tool.name == "pictures")
        for name, each in tool.input_schema["properties"].items():
            assert "description" in each or "enum" in each, (tool.name, name)


def test_the_server_says_what_it_is_and_that_predictions_are_predictions(demo_atlas):
    server = make_server(demo_atlas)
    assert (server.name, server.version) == ("subcell-atlas", __version__)
    assert "are predictions" in server.instructions
    assert {"about", "find_protein", "pictures", "sql"} <= set(TOOLS) & set(re.findall(r"`(\w+)`", server.instructions))


def test_about_lists_tables_with_columns_and_what_is_missing(demo_atlas, function_atlas, store):
    about = ask(demo_atlas, "about")
    assert {table["name"]: table["n_rows"] for table in about["tables"]} == open_atlas(demo_atlas).info()["tables"]
    columns = {table["name"]: table["columns"] for table in about["tables"]}
    assert columns["proteins"]["gene_symbol"] == "VARCHAR"
    assert about["recipe"] == query.recipe_of_cells(store)
    assert about["cell_lines"] == ["Demo-A", "Demo-B", "Demo-C"]
    assert about["maps"][0]["map"] == "main"
    assert any("demonstration encoder" in note for note in about["notes"])
    other = ask(function_atlas, "about")
    assert any("build map" in text for text in other["missing"])
    assert not any("build functions" in text for text in other["missing"])
    assert "molecular_function" in other["aspects"]


@pytest.mark.parametrize("name", ["demo001", "DEMOG00000000001", "DEMOP001"])
def test_a_protein_is_found_by_each_of_its_names(demo_atlas, name):
    found = ask(demo_atlas, "find_protein", name=name)
    assert found["protein"]["gene_symbol"] == "DEMO001"
    assert found["suggestions"] == []


def test_an_unknown_name_gets_suggestions(demo_atlas):
    found = ask(demo_atlas, "find_protein", name="DEM001")
    assert found["protein"] is None
    assert "DEMO001" in found["suggestions"]


def test_a_protein_comes_with_its_evidence_and_without_vectors(demo_atlas, store):
    found = ask(demo_atlas, "protein", gene="DEMO002")
    row = query.protein_row(store, "DEMO002")
    columns = ("protein_id", "localization", "n_cells", "n_antibodies", "cell_lines", "variability")
    assert only(columns, [found]) == only(columns, [row])
    assert sum(each["n_cells"] for each in found["seen"]) == row["n_cells"]
    assert found["vectors"] == store.vector_columns("proteins")
    assert found["places"]["paths"] == query.paths_of(store, "DEMO002")[1]
    assert not {"image", "sequence", "fused", "amino_acids"} & set(found)


def test_a_protein_of_an_atlas_without_cells_and_map_is_told_too(function_atlas):
    found = ask(function_atlas, "protein", gene="P003")
    assert (found["seen"], found["places"]) == ([], None)


@pytest.mark.parametrize(
    ("genes", "options"),
    [
        (["DEMO001"], {"k": 3}),
        (["DEMO003", "DEMO010"], {"modality": "image", "where": "n_cells >= 1"}),
        (["DEMO001"], {"cell_line": "Demo-B", "k": 4}),
    ],
)
def test_similar_proteins_are_those_that_query_finds(demo_atlas, store, genes, options):
    answer = ask(demo_atlas, "similar_proteins", genes=genes, **options)
    assert answer["hits"] == plain(query.similar(store, genes, **options).to_pylist())
    assert answer["query"]["genes"] == genes
    assert answer["notes"] == function_query.notes_on_functions(store)


def test_a_comparison_is_that_of_query(demo_atlas, store):
    answer = ask(demo_atlas, "compare", gene="DEMO001", by="cell_line")
    assert answer["pairs"] == plain(query.compare(store, "DEMO001", by="cell_line").to_pylist())


def test_the_map_can_be_walked_from_its_root_to_a_gene(demo_atlas, store):
    graph = query.map_graph(store)
    root = ask(demo_atlas, "map_system", n_members=3)
    assert root["system"]["level"] == 0
    assert len(root["members"]) == 3
    assert {each["system_id"] for each in root["children"]} == set(graph.successors(root["system"]["system_id"]))
    place = ask(demo_atlas, "place_in_map", gene="DEMO001")
    symbol, paths = query.paths_of(store, "DEMO001")
    assert (place["gene_symbol"], place["paths"]) == (symbol, paths)
    last = ask(demo_atlas, "map_system", system=paths[0][-1].lower(), n_members=500)
    wanted = system_record(graph, paths[0][-1])
    assert last["system"] == only(last["system"], [wanted])[0]
    members = query.system_members(store, paths[0][-1]).to_pylist()
    assert last["members"] == only(["protein_id", "gene_symbol", "localization", "n_cells"], members)
    assert len(last["terms"]) == min(10, map_query.terms_of(store, paths[0][-1]).num_rows)


def test_functions_of_a_gene_are_those_of_query_known_ones_first(function_atlas):
    store = Store.open(function_atlas)
    answer = ask(function_atlas, "functions_of_gene", gene="P003", k=2)
    rows = function_query.functions_of_gene(store, "P003", k=2).to_pylist()
    known = [row for row in rows if row["annotated"]]
    assert answer["n_known"] == len(known) > 2
    chosen = [*known[:2], *(row for row in rows if not row["annotated"])]
    columns = ["term_id", "name", "aspect", "annotated", "probability", "prior", "support"]
    assert only(columns, answer["hits"]) == only(columns, chosen)
    modalities = [each["modalities"] for each in answer["hits"]]
    assert modalities == only(["image", "sequence", "fused"], chosen)


@pytest.mark.parametrize("words", ["GO:P00", "mitochondrial translation"])
def test_genes_of_a_function_are_those_of_query(function_atlas, words):
    answer = ask(function_atlas, "genes_of_function", function=words, k=5)
    rows = function_query.genes_of_term(Store.open(function_atlas), words, k=5).to_pylist()
    assert answer["n_known"] == sum(row["annotated"] for row in rows)
    found = [hit["gene_symbol"] for hit in answer["hits"] if not hit["annotated"]]
    assert found == [row["gene_symbol"] for row in rows if not row["annotated"]]
    assert {hit["term_id"] for hit in answer["hits"]} == {"GO:P00"}


def test_sql_gives_rows_without_vectors_and_says_when_they_are_cut_off(demo_atlas):
    answer = ask(demo_atlas, "sql", statement="SELECT * FROM cells ORDER BY cell_id", limit=3)
    assert answer["truncated"]
    assert answer["left_out"] == ["embedding", "thumbnail"]
    with SqlSession(demo_atlas) as session:
        wanted = session.query("SELECT cell_id, localization, y0 FROM cells ORDER BY cell_id LIMIT 3").to_pylist()
    assert only(["cell_id", "localization", "y0"], answer["rows"]) == wanted
    counts = ask(demo_atlas, "sql", statement="SELECT count(*) AS n FROM cells")
    assert (counts["rows"], counts["truncated"]) == ([{"n": 160}], False)


@pytest.mark.parametrize(
    "hidden", ["image::FLOAT[]", "{'a': image}", "[image]", "(SELECT any_value(thumbnail) FROM cells)"]
)
def test_no_vector_or_picture_gets_out_in_disguise(demo_atlas, hidden):
    answer = ask(demo_atlas, "sql", statement=f"SELECT gene_symbol, {hidden} AS v FROM proteins LIMIT 1")
    assert (answer["columns"], answer["left_out"]) == (["gene_symbol"], ["v"])


def test_a_long_answer_is_cut_off_at_what_a_model_can_hold(demo_atlas):
    answer = ask(demo_atlas, "sql", statement="SELECT repeat('x', 20000) AS t FROM proteins")
    assert answer["truncated"]
    assert len(answer["rows"]) == 2
    assert "Name fewer columns" in problem(demo_atlas, "sql", statement="SELECT repeat('x', 70000) AS t")


def test_pictures_are_the_cells_of_the_protein_and_a_caption_tells_of_each(demo_atlas, store):
    result = call(demo_atlas, "pictures", gene="DEMO001", n=3)
    caption, picture = json.loads(result.content[0].text), result.content[1]
    cells = query.thumbnails(store, ["DEMOG00000000001"], n=3)
    assert [cell["cell_id"] for cell in caption["cells"]] == cells["cell_id"].to_pylist()
    assert picture.mime_type == "image/jpeg"
    with Image.open(io.BytesIO(base64.b64decode(picture.data))) as strip:
        assert strip.size == (3 * 128 + 2 * 4, 128)
        assert np.asarray(strip).std() > 5


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("similar_proteins", {"genes": ["DEM001"]}, "nearest: DEMO001"),
        ("similar_proteins", {"genes": ["DEMO001"], "where": "n_cell > 3"}, "cannot be used"),
        ("similar_proteins", {"genes": ["DEMO001"], "cell_line": "HeLa"}, "Demo-A"),
        ("similar_proteins", {"genes": ["DEMO001"], "cellline": "Demo-A"}, "nearest: cell_line"),
        ("similar_proteins", {"genes": [], "k": 0}, "Wrong arguments for similar_proteins: genes: "),
        ("similar_proteins", {"genes": ["DEMO001"], "modality": "smell"}, "modality: "),
        ("compare", {"gene": "DEMO001", "by": "condition"}, "cannot be compared by condition"),
        ("map_system", {"system": "S99"}, "Unknown system 'S99'"),
        ("map_system", {"map_name": "other"}, "Unknown map 'other'"),
        ("sql", {"statement": "DROP TABLE cells"}, "DROP is not allowed"),
        ("sql", {"statement": "SELECT image FROM proteins"}, "Vectors and pictures are not shown"),
        ("sql", {}, "statement: Field required"),
        ("pictures", {"gene": "DEMO001", "cell_line": "HeLa"}, "no pictures of DEMO001 in 'HeLa'"),
        ("protein", {"gene": ""}, "gene: "),
        ("nonsense", {}, "Unknown tool"),
    ],
)
def test_a_known_problem_is_told_in_a_line_or_two(demo_atlas, tool, arguments, says):
    text = problem(demo_atlas, tool, **arguments)
    assert says in text
    assert len(text.splitlines()) <= 2
    assert "Traceback" not in text


def test_functions_that_are_not_there_yet_say_what_to_do(demo_atlas, tmp_path, store):
    bare = Store.create(str(tmp_path / "bare"))
    bare.write("proteins", store.read("proteins", ["protein_id", "gene_symbol", "localization"]))
    for tool, arguments in (("functions_of_gene", {"gene": "DEMO001"}), ("genes_of_function", {"function": "x"})):
        assert "has no functions yet" in problem(bare.uri, tool, **arguments)
    assert any("annotate FILE" in text for text in ask(bare.uri, "about")["missing"])


def test_what_went_wrong_inside_stays_inside(demo_atlas, monkeypatch):
    def fail(*_, **__):
        raise ValueError("a secret")

    monkeypatch.setattr(mcp_server.query, "similar", fail)
    assert problem(demo_atlas, "similar_proteins", genes=["DEMO001"]) == "Error executing tool similar_proteins"


def test_a_slow_question_holds_up_no_other_and_ends_when_it_is_cancelled(demo_atlas, monkeypatch):
    closed = []
    close = SqlSession.close
    monkeypatch.setattr(SqlSession, "close", lambda self: (closed.append(self), close(self))[1])

    async def talk(client):
        with anyio.move_on_after(2) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, "sql", {"statement": SLOW})
                await anyio.sleep(0.5)
                begun = time.monotonic()
                found = await client.call_tool("find_protein", {"name": "DEMO001"})
                took = time.monotonic() - begun
        return scope.cancelled_caught, found.structured_content["protein"]["gene_symbol"], took

    cancelled, symbol, took = with_client(demo_atlas, talk)
    assert (cancelled, symbol) == (True, "DEMO001")
    assert took < 1.4
    assert len(closed) == 1


def server_command(uri):
    return [sys.executable, "-m", "subcell_atlas", "mcp", "--atlas", uri]


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def test_a_real_client_over_stdio_lists_and_calls(demo_atlas, tmp_path):
    command, *arguments = server_command(demo_atlas)
    server = StdioServerParameters(command=command, args=arguments, env=environment())

    async def run(log):
        async with mcp.Client(stdio_client(server, errlog=log)) as client:
            tools = await client.list_tools()
            found = await client.call_tool("find_protein", {"name": "DEMO001"})
            rows = await client.call_tool("sql", {"statement": "SELECT count(*) AS n FROM proteins"})
        return tools, found, rows

    with (tmp_path / "log").open("w") as log:
        tools, found, rows = anyio.run(run, log)
    assert [tool.name for tool in tools.tools] == TOOLS
    assert found.structured_content["protein"]["protein_id"] == "DEMOG00000000001"
    assert rows.structured_content["rows"] == [{"n": 40}]
    assert (tmp_path / "log").read_text() == ""


def request(number, method, **parameters):
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}) + "\n"


def begin(server):
    """Do the handshake as a client of 2025 does."""
    server.stdin.write(
        request(
            0, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "test", "version": "1"}
        )
    )
    server.stdin.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())["result"]


def test_stdout_holds_only_the_protocol_and_the_server_ends_with_its_client(demo_atlas):
    with subprocess.Popen(
        server_command(demo_atlas), env=environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as server:  # fmt: skip
        about = begin(server)
        assert about["serverInfo"]["name"] == "subcell-atlas"
        assert about["serverInfo"]["version"] == __version__
        assert about["instructions"].startswith("SubCell Atlas")
        server.stdin.write(request(1, "tools/call", name="compare", arguments={"gene": "DEMO001"}))
        server.stdin.flush()
        lines = [server.stdout.readline()]
        server.stdin.write(request(2, "tools/call", name="sql", arguments={"statement": SLOW}))
        server.stdin.flush()
        time.sleep(1)
        rest, errors = server.communicate(timeout=10)  # closes stdin
    messages = [json.loads(line) for line in [*lines, *rest.splitlines()]]
    assert all(message["jsonrpc"] == "2.0" for message in messages)
    assert messages[0]["result"]["structuredContent"]["query"] == {"gene": "DEMO001", "by": "cell_line"}
    assert (server.returncode, errors) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="Windows sends no such signal")
def test_ctrl_c_ends_a_server_that_waits_for_its_client(demo_atlas):
    with subprocess.Popen(
        server_command(demo_atlas), env=environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        begin(server)
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=5) == -signal.SIGINT


def test_an_atlas_that_is_not_there_is_said_on_stderr(tmp_path):
    done = subprocess.run(server_command(str(tmp_path / "none")), env=environment(), text=True, capture_output=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "There is no atlas" in done.stderr


def test_without_the_package_the_extra_is_named(demo_atlas):
    code = (
        "import sys; sys.modules['mcp'] = None; from subcell_atlas.cli import main; "
        f"main(['mcp', '--atlas', {demo_atlas!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), text=True, capture_output=True)
    assert done.returncode == 1
    assert "pip install 'subcell-atlas[mcp]'" in done.stderr
    assert "Traceback" not in done.stderr
