"""The SQL engine: DuckDB over the tables of one atlas, in the child process of `sql`. Only this file imports duckdb."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .errors import AtlasError, QueryRefused
from .sql import ALLOWED, ANSWER, ASK_LESS, ERROR, GRACE_S, MAX_RESULT_MB, START_LIMIT_S, late, receive, send

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lance

__all__ = ["Engine", "serve"]

THREADS_MB = 256  # address space that the threads of Lance and DuckDB reserve once they run (70 to 160 were seen)
ENGINE_SHARE = 0.75  # of the memory limit; the rest is for Lance's buffers and the result
REOPEN_REMOTE_S = 5.0  # a local atlas is opened anew for each query (0.4 ms a table), a remote one this often

# The order matters: what comes after `lock_configuration` would fail, and `enable_external_access` closes files.
CONFIG: dict[str, Any] = {
    "temp_directory": "",
    "python_enable_replacements": "false",
    "allow_unsigned_extensions": "false",
    "allow_persistent_secrets": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
SETTINGS = (
    "TimeZone = 'UTC'",
    "memory_limit = '{memory_mb}MiB'",
    "threads = 2",
    "max_temp_directory_size = '0KiB'",
    "max_execution_time = {time_ms}",
    "max_expression_depth = 250",
    "allow_community_extensions = false",
    "allow_extension_repositories = 'forbidden'",
    "enable_external_access = false",
    "lock_configuration = true",
)
NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
TABLE_FUNCTIONS = {
    "generate_series",
    "range",
    "unnest",
    "json_each",
    "json_tree",
    "duckdb_columns",
    "duckdb_functions",
    "duckdb_types",
}
REFUSED_FUNCTIONS = {"getenv", "current_setting", "write_log"}
NO_FILES = "A query reads the tables of the atlas, nothing else: no files, no network, no settings."

SPACE = r"(?:\s|--[^\n]*(?:\n|$)|/\*(?:[^*]|\*(?!/))*\*/)*"  # blanks and comments; never two ways to match one text
EXPLAIN = re.compile(rf"{SPACE}(EXPLAIN(?:\s+ANALYZE)?(?=[\s(]))", re.IGNORECASE)
END = re.compile(rf";{SPACE}$")
FIRST_WORD = re.compile(rf"{SPACE}(\w+)")
FILE = re.compile(r"[/\\.:*?]")
PATH = re.compile(r"(?:/[^\s/'\"]+){2,}/?")
UNKNOWN_TABLE = re.compile(r"Table with name (\S+) does not exist")
UNKNOWN_COLUMN = re.compile(r'Referenced column "([^"]+)" not found|does not have a column named "([^"]+)"')
MEMORY = re.compile(r"out of memory|bad_alloc|cannot allocate|failed to allocate|memory allocation", re.IGNORECASE)


def too_much_memory(memory_limit_mb: int) -> str:
    return f"The query needs more than the memory limit of {memory_limit_mb:,} MB.\n{ASK_LESS}"


def serve() -> None:
    """Answer the requests on stdin, the first of which says what `Engine` needs, until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints does not end up between the answers
    forbid_files()
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(requests,), daemon=True).start()
    engine = None
    while True:
        request = requests.get()
        try:
            end_after(engine.time_limit_s + 2 * GRACE_S if engine else START_LIMIT_S)
            if engine is None:
                engine = Engine(**request)
                kind, answer = ANSWER, b""
            elif request["sql"] is None:
                kind, answer = ANSWER, json.dumps(engine.tables()).encode()
            else:
                kind, answer = ANSWER, engine.query(request["sql"])
        except Exception as exc:  # noqa: BLE001 - whatever it is, the parent gets a sentence
            kind, answer = ERROR, json.dumps(refusal(exc, request, engine)).encode()
        end_after(0)
        send(answers, kind, answer)


def listen(requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Pass on the requests; when the parent is gone, so is the child, even in the middle of a query."""
    while True:
        try:
            _, message = receive(sys.stdin.buffer)
        except EOFError:
            os._exit(0)
        requests.put(json.loads(message))


def end_after(seconds: float) -> None:
    """Have the kernel end this process after so many seconds (0: never), should the parent be gone or frozen."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def forbid_files() -> None:
    with contextlib.suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_address_space(memory_mb: int) -> None:
    """Allow `memory_mb` more than is reserved now; only Linux says how much that is, and keeps to the limit."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return
    import resource

    limit = pages * resource.getpagesize() + (memory_mb + THREADS_MB) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


class Engine:
    """DuckDB with the tables of one atlas and nothing else."""

    def __init__(self, *, uri: str, time_limit_s: float, memory_limit_mb: int, row_limit: int) -> None:
        import duckdb

        self.uri, self.time_limit_s, self.memory_limit_mb = uri, time_limit_s, memory_limit_mb
        self.row_limit = row_limit
        self.datasets: dict[str, lance.LanceDataset] = {}
        self.named: set[str] = set()  # the tables that the query names
        self._stamps: dict[str, tuple[int, str]] = {}
        self._opened = -float("inf")
        self.connection = duckdb.connect(":memory:", config=CONFIG)
        for setting in SETTINGS:
            value = setting.format(memory_mb=int(memory_limit_mb * ENGINE_SHARE), time_ms=int(time_limit_s * 1000))
            self.connection.execute(f"SET GLOBAL {value}")
        self.open_tables()
        limit_address_space(memory_limit_mb)

    def open_tables(self) -> None:
        """Register each table at its latest version."""
        if "://" in self.uri and time.monotonic() - self._opened < REOPEN_REMOTE_S:
            return
        from .store import open_datasets

        found = open_datasets(self.uri)
        for name in self.datasets.keys() - found.keys():
            self.connection.unregister(name)
            del self.datasets[name], self._stamps[name]
        for name, dataset in found.items():
            if self._stamps.get(name) != stamp(dataset):
                self.datasets[name], self._stamps[name] = dataset, stamp(dataset)
                self.connection.register(name, scannable(dataset))
        self._opened = time.monotonic()

    def tables(self) -> dict[str, list[tuple[str, str]]]:
        """Return the columns of each table with their types."""
        self.open_tables()
        return {name: self.columns(name) for name in self.datasets}

    def columns(self, table: str) -> list[tuple[str, str]]:
        """Return the columns of one table with their types."""
        rows = self.connection.execute(f'DESCRIBE "{table}"').fetchall()
        return [(name, kind) for name, kind, *_ in rows]

    def query(self, sql: str) -> pa.Buffer:
        """Return the answer as an Arrow stream."""
        self.open_tables()
        sql = self.trimmed(sql)
        statements = self.connection.extract_statements(sql)
        if not statements:
            raise QueryRefused(f"The query is empty. {ALLOWED}")
        if len(statements) > 1:
            raise QueryRefused(f"There are {len(statements)} statements; run one at a time. {ALLOWED}")
        prefix, select = split_explain(sql)
        self.check(select)
        if prefix:
            rows = self.connection.execute(f"{prefix} {select}").fetchall()
            table = pa.table({"explain_key": [key for key, _ in rows], "explain_value": [text for _, text in rows]})
        else:
            # A relation with a limit stops reading; `execute` would make the whole answer first.
            table = self.connection.sql(sql).limit(self.row_limit + 1).to_arrow_table()
        return self.streamed(table)

    def trimmed(self, sql: str) -> str:
        """Return `sql` without a semicolon and comments at its end: DuckDB puts a relation's text into brackets."""
        import duckdb

        shorter = END.sub("", sql)
        with contextlib.suppress(duckdb.ParserException):  # the end was that of a string
            if self.connection.extract_statements(shorter):
                return shorter
        return sql

    def check(self, select: str) -> None:
        """Refuse by name what is not a SELECT over the tables of the atlas."""
        self.named = set()
        (text,) = self.connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [select]).fetchall()[0]
        tree = json.loads(text)
        if tree["error"]:
            raise QueryRefused(not_allowed(first_word(select)))
        for node in nodes_of(tree):
            kind = node["type"]
            if kind.endswith("_NODE") and kind not in NODES:
                raise QueryRefused(not_allowed(kind.split("_")[0]))
            if kind == "TABLE_FUNCTION" and (name := function_name(node["function"])) not in TABLE_FUNCTIONS:
                raise QueryRefused(f"{name}() is not allowed. {NO_FILES}")
            if kind == "FUNCTION" and (name := function_name(node)) in REFUSED_FUNCTIONS:
                raise QueryRefused(f"{name}() is not allowed. {NO_FILES}")
            if kind == "BASE_TABLE":
                if FILE.search(node["table_name"]):
                    raise QueryRefused(f"{shortened(node['table_name'])!r} is not a table of the atlas. {NO_FILES}")
                self.named.add(node["table_name"])

    def streamed(self, table: pa.Table) -> pa.Buffer:
        """Return an answer as an Arrow stream, cut to the row limit; refuse one that is too large to send."""
        cut = table.num_rows > self.row_limit
        table = table.slice(0, self.row_limit)
        size_mb = table.nbytes / 2**20
        if size_mb > MAX_RESULT_MB:
            size = f"{size_mb:,.0f} MB in {table.num_rows:,} rows"
            raise QueryRefused(f"The answer has {size}; the limit is {MAX_RESULT_MB} MB.\n{ASK_LESS}")
        table = table.replace_schema_metadata({b"truncated": b"true" if cut else b"false"})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return sink.getvalue()


def stamp(dataset: lance.LanceDataset) -> tuple[int, str]:
    """Return what changes when the table does, also when it was dropped and made again."""
    newest = [file.path for fragment in dataset.get_fragments()[-1:] for file in fragment.data_files()]
    return dataset.version, "".join(newest)


def scannable(dataset: lance.LanceDataset) -> Any:
    """Return `dataset` as an Arrow dataset whose scans DuckDB understands and that read little ahead.

    DuckDB has no half precision: such vectors are widened while they are read. Left to itself Lance reads 200 MB ahead
    for `SELECT * … LIMIT 3`; with the sizes below it is 20 to 50 MB, and a whole scan is no slower.
    """
    from pyarrow.dataset import Dataset

    schema = pa.schema([field.with_type(widened(field.type)) for field in dataset.schema])

    class Scannable(Dataset):  # type: ignore[misc]
        def __init__(self) -> None:
            """DuckDB looks at `schema` and `scanner` only."""

        @property
        def schema(self) -> pa.Schema:
            return schema

        def scanner(self, columns: list[str] | None = None, filter: Any = None, **_: Any) -> Any:
            return Scan(dataset, schema, schema.names if columns is None else columns, filter)

    return Scannable()


class Scan:
    """One scan of one table, as DuckDB asks for it."""

    def __init__(self, dataset: lance.LanceDataset, schema: pa.Schema, columns: list[str], condition: Any) -> None:
        self.dataset = dataset
        self.schema = pa.schema([schema.field(name) for name in columns])
        self.condition = condition

    def to_reader(self) -> pa.RecordBatchReader:
        try:
            reader = self._read(self.schema.names, self.condition)
        except ValueError:  # Lance has no such filter: on vectors, structs, dictionaries
            return pa.RecordBatchReader.from_batches(self.schema, self._filtered_here())
        if reader.schema.equals(self.schema):
            return reader
        return pa.RecordBatchReader.from_batches(self.schema, (batch.cast(self.schema) for batch in reader))

    def _read(self, columns: list[str], condition: Any) -> pa.RecordBatchReader:
        return self.dataset.scanner(
            columns=columns, filter=condition, batch_size=1024, io_buffer_size=32 * 2**20
        ).to_reader()

    def _filtered_here(self) -> Iterator[pa.RecordBatch]:
        text = str(self.condition)
        needed = [name for name in self.dataset.schema.names if name in self.schema.names or name in text]
        for batch in self._read(needed, None):
            rows = pa.Table.from_batches([batch]).filter(self.condition).select(self.schema.names)
            yield from rows.cast(self.schema).to_batches()


def widened(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(widened(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(widened(kind.value_type))
    return kind


def nodes_of(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a syntax tree that have a type."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, dict):
            if isinstance(node.get("type"), str):
                yield node
            waiting.extend(node.values())


def function_name(node: dict[str, Any]) -> str:
    return shortened(node.get("function_name", "this").lower())


def split_explain(sql: str) -> tuple[str, str]:
    """Return EXPLAIN or EXPLAIN ANALYZE (else "") and the rest, which is checked as if it stood alone."""
    found = EXPLAIN.match(sql)
    return (found[1], sql[found.end() :]) if found else ("", sql)


def first_word(sql: str) -> str:
    found = FIRST_WORD.match(sql)
    return found[1].upper() if found else "EXPLAIN with options"


def not_allowed(word: str) -> str:
    if word == "PIVOT":
        return "PIVOT is allowed in FROM only: SELECT * FROM (PIVOT t ON column IN ('a', 'b') USING count(*))."
    return f"{word} is not allowed: the atlas is read-only here.\n{ALLOWED}"


def refusal(exc: Exception, request: dict[str, Any], engine: Engine | None) -> dict[str, Any]:
    """Return what the parent is told; after a fatal error it starts a new child."""
    import duckdb

    message, sql = str(exc), request.get("sql") or ""
    if engine is None:
        return {"refused": f"The SQL engine did not start: {brief(message, sql)}", "fatal": True}
    if isinstance(exc, AtlasError):
        return {"refused": message, "fatal": False}
    out_of_memory = MEMORY.search(message) and not MEMORY.search(sql)
    if isinstance(exc, duckdb.OutOfMemoryException | MemoryError) or out_of_memory:
        # DuckDB does not recover: small queries would fail from now on
        return {"refused": too_much_memory(engine.memory_limit_mb), "fatal": True}
    if isinstance(exc, duckdb.FatalException | duckdb.InternalException):
        return {"refused": brief(message, sql), "fatal": True}
    if isinstance(exc, duckdb.InterruptException):
        return {"refused": late(engine.time_limit_s), "fatal": False}
    if isinstance(exc, RecursionError):
        return {"refused": "The query is nested too deeply. Split it with WITH.", "fatal": False}
    if found := UNKNOWN_TABLE.search(message):
        return {"unknown": ("table", found[1], sorted(engine.datasets), ""), "fatal": False}
    if found := UNKNOWN_COLUMN.search(message):
        tables = sorted(engine.datasets.keys() & engine.named)
        suggested = re.findall(r'"([^"]+)"', message[found.end() :].partition("LINE ")[0])
        columns = [name for table in tables for name in engine.datasets[table].schema.names]
        hint = f"DESCRIBE {tables[0]} lists its columns." if len(tables) == 1 else ""
        return {"unknown": ("column", found[1] or found[2], [*columns, *suggested], hint), "fatal": False}
    return {"refused": brief(message, sql), "fatal": False}


def brief(message: str, sql: str) -> str:
    """Return the first two telling lines of an engine's message, without what only its developers need."""
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not set(line) <= set("^~ ") and not line.startswith("Stack Trace")]
    lines = [PATH.sub(lambda path: path[0] if path[0] in sql else "…", line) for line in lines]
    return "\n".join(shortened(line, 300) for line in lines[:2]) or "The SQL engine gave no reason."


def shortened(text: str, length: int = 100) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
