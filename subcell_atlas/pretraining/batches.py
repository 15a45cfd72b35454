"""Batches as SubCell was trained with: some antibodies, and some cells of each from as many places as there are.

The cells of an antibody are drawn round-robin over its strata (cell line and field of view), one of each in turn, so
that what a protein looks like is learned from different cell lines and fields, not from one that happens to be large.
A batch follows from the seed and its number alone: a training that goes on from a checkpoint sees what it would have
seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import BadInput

__all__ = ["Batches", "LeftOut", "draw_cells"]

ORDER = 0  # the stream of random numbers that orders the antibodies; those after it draw the cells of one antibody each


@dataclass(frozen=True)
class LeftOut:
    """What is in no batch: cells of no known antibody; antibodies of too few cells, and their cells."""

    n_cells_unknown: int
    n_antibodies_few: int
    n_cells_few: int


class Batches:
    """Batches by number, of `n_antibodies` different antibodies and `n_cells` cells of each.

    An epoch is a fresh order of the antibodies; those that remain when they cannot be shared evenly among its batches
    are left out of this epoch. An antibody with fewer than `min_cells` cells is left out of all; one with fewer than
    `n_cells` gives some of its cells again, all of them equally often but for one.

    Attributes
    ----------
    antibodies : tuple[str, ...]
        The names of those that are used, sorted; a label is a position among them.
    n_used : int
        How many cells are of these antibodies.
    left_out : LeftOut
        How much is used in no batch, and why.
    steps_per_epoch : int
        Batches of an epoch.
    digest : str
        A hash of the cells' antibodies and strata, which tells one set of cells from another.
    """

    def __init__(
        self,
        labels: Sequence[str | None],
        strata: Sequence[str],
        *,
        n_antibodies: int,
        n_cells: int,
        seed: int,
        min_cells: int = 2,
    ) -> None:
        """Group the cells.

        Parameters
        ----------
        labels
            The antibody of each cell (N,); None or empty where it is not known.
        strata
            The cell line and field of view of each cell (N,).
        n_antibodies, n_cells
            Antibodies of a batch, at least 2, and cells of each.
        seed
            Of all batches.
        min_cells
            The fewest cells of an antibody that is used; one alone has no other to agree with.

        Raises
        ------
        BadInput
            When there are too few antibodies for a batch.
        """
        if n_antibodies < 2:
            raise BadInput(f"A batch of {n_antibodies} antibodies was asked for; telling them apart needs at least 2.")
        if min(n_cells, min_cells) < 2:
            raise BadInput("An antibody needs at least 2 cells, in a batch and in all: one has no other to agree with.")
        if len(labels) != len(strata):
            msg = f"{len(labels)} labels and {len(strata)} strata: there is one of each for every cell."
            raise ValueError(msg)
        names, antibody = numbered(label or "" for label in labels)
        n_of = np.bincount(antibody, minlength=len(names))
        unknown = np.array([not name for name in names], bool)
        few = ~unknown & (n_of < min_cells)
        chosen = np.flatnonzero(~unknown & ~few)
        self.left_out = LeftOut(int(n_of[unknown].sum()), int(few.sum()), int(n_of[few].sum()))
        self.antibodies = tuple(names[i] for i in chosen)
        self._check_number(n_antibodies, min_cells)
        _, stratum = numbered(strata)
        order = np.lexsort((stratum, antibody))
        order = order[np.isin(antibody[order], chosen)]  # the cells that are used, those of an antibody in a row
        self._cells = order.astype(np.int64)
        self.n_used = len(order)
        self._strata = stratum[order]
        self._ends = np.cumsum(n_of[chosen])
        self._n_antibodies, self._n_cells, self._seed = n_antibodies, n_cells, seed
        self.steps_per_epoch = len(self.antibodies) // n_antibodies
        described = json.dumps([[label or "" for label in labels], list(strata)])
        self.digest = hashlib.blake2b(described.encode(), digest_size=16).hexdigest()

    def _check_number(self, n_antibodies: int, min_cells: int) -> None:
        """Raise BadInput when there are too few antibodies for a batch."""
        n, left_out = len(self.antibodies), self.left_out
        if n >= n_antibodies:
            return
        found = (
            f"Antibodies with {min_cells} cells or more: {n}; with fewer: {left_out.n_antibodies_few}; "
            f"cells of no known antibody: {left_out.n_cells_unknown}."
        )
        if n < 2:
            raise BadInput(f"{found}\nThe protein loss needs two antibodies at least, to tell them apart.")
        raise BadInput(f"{found}\nA batch of {n_antibodies} antibodies was asked for; lower the number to {n} or less.")

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells of batch `step`, counted from 0 over all epochs, and their labels.

        Both are (n_antibodies * n_cells,) int64; the cells of an antibody stand in a row.
        """
        epoch, at = divmod(step, self.steps_per_epoch)
        order = self._generator(epoch, ORDER).permutation(len(self.antibodies))
        chosen = order[at * self._n_antibodies : (at + 1) * self._n_antibodies].astype(np.int64)
        cells = [self._draw(int(antibody), epoch) for antibody in chosen]
        return np.concatenate(cells), np.repeat(chosen, self._n_cells)

    def _draw(self, antibody: int, epoch: int) -> np.ndarray:
        """Return the cells of one antibody for its batch of an epoch, (n_cells,)."""
        own = slice(self._ends[antibody - 1] if antibody else 0, self._ends[antibody])
        generator = self._generator(epoch, ORDER + 1 + antibody)
        return self._cells[own][draw_cells(self._strata[own], self._n_cells, generator=generator)]

    def _generator(self, epoch: int, stream: int) -> np.random.Generator:
        """Return the random numbers of one purpose in one epoch."""
        # a spawn key, because a seed given as a list is the same with and without zeros at its end
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(epoch, stream)))


def draw_cells(strata: np.ndarray, n_cells: int, *, generator: np.random.Generator) -> np.ndarray:
    """Draw `n_cells` of the cells whose strata are given, one of each stratum in turn, in a random order of the strata.

    No cell comes twice before all have come once.

    Parameters
    ----------
    strata
        (n,) numbers; n at least 1.
    n_cells
        How many to draw.
    generator
        Where the random numbers come from.

    Returns
    -------
    positions
        (n_cells,) int64 in `strata`.
    """
    rounds = [round_robin(strata, generator) for _ in range(-(-n_cells // len(strata)))]
    return np.concatenate(rounds)[:n_cells]


def round_robin(strata: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return all positions of `strata` (n,), one of each stratum in turn, both in random order."""
    shuffled = generator.permutation(len(strata))
    _, stratum = np.unique(strata[shuffled], return_inverse=True)
    by_stratum = np.argsort(stratum, kind="stable")
    n_of = np.bincount(stratum)
    turn = np.empty(len(strata), np.int64)  # how many of its stratum come before it
    turn[by_stratum] = np.arange(len(strata)) - np.repeat(np.cumsum(n_of) - n_of, n_of)
    place = generator.permutation(len(n_of))  # of each stratum in a round
    return shuffled[np.lexsort((place[stratum], turn))]


def numbered(values: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Return the different values, sorted, and for each value its position among them (n,) int64."""
    values = list(values)
    names = sorted(set(values))
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number[value] for value in values], np.int64)
