"""The atlas on disk: one LanceDB database. The only file that imports lancedb and lance.

Every write is one commit: a reader sees the state before it or after it, and a killed process leaves the former.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .errors import AtlasError, AtlasNotFound, BadInput, NotBuilt, SchemaMismatch
from .recipe import Recipe
from .schema import KEYS, SCHEMA_VERSION, TABLES, VECTOR, read_metadata, table_schema

if TYPE_CHECKING:
    import lance
    import lancedb

__all__ = ["Probing", "Store", "default_uri", "open_datasets", "quote"]

HOW_TO_FILL = {
    "cells": "Put pictures in: subcell-atlas ingest images MANIFEST.csv (or try subcell-atlas demo).",
    "profiles": "Run: subcell-atlas build",
    "proteins": "Run: subcell-atlas build",
    "cell_places": "Run: subcell-atlas build places",
    "systems": "Run: subcell-atlas build map",
    "system_edges": "Run: subcell-atlas build map",
    "system_members": "Run: subcell-atlas build map",
    "system_terms": "Run: subcell-atlas build map",
    "discoveries": "Run: subcell-atlas build map",
    "terms": "Put some in: subcell-atlas annotate FILE",
    "annotations": "Put some in: subcell-atlas annotate FILE",
    "pairs": "Put some in: subcell-atlas annotate FILE, with pairs of genes (entity1,entity2)",
    "functions": "Run: subcell-atlas build functions",
    "function_terms": "Run: subcell-atlas build functions",
    "models": "Run: subcell-atlas build functions",
}


VERSIONS_KEPT = timedelta(hours=1)  # somebody may be reading them


def default_uri() -> str:
    """Return where the atlas is when nobody says: `$SUBCELL_ATLAS`, else `./atlas`."""
    return os.environ.get("SUBCELL_ATLAS") or "./atlas"


def create_index(table: lancedb.table.Table, *, column: str, config: Any) -> None:
    """Index a column of a table."""
    table.create_index(column, config=config)


def is_remote(uri: str) -> bool:
    """Tell whether `uri` names an object store rather than a folder."""
    return "://" in uri


def quote(value: str) -> str:
    """Return `value` as a SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def one_of(column: str, values: Iterable[str]) -> str:
    """Return the SQL condition that `column` is one of `values`."""
    return f"{column} IN ({', '.join(quote(value) for value in values)})"


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `rows` with exactly the columns of `schema`, in its order and types; a column it lacks becomes null."""
    columns = []
    for field in schema:
        if field.name in rows.column_names:
            columns.append(rows[field.name].cast(field.type))
        else:
            columns.append(pa.nulls(rows.num_rows, field.type))
    return pa.table(columns, schema=schema)


def vector_dims(rows: pa.Table, table: str) -> dict[str, int]:
    """Return the dimension of each vector column of `table` that `rows` has."""
    names = [name for name, kind in TABLES[table].items() if kind is VECTOR and name in rows.column_names]
    kinds = {name: rows.schema.field(name).type for name in names}
    return {name: kind.list_size for name, kind in kinds.items() if pa.types.is_fixed_size_list(kind)}


@dataclass(frozen=True)
class Probing:
    """How far to look through an index: in so many of its partitions, and at `refine` times as many vectors in full."""

    nprobes: int
    refine: int


class Store:
    """The tables of one atlas."""

    def __init__(self, uri: str, connection: lancedb.DBConnection) -> None:
        self.uri = uri
        self._connection = connection

    @classmethod
    def open(cls, uri: str) -> Store:
        """Open the atlas at `uri`, a folder or an object store address. Raise AtlasNotFound when there is none."""
        if not is_remote(uri):
            folder = Path(uri)
            if not is_folder(folder):
                raise AtlasNotFound(f"There is no atlas at {uri!r}. {WHERE_TO_GO}")
            if not any(folder.glob("*.lance")):
                raise AtlasNotFound(f"The folder {uri!r} holds no atlas. {WHERE_TO_GO}")
        store = cls(uri, connect(uri))
        if is_remote(uri) and not store.names():
            raise AtlasNotFound(f"There is no atlas at {uri!r}. {WHERE_TO_GO}")
        return store

    @classmethod
    def create(cls, uri: str) -> Store:
        """Open the atlas at `uri`, or begin an empty one there; never inside a folder that holds other things."""
        folder = Path(uri)
        if not is_remote(uri) and is_folder(folder):
            if any(folder.iterdir()) and not any(folder.glob("*.lance")):
                msg = f"The folder {uri!r} holds other files and no atlas. Choose a new folder with --atlas."
                raise BadInput(msg)
        elif not is_remote(uri) and os.path.lexists(uri) and not is_folder(folder):  # which another may just have made
            raise BadInput(f"{uri!r} is a file; an atlas is a folder. Choose another place with --atlas.")
        return cls(uri, connect(uri))

    def names(self) -> list[str]:
        """Return the names of the tables that exist."""
        there = set(self._connection.list_tables().tables)
        return [name for name in TABLES if name in there]

    def has(self, table: str) -> bool:
        """Tell whether `table` exists and has rows."""
        return self.count(table) > 0

    def count(self, table: str, where: str | None = None) -> int:
        """Return the number of rows of `table` (that meet `where`); 0 when it does not exist."""
        if table not in self.names():
            return 0
        opened = self._open(table)
        try:
            return int(opened.count_rows(where))
        except (ValueError, RuntimeError) as exc:
            raise bad_condition(exc, where, opened.schema.names) from exc

    def version(self, table: str) -> int:
        """Return the number that each write to `table` raises; 0 when it does not exist."""
        return int(self._open(table).version) if table in self.names() else 0

    def metadata(self, table: str) -> dict[str, Any]:
        """Return the JSON object stored with `table`; empty when it does not exist."""
        return read_metadata(self._open(table).schema) if table in self.names() else {}

    def recipe(self, table: str, column: str) -> Recipe | None:
        """Return the recipe of a vector column; None when nothing is known of it yet."""
        stored = self.metadata(table).get("recipes", {}).get(column)
        return Recipe.from_json(json.dumps(stored)) if stored else None

    def columns(self, table: str) -> list[str]:
        """Return the names of the columns of `table`, as stored."""
        return list(self._require(table).schema.names)

    def vector_columns(self, table: str) -> list[str]:
        """Return the names of the columns of `table` that hold vectors, not those that may one day."""
        return [field.name for field in self._require(table).schema if pa.types.is_fixed_size_list(field.type)]

    def read(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        *,
        where: str | None = None,
        limit: int | None = None,
    ) -> pa.Table:
        """Return `table` as Arrow: the named columns (all when None) of the rows that meet the SQL condition `where`.

        A column that an older atlas lacks is left out. Raise NotBuilt when the table does not exist.
        """
        opened = self._require(table)
        names = opened.schema.names if columns is None else [c for c in columns if c in opened.schema.names]
        search = opened.search().select(list(names))
        if where:
            search = search.where(where)
        try:
            return search.limit(limit).to_arrow() if limit is not None else search.to_arrow()
        except (ValueError, RuntimeError) as exc:
            raise bad_condition(exc, where, opened.schema.names) from exc

    def lookup(self, table: str, key: str, value: str, *, where: str | None = None) -> dict[Any, Any]:
        """Return one column of `table` by another, for the rows that meet `where`."""
        rows = self.read(table, [key, value], where=where)
        return dict(zip(rows[key].to_pylist(), rows[value].to_pylist(), strict=True))

    def batches(
        self, table: str, columns: Sequence[str], *, where: str | None = None, size: int = 8192
    ) -> Iterable[pa.RecordBatch]:
        """Yield the rows of `table` (that meet `where`) in batches of about `size`, so that memory stays bounded."""
        opened = self._require(table)
        names = [name for name in columns if name in opened.schema.names]  # an older atlas lacks some
        search = opened.search().select(names)
        if where:
            search = search.where(where)
        try:
            return iter(search.to_batches(batch_size=size))
        except (ValueError, RuntimeError) as exc:
            raise bad_condition(exc, where, opened.schema.names) from exc

    def nearest(
        self,
        table: str,
        column: str,
        vector: np.ndarray,
        *,
        k: int,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        probing: Probing | None = None,
    ) -> pa.Table:
        """Return the `k` rows of `table` whose `column` is most like `vector` by cosine, best first.

        Every row that meets `where` is compared, unless `probing` says how far to look through the index of the column;
        rows that the index does not hold yet are compared then too. `similarity` in [-1, 1] is added. `columns`: those
        that are wanted; all but vectors and pictures when None.
        """
        opened = self._require(table)
        kept = [name for name in opened.schema.names if TABLES[table].get(name) not in (VECTOR, pa.binary())]
        names = [name for name in kept if columns is None or name in columns]
        search = opened.search(np.asarray(vector, np.float32), vector_column_name=column).distance_type("cosine")
        if probing is None:
            search = search.bypass_vector_index()
        else:
            search = search.nprobes(probing.nprobes).refine_factor(probing.refine)
        if where:
            check_brackets(where)
            search = search.where(f"({where}\n)", prefilter=True)  # rows without a vector are left out anyway
        try:
            hits = search.select([*names, "_distance"]).limit(k).to_arrow()
        except (ValueError, RuntimeError) as exc:
            raise bad_condition(exc, where, opened.schema.names) from exc
        similarity = pa.array(1.0 - hits["_distance"].to_numpy(), pa.float32())
        return hits.drop_columns(["_distance"]).append_column("similarity", similarity)

    def index_vectors(self, table: str, column: str, *, partitions: int) -> None:
        """Index a column of vectors by cosine, in place of an index that it has: IVF_RQ, a bit a number."""
        from lancedb.index import IvfRq

        self._require(table)
        config = IvfRq(distance_type="cosine", num_partitions=partitions, num_bits=1)
        self._commit(table, partial(create_index, column=column, config=config))

    def indexed_rows(self, table: str, column: str) -> int:
        """Return how many rows the index of a column holds; 0 when there is none."""
        if table not in self.names():
            return 0
        opened = self._open(table)
        names = [index.name for index in opened.list_indices() if index.columns == [column]]
        stats = opened.index_stats(names[0]) if names else None
        return int(stats.num_indexed_rows) if stats else 0

    def take(self, table: str, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Return the rows of `table` by number, as it lies."""
        return self._require(table).take_offsets(list(rows)).select(list(columns)).to_arrow()

    def find_text(self, table: str, text: str, *, weights: Mapping[str, float], k: int) -> pa.Table:
        """Return the `k` rows of `table` whose texts fit `text` best, best first, with a column `score` (BM25).

        `weights`: how much each column counts; all must have been indexed as texts.
        """
        from lancedb.query import MultiMatchQuery

        opened = self._require(table)
        query = MultiMatchQuery(text, list(weights), boosts=list(weights.values()))
        try:
            return opened.search(query, query_type="fts").limit(k).to_arrow().rename_columns({"_score": "score"})
        except (ValueError, RuntimeError) as exc:
            raise AtlasError(f"The {table} of {self.uri!r} cannot be searched for texts: {first_line(exc)}") from exc

    def index(
        self, table: str, *, values: Sequence[str] = (), kinds: Sequence[str] = (), texts: Sequence[str] = ()
    ) -> None:
        """Index columns of `table`; nothing when it has no rows.

        values: to be looked up; kinds: the same, of few different ones; texts: to be searched.

        A column whose index is there and holds every row is left alone: an index raises the version of the table.
        """
        from lancedb.index import FTS, Bitmap, BTree

        if not self.has(table):
            return
        there = {
            column
            for index in self._open(table).list_indices()
            if not index.num_unindexed_rows
            for column in index.columns
        }
        for columns, config in ((values, BTree()), (kinds, Bitmap()), (texts, FTS())):
            for column in columns:
                if column not in there:
                    self._commit(table, partial(create_index, column=column, config=config))

    def write(self, table: str, rows: pa.Table, *, metadata: Mapping[str, Any] | None = None) -> None:
        """Write `table` anew, in one commit."""
        schema = table_schema(table, dims=vector_dims(rows, table), metadata=metadata)
        with self._writing(table):
            self._connection.create_table(
                table,
                conform(rows, schema),
                schema=schema,
                mode="overwrite",
                on_bad_vectors="null",  # a protein without a vector is no error
            )

    def upsert(self, table: str, rows: pa.Table) -> None:
        """Add `rows` to `table`, in place of those with the same key."""
        self._open_or_create(table, rows)

        def merge(opened: lancedb.table.Table) -> None:
            insert = opened.merge_insert(list(KEYS[table])).when_matched_update_all().when_not_matched_insert_all()
            insert.execute(conform(rows, opened.schema))

        self._commit(table, merge)

    def append_cells(self, rows: pa.Table, *, recipe: Recipe) -> None:
        """Write cells that the atlas does not have, in one commit."""
        self._begin_cells(rows, recipe)
        self._commit("cells", lambda opened: opened.add(conform(rows, opened.schema)))

    def replace_cells(self, rows: pa.Table, picture_ids: Sequence[str], *, recipe: Recipe) -> None:
        """Write the cells of some pictures in one commit, in place of all the cells these pictures had.

        Pictures that have none are appended: to look a cell up among all the others takes longer with each commit.
        """
        of_pictures = one_of("picture_id", picture_ids)
        if not self.count("cells", of_pictures):
            self.append_cells(rows, recipe=recipe)
            return
        self._begin_cells(rows, recipe)

        def merge(opened: lancedb.table.Table) -> None:
            insert = opened.merge_insert("cell_id").when_matched_update_all().when_not_matched_insert_all()
            insert.when_not_matched_by_source_delete(of_pictures).execute(conform(rows, opened.schema))

        self._commit("cells", merge)

    def drop_doubles(self) -> None:
        """Delete all but one of the cells with the same id: of two jobs that appended the same at the same time."""
        if not self.count("cells"):
            return

        def drop(opened: lancedb.table.Table) -> None:
            for _ in PAUSES_S:  # where another job joined fragments meanwhile, the rows have other numbers
                opened.checkout_latest()
                doubles = doubled_rows(opened)
                if not len(doubles):
                    return
                opened.delete(f"_rowid IN ({', '.join(map(str, doubles))})")

        self._commit("cells", drop)

    def _begin_cells(self, rows: pa.Table, recipe: Recipe) -> None:
        self._open_or_create("cells", rows, metadata={"recipes": {"embedding": recipe.as_object()}})
        stored = self.recipe("cells", "embedding")  # another job may have begun the table
        if stored is not None:
            stored.check_same(recipe, here="the cells of this atlas", there="These cells")

    def ensure(self, table: str) -> None:
        """Make `table`, empty, when it does not exist."""
        self._open_or_create(table, pa.table({}))

    def delete(self, table: str, where: str) -> None:
        """Delete the rows of `table` that meet `where`."""
        if table in self.names():
            self._commit(table, lambda opened: opened.delete(where))

    def drop(self, table: str) -> None:
        """Remove `table` whole."""
        self._connection.drop_table(table, ignore_missing=True)

    def compact(self, *tables: str, keep: timedelta = VERSIONS_KEPT) -> None:
        """Join the small fragments that many commits leave, and forget versions that are older than `keep`."""
        for table in set(tables) & set(self.names()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of keeping none: whoever asks for it was told
                self._commit(table, lambda opened: opened.optimize(cleanup_older_than=keep))

    def disk_use(self, table: str) -> dict[str, int]:
        """Return how many rows, fragments, versions and bytes of data `table` has."""
        opened = self._require(table)
        stats = opened.stats()
        return {
            "rows": int(stats["num_rows"]),
            "fragments": int(stats["fragment_stats"]["num_fragments"]),
            "versions": len(opened.list_versions()),
            "bytes": int(stats["total_bytes"]),
        }

    def _open(self, table: str) -> lancedb.table.Table:
        try:
            opened = self._connection.open_table(table)
        except (ValueError, RuntimeError, OSError) as exc:
            if "not found" not in str(exc):
                raise damaged(self.uri, table, exc) from exc
            opened = self._open_begun(table)
        stored = read_metadata(opened.schema)
        version = stored.get("schema_version")
        if version is None:
            msg = f"The table {table!r} in {self.uri!r} was not written by SubCell Atlas. Choose another --atlas."
            raise SchemaMismatch(msg)
        if version > SCHEMA_VERSION:
            msg = (
                f"The atlas {self.uri!r} was written by a newer version (schema {version}; this one reads up to "
                f"{SCHEMA_VERSION}).\nUpgrade: pip install --upgrade subcell-atlas"
            )
            raise SchemaMismatch(msg)
        return opened

    def _open_begun(self, table: str) -> lancedb.table.Table:
        """Open a table whose folder is there and whose first commit may be on its way, by another process."""
        for pause in PAUSES_S[:4]:
            time.sleep(pause)
            with suppress(ValueError, RuntimeError, OSError):
                return self._connection.open_table(table)
        try:
            return self._connection.open_table(table)
        except (ValueError, RuntimeError, OSError) as exc:
            raise damaged(self.uri, table, exc) from exc

    def _require(self, table: str) -> lancedb.table.Table:
        if table not in self.names():
            fix = HOW_TO_FILL.get(table, "")
            raise NotBuilt(f"The atlas {self.uri!r} has no {table} yet. {fix}".rstrip())
        return self._open(table)

    def _open_or_create(
        self, table: str, rows: pa.Table, *, metadata: Mapping[str, Any] | None = None
    ) -> lancedb.table.Table:
        if table in self.names():
            return self._open(table)
        self._create(table, table_schema(table, dims=vector_dims(rows, table), metadata=metadata))
        return self._open(table)

    def _create(self, table: str, schema: pa.Schema) -> None:
        """Make an empty table, unless another process is quicker.

        Not by lancedb: of two processes that create a table at once, its second overwrites what the first has written
        since (measured with lancedb 0.40: of four rows that four threads added after creating it, one was lost).
        """
        import lance

        try:
            empty = lance.LanceOperation.Overwrite(schema, [])
            options = storage_options(self.uri)
            lance.LanceDataset.commit(table_address(self.uri, table), empty, max_retries=0, storage_options=options)
        except (OSError, RuntimeError, ValueError) as exc:
            if table not in self.names():
                raise writing_failed(self.uri, table, exc) from exc

    def _commit(self, table: str, write: Callable[[lancedb.table.Table], object]) -> None:
        """Write to `table` as it is now, and again when another process has written to it meanwhile.

        The library waits its turn when it adds and merges, but not when it joins fragments, indexes or deletes.
        """
        with self._writing(table):
            for pause in PAUSES_S:
                try:
                    write(self._open(table))
                    return
                except (OSError, RuntimeError, ValueError) as exc:
                    if not any(sign in str(exc) for sign in CONFLICTS):
                        raise
                time.sleep(pause * random.uniform(0.5, 1.5))
            write(self._open(table))

    @contextmanager
    def _writing(self, table: str) -> Iterator[None]:
        """Turn a failed write (a full disk, a folder that may not be written) into an AtlasError."""
        try:
            yield
        except (OSError, RuntimeError) as exc:
            raise writing_failed(self.uri, table, exc) from exc


def doubled_rows(table: lancedb.table.Table) -> np.ndarray:
    """Return the numbers of the cells that follow another of the same id; who looks at once finds the same."""
    cells = table.search().select(["cell_id"]).with_row_id(with_row_id=True).to_arrow()
    if len(cells["cell_id"].unique()) == cells.num_rows:
        return np.empty(0, np.int64)
    ordered = cells.sort_by([("cell_id", "ascending"), ("_rowid", "ascending")])
    ids = ordered["cell_id"].to_numpy()
    return ordered["_rowid"].to_numpy()[1:][ids[1:] == ids[:-1]]


PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)  # before a write that met another is tried again
CONFLICTS = ("commit conflict", "Commit conflict", "preempted by concurrent", "concurrent commit")
REMOTE_SCHEMES = ("s3", "gs", "az")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")  # by which a server is named
REMOTE_REASONS = {  # what its errors hold -> what a person can do
    "NoSuchBucket": "the bucket does not exist.",
    "credentials": "there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
    "AccessDenied": "access is denied to these credentials.",
    "InvalidAccessKeyId": "the access key is not known there.",
    "SignatureDoesNotMatch": "the secret key does not fit the access key.",
    "error sending request": "the server is not reached. Is AWS_ENDPOINT_URL right?",
    "Connect": "the server is not reached. Is AWS_ENDPOINT_URL right?",
    "did not match any known pattern": "it names no bucket; an address is s3://BUCKET/FOLDER.",
    "RetryError": "the server does not answer. Is AWS_ENDPOINT_URL right?",  # last: other reasons may come with it
}
SOURCE_LINE = re.compile(r",? \S*\.rs:\d+(:\d+)?")  # where in the library's source an error arose
QUOTED = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`")  # strings and quoted names in SQL
WHERE_TO_GO = "Make one with 'subcell-atlas demo' or 'subcell-atlas ingest', or name another with --atlas."


def connect(uri: str) -> lancedb.DBConnection:
    """Connect to the database at `uri`."""
    if is_remote(uri) and uri.split("://")[0] not in REMOTE_SCHEMES:
        raise BadInput(f"{uri!r} is no address of an atlas: a folder, or one of {', '.join(REMOTE_SCHEMES)}://…")
    os.environ.setdefault("LANCEDB_LOG", "error")  # else it warns of every table that is made
    import lancedb

    try:
        return lancedb.connect(uri, storage_options=storage_options(uri))
    except (OSError, RuntimeError, ValueError) as exc:
        raise BadInput(f"{uri!r} cannot be opened: {remote_reason(exc) or first_line(exc)}") from exc


def storage_options(uri: str) -> dict[str, str] | None:
    """Return what the library does not take from the environment: that an endpoint of one's own is without https."""
    if not uri.startswith("s3://"):
        return None
    endpoints = {name: os.environ[name] for name in ENDPOINTS if os.environ.get(name)}
    for name, endpoint in endpoints.items():
        if not endpoint.startswith(("http://", "https://")):
            raise BadInput(f"{name}={endpoint!r} is no address: it begins with https:// or http://.")
    return {"allow_http": "true"} if any(each.startswith("http://") for each in endpoints.values()) else None


def remote_reason(exc: Exception) -> str | None:
    """Return why an object store cannot be used, in words; None when the error does not tell."""
    text = str(exc)
    return next((said for sign, said in REMOTE_REASONS.items() if sign in text), None)


def check_brackets(where: str) -> None:
    """Raise BadInput when a condition would end the bracket that it is put into."""
    depth = 0
    for bracket in re.findall(r"[()]", QUOTED.sub("", where)):
        depth += 1 if bracket == "(" else -1
        if depth < 0:
            raise BadInput(f"The condition {where!r} closes a bracket that it did not open.")


def is_folder(path: Path) -> bool:
    """Tell whether `path` is a folder; one that cannot be looked at raises BadInput."""
    try:
        return path.is_dir()
    except (OSError, ValueError) as exc:
        raise BadInput(f"{str(path)[:80]!r} cannot be opened: {first_line(exc)}") from exc


def first_line(exc: Exception) -> str:
    """Return the part of a library's message that a person can use."""
    line = (str(exc).splitlines() or [type(exc).__name__])[0]
    return SOURCE_LINE.sub("", line)[:200]


def damaged(uri: str, table: str, exc: Exception) -> AtlasError:
    """Return the error for a table that is there and cannot be read or written."""
    return AtlasError(f"The table {table!r} of {uri!r} cannot be used: {first_line(exc)}")


def bad_condition(exc: Exception, where: str | None, columns: Sequence[str]) -> AtlasError:
    """Return the error that tells a person what is wrong with the condition they gave, or with the table."""
    if where is None:
        return AtlasError(f"The atlas cannot be read: {first_line(exc)}")
    return BadInput(f"The condition {where!r} cannot be used: {first_line(exc)}\nColumns: {', '.join(columns)}.")


def writing_failed(uri: str, table: str, exc: Exception) -> AtlasError:
    """Return the error that says why nothing could be written."""
    return AtlasError(f"Writing {table!r} into {uri!r} failed; what was stored before is whole. {first_line(exc)}")


def table_address(uri: str, table: str) -> str:
    """Return where a table lies."""
    return f"{uri.rstrip('/')}/{table}.lance"


def open_datasets(uri: str) -> dict[str, lance.LanceDataset]:
    """Return each table of the atlas as a Lance dataset at its latest version, without loading lancedb."""
    import lance

    datasets = {}
    for name in TABLES:
        address = table_address(uri, name)
        if not is_remote(uri) and not Path(address).is_dir():
            continue
        try:
            datasets[name] = lance.dataset(address, storage_options=storage_options(uri))
        except (ValueError, OSError):
            continue
    return datasets
