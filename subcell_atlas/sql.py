"""Read-only SQL over the tables of an atlas: DuckDB, in a process of its own that can be killed.

    with SqlSession("./atlas") as session:
        session.query("SELECT gene_symbol, n_cells FROM proteins ORDER BY n_cells DESC LIMIT 10")

SQL is code, so nothing of DuckDB runs in the caller's process. Three fences, from the inside out:

1. The statement: one, SELECT (also FROM, VALUES, DESCRIBE, SHOW TABLES, SUMMARIZE) or EXPLAIN. Its syntax tree is
   read before it runs: a table function outside `TABLE_FUNCTIONS`, a file name or a hidden DELETE is refused by name.
2. The engine: in memory, no files, no network, no extensions, no settings, a limit of time and of memory.
3. The process: hardly any environment, no file may be written (RLIMIT_FSIZE 0), its address space is limited, a timer
   of the kernel ends it, and it ends when the caller does.

What the fences do not hold: somebody who takes over the child through a bug of DuckDB or Lance can read what the
user may read and may open connections. On a public server put the app in a container without a network. On Windows
and macOS the address space is not limited; there the engine's own limit is the only one of memory.

Each table is a Lance dataset that DuckDB sees as an Arrow dataset, so that the columns it needs and the comparisons of
WHERE go down to Lance; functions such as `list_contains` are computed above the scan. Measured on 200,000 rows with a
vector of 1,536 numbers in half precision (588 MB): `SELECT cell_id … WHERE gene_symbol = 'G7'` read 1.8 MB from disk in
20 ms, so the vectors stay where they are unless a query names them. They are FLOAT[n], half precision included, which
`array_cosine_similarity` takes: one vector against all 200,000 took 1.6 s.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from .errors import AtlasError, QueryRefused, UnknownName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import lance

__all__ = ["SqlSession"]

MAX_SQL = 20_000  # characters
MAX_RESULT_MB = 256
START_LIMIT_S = 60.0
GRACE_S = 0.5  # how long the engine may take to notice its own limit before the child is killed
REOPEN_REMOTE_S = 5.0  # a local atlas is opened anew for each query (0.4 ms a table), a remote one this often
THREADS_MB = 256  # address space that the threads of Lance and DuckDB reserve once they run (70 to 160 were seen)
ENGINE_SHARE = 0.75  # of the memory limit; the rest is for Lance's buffers and the result

LENGTH = struct.Struct(">Q")
ANSWER, ERROR = b"A", b"E"

# What the child may see of the environment; the last two are for remote atlases only.
KEPT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
KEPT_REMOTE = ("HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
CREDENTIALS = {"s3": ("AWS_", "SSL_CERT_"), "gs": ("GOOGLE_", "SSL_CERT_"), "az": ("AZURE_", "SSL_CERT_")}
FEW_THREADS = {
    # Every thread and every malloc arena reserves address space, and that is what RLIMIT_AS counts.
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LANCE_CPU_THREADS": "2",
    "LANCE_IO_THREADS": "8",
    "TOKIO_WORKER_THREADS": "2",
}

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
ALLOWED = "Allowed: one SELECT, EXPLAIN, DESCRIBE, SUMMARIZE or SHOW TABLES over the tables of the atlas."
NO_FILES = "A query reads the tables of the atlas, nothing else: no files, no network, no settings."
ASK_LESS = "Filter with WHERE, name the columns you need, leave out embeddings, aggregate, or add LIMIT."

SPACE = r"(?:\s|--[^\n]*(?:\n|$)|/\*(?:[^*]|\*(?!/))*\*/)*"  # blanks and comments; never two ways to match one text
EXPLAIN = re.compile(rf"{SPACE}(EXPLAIN(?:\s+ANALYZE)?(?=[\s(]))", re.IGNORECASE)
END = re.compile(rf";{SPACE}$")
FIRST_WORD = re.compile(rf"{SPACE}(\w+)")
FILE = re.compile(r"[/\\.:*?]")
PATH = re.compile(r"(?:/[^\s/'\"]+){2,}/?")
UNKNOWN_TABLE = re.compile(r"Table with name (\S+) does not exist")
UNKNOWN_COLUMN = re.compile(r'Referenced column "([^"]+)" not found|does not have a column named "([^"]+)"')
MEMORY = re.compile(r"out of memory|bad_alloc|cannot allocate|failed to allocate|memory allocation", re.IGNORECASE)


class SqlSession:
    """A child process that answers SQL over the atlas at `uri`, one query at a time.

    The child starts with the first question and starts again after it was killed or ran out of memory. Every limit is
    per query: `time_limit_s` of wall-clock time, `memory_limit_mb` on top of what the child needs at rest (about
    200 MB), `row_limit` rows; of a longer answer the first rows come back, marked as cut off.
    """

    def __init__(
        self, uri: str, *, time_limit_s: float = 10.0, memory_limit_mb: int = 2048, row_limit: int = 10_000
    ) -> None:
        self.uri = uri if "://" in uri else str(Path(uri).absolute())
        self.time_limit_s = time_limit_s
        self.memory_limit_mb = memory_limit_mb
        self.row_limit = row_limit
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._end: Callable[[], object] | None = None  # ends the child, at the latest when this session is collected
        self._busy = False
        self._closed = False

    def __enter__(self) -> SqlSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def query(self, sql: str) -> pa.Table:
        """Return the answer; its schema's metadata says under b"truncated" whether rows were cut off (b"true")."""
        with pa.ipc.open_stream(self._ask({"sql": checked_text(sql)})) as stream:
            return stream.read_all()

    def tables(self) -> dict[str, list[tuple[str, str]]]:
        """Return the columns of each table with their DuckDB types."""
        answer = json.loads(self._ask({"sql": None}))
        return {table: [(name, kind) for name, kind in columns] for table, columns in answer.items()}

    def cancel(self) -> None:
        """Kill the query that is running, if any, from another thread; it raises QueryRefused."""
        child = self._child
        if self._busy and child is not None:
            child.kill("The query was cancelled.")

    def close(self) -> None:
        """End the child, and with it a query that is still running."""
        self._closed = True
        if self._end is not None:
            self._end()

    def _ask(self, request: dict[str, Any]) -> bytes:
        with self._lock:
            self._busy = True
            try:
                child = self._living_child()
                return child.ask(request, limit_s=self.time_limit_s + GRACE_S, late=late(self.time_limit_s))
            finally:
                self._busy = False

    def _living_child(self) -> _Child:
        if self._closed:
            raise QueryRefused("The SQL session is closed. Open a new one.")
        if self._child is not None and self._child.is_alive():
            return self._child
        if self._end is not None:
            self._end()  # reaps it and closes its pipes
        self._child = _Child(child_environment(self.uri), memory_limit_mb=self.memory_limit_mb)
        self._end = weakref.finalize(self, self._child.end, "The SQL session was closed.")
        setup = {
            "uri": self.uri,
            "time_limit_s": self.time_limit_s,
            "memory_limit_mb": self.memory_limit_mb,
            "row_limit": self.row_limit,
        }
        late_start = f"The SQL engine did not start within {START_LIMIT_S:g} s."
        self._child.ask(setup, limit_s=START_LIMIT_S, late=late_start)
        return self._child


class _Child:
    """The parent's end: a process, and messages that are a length and that many bytes."""

    def __init__(self, environment: dict[str, str], *, memory_limit_mb: int) -> None:
        self.memory_limit_mb = memory_limit_mb
        self.killed: str | None = None  # why, once it was
        self._killing = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from subcell_atlas.sql import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=os.path.sep,
            start_new_session=True,  # Ctrl-C in a terminal is for the parent
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self.killed is None and self._process.poll() is None

    def kill(self, why: str) -> None:
        """End the process; a question that waits for it raises QueryRefused with this reason, the first one given."""
        with self._killing:
            if self.killed is None:
                self.killed = why
            self._process.kill()
            self._process.wait()

    def end(self, why: str) -> None:
        """Kill, and close the pipes."""
        self.kill(why)
        for pipe in (self._requests, self._answers):
            with contextlib.suppress(OSError):  # what was not sent cannot be
                pipe.close()

    def ask(self, request: dict[str, Any], *, limit_s: float, late: str) -> bytes:
        """Send a request and return the answer, or raise what went wrong."""
        timer = threading.Timer(limit_s, self.kill, [late])
        timer.daemon = True
        timer.start()
        try:
            send(self._requests, ANSWER, json.dumps(request).encode())
            kind, answer = receive(self._answers)
        except (EOFError, OSError, ValueError):  # ValueError: the pipe was closed from another thread
            self.end("")
            raise QueryRefused(self.killed or crashed(self._process.returncode, self.memory_limit_mb)) from None
        except BaseException:  # Ctrl-C: the answer would be taken for that of the next question
            self.end("")
            raise
        finally:
            timer.cancel()
        if kind == ERROR:
            error = json.loads(answer)
            if error["fatal"]:
                self.end("")
            raise error_from(error)
        return answer


def send(pipe: IO[bytes], kind: bytes, message: bytes | pa.Buffer) -> None:
    pipe.write(kind + LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[bytes, bytes]:
    head = pipe.read(1 + LENGTH.size)
    if len(head) < 1 + LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head[1:])
    if length > (MAX_RESULT_MB + 16) * 2**20:
        raise EOFError
    message = pipe.read(length)
    if len(message) < length:
        raise EOFError
    return head[:1], message


def child_environment(uri: str) -> dict[str, str]:
    """Return the few variables that the child needs; credentials only when the atlas is remote."""
    names = list(KEPT)
    if "://" in uri:
        prefixes = CREDENTIALS.get(uri.split("://")[0], ())
        names += [*KEPT_REMOTE, *(name for name in os.environ if name.startswith(prefixes))]
    kept = {name: os.environ[name] for name in names if name in os.environ}
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [str(Path(__file__).resolve().parents[1]), *(str(Path(entry).absolute()) for entry in inherited if entry)]
    return {**kept, **FEW_THREADS, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}


def checked_text(sql: str) -> str:
    """Return `sql` if it is text that an engine can be given."""
    if not isinstance(sql, str):
        raise QueryRefused(f"A query is a string, not {type(sql).__name__}. {ALLOWED}")
    if not sql.strip():
        raise QueryRefused(f"The query is empty. {ALLOWED}")
    if len(sql) > MAX_SQL:
        raise QueryRefused(f"The query has {len(sql):,} characters; the limit is {MAX_SQL:,}. Shorten its lists.")
    if "\0" in sql:
        raise QueryRefused("The query contains a NUL character. Remove it.")
    try:
        sql.encode()
    except UnicodeEncodeError as exc:
        raise QueryRefused(f"The query is not valid Unicode text at character {exc.start + 1}.") from None
    return sql


def late(time_limit_s: float) -> str:
    return f"The query was stopped at the time limit of {time_limit_s:g} s.\n{ASK_LESS}"


def too_much_memory(memory_limit_mb: int) -> str:
    return f"The query needs more than the memory limit of {memory_limit_mb:,} MB.\n{ASK_LESS}"


def crashed(exit_code: int | None, memory_limit_mb: int) -> str:
    how = f"exit code {exit_code}"
    if exit_code is not None and exit_code < 0:
        how = signal.strsignal(-exit_code) or how
    why = f"most often at the memory limit of {memory_limit_mb:,} MB"
    return f"The query ended the SQL engine ({how}), {why}.\n{ASK_LESS}"


def error_from(answer: dict[str, Any]) -> AtlasError:
    if "unknown" in answer:
        kind, name, known, hint = answer["unknown"]
        return UnknownName(kind, name, known, hint=hint)
    return QueryRefused(answer["refused"])


# From here on: the child. It is the only place that imports duckdb.


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
        self.open_tables()
        return {name: self.columns(name) for name in self.datasets}

    def columns(self, table: str) -> list[tuple[str, str]]:
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
