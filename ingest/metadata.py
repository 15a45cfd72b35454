"""A table of what is known of cells, beside a file of their vectors that has only their ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from subcell_atlas.errors import BadInput

from .columns import Naming
from .vector_files import Vectors

__all__ = ["Metadata", "with_metadata"]


@dataclass(frozen=True)
class Metadata:
    """The columns of a table, and the ids that its first one holds."""

    path: Path
    ids: pa.Array
    columns: pa.Table

    @classmethod
    def read(cls, path: Path, naming: Naming) -> Metadata:
        """Read a CSV, TSV or Parquet file; raise BadInput when it cannot be read or an id comes twice."""
        try:
            if path.suffix.lower() == ".parquet":
                table = pq.read_table(path)
            else:
                parse = pa_csv.ParseOptions(delimiter="\t" if path.suffix.lower() in (".tsv", ".tab") else ",")
                table = pa_csv.read_csv(path, parse_options=parse)
        except (pa.ArrowException, OSError, ValueError) as exc:
            raise BadInput(f"{path} cannot be read as a table: {str(exc).splitlines()[0][:160]}") from exc
        if table.num_columns < 2:
            raise BadInput(f"{path} needs a column of the cells' ids, the first, and others of what is known of them.")
        ids = table[table.column_names[0]].combine_chunks().cast(pa.string())
        if len(ids.unique()) < len(ids):
            raise BadInput(f"{path}: the first column, {table.column_names[0]!r}, has an id more than once.")
        others = table.select(table.column_names[1:])
        return cls(path, ids, others.rename_columns(naming.aliases(others.column_names)))


def with_metadata(chunks: Iterable[Vectors], metadata: Metadata, path: Path) -> Iterator[Vectors]:
    """Yield chunks with the columns of the table for the cells that it has, null for others.

    Raise BadInput when the vectors have no ids, or the table has none of the first of them.
    """
    is_first = True
    for chunk in chunks:
        if "cell_id" not in chunk.columns.column_names:
            have = ", ".join(chunk.columns.column_names) or "none"
            msg = f"{path} has no ids by which {metadata.path.name} could be joined; its columns: {have}."
            raise BadInput(f"{msg}\nName it: --map COLUMN=cell_id.")
        ids = chunk.columns["cell_id"].cast(pa.string())
        at = pc.index_in(ids, value_set=metadata.ids)
        if is_first and at.null_count == len(at):
            msg = f"{metadata.path.name} has none of the ids of {path.name}, such as {ids[0].as_py()!r};"
            raise BadInput(f"{msg} its first column has such as {metadata.ids[0].as_py()!r}.")
        is_first = False
        own = [name for name in chunk.columns.column_names if name not in metadata.columns.column_names]
        joined = chunk.columns.select(own)
        for name in metadata.columns.column_names:
            joined = joined.append_column(name, metadata.columns[name].take(at))
        yield replace(chunk, columns=joined)
