"""The vectors of an atlas's sequences: read the store, call `sequences/`, write the store."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from .errors import AtlasError, NotBuilt, RecipeMismatch
from .profiles import vector_array
from .proteins import write_proteins
from .store import Store

if TYPE_CHECKING:
    from .sequences import SequenceEncoder

__all__ = ["embed_sequences", "has_sequences", "note_on_sequences", "sequences_to_embed", "stored_encoder"]

COMMIT_SECONDS = 60.0  # between writes; what was embedded since is lost when the process is killed


def has_sequences(store: Store) -> bool:
    """Tell whether residues are known of some protein."""
    return store.count("proteins", "amino_acids IS NOT NULL") > 0


def stored_encoder(store: Store) -> str | None:
    """Return what made the sequence vectors of an atlas; None when it has none."""
    recipe = store.recipe("proteins", "sequence")
    return recipe.encoder if recipe and "sequence" in store.vector_columns("proteins") else None


def note_on_sequences(store: Store) -> str | None:
    """Return what a reader of any answer by sequence must know of what made the vectors, if anything."""
    if stored_encoder(store) != "composition":
        return None
    return (
        "Sequences are told by their composition, a plain stand-in for a protein language model: "
        "subcell-atlas ingest sequences --encoder esm2-650m"
    )


def sequences_to_embed(store: Store, *, anew: bool = False) -> pa.Table:
    """Return protein_id and amino_acids of the proteins that have a sequence and, but for `anew`, no vector of it."""
    missing = "amino_acids IS NOT NULL"
    if not anew and "sequence" in store.vector_columns("proteins"):
        missing += " AND sequence IS NULL"
    return store.read("proteins", ["protein_id", "amino_acids"], where=missing).sort_by("protein_id")


def embed_sequences(store: Store, encoder: SequenceEncoder, *, replace: bool = False, progress: bool = True) -> int:
    """Embed the sequences that have no vector yet and write them as they come; return how many.

    Killed, it goes on where it was. `replace`: forget the vectors of another encoder. Raise NotBuilt when there is no
    sequence, RecipeMismatch when the atlas has vectors of another encoder.
    """
    if not has_sequences(store):
        raise NotBuilt("This atlas has no sequences. Put some in: subcell-atlas ingest sequences FASTA")
    stored = store.recipe("proteins", "sequence") if stored_encoder(store) else None
    difference = stored.difference(encoder.recipe()) if stored else None
    if difference and not replace:
        msg = f"The sequence vectors of this atlas were made otherwise: {difference}."
        raise RecipeMismatch(f"{msg}\nGo on with what made them, or put others in their place with --replace.")
    todo = sequences_to_embed(store, anew=bool(difference))
    owners: dict[str, list[str]] = {}
    for row in todo.to_pylist():
        owners.setdefault(row["amino_acids"], []).append(row["protein_id"])
    distinct = list(owners)
    n_done, written = 0, time.monotonic()
    waiting: list[pa.Table] = []
    bar = tqdm(total=todo.num_rows, unit="sequence", disable=not progress, file=sys.stderr, dynamic_ncols=True)
    try:
        with bar:
            for places, vectors in encoder.batches(distinct):
                of_batch = [owners[distinct[place]] for place in places]
                repeated = np.repeat(vectors, [len(own) for own in of_batch], axis=0)
                waiting.append(rows_of([protein for own in of_batch for protein in own], repeated))
                bar.update(waiting[-1].num_rows)
                if time.monotonic() - written > COMMIT_SECONDS:
                    n_done += write(store, waiting, encoder)
                    waiting, written = [], time.monotonic()
    except KeyboardInterrupt:
        n_done += write(store, waiting, encoder)
        msg = f"Interrupted; {n_done} of {todo.num_rows} sequences are embedded and stored. Run it again to go on."
        raise AtlasError(msg) from None
    return n_done + write(store, waiting, encoder)


def rows_of(proteins: Sequence[str], vectors: np.ndarray) -> pa.Table:
    """Return rows of `proteins` with vectors (n, dim)."""
    return pa.table({"protein_id": pa.array(proteins, pa.string()), "sequence": vector_array(vectors)})


def write(store: Store, waiting: Sequence[pa.Table], encoder: SequenceEncoder) -> int:
    """Write what was embedded in one commit; return how many."""
    if not waiting:
        return 0
    rows = pa.concat_tables(waiting)
    write_proteins(store, rows, vector="sequence", recipe=encoder.recipe())
    return int(rows.num_rows)
