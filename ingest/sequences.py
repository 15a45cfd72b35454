"""Sequences of proteins into an atlas: read a FASTA file, find its genes among the proteins, embed the residues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from subcell_atlas.errors import BadInput
from subcell_atlas.proteins import write_proteins
from subcell_atlas.runs import Run
from subcell_atlas.sequence_vectors import embed_sequences
from subcell_atlas.sequences import SequenceEncoder, read_fasta
from subcell_atlas.store import Store

from .named import Named, known_proteins
from .reports import said_how
from .sources import source_name

__all__ = ["SequenceReport", "ingest_sequences"]


@dataclass(frozen=True)
class SequenceReport:
    """What became of a file of sequences."""

    source: str
    encoder: str
    sequences: int
    joined: int
    joined_by: Mapping[str, int]
    new: int
    left_out: int  # of genes that the atlas has no pictures of, where only known ones were asked for
    changed: int  # sequences that are other than before
    repeated: int
    isoforms: int
    second: int  # of a protein that had one in this file already
    refused: Mapping[str, int]
    examples: Mapping[str, str]  # of what was refused, by reason
    embedded: int

    def lines(self) -> Iterator[str]:
        """Say it in a few lines."""
        how = f" ({said_how(self.joined_by)})" if self.joined_by else ""
        rest = f"{self.left_out} others were left out" if self.left_out else f"{self.new} are new proteins"
        yield f"{self.joined} of {self.sequences} sequences are of proteins of this atlas{how}; {rest}."
        if self.changed:
            yield f"{self.changed} are other than before and were embedded anew."
        for n, what in ((self.repeated, "repeated"), (self.isoforms, "other isoforms"), (self.second, "second ones")):
            if n:
                yield f"Left out: {n} {what}."
        for reason, n in self.refused.items():
            yield f"Refused: {n} that {reason} ({self.examples[reason]})."
        yield f"{self.embedded} embedded by {self.encoder}."

    def as_object(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def ingest_sequences(
    store: Store, path: Path, encoder: SequenceEncoder, *, known_only: bool = False, replace: bool = False,
    progress: bool = True,
) -> SequenceReport:  # fmt: skip
    """Take the sequences of a FASTA file and embed those that have no vector yet; started again, it goes on.

    A gene is a protein of the atlas by accession, Ensembl id, symbol or synonym; else a new protein, which is known by
    its sequence alone, unless `known_only`. `replace`: put the vectors of `encoder` in place of another's. Raise
    BadInput when the file cannot be used, RecipeMismatch when the atlas has vectors of another encoder.
    """
    file = read_fasta(path)
    known = known_proteins(store)
    found, residues, second, left_out = Named(known), [], 0, 0
    for record in file.records:
        if known_only and not found.is_known(record.gene):
            left_out += 1
        elif found.add(record.gene):
            second += 1
        else:
            residues.append(record.residues)
    if not residues:
        raise BadInput(f"None of the {len(file.records)} sequences of {path} is of a protein of this atlas.")
    found.check_species(path)
    run = Run.start(store, kind="ingest", recipe=encoder.recipe())
    rows = found.table().append_column("amino_acids", pa.array(residues, pa.string()))
    changed = write_residues(store, rows)
    embedded = embed_sequences(store, encoder, replace=replace, progress=progress)
    report = SequenceReport(
        source=source_name(path),
        encoder=encoder.name,
        sequences=len(file.records),
        joined=found.n_joined,
        joined_by=found.joined_by,
        new=found.n_new,
        left_out=left_out,
        changed=changed,
        repeated=file.n_repeated,
        isoforms=file.n_isoforms,
        second=second,
        refused={reason: len(names) for reason, names in file.skipped.items()},
        examples={reason: ", ".join(names[:3]) for reason, names in file.skipped.items()},
        embedded=embedded,
    )
    run.finish(report.as_object())
    store.compact("proteins", "runs")
    return report


def write_residues(store: Store, rows: pa.Table) -> int:
    """Write residues; the vector of a sequence that is another now is forgotten. Return how many are."""
    if not store.has("proteins"):
        write_proteins(store, rows)
        return 0
    before = store.lookup("proteins", "protein_id", "amino_acids")
    given = zip(rows["protein_id"].to_pylist(), rows["amino_acids"].to_pylist(), strict=True)
    changed = [protein for protein, residues in given if before.get(protein) not in (None, residues)]
    if changed and "sequence" in store.vector_columns("proteins"):
        forget_vectors(store, changed)
    write_proteins(store, rows)
    return len(changed)


def forget_vectors(store: Store, proteins: list[str]) -> None:
    """Take away the sequence vectors of some proteins."""
    other = pc.invert(pc.is_in(pc.field("protein_id"), value_set=pa.array(proteins, pa.string())))
    kept = store.read("proteins", ["protein_id", "sequence"], where="sequence IS NOT NULL").filter(other)
    recipe = store.recipe("proteins", "sequence")
    write_proteins(store, kept, vector="sequence", recipe=recipe, anew=("sequence",))
