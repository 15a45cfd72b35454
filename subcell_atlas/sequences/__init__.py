"""Sequences: proteins of a FASTA file, and their vectors by a protein language model or by a plain stand-in for one.

Importing this loads nothing heavy; torch and transformers come with the first protein language model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import BadInput, UnknownName
from ..recipe import Recipe
from .composition import COMPOSITION, NOTE, CompositionEncoder
from .esm import ESM, load_esm
from .fasta import FastaFile, Record, read_fasta, residues_of

__all__ = [
    "SEQUENCE_ENCODERS",
    "FastaFile",
    "Record",
    "SequenceEncoder",
    "load_sequence_encoder",
    "read_fasta",
    "residues_of",
]

# Name -> what it is.
SEQUENCE_ENCODERS: dict[str, str] = {
    COMPOSITION: NOTE,
    **{
        name: f"ESM-2 with {spec.layers} layers, {spec.n_parameters / 1e6:,.0f} million parameters ({spec.license})"
        for name, spec in ESM.items()
    },
}


class SequenceEncoder(Protocol):
    """What every encoder of sequences has. note: what a reader of its results must know, if anything."""

    @property
    def name(self) -> str:
        """One of SEQUENCE_ENCODERS."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def note(self) -> str | None:
        """What a reader of its results must know, if anything."""

    def recipe(self) -> Recipe:
        """Return how its vectors come to be."""

    def batches(self, sequences: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield places in `sequences` and the vectors of those, (n,) and (n, dim) float32, until all were given."""


def load_sequence_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> SequenceEncoder:
    """Return the encoder of a name in `SEQUENCE_ENCODERS`; the options are those of `load_esm`.

    `composition` takes no weights and computes in float32 on the processor, whatever is asked for.

    Raise UnknownName, BadWeights, BadInput or MissingExtra.
    """
    if name not in SEQUENCE_ENCODERS:
        raise UnknownName("sequence encoder", name, SEQUENCE_ENCODERS)
    if name != COMPOSITION:
        return load_esm(name, weights=weights, device=device, precision=precision)
    if weights is not None:
        raise BadInput(f"{COMPOSITION!r} has no weights; leave --weights out, or take one of {', '.join(ESM)}.")
    return CompositionEncoder()
