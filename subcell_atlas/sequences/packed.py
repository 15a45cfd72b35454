"""Sequences laid end to end, so that one array operation counts in all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .residues import AMINO_ACIDS

__all__ = ["N_KINDS", "UNKNOWN", "Packed", "pack", "table"]

UNKNOWN = len(AMINO_ACIDS)  # the code of B, Z and X
N_KINDS = UNKNOWN + 1
ALIKE = {"U": "C", "O": "K"}  # selenocysteine and pyrrolysine count as what they are made like
MOST_RESIDUES = 400_000  # at once; some 3 MB in each array

_CODES = np.full(256, UNKNOWN, np.uint8)
for _code, _letter in enumerate(AMINO_ACIDS):
    _CODES[ord(_letter)] = _code
for _letter, _other in ALIKE.items():
    _CODES[ord(_letter)] = _CODES[ord(_other)]


@dataclass(frozen=True)
class Packed:
    """N sequences of R residues in all. codes: (R,) places in AMINO_ACIDS, or UNKNOWN; lengths: (N,)."""

    codes: np.ndarray
    lengths: np.ndarray

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each sequence begins: (N,)."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]])

    @cached_property
    def owners(self) -> np.ndarray:
        """The sequence of each residue: (R,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def places(self) -> np.ndarray:
        """The place of each residue in its sequence, from 0: (R,)."""
        return np.arange(len(self.codes)) - self.starts[self.owners]

    @cached_property
    def places_from_end(self) -> np.ndarray:
        """The same from the other end: (R,)."""
        return self.lengths[self.owners] - 1 - self.places

    def counts(self, kinds: np.ndarray, n_kinds: int, owners: np.ndarray | None = None) -> np.ndarray:
        """Count the kinds, each of the sequence in `owners` (every residue's, when None): (N, n_kinds)."""
        owners = self.owners if owners is None else owners
        n = len(self.lengths)
        return np.bincount(owners * n_kinds + kinds, minlength=n * n_kinds).reshape(n, n_kinds)

    def part(self, chosen: np.ndarray) -> Packed:
        """Return the residues that are chosen, (R,) bool; a sequence may be left with none."""
        return Packed(self.codes[chosen], np.bincount(self.owners[chosen], minlength=len(self.lengths)))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over each sequence of values of its residues: (R,) -> (N,)."""
        return np.add.reduceat(values, self.starts)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Return the mean over each sequence of values of its residues: (R,) -> (N,)."""
        return self.sums(values) / self.lengths

    def window_means(self, values: np.ndarray, width: int) -> np.ndarray:
        """Return the mean over the window that begins at each residue, -inf where it would leave the sequence: (R,)."""
        means = np.full(len(values), -np.inf)
        if len(values) >= width:
            sums = np.concatenate([[0.0], np.cumsum(values)])
            means[: len(values) - width + 1] = (sums[width:] - sums[:-width]) / width
        means[self.places_from_end < width - 1] = -np.inf
        return means

    def most(self, values: np.ndarray, *, where: np.ndarray | None = None) -> np.ndarray:
        """Return the largest of each sequence's values, of those `where`; NaN where all are -inf: (R,) -> (N,)."""
        if where is not None:
            values = np.where(where, values, -np.inf)
        largest = np.maximum.reduceat(values, self.starts)
        return np.where(np.isneginf(largest), np.nan, largest)

    def runs(self, mask: np.ndarray) -> np.ndarray:
        """Return how many runs of True each sequence has: (R,) bool -> (N,)."""
        begins = mask.copy()
        begins[1:] &= ~mask[:-1] | (self.places[1:] == 0)
        return self.sums(begins.astype(float))


def table(values: Mapping[str, float]) -> np.ndarray:
    """Return values of amino acids in the order of their codes, 0 for what is not given or unknown: (N_KINDS,)."""
    return np.array([*(values.get(letter, 0.0) for letter in AMINO_ACIDS), 0.0])


def pack(sequences: Sequence[str]) -> Iterator[Packed]:
    """Yield the sequences, in order, packed by as many as make MOST_RESIDUES."""
    group: list[str] = []
    size = 0
    for residues in sequences:
        if group and size + len(residues) > MOST_RESIDUES:
            yield pack_all(group)
            group, size = [], 0
        group.append(residues)
        size += len(residues)
    if group:
        yield pack_all(group)


def pack_all(sequences: Sequence[str]) -> Packed:
    """Return sequences packed together."""
    letters = np.frombuffer("".join(sequences).encode("ascii"), np.uint8)
    return Packed(_CODES[letters], np.array([len(residues) for residues in sequences]))
