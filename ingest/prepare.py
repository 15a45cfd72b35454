"""Pictures to crops: what a worker process does. Nothing heavy is loaded here, so that workers start at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subcell_atlas.errors import BadImage
from subcell_atlas.identifiers import protein_id
from subcell_atlas.images.cells import Box
from subcell_atlas.images.crops import cut_cells
from subcell_atlas.images.segmentation import CELLS_VERSION
from subcell_atlas.images.thumbnails import encode_thumbnail

from .ledger import Digests
from .sources import Item, digest

__all__ = ["Plan", "Prepared", "prepare"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a worker needs to know. `source` is the name of one; `done` holds the fingerprints that the atlas has.

    keep_masks: tell where the cell is in each crop, for training, which shows no pictures: thumbnails are left out.
    """

    source: str
    channels: tuple[str, ...]
    crop_um: float
    crop_px: int
    masking: str
    default_pixel_size_um: float
    recipe: str  # JSON; part of the fingerprint
    done: Digests
    segmenter: str = "watershed"
    keep_masks: bool = False

    def stamp(self, item: Item) -> str | None:
        """Return what changes with all that a picture's cells are made from, without reading it; None: unknown."""
        looks = item.looks()
        return digest("stamp", looks, *self._of(item)) if looks is not None else None

    def fingerprint(self, item: Item, picture_id: str) -> str:
        """Return the same by the picture's content. Called after the item's `picture_id`."""
        return digest(picture_id, item.image_id, item.reading(), *self._of(item)[1:])

    def _of(self, item: Item) -> tuple[str, ...]:
        known = json.dumps(item.metadata, sort_keys=True)
        how = "" if item.is_crop else f" {self.segmenter} {CELLS_VERSION}"
        return item.image_id, known, self.recipe, f"{self.default_pixel_size_um}{how}"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What became of one picture: its cells, or the reason why there are none, or neither when it was done before.

    Where it is embedded by whom it was prepared for, it has `vectors` in place of `crops`.
    """

    image_id: str
    picture_id: str | None = None
    crops: np.ndarray | None = None  # (n, C, size, size)
    masks: np.ndarray | None = None  # (n, size, size) bool, when the plan keeps them
    vectors: np.ndarray | None = None  # (n, dim)
    rows: tuple[Mapping[str, Any], ...] = ()  # columns of `cells` but the embedding
    left_out: Mapping[str, int] = field(default_factory=dict)  # cells that a rule left out, by reason
    reject: str | None = None
    remark: str = ""  # on the pictures as a whole


def prepare(plan: Plan, item: Item) -> Prepared:
    """Read a picture and cut its cells out."""
    stamp = plan.stamp(item)  # before it is read: a file that is changed meanwhile is read again by the next run
    try:
        picture_id = item.picture_id()
    except BadImage as exc:
        return Prepared(image_id=item.image_id, reject=str(exc))
    fingerprint = plan.fingerprint(item, picture_id)
    if fingerprint in plan.done:
        return Prepared(image_id=item.image_id, picture_id=picture_id)
    try:
        picture = item.load()
        cut = cut_cells(
            {name: picture.channels[name] for name in plan.channels},
            picture.labels,
            is_crop=picture.is_crop,
            masking=plan.masking,
            pixel_size_um=picture.pixel_size_um or plan.default_pixel_size_um,
            crop_um=plan.crop_um,
            crop_px=plan.crop_px,
            segmenter=plan.segmenter,
            keep_masks=plan.keep_masks,
        )
    except BadImage as exc:
        return Prepared(image_id=item.image_id, picture_id=picture_id, reject=str(exc))
    common = {
        **item.metadata,
        "protein_id": protein_id(item.metadata),
        "source": plan.source,
        "image_id": item.image_id,
        "picture_id": picture_id,
        "fingerprint": fingerprint,
        "stamp": stamp,
        "mask_source": cut.mask_source,
        "pixel_size_um": picture.pixel_size_um or plan.default_pixel_size_um,
    }
    rows = tuple({**common, **cell_columns(picture_id, box)} for box in cut.boxes)
    if not plan.keep_masks:
        rows = tuple({**row, "thumbnail": encode_thumbnail(crop)} for row, crop in zip(rows, cut.crops, strict=True))
    return Prepared(
        image_id=item.image_id,
        picture_id=picture_id,
        crops=cut.crops,
        masks=cut.masks,
        rows=rows,
        left_out=cut.left_out,
    )


def cell_columns(picture_id: str, box: Box) -> dict[str, Any]:
    """Return the columns that tell one cell of a picture from another; the id is made of what the cell is."""
    cell_id = digest(picture_id, f"{box.label}:{box.y0}:{box.x0}:{box.y1}:{box.x1}")
    return {"cell_id": cell_id, "y0": box.y0, "x0": box.x0, "y1": box.y1, "x1": box.x1}
