"""Pairs of genes into an atlas: which of its proteins a source relates, for the recall of relationships."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from subcell_atlas.functions.annotations import AnnotationFile
from subcell_atlas.runs import Run
from subcell_atlas.schema import TABLES
from subcell_atlas.store import Store

from .reports import Identifiers, Origin, find_proteins, said_left_out

__all__ = ["PairsReport", "take_pairs"]


@dataclass(frozen=True)
class PairsReport:
    """What a file relates and what became of it.

    pairs_in_file: of different genes, without direction, each once. pairs: of different proteins of the atlas.
    """

    source: str
    format: str
    origin: Origin
    identifiers: Identifiers
    pairs_in_file: int
    pairs: int
    proteins: int
    replaced: int
    skipped: Mapping[str, int]

    def lines(self) -> Iterator[str]:
        """Say it in a few lines."""
        again = f", in place of {self.replaced}" if self.replaced else ""
        what = f"{self.pairs} of {self.pairs_in_file} pairs, of {self.proteins} proteins"
        yield f"{what}; stored as {self.source!r} ({self.format}){again}."
        yield from self.identifiers.lines()
        yield from said_left_out(self.skipped)

    def notes(self) -> Iterator[str]:
        """Say what to do next."""
        yield "How many of them vectors recall: subcell-atlas evaluate relationships"

    def as_object(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def take_pairs(store: Store, path: Path, file: AnnotationFile) -> PairsReport:
    """Write the pairs of a source, in place of those it had; those of others stay.

    A pair counts when both genes are proteins of the atlas, and not the same one. What the file is and how much of it
    is here is kept in the metadata of the table, under `sources`. Raise BadInput when the genes seem to be of another
    species, NotBuilt when there are no proteins; then nothing is written.
    """
    protein_of = (joined := find_proteins(store, file, path)).protein_of
    found = sorted({pair for one, other in file.pairs if (pair := ordered(protein_of.get(one), protein_of.get(other)))})
    before = store.read("pairs") if "pairs" in store.names() else NO_PAIRS
    others = before.filter(pc.not_equal(before["source"], file.source))
    report = PairsReport(
        source=file.source,
        format=file.format,
        origin=Origin.of(path, file),
        identifiers=Identifiers.of(joined),
        pairs_in_file=len(file.pairs),
        pairs=len(found),
        proteins=len({protein for pair in found for protein in pair}),
        replaced=before.num_rows - others.num_rows,
        skipped=file.skipped,
    )
    run = Run.start(store, kind="annotate")
    metadata = {key: value for key, value in store.metadata("pairs").items() if key != "schema_version"}
    sources = {**metadata.get("sources", {}), file.source: facts(report)}
    rows = pa.concat_tables([others, pairs_table(found, file.source)], promote_options="default")
    store.write("pairs", rows, metadata={**metadata, "sources": sources})
    store.compact("pairs")
    run.finish(report.as_object())
    return report


def ordered(one: str | None, other: str | None) -> tuple[str, str] | None:
    """Return two proteins in the order in which they are stored; None when one is not here or both are one."""
    if one is None or other is None or one == other:
        return None
    return min(one, other), max(one, other)


def pairs_table(pairs: list[tuple[str, str]], source: str) -> pa.Table:
    """Return rows of `pairs`."""
    one, other = zip(*pairs, strict=True) if pairs else ((), ())
    columns = {"protein_id": one, "other_id": other, "source": [source] * len(pairs)}
    return pa.table({name: pa.array(columns[name], kind) for name, kind in TABLES["pairs"].items()})


NO_PAIRS = pairs_table([], "")


def facts(report: PairsReport) -> dict[str, Any]:
    """Return what is kept of a source: its file, and how much of it is in the atlas."""
    counted = {"pairs_in_file": report.pairs_in_file, "genes_in_file": report.identifiers.n}
    return {**asdict(report.origin), **counted}
