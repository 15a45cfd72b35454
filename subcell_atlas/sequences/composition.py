"""A plain encoder of sequences that needs no weights: which residues there are and where, and signals of targeting.

A stand-in for a protein language model, for machines and demos that have none. All proteins are compared with the mean
of human ones, so that the cosine of two vectors is of what sets them apart from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .._version import __version__
from ..recipe import Recipe
from .packed import N_KINDS, UNKNOWN, Packed, pack, table
from .residues import AMINO_ACIDS, check_sequences
from .signals import SIGNALS, signals

__all__ = ["COMPOSITION", "FEATURES", "CompositionEncoder", "composition_vectors"]

COMPOSITION = "composition"
VERSION = 1  # of the features: another one makes vectors that cannot be compared
NOTE = "counts of residues and targeting signals, a stand-in for a protein language model"

BACKGROUND = np.array([  # shares of AMINO_ACIDS in the 5,140 human proteins of hou.fasta (seq2loc_benchmark)
    0.0704, 0.0193, 0.0504, 0.0769, 0.0347, 0.0624, 0.025, 0.0434, 0.0625, 0.0982,
    0.0219, 0.0365, 0.0616, 0.0496, 0.0569, 0.0833, 0.0519, 0.0592, 0.0106, 0.0253,
])  # fmt: skip
GROUPS = ("A", "G", "P", "C", "ST", "ILMV", "FWY", "KR", "DE", "HNQ")  # of like residues
GROUP_OF = table({letter: float(i) for i, group in enumerate(GROUPS) for letter in group}).astype(int)
# Which residues a composition is of; the spread of the square roots of its shares, much the same for all residues.
REGIONS: dict[str, tuple[Callable[[Packed], np.ndarray], float]] = {
    "all": (lambda packed: packed.places >= 0, 0.04),
    "first 25": (lambda packed: packed.places < 25, 0.13),
    "first 50": (lambda packed: packed.places < 50, 0.1),
    "last 30": (lambda packed: packed.places_from_end < 30, 0.13),
}
PAIRS_SPREAD = 0.035
LARGEST = 4.0  # of a feature

FEATURES: tuple[str, ...] = (
    *(f"{letter} of {region}" for region in REGIONS for letter in AMINO_ACIDS),
    *(f"{first}-{second}" for first in GROUPS for second in GROUPS),
    *SIGNALS,
)


class CompositionEncoder:
    """The encoder of this module, as all encoders of sequences are asked."""

    name = COMPOSITION
    dim = len(FEATURES)
    note: str | None = NOTE

    def recipe(self) -> Recipe:
        """Return how vectors of this encoder come to be."""
        return Recipe(
            encoder=self.name,
            dim=self.dim,
            pooling=f"shares of residues and signals, version {VERSION}",
            precision="float32",
            weights="none",
            code_version=__version__,
        )

    def embed(self, sequences: Sequence[str]) -> np.ndarray:
        """Return the vectors of sequences: (N, dim) float32."""
        return composition_vectors(sequences)

    def batches(self, sequences: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield places in `sequences` and the vectors of those, until all were given."""
        check_sequences(sequences)
        first = 0
        for packed in pack(sequences):
            places = np.arange(first, first + len(packed.lengths))
            yield places, vectors(packed, sequences[first : first + len(places)])
            first += len(places)


def composition_vectors(sequences: Sequence[str]) -> np.ndarray:
    """Return the FEATURES of sequences, each at most 4 from 0: (N, len(FEATURES)) float32.

    About 0: as in the mean human protein; 1: one standard deviation more. Raise BadInput for what is no sequence.
    """
    parts = [found for _, found in CompositionEncoder().batches(sequences)]
    return np.concatenate(parts) if parts else np.empty((0, len(FEATURES)), np.float32)


def vectors(packed: Packed, sequences: Sequence[str]) -> np.ndarray:
    """Return the FEATURES of packed sequences: (N, len(FEATURES)) float32."""
    regions = [composition(packed.part(where(packed))) / spread for where, spread in REGIONS.values()]
    found = np.concatenate([*regions, pairs(packed) / PAIRS_SPREAD, signals(packed, sequences)], axis=1)
    return (LARGEST * np.tanh(found / LARGEST)).astype(np.float32)


def composition(packed: Packed) -> np.ndarray:
    """Return the shares of AMINO_ACIDS, of those known, as differences of square roots to BACKGROUND: (N, 20).

    The square root makes the spread of rare and common residues alike (Hellinger, 1909).
    """
    return roots_of_shares(packed.counts(packed.codes, N_KINDS)[:, :UNKNOWN]) - np.sqrt(BACKGROUND)


def pairs(packed: Packed) -> np.ndarray:
    """Return the shares of pairs of neighbors by their GROUPS, as differences of square roots likewise: (N, 100)."""
    n = len(GROUPS)
    kinds = GROUP_OF[packed.codes[:-1]] * n + GROUP_OF[packed.codes[1:]]
    neighbors = (packed.places[1:] > 0) & (packed.codes[:-1] != UNKNOWN) & (packed.codes[1:] != UNKNOWN)
    shares = roots_of_shares(packed.counts(kinds[neighbors], n * n, packed.owners[1:][neighbors]))
    background = np.bincount(GROUP_OF[:UNKNOWN], weights=BACKGROUND, minlength=n)
    return shares - np.sqrt(np.outer(background, background)).ravel()


def roots_of_shares(counts: np.ndarray) -> np.ndarray:
    """Return the square root of each count's share in its row: (N, kinds); 0 in rows without any."""
    return np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
