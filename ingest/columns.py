"""The columns of a file of vectors, brought to the names and types of the table `cells`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from subcell_atlas.encoders.localizations import LEAST_PROBABILITY, LOCALIZATIONS
from subcell_atlas.errors import BadInput
from subcell_atlas.identifiers import SEVERAL_NAMES
from subcell_atlas.schema import TABLES

__all__ = ["Naming", "cell_columns", "localization_lists", "row_texts"]

ALIASES = {  # of HPA's tables, SubCell's and SubCellPortable's output: file's name in lower case -> the atlas's
    "id": "cell_id",
    "index": "cell_id",
    "atlas_name": "cell_line",
    "cell line": "cell_line",
    "cellline": "cell_line",
    "if_plate_id": "plate",
    "position": "well",
    "sample": "fov",
    "gene_name": "gene_symbol",
    "gene_names": "gene_symbol",
    "gene": "gene_symbol",
    "ensembl_ids": "ensembl_id",
    "atlas_name_ensembl_ids": "ensembl_id",
    "antibody_id": "antibody",
    "locations": "localization",
}
NOT_GIVEN = (
    "embedding",
    "protein_id",
    "picture_id",
    "fingerprint",
    "stamp",
    "run_id",
    "source",
    "mask_source",
    "extra",
)
TARGETS = (*(name for name in TABLES["cells"] if name not in NOT_GIVEN), "embedding")
LISTS = TABLES["cells"]["localization"]


@dataclass
class Naming:
    """What the columns of a file are called in the atlas: as `given`, else by `ALIASES`, else as they are."""

    given: Mapping[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)  # the columns that were renamed without being asked to

    def __post_init__(self) -> None:
        for name, target in self.given.items():
            if target not in TARGETS:
                raise BadInput(f"--map {name}={target}: the atlas's columns are {', '.join(TARGETS)}.")
        twice = [target for target in self.given.values() if list(self.given.values()).count(target) > 1]
        if twice:
            raise BadInput(f"--map names {twice[0]!r} for more than one column of the file.")

    def of(self, columns: Sequence[str]) -> list[str]:
        """Return what these columns of a file are called. Raise BadInput when one that was given is not there."""
        absent = [name for name in self.given if name not in columns]
        if absent:
            msg = f"--map {absent[0]}={self.given[absent[0]]}: the file has no such column; it has: "
            raise BadInput(f"{msg}{', '.join(columns[:40])}.")
        return [self.given.get(name, alias) for name, alias in zip(columns, self.aliases(columns), strict=True)]

    def aliases(self, columns: Sequence[str]) -> list[str]:
        """Return what these columns are called when nobody says so."""
        taken = {*self.given.values(), *columns}
        names = []
        for name in columns:
            alias = ALIASES.get(name.lower())
            if name not in self.given and alias is not None and alias not in taken:
                self.told[name] = alias
                taken.add(alias)
                names.append(alias)
            else:
                names.append(name)
        return names

    def rename(self, table: pa.Table) -> pa.Table:
        """Return a table with its columns named as in the atlas; a column that another was named after gives way."""
        names = self.of(table.column_names)
        kept = [i for i, name in enumerate(names) if names.count(name) == 1 or table.column_names[i] in self.given]
        return table.select(kept).rename_columns([names[i] for i in kept])


def cell_columns(columns: pa.Table) -> dict[str, pa.Array]:
    """Return the columns of `cells` that the columns of a file give, each of the type that `cells` has.

    `protein_id` is the first of Ensembl id, UniProt accession and symbol that a row has, null where it names several:
    an antibody of several genes tells of none of them in particular. Columns that `cells` lacks, and the file's own
    `cell_id`, go into `extra` as JSON.
    """
    taken = {name: kind for name, kind in TABLES["cells"].items() if name not in NOT_GIVEN}
    known = {name: as_stored(columns[name], name, kind) for name, kind in taken.items() if name in columns.column_names}
    n = columns.num_rows
    given = [known[name] for name in ("ensembl_id", "uniprot_accession", "gene_symbol") if name in known]
    named = pc.coalesce(*given) if given else pa.nulls(n, pa.string())
    several = pc.match_substring_regex(named, SEVERAL_NAMES.pattern)
    others = columns.select([name for name in columns.column_names if name not in taken or name == "cell_id"])
    return {
        **known,
        "protein_id": pc.if_else(pc.fill_null(several, fill_value=False), pa.scalar(None, pa.string()), named),
        "localization": known.get("localization", pa.array([[]] * n, LISTS)),
        "extra": as_json(others),
    }


def as_stored(column: pa.ChunkedArray, name: str, kind: pa.DataType) -> pa.Array:
    """Return a column of a file as the column `name` of `cells`; raise BadInput when it cannot be of that type."""
    try:
        return converted(column, kind)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise BadInput(f"The column {name!r} must hold {kind} values: {str(exc).splitlines()[0]}") from exc


def converted(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """Return a column as values of `kind`; an empty text is null."""
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if kind == LISTS:
        if pa.types.is_null(array.type):
            return pa.array([[]] * len(array), LISTS)
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            return by_distinct(array, split_places, LISTS)
        return array.cast(LISTS)
    if pa.types.is_string(kind):
        text = array.cast(pa.string())
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    return array.cast(kind)


def split_places(text: str | None) -> list[str]:
    """Return the localizations that a text lists, parted by `;` or, as in HPA's tables, by `,`."""
    return [place for part in (text or "").replace(",", ";").split(";") if (place := part.strip())]


def by_distinct(array: pa.Array, function: Callable[[str | None], object], kind: pa.DataType) -> pa.Array:
    """Return `function` of each value, computed once for each distinct one."""
    encoded = array.dictionary_encode(null_encoding="encode")
    values = pa.array([function(value) for value in encoded.dictionary.to_pylist()], kind)
    return values.take(encoded.indices)


def row_texts(columns: pa.Table) -> list[bytes]:
    """Return a text for each row that tells it from rows with other values."""
    parts: list[pa.Array] = []
    for name in sorted(columns.column_names):
        array = columns[name].combine_chunks()
        if not pa.types.is_string(array.type):
            try:
                array = array.cast(pa.string())
            except pa.ArrowException:  # of lists
                array = pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())
        parts += [pa.array([f"\x1e{name}\x1f"] * len(array)), pc.fill_null(array, "\x1d")]
    if not parts:
        return [b""] * columns.num_rows
    return pc.binary_join_element_wise(*parts, "").cast(pa.binary()).to_pylist()


def as_json(columns: pa.Table) -> pa.Array:
    """Return the values of each row that are not null as a JSON object, null where all are."""
    if not columns.num_columns:
        return pa.nulls(columns.num_rows, pa.string())
    rows = ({name: value for name, value in row.items() if value is not None} for row in columns.to_pylist())
    encode = json.JSONEncoder(sort_keys=True, default=str).encode
    return pa.array([encode(row) if row else None for row in rows], pa.string())


def localization_lists(probabilities: np.ndarray) -> pa.Array:
    """Return the classes of (n, 31) probabilities as `name_localizations` gives those of one cell, as lists."""
    ranks = np.argsort(-probabilities, axis=1, kind="stable")
    numbers = np.maximum(1, (probabilities >= LEAST_PROBABILITY).sum(axis=1))
    chosen = ranks[np.arange(ranks.shape[1]) < numbers[:, None]]
    offsets = pa.array(np.concatenate([[0], np.cumsum(numbers)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(list(LOCALIZATIONS)).take(pa.array(chosen)))
