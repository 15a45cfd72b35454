"""What is evaluated, how it is asked, and what was measured: what every evaluation takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from .errors import NotBuilt, UnknownName
from .evaluation.intervals import Observed
from .profiles import vectors_of
from .schema import VECTORS
from .store import Store

__all__ = ["EvaluationOptions", "Measured", "ProteinVectors", "Subject"]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How to ask; each evaluation reads what concerns it.

    tails: ranks below the first and above the second count as recalled. n_permutations: of the names of proteins, for
    what chance gives. replicates: in what two profiles of one protein must differ. controls: a `WHERE` of cells that
    nothing was done to. truth: a file of which compound hits which gene. split: a file of the antibodies to test on.
    manifest, encoder, …: pictures, and what embeds them, where the vectors of an atlas do not do.
    """

    seed: int = 0
    tails: tuple[float, float] = (0.05, 0.95)
    n_permutations: int = 100
    replicates: str = "antibody"
    controls: str | None = None
    truth: Path | None = None
    split: Path | None = None
    manifest: Path | None = None
    crops: bool = False
    encoder: str | None = None
    weights: tuple[str, ...] = ()
    out: Path | None = None


@dataclass(frozen=True)
class Measured:
    """What an evaluation found: `metrics`, an object of JSON, nested as needed.

    observed: path of a metric in it (`CORUM/recall`) -> the values that it is made of, from which come its interval
    (stored beside it as `recall_low`, `recall_high`) and its difference from another embedding's.
    """

    metrics: dict[str, Any]
    observed: Mapping[str, Observed] = field(default_factory=dict)


class ProteinVectors(NamedTuple):
    """Ids (n,) of proteins and their vectors (n, dim)."""

    ids: list[str]
    vectors: np.ndarray


@dataclass(frozen=True)
class Subject:
    """An embedding of an atlas. vectors: which vectors of its proteins are meant."""

    store: Store
    vectors: str = "image"

    def __post_init__(self) -> None:
        if self.vectors not in VECTORS:
            raise UnknownName("kind of vectors", self.vectors, VECTORS)

    @cached_property
    def proteins(self) -> ProteinVectors:
        """The proteins that have vectors of this kind. Raise NotBuilt when none has."""
        if self.vectors not in self.store.vector_columns("proteins"):
            raise NotBuilt(f"The proteins have no {self.vectors} vectors yet. Run: subcell-atlas build")
        found = self.store.read("proteins", ["protein_id", self.vectors], where=f"{self.vectors} IS NOT NULL")
        return ProteinVectors(found["protein_id"].to_pylist(), vectors_of(found[self.vectors]))

    @cached_property
    def profiles(self) -> pa.Table:
        """The table `profiles`. Raise NotBuilt when there is none."""
        return self.store.read("profiles")
