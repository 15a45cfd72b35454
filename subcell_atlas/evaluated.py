"""What is evaluated, how it is asked, and what was measured: what every evaluation takes and returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .corrected_profiles import CorrectionSettings, Made, corrected_recipe, make_profiles
from .corrections import CORRECTIONS
from .encoders.specs import HPA_PIXEL_SIZE_UM
from .errors import BadInput, NotBuilt, UnknownName
from .evaluation.intervals import Observed
from .profiles import vectors_of
from .recipe import Recipe
from .schema import VECTORS, table_schema
from .store import Store, conform, vector_dims

if TYPE_CHECKING:
    from ingest.labelled_cells import Picked
    from ingest.sources import Source

    from .encoders.encoder import Encoder

__all__ = ["EvaluationOptions", "LabelledPictures", "Measured", "ProteinVectors", "Subject"]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How to ask; each evaluation reads what concerns it.

    tails: ranks below the first and above the second count as recalled. n_permutations: of the names of proteins, for
    what chance gives. replicates: in what those of a protein must differ; the first that the atlas has, when None.
    controls: a `WHERE` of cells that nothing was done to. truth: a file of which compound hits which gene. split: a
    file of the antibodies to test on. pictures: to search the blocks of an encoder on.
    """

    seed: int = 0
    tails: tuple[float, float] = (0.05, 0.95)
    n_permutations: int = 100
    replicates: str | None = None
    controls: str | None = None
    truth: Path | None = None
    split: Path | None = None
    pictures: LabelledPictures | None = None


@dataclass(frozen=True, kw_only=True)
class LabelledPictures:
    """Pictures, and an encoder whose blocks are to be searched on their cells.

    picked: those of the source to look at, by `pick_pictures`. untrained: the same network with weights that have
    learned nothing. n_cells: at most so many. progress: shown on stderr.
    """

    source: Source
    picked: Picked
    encoder: Encoder
    untrained: Encoder | None = None
    n_cells: int = 2000
    masking: str = "cell"
    pixel_size_um: float = HPA_PIXEL_SIZE_UM
    progress: bool = False


@dataclass(frozen=True)
class Measured:
    """What an evaluation found: `metrics`, an object of JSON, nested as needed.

    observed: path of a metric in it (`CORUM/recall`) -> the values that it is made of, from which come its interval
    (stored beside it as `recall_low`, `recall_high`) and its difference from another embedding's.
    """

    metrics: dict[str, Any]
    observed: Mapping[str, Observed] = field(default_factory=dict)

    def place_of(self, path: str) -> tuple[dict[str, Any], str]:
        """Return the object that holds the metric of a path, and the metric's name in it."""
        *parents, name = path.split("/")
        place = self.metrics
        for parent in parents:
            place = place[parent]
        return place, name


class ProteinVectors(NamedTuple):
    """Ids (n,) of proteins and their vectors (n, dim)."""

    ids: list[str]
    vectors: np.ndarray


@dataclass(frozen=True)
class Subject:
    """An embedding of an atlas. vectors: which vectors of its proteins are meant.

    correction: of batches, made of the cells without being stored; None: as the atlas has them. controls: a `WHERE` of
    cells that nothing was done to, for a correction that takes them.
    """

    store: Store
    vectors: str = "image"
    correction: str | None = None
    controls: str | None = None

    def __post_init__(self) -> None:
        if self.vectors not in VECTORS:
            raise UnknownName("kind of vectors", self.vectors, VECTORS)
        if self.correction is not None and self.vectors != "image":
            raise BadInput(f"A batch correction is of image vectors, not of {self.vectors}.")
        if self.correction is not None and self.correction not in CORRECTIONS:
            raise UnknownName("correction", self.correction, CORRECTIONS)
        if self.settings:
            self.settings.check()

    @property
    def settings(self) -> CorrectionSettings | None:
        """How batches are corrected; None: as the atlas has them."""
        if self.correction is None:
            return None
        takes_controls = CORRECTIONS[self.correction].controls != "never"
        return CorrectionSettings(name=self.correction, controls=self.controls if takes_controls else None)

    @cached_property
    def made(self) -> Made | None:
        """What another correction makes of the cells; None: as the atlas has it. The seed is 0."""
        return make_profiles(self.store, self.settings, seed=0) if self.settings else None

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the vectors."""
        if self.settings and self.made:
            dim = self.made.proteins.schema.field("image").type.list_size
            return corrected_recipe(self.store.recipe("cells", "embedding"), self.settings, dim)
        return self.store.recipe("proteins", self.vectors)

    def check_stored(self, what: str) -> None:
        """Raise NotBuilt when something that is stored is asked for, which came of vectors under another correction."""
        if self.settings:
            msg = f"The {what} came of the vectors that are stored, not of those by the correction {self.correction}"
            raise NotBuilt(f"{msg}.\nTo evaluate it, build with that: subcell-atlas build --correction …")

    @cached_property
    def proteins(self) -> ProteinVectors:
        """The proteins that have vectors of this kind. Raise NotBuilt when none has."""
        if self.made:
            ids = self.made.proteins["protein_id"].to_pylist()
            return ProteinVectors(ids, vectors_of(self.made.proteins["image"]))
        if self.vectors not in self.store.vector_columns("proteins"):
            raise NotBuilt(f"The proteins have no {self.vectors} vectors yet. Run: subcell-atlas build")
        found = self.store.read("proteins", ["protein_id", self.vectors], where=f"{self.vectors} IS NOT NULL")
        return ProteinVectors(found["protein_id"].to_pylist(), vectors_of(found[self.vectors]))

    @property
    def has_profiles(self) -> bool:
        """Whether the vectors are means of profiles: those of pictures, where they did not come ready-made."""
        return self.vectors == "image" and self.store.has("profiles" if not self.settings else "cells")

    @cached_property
    def profiles(self) -> pa.Table:
        """The table `profiles`. Raise NotBuilt when there is none."""
        if self.made:
            rows = self.made.profiles
            return conform(rows, table_schema("profiles", dims=vector_dims(rows, "profiles")))
        return self.store.read("profiles")

    def read_profiles(self, columns: Sequence[str], *, untreated: bool = False) -> pa.Table:
        """Return some columns of the table `profiles`; untreated: of cells without a condition, if there are such."""
        where = "condition IS NULL" if untreated else None
        if self.made:
            rows = self.profiles.select([*columns])
            alone = rows.filter(pc.is_null(self.profiles["condition"])) if untreated else rows
            return alone if alone.num_rows else rows
        if where and not self.store.count("profiles", where):
            where = None
        return self.store.read("profiles", columns, where=where)
