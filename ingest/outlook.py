"""What a run will take, told from a few of its pictures before it is begun: cells, hours, gigabytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subcell_atlas.errors import AtlasNotFound
from subcell_atlas.store import Store

from .job import Options, check_recipe, make_plan
from .ledger import Digests, Ledger
from .loader import n_cores
from .prepare import prepare
from .progress import duration
from .sources import Source

if TYPE_CHECKING:
    from subcell_atlas.encoders.encoder import Encoder

__all__ = ["Outlook", "look_ahead"]

N_SAMPLED = 16  # pictures
N_EMBEDDED = 64  # crops of these, at most
SEED = 0
ROW_BYTES = 400  # of a cell's columns, beside its vector and its thumbnail; measured


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a run will take. The means are over the sampled pictures, refused ones included."""

    pictures: int
    done_before: int
    sampled: int
    refused: int  # of the sampled
    why: str  # the first of these was
    cells_each: float
    picture_s: float  # to read and cut a picture, in one process
    cell_s: float  # to embed a cell; NaN when no cell was found
    cell_bytes: float
    workers: int
    device: str

    @property
    def to_do(self) -> int:
        """Pictures that are not done."""
        return self.pictures - self.done_before

    @property
    def cells(self) -> int:
        """Cells that these will give."""
        return round(self.to_do * self.cells_each)

    @property
    def seconds(self) -> float:
        """How long the run will take: a GPU embeds while the cores read, a processor does one after the other."""
        reading, embedding = self.to_do * self.picture_s / self.workers, self.cells * self.cell_s
        return reading + embedding if self.device == "cpu" else max(reading, embedding)

    def lines(self) -> Iterator[str]:
        """Say it."""
        before = f", {self.done_before:,} of them done before" if self.done_before else ""
        yield f"{self.pictures:,} pictures{before}."
        if not self.to_do:
            return
        refused = f"; {self.refused} would be refused, the first because: {self.why}" if self.refused else ""
        yield f"Looked at {self.sampled}: {self.cells_each:.1f} cells each{refused}."
        if self.cells:
            yield f"About {self.cells:,} cells, {duration(self.seconds)}, {self.cells * self.cell_bytes / 1e9:.2g} GB."
            reading = f"{self.workers / self.picture_s:.3g} pictures/s are read and cut by {self.workers} processes"
            yield f"On {self.device} {1 / self.cell_s:.3g} cells/s are embedded; {reading}."


def look_ahead(uri: str, source: Source, encoder: Encoder, options: Options) -> Outlook:
    """Look at some pictures of `source`, evenly drawn from those that the atlas at `uri` lacks; nothing is stored.

    Raise RecipeMismatch when the atlas holds embeddings of another recipe.
    """
    ledger: Ledger | None = None
    try:
        store = Store.open(uri)
    except AtlasNotFound:
        plan = make_plan(source, encoder, options, done=Digests())
    else:
        check_recipe(store, encoder, options)
        ledger = Ledger(store)
        plan = make_plan(source, encoder, options, done=ledger.fingerprints)
    to_do = [i for i in range(len(source)) if ledger is None or not ledger.skip(plan.stamp(source.item(i)))]
    chosen = np.random.default_rng(SEED).permutation(to_do)[:N_SAMPLED]
    began = time.monotonic()
    prepared = [prepare(plan, source.item(int(index))) for index in chosen]
    picture_s = (time.monotonic() - began) / max(len(prepared), 1)
    crops = [crop for each in prepared if each.crops is not None for crop in each.crops]
    refused = [each.reject for each in prepared if each.reject is not None]
    rows = [row for each in prepared for row in each.rows]
    thumbnails = sum(len(row["thumbnail"]) for row in rows) / max(len(rows), 1)
    workers = n_cores() if options.workers is None else max(options.workers, 1)
    return Outlook(
        pictures=len(source),
        done_before=len(source) - len(to_do),
        sampled=len(prepared),
        refused=len(refused),
        why=refused[0] if refused else "",
        cells_each=len(crops) / max(len(prepared), 1),
        picture_s=picture_s,
        cell_s=seconds_per_crop(encoder, crops[:N_EMBEDDED]),
        cell_bytes=4 * encoder.dim + thumbnails + ROW_BYTES,
        workers=workers,
        device=encoder.device.type,
    )


def seconds_per_crop(encoder: Encoder, crops: list[np.ndarray]) -> float:
    """Return how long a crop takes in a batch of such, NaN without any; the first, which starts the network, apart."""
    if not crops:
        return float("nan")
    encoder.embed(np.stack(crops[:1]))
    began = time.monotonic()
    encoder.embed(np.stack(crops))
    return (time.monotonic() - began) / len(crops)
