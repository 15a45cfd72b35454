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
import signal
import struct
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from .errors import AtlasError, QueryRefused, UnknownName

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["SqlSession"]

MAX_SQL = 20_000  # characters
MAX_RESULT_MB = 256
START_LIMIT_S = 60.0
GRACE_S = 0.5  # how long the engine may take to notice its own limit before the child is killed

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

ALLOWED = "Allowed: one SELECT, EXPLAIN, DESCRIBE, SUMMARIZE or SHOW TABLES over the tables of the atlas."
ASK_LESS = "Filter with WHERE, name the columns you need, leave out embeddings, aggregate, or add LIMIT."


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
            [sys.executable, "-P", "-c", "from subcell_atlas.sql_engine import serve; serve()"],
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
