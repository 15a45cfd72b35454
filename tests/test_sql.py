"""SQL over an atlas: what it answers, which limits hold, and what it refuses."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from subcell_atlas import sql, sql_engine
from subcell_atlas.errors import AtlasError, QueryRefused, UnknownName
from subcell_atlas.sql import SqlSession

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
CANARY = "canary-7f3a"
ENDLESS = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b"
DEAF = "SELECT levenshtein(repeat('ab', 300000), repeat('ba', 300000))"  # does not notice the engine's own time limit


def proteins() -> pa.Table:
    vectors = [[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], None, [0.0, 0.0, 1.0]]
    return pa.table(
        {
            "protein_id": ["P1", "P2", "P3", "P4"],
            "gene_symbol": ["TOMM20", "VDAC1", "LMNA", None],
            "localization": pa.array([["Mitochondria"], ["Mitochondria", "Cytosol"], ["Nucleus"], None]),
            "n_cells": pa.array([10, 20, 30, None], pa.int32()),
            "image": pa.array(vectors, pa.list_(pa.float32(), 3)),
        }
    )


def cells() -> pa.Table:
    rng = np.random.default_rng(0)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rng.standard_normal(400 * 4).astype(np.float16)), 4)
    return pa.table(
        {
            "cell_id": [f"c{i}" for i in range(400)],
            "gene_symbol": [["TOMM20", "VDAC1", "LMNA", "ACTB"][i % 4] for i in range(400)],
            "embedding": vectors,
            "thumbnail": pa.array([b"jpeg"] * 400, pa.binary()),
        }
    )


def write(uri: Path, table: str, rows: pa.Table) -> None:
    lancedb.connect(str(uri)).create_table(table, rows, mode="overwrite")


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uri = tmp_path_factory.mktemp("secret_place") / "atlas"
    write(uri, "proteins", proteins())
    write(uri, "cells", cells())
    started = pa.array([dt.datetime(2025, 3, 1, 12, tzinfo=dt.UTC)], pa.timestamp("ms", tz="UTC"))
    write(uri, "runs", pa.table({"run_id": ["r1"], "kind": ["build"], "started": started}))
    return uri


@pytest.fixture(scope="module")
def session(atlas: Path) -> Iterator[SqlSession]:
    with SqlSession(str(atlas), time_limit_s=1, memory_limit_mb=256, row_limit=100) as session:
        yield session


@pytest.fixture
def engine(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> sql_engine.Engine:
    """The inside of the child, in this process and without limits of the process."""
    monkeypatch.setattr(sql_engine, "limit_address_space", lambda _: None)
    return sql_engine.Engine(uri=str(atlas), time_limit_s=5, memory_limit_mb=256, row_limit=100)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Any, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def in_thread(session: SqlSession, query: str) -> tuple[threading.Thread, list[Any]]:
    """Run `query` in a thread; the list gets its answer or its error."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(session.query(query))
        except AtlasError as exc:
            results.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    assert wait_until(lambda: session._busy and session._child is not None and session._child.is_alive())
    time.sleep(0.2)  # the query is on its way
    return thread, results


def python(code: str, *arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False, **kwargs)


# Answers


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT protein_id FROM proteins WHERE gene_symbol = 'VDAC1'", ["P2"]),
        ("SELECT protein_id FROM proteins WHERE gene_symbol IS NULL", ["P4"]),
        ("SELECT protein_id FROM proteins WHERE gene_symbol LIKE 'T%'", ["P1"]),
        ("SELECT protein_id FROM proteins WHERE gene_symbol IN ('LMNA', 'x') OR n_cells < 15 ORDER BY 1", ["P1", "P3"]),
        ("SELECT protein_id FROM proteins WHERE NOT (n_cells = 20) ORDER BY 1", ["P1", "P3"]),
        ("SELECT protein_id FROM proteins WHERE list_contains(localization, 'Cytosol')", ["P2"]),
        ("SELECT protein_id FROM proteins WHERE 'Mitochondria' IN localization ORDER BY 1", ["P1", "P2"]),
        ("SELECT protein_id FROM proteins WHERE localization = ['Nucleus']", ["P3"]),
        ("SELECT protein_id FROM proteins WHERE localization IS NULL", ["P4"]),
        ("SELECT protein_id FROM proteins WHERE image IS NULL", ["P3"]),
        ("SELECT protein_id FROM proteins WHERE image IS NOT NULL AND n_cells > 10", ["P2"]),
        ("SELECT unnest(localization) AS l FROM proteins WHERE protein_id = 'P2'", ["Mitochondria", "Cytosol"]),
        ("SELECT n_cells FROM proteins WHERE protein_id = 'P4'", [None]),
        ("SELECT sum(n_cells) FROM proteins", [60]),
        ("SELECT count(n_cells) FROM proteins", [3]),
        ("SELECT count(*) FROM cells WHERE gene_symbol = 'ACTB'", [100]),
        ("SELECT count(*) FROM cells JOIN proteins USING (gene_symbol) WHERE n_cells >= 20", [200]),
        ("WITH a AS (FROM cells WHERE cell_id = 'c7') SELECT gene_symbol FROM a", ["ACTB"]),
        ("SELECT run_id FROM runs WHERE started < now()", ["r1"]),
        ("SELECT started::DATE::VARCHAR FROM runs WHERE started > TIMESTAMPTZ '2025-01-01'", ["2025-03-01"]),
        ("SELECT cell_id FROM cells WHERE thumbnail = 'jpeg'::BLOB AND cell_id = 'c3'; -- one statement", ["c3"]),
        ("SELECT ';--'", [";--"]),
        ("SELECT 'a;' -- ;", ["a;"]),
        ("SELECT date_part('hour', started) FROM runs", [12]),
        ("/**/ --x\n" * 1_500 + "SELECT 1", [1]),
        ("SHOW TABLES", ["cells", "proteins", "runs"]),
        ("DESCRIBE proteins", ["protein_id", "gene_symbol", "localization", "n_cells", "image"]),
        ("SUMMARIZE SELECT n_cells FROM proteins", ["n_cells"]),
        ("VALUES (1), (2)", [1, 2]),
        ("SELECT x FROM (PIVOT cells ON gene_symbol IN ('ACTB' AS x) USING count(*) GROUP BY thumbnail)", [100]),
    ],
)
def test_a_query_answers(session: SqlSession, query: str, expected: list[Any]) -> None:
    assert session.query(query).column(0).to_pylist() == expected


def test_similarity_of_vectors_is_computed_in_sql(session: SqlSession) -> None:
    rows = session.query(
        """
        SELECT b.protein_id, array_cosine_similarity(a.image, b.image) AS similarity
        FROM proteins a, proteins b WHERE a.protein_id = 'P1' ORDER BY similarity DESC NULLS LAST
        """
    ).to_pylist()
    assert [row["protein_id"] for row in rows] == ["P1", "P2", "P4", "P3"]
    assert [row["similarity"] for row in rows] == pytest.approx([1.0, 0.8, 0.0, None])


def test_half_precision_vectors_are_widened_not_changed(session: SqlSession) -> None:
    answer = session.query("SELECT embedding FROM cells WHERE cell_id IN ('c0', 'c399') ORDER BY cell_id")
    assert answer.schema.field("embedding").type == pa.list_(pa.float32(), 4)
    vectors = cells()["embedding"].to_pylist()
    assert answer["embedding"].to_pylist() == [vectors[0], vectors[399]]


def test_explain_shows_the_plan(session: SqlSession) -> None:
    assert "Scan" in session.query("EXPLAIN SELECT * FROM cells")["explain_value"][0].as_py()
    assert "Time" in session.query("explain analyze SELECT count(*) FROM cells")["explain_value"][0].as_py()


def test_tables_lists_columns_with_their_types(session: SqlSession) -> None:
    tables = session.tables()
    assert set(tables) == {"cells", "proteins", "runs"}
    assert ("image", "FLOAT[3]") in tables["proteins"]
    assert tables["cells"] == [
        ("cell_id", "VARCHAR"),
        ("gene_symbol", "VARCHAR"),
        ("embedding", "FLOAT[4]"),
        ("thumbnail", "BLOB"),
    ]


def test_only_the_columns_and_rows_asked_for_are_read(
    engine: sql_engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[list[str], str]] = []
    original = sql_engine.Scan._read

    def recording(scan: sql_engine.Scan, columns: list[str], condition: Any) -> pa.RecordBatchReader:
        read.append((columns, str(condition)))
        return original(scan, columns, condition)

    monkeypatch.setattr(sql_engine.Scan, "_read", recording)
    engine.query("SELECT cell_id FROM cells WHERE gene_symbol = 'ACTB'")
    assert read == [(["cell_id"], '(gene_symbol == "ACTB")')]


def test_a_filter_that_lance_lacks_is_applied_after_reading(engine: sql_engine.Engine) -> None:
    buffer = engine.query("SELECT protein_id FROM proteins WHERE image IS NOT NULL AND gene_symbol >= 'U'")
    assert pa.ipc.open_stream(buffer).read_all().to_pylist() == [{"protein_id": "P2"}]


def test_new_data_is_seen(tmp_path: Path) -> None:
    uri = tmp_path / "atlas"
    write(uri, "proteins", proteins())
    database = lancedb.connect(str(uri))
    count = "SELECT count(*), min(protein_id) FROM proteins"
    with SqlSession(str(uri)) as session:
        assert session.query(count).to_pylist()[0]["count_star()"] == 4
        database.open_table("proteins").add(proteins())
        assert session.query(count).to_pylist()[0]["count_star()"] == 8
        database.drop_table("proteins")
        write(uri, "proteins", pa.table({"protein_id": ["Q"], "extra": [1]}))
        database.open_table("proteins").add(pa.table({"protein_id": ["R"], "extra": [2]}))  # the same version as before
        assert session.query(f"{count} WHERE extra > 0").to_pylist() == [{"count_star()": 2, "min(protein_id)": "Q"}]
        with pytest.raises(UnknownName):
            session.query("FROM cells")
        write(uri, "cells", cells())
        assert session.query("SELECT count(*) AS n FROM cells").to_pylist() == [{"n": 400}]
        database.drop_table("proteins")
        with pytest.raises(UnknownName, match="Unknown table 'proteins'"):
            session.query(count)


# Names and malformed queries


def test_an_unknown_table_names_the_nearest(session: SqlSession) -> None:
    with pytest.raises(UnknownName, match="Unknown table 'protein'; nearest: proteins"):
        session.query("SELECT * FROM protein")


@pytest.mark.parametrize("column", ["gene_symbl", "p.gene_symbl"])
def test_an_unknown_column_names_the_nearest(session: SqlSession, column: str) -> None:
    with pytest.raises(UnknownName, match="Unknown column 'gene_symbl'; nearest: gene_symbol") as caught:
        session.query(f"SELECT {column} FROM proteins p")
    assert "DESCRIBE proteins" in str(caught.value)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "The query is empty"),
        (" \n\t", "The query is empty"),
        ("-- nothing", "The query is empty"),
        (";", "The query is empty"),
        ("SELECT '" + "x" * 20_000 + "'", "20,009 characters; the limit is 20,000"),
        ("SELECT 1\0", "NUL"),
        ("SELECT '\udcff'", "not valid Unicode text at character 9"),
        (b"SELECT 1", "string, not bytes"),
        ("SELECT * FORM cells", 'syntax error at or near "cells"'),
        ("SELECT 'unfinished", "unterminated"),
        ("SELECT foo(1)", 'Scalar Function with name foo does not exist!\nDid you mean "floor"'),
        ("SELECT 'a'::INT", "Could not convert string 'a' to INT32"),
        ("SELECT ?", "parameter"),
        ("SELECT " + "(" * 5_000 + "1" + ")" * 5_000, "depth|deep|expression|syntax|stack"),
        ("SELECT " + "-" * 4_000 + "1", "."),
        ("SELECT " + "1+" * 4_000 + "1", "depth|deep"),
    ],
)
def test_a_malformed_query_is_refused_in_two_lines(session: SqlSession, query: Any, message: str) -> None:
    with pytest.raises(QueryRefused, match=message) as caught:
        session.query(query)
    assert len(str(caught.value).splitlines()) <= 2


# Limits


def test_rows_beyond_the_limit_are_cut_off_and_it_says_so(session: SqlSession) -> None:
    cut = session.query("SELECT * FROM range(101)")
    assert (cut.num_rows, cut.schema.metadata[b"truncated"]) == (100, b"true")
    whole = session.query("SELECT * FROM range(100)")
    assert (whole.num_rows, whole.schema.metadata[b"truncated"]) == (100, b"false")


def test_a_long_answer_is_not_computed_beyond_the_limit(session: SqlSession) -> None:
    assert session.query("SELECT * FROM range(1000000000000)").num_rows == 100


@pytest.mark.parametrize(("query", "survives"), [(ENDLESS, True), (DEAF, False)])
def test_the_time_limit_holds(session: SqlSession, query: str, survives: bool) -> None:
    session.query("SELECT 1")  # so that the start is not counted
    pid = session._child.pid
    start = time.monotonic()
    with pytest.raises(QueryRefused, match=r"time limit of 1 s\.\nFilter with WHERE"):
        session.query(query)
    assert 0.9 < time.monotonic() - start < 3
    assert is_running(pid) == survives  # the engine stops by itself when it notices
    assert session.query("SELECT 42 AS n").to_pylist() == [{"n": 42}]


def test_planning_that_never_ends_is_stopped(session: SqlSession) -> None:
    doublings = ", ".join(f"t{i} AS NOT MATERIALIZED (SELECT a.x FROM t{i - 1} a, t{i - 1} b)" for i in range(1, 26))
    with pytest.raises(QueryRefused, match="limit"):
        session.query(f"WITH t0 AS (SELECT 1 AS x), {doublings} SELECT count(*) FROM t25")
    assert session.query("SELECT 42 AS n").to_pylist() == [{"n": 42}]


def test_the_memory_limit_holds(atlas: Path) -> None:
    code = """
        import resource, sys
        from subcell_atlas.errors import QueryRefused
        from subcell_atlas.sql import SqlSession
        session = SqlSession(sys.argv[1], time_limit_s=1, memory_limit_mb=192)
        for query in [
            "SELECT list(range) FROM range(1000000000)",
            "SELECT printf('%1000000000d', 1)",
            "SELECT bitstring('1', 2000000000)",
        ]:
            try:
                session.query(query)
                print("answered")
            except QueryRefused as exc:
                print(str(exc).split("\\n")[0].split(" limit")[0].split()[-1])
            assert session.query("SELECT count(*) AS n FROM cells").to_pylist() == [{"n": 400}]
        session.close()
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
    """
    done = python(code, str(atlas))
    *answers, peak_mb = done.stdout.split()
    assert answers[0] == "memory", done.stderr
    assert set(answers[1:]) <= {"memory", "time"}  # DuckDB does not count these; the process's own limit stops them
    assert int(peak_mb) < 192 + sql_engine.THREADS_MB + 250  # 250: the child at rest


def test_the_engine_counts_its_memory(engine: sql_engine.Engine) -> None:
    with pytest.raises(Exception, match="Out of Memory"):
        engine.query("SELECT list(range) FROM range(100000000)")


def test_a_child_that_ran_out_of_memory_is_replaced(atlas: Path) -> None:
    with SqlSession(str(atlas), memory_limit_mb=64) as session:
        session.query("SELECT 1")
        pid = session._child.pid
        with pytest.raises(QueryRefused, match=r"memory limit of 64 MB\.\nFilter with WHERE"):
            session.query("SELECT list(range) FROM range(100000000)")
        assert session.query("SELECT 42 AS n").to_pylist() == [{"n": 42}]
        assert session._child.pid != pid


def test_the_size_of_an_answer_is_limited(engine: sql_engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_engine, "MAX_RESULT_MB", 1)
    with pytest.raises(QueryRefused, match=r"2 MB in 20 rows; the limit is 1 MB\.\nFilter with WHERE"):
        engine.query("SELECT repeat('x', 100000) FROM range(20)")


# Attacks

FILES = [
    "SELECT * FROM read_csv('{canary}')",
    "SELECT * FROM read_csv_auto('{canary}')",
    "SELECT * FROM read_text('{canary}')",
    "SELECT * FROM read_blob('{canary}')",
    "SELECT * FROM read_json_objects('{canary}')",
    "SELECT * FROM read_ndjson('{canary}')",
    "SELECT * FROM read_parquet('{canary}')",
    "SELECT * FROM parquet_metadata('{canary}')",
    "SELECT * FROM read_duckdb('{canary}')",
    "SELECT * FROM sniff_csv('{canary}')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM glob('{atlas}/*')",
    "SELECT * FROM '{canary}'",
    "SELECT * FROM '{scratch}/*.csv'",
    'SELECT * FROM "{canary}"',
    "FROM 'https://example.org/data.csv'",
    "FROM 's3://bucket/data.parquet'",
    "DESCRIBE '{canary}'",
    "SUMMARIZE '{canary}'",
    "SELECT (SELECT content FROM read_text('{canary}'))",
    "SELECT * FROM cells, LATERAL (SELECT * FROM READ_TEXT('{canary}'))",
    "WITH t AS MATERIALIZED (SELECT * FROM read_text('{canary}')) SELECT 1 FROM t",
    "SELECT 1 UNION ALL SELECT length(content) FROM read_text('{canary}')",
    "SELECT * FROM query('SELECT * FROM read_text(''{canary}'')')",
    "SELECT * FROM query_table('{canary}')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{canary}'')'))",
    "EXPLAIN ANALYZE SELECT * FROM read_text('{canary}')",
    "EXPLAIN SELECT * FROM read_text('{canary}')",
    "SELECT * FROM which_secret('s3://a', 's3')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_extensions()",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM duckdb_logs()",
    "SELECT * FROM pragma_database_size()",
    "SELECT * FROM enable_logging()",
    "SELECT * FROM enable_profiling('json', save_location = '{scratch}/profile')",
    "SELECT * FROM arrow_scan(1::POINTER, 2::POINTER, 3::POINTER)",
    "SELECT * FROM pandas_scan(140000000000::POINTER)",
    "SELECT * FROM python_arrow_scan(1)",
    "SELECT getenv('SUBCELL_TEST_SECRET')",
    "SELECT current_setting('secret_directory')",
    "SELECT write_log('x')",
]
STATEMENTS = [
    "COPY proteins TO '{scratch}/out.csv'",
    "COPY (SELECT 1) TO '{scratch}/out.parquet' (FORMAT parquet)",
    "COPY proteins FROM '{canary}'",
    "EXPORT DATABASE '{scratch}/out'",
    "IMPORT DATABASE '{scratch}'",
    "ATTACH '{scratch}/new.duckdb' AS x",
    "ATTACH ':memory:' AS x",
    "DETACH memory",
    "USE temp",
    "CONNECT 'quack://localhost'",
    "INSTALL httpfs",
    "FORCE INSTALL spatial FROM community",
    "LOAD '{scratch}/evil.duckdb_extension'",
    "SET memory_limit = '64GB'",
    "SET enable_external_access = true",
    "RESET max_execution_time",
    "SET VARIABLE a = 1",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "CALL pragma_version()",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "DELETE FROM proteins",
    "INSERT INTO proteins (protein_id) VALUES ('P9')",
    "UPDATE proteins SET n_cells = 0",
    "MERGE INTO proteins USING cells USING (gene_symbol) WHEN MATCHED THEN DELETE",
    "TRUNCATE proteins",
    "DROP VIEW proteins",
    "ALTER VIEW proteins RENAME TO p",
    "CREATE TABLE t AS SELECT 1",
    "CREATE TEMP VIEW cells AS SELECT 1",
    "CREATE OR REPLACE TEMP MACRO count(x) AS 0",
    "CREATE SECRET s (TYPE s3)",
    "PREPARE p AS DELETE FROM proteins",
    "EXECUTE p",
    "WITH d AS (DELETE FROM proteins RETURNING *) SELECT * FROM d",
    "WITH d AS (INSERT INTO proteins (protein_id) VALUES ('x') RETURNING *) SELECT * FROM d",
    "EXPLAIN ANALYZE DELETE FROM proteins",
    "EXPLAIN COPY proteins TO '{scratch}/out.csv'",
    "/* SELECT */ COPY proteins TO '{scratch}/out.csv'",
    "EXPLAIN (ANALYZE) COPY proteins TO '{scratch}/out.csv'",
    "SELECT 1; COPY proteins TO '{scratch}/out.csv'",
    "SELECT 1; SELECT 2",
    "PIVOT cells ON gene_symbol",
]
HARMLESS = [
    "SELECT * FROM duckdb_databases",
    "SELECT * FROM pragma_database_list",
    "SHOW DATABASES",
    "SHOW ALL TABLES",
    "SELECT * FROM duckdb_views",
    "SELECT * FROM duckdb_logs",
    "SELECT * FROM pg_settings",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM information_schema.columns",
    "SELECT current_database(), current_user, version()",
    "SELECT * FROM secret_table",
    "SELECT getvariable('a')",
    "SELECT error('{scratch}/x')",
    "SELECT * FROM proteins.read_text",
    "SELECT nextval('s')",
    "SELECT '{canary}'::BLOB",
    "SELECT 1::POINTER",
]


@pytest.fixture
def attack(atlas: Path, session: SqlSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run an attack and return its error, if any; nothing may be read, written, leaked or left broken."""
    canary = tmp_path / "canary.csv"
    canary.write_text(f"{CANARY},1\n")
    monkeypatch.chdir(tmp_path)
    parent_data = proteins()
    secret_table = parent_data  # noqa: F841 - a variable that DuckDB's replacement scan could find

    def run(template: str) -> AtlasError | None:
        query = template.format(canary=canary, scratch=tmp_path, atlas=atlas)
        error, said = None, ""
        try:
            said = str(session.query(query).to_pydict())
        except AtlasError as exc:
            error, said = exc, str(exc)
            assert len(said.splitlines()) <= 2
            assert "Traceback" not in said
        for secret in (CANARY, str(atlas), str(atlas.parent), sys.prefix, str(Path.home() / ".duckdb")):
            assert secret not in said.replace(query, "").replace(str(canary), ""), said
        return error

    before = {path: path.stat().st_mtime_ns for path in [*tmp_path.rglob("*"), *atlas.rglob("*")]}
    yield run
    assert {path: path.stat().st_mtime_ns for path in [*tmp_path.rglob("*"), *atlas.rglob("*")]} == before
    assert session.query("SELECT count(*) AS n, sum(n_cells) AS s FROM proteins").to_pylist() == [{"n": 4, "s": 60}]


@pytest.mark.parametrize("query", FILES)
def test_what_reaches_out_of_the_atlas_is_refused_by_name(attack: Any, query: str) -> None:
    error = attack(query)
    assert isinstance(error, QueryRefused)
    assert "is not allowed. A query reads the tables" in str(error) or "is not a table of the atlas" in str(error)


@pytest.mark.parametrize("query", STATEMENTS)
def test_what_is_not_one_select_is_refused_by_name(attack: Any, query: str) -> None:
    error = attack(query)
    assert isinstance(error, QueryRefused)
    assert "allowed" in str(error).lower()
    word = query.split()[0]
    if word not in {"SELECT", "WITH", "EXPLAIN", "/*", "FORCE", "DETACH", "IMPORT"}:
        assert str(error).startswith(f"{word} is ")


@pytest.mark.parametrize("query", HARMLESS)
def test_what_is_answered_tells_nothing_about_the_machine(attack: Any, query: str) -> None:
    attack(query)


@pytest.mark.parametrize("query", [q for q in FILES + STATEMENTS if "{" in q and "atlas" not in q])
def test_the_engine_by_itself_reaches_no_file(
    engine: sql_engine.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    canary = tmp_path / "canary.csv"
    canary.write_text(f"{CANARY},1\n")
    monkeypatch.setattr(engine, "check", lambda _: None)  # one fence down
    try:
        said = str(engine.query(query.format(canary=canary, scratch=tmp_path)).to_pybytes())
    except Exception as exc:  # noqa: BLE001 - duckdb's, of many kinds
        said = str(exc)
    assert CANARY not in said
    assert list(tmp_path.iterdir()) == [canary]


# The process


def test_the_child_cannot_write_a_file(atlas: Path, tmp_path: Path) -> None:
    code = """
        import sys
        from subcell_atlas.sql_engine import forbid_files
        forbid_files()
        try:
            with open(sys.argv[1], "w") as file:
                file.write("x")
        except OSError as exc:
            print(exc.strerror)
    """
    assert python(code, str(tmp_path / "file")).stdout == "File too large\n"


def test_the_child_sees_hardly_any_environment(
    atlas: Path, monkeypatch: pytest.MonkeyPatch, session: SqlSession
) -> None:
    monkeypatch.setenv("SUBCELL_TEST_SECRET", CANARY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("HOME", f"/{CANARY}")
    assert CANARY not in str(sql.child_environment(str(atlas)))
    remote = sql.child_environment("s3://bucket/atlas")
    assert remote["AWS_SECRET_ACCESS_KEY"] == CANARY
    assert "SUBCELL_TEST_SECRET" not in remote
    with SqlSession(str(atlas)) as fresh:
        fresh.query("SELECT 1")
        assert CANARY not in Path(f"/proc/{fresh._child.pid}/environ").read_text()


def test_the_child_has_the_limits_of_its_process(session: SqlSession) -> None:
    session.query("SELECT 1")
    limits = Path(f"/proc/{session._child.pid}/limits").read_text()
    of = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert (of["Max file size"], of["Max core file size"]) == ("0", "0")
    assert int(of["Max address space"]) < 2 * 2**30
    assert os.getsid(session._child.pid) == session._child.pid


def test_the_parent_never_loads_the_engine(atlas: Path) -> None:
    code = """
        import sys
        from subcell_atlas.sql import SqlSession
        with SqlSession(sys.argv[1]) as session:
            print(session.query("SELECT count(*) AS n FROM cells").to_pylist())
        print({"duckdb", "lance", "lancedb"} & set(sys.modules))
    """
    done = python(code, str(atlas))
    assert done.stdout == "[{'n': 400}]\nset()\n"
    assert done.stderr == ""


def test_a_relative_address_means_the_folder_of_the_parent(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(atlas.parent)
    with SqlSession("./atlas") as session:
        assert session.query("SELECT count(*) AS n FROM cells").to_pylist() == [{"n": 400}]


def test_an_address_without_an_atlas_has_no_tables(tmp_path: Path) -> None:
    with SqlSession(str(tmp_path / "nothing")) as session:
        assert session.tables() == {}
        with pytest.raises(UnknownName, match="Unknown table 'cells'"):
            session.query("FROM cells")
    assert list(tmp_path.iterdir()) == []


def test_cancel_stops_the_running_query_only(atlas: Path) -> None:
    with SqlSession(str(atlas), time_limit_s=30) as session:
        session.cancel()
        assert session.query("SELECT 42 AS n").to_pylist() == [{"n": 42}]
        pid = session._child.pid
        session.cancel()
        assert is_running(pid)
        thread, results = in_thread(session, DEAF)
        start = time.monotonic()
        session.cancel()
        thread.join(timeout=5)
        assert time.monotonic() - start < 2
        assert isinstance(results[0], QueryRefused)
        assert "cancelled" in str(results[0])
        assert session.query("SELECT 42 AS n").to_pylist() == [{"n": 42}]


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_is_an_error_and_the_next_query_works(session: SqlSession, how: signal.Signals) -> None:
    thread, results = in_thread(session, DEAF)
    os.kill(session._child.pid, how)
    thread.join(timeout=5)
    assert isinstance(results[0], QueryRefused)
    assert "ended the SQL engine" in str(results[0])
    assert session.query("SELECT 42 AS n").to_pylist() == [{"n": 42}]


def test_a_child_that_died_between_queries_is_replaced(session: SqlSession) -> None:
    session.query("SELECT 1")
    pid = session._child.pid
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not session._child.is_alive())
    assert session.query("SELECT 42 AS n").to_pylist() == [{"n": 42}]


def test_queries_of_many_threads_get_their_own_answers(session: SqlSession) -> None:
    answers: dict[int, list[int]] = {}

    def ask(number: int) -> None:
        answers[number] = [session.query(f"SELECT {number} AS n")["n"][0].as_py() for _ in range(10)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert answers == {number: [number] * 10 for number in range(4)}


def test_closing_ends_the_child_and_the_query(atlas: Path) -> None:
    session = SqlSession(str(atlas), time_limit_s=30)
    thread, results = in_thread(session, DEAF)
    pid = session._child.pid
    session.close()
    thread.join(timeout=5)
    assert "closed" in str(results[0])
    assert not is_running(pid)
    with pytest.raises(QueryRefused, match="closed"):
        session.query("SELECT 1")


def test_a_forgotten_session_ends_its_child(atlas: Path) -> None:
    session = SqlSession(str(atlas))
    session.query("SELECT 1")
    pid = session._child.pid
    del session
    assert wait_until(lambda: not is_running(pid))


@pytest.mark.parametrize("query", ["SELECT 1", DEAF])
def test_the_child_ends_with_its_parent(atlas: Path, query: str) -> None:
    code = """
        import os, signal, sys, threading, time
        from subcell_atlas.sql import SqlSession
        session = SqlSession(sys.argv[1], time_limit_s=30)
        session.query("SELECT 1")
        threading.Thread(target=session.query, args=(sys.argv[2],), daemon=True).start()
        time.sleep(0.3)
        print(session._child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    pid = int(python(code, str(atlas), query).stdout)
    assert wait_until(lambda: not is_running(pid), seconds=3)


def test_the_kernel_ends_a_child_that_nobody_stops(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "GRACE_S", 20.0)  # the parent's patience; the child keeps its own
    with SqlSession(str(atlas), time_limit_s=0.5) as session:
        start = time.monotonic()
        with pytest.raises(QueryRefused, match="ended the SQL engine"):
            session.query(DEAF)
        assert time.monotonic() - start < 5
