"""A recipe says how an embedding came to be; embeddings of two recipes are never mixed or compared."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from .errors import RecipeMismatch

__all__ = ["CENTER", "Recipe"]

CENTER = "center"  # the batch correction that is used when none is named
RECORDED = ("weights", "heads_sha256", "code_version")
USUAL = {"correction": CENTER}  # of older atlases, which do not say
CONSEQUENCES = ("dim", "weights_sha256")  # fields that differ because another does, which is the one to name


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a vector column came to be. Fields that are unknown (ready-made vectors) or do not apply are None."""

    encoder: str
    dim: int
    weights_sha256: str | None = None
    block: int | None = None  # counted from 1
    pooling: str | None = None
    channels: tuple[str, ...] | None = None
    crop_px: int | None = None  # side of the crop that the network sees
    crop_um: float | None = None  # the same in the cell
    masking: str | None = None  # cell: everything outside the cell is 0; none: neighbors stay visible
    normalization: str | None = None
    precision: str | None = None
    correction: str | None = None  # of the batches of proteins' cells; None: center, where there is any
    attention_heads: int | None = None  # of SubCell's design: no weight tells it; compared where both know it
    weights: str | None = None  # recorded, not compared: published, random, built in, or the file's name
    heads_sha256: str | None = None  # recorded, not compared: of the localization heads
    code_version: str | None = None  # recorded, not compared: a new release may go on with an old table

    def to_json(self) -> str:
        """Return the recipe as a JSON object.

        Without `correction` where there is none: cells, whose fingerprints hold it, have the one of former releases.
        """
        values = dataclasses.asdict(self)
        if self.correction is None:
            del values["correction"]
        return json.dumps(values, sort_keys=True)

    def as_object(self) -> dict[str, Any]:
        """Return the recipe as JSON has it, as it is stored with a table."""
        return dict(json.loads(self.to_json()))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read what `to_json` wrote; fields of a later version are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {key: value for key, value in json.loads(text).items() if key in known}
        if values.get("channels") is not None:
            values["channels"] = tuple(values["channels"])
        return cls(**values)

    def comparable(self) -> str:
        """Return, as JSON, the fields that decide whether two embeddings can be compared."""
        return dataclasses.replace(self, weights=None, heads_sha256=None, code_version=None).to_json()

    def difference(self, other: Recipe) -> str | None:
        """Name the first field in which the two cannot be compared, with both values; None when they can."""
        for name in sorted((field.name for field in dataclasses.fields(self)), key=CONSEQUENCES.__contains__):
            mine, theirs = (value_of(recipe, name) for recipe in (self, other))
            if name in RECORDED or mine == theirs or (name == "attention_heads" and None in (mine, theirs)):
                continue
            if name == "weights_sha256" and mine and theirs:
                mine, theirs = f"{mine[:12]}…", f"{theirs[:12]}…"
            return f"{name} is {theirs!r}, not {mine!r}"
        return None

    def check_same(self, other: Recipe, *, here: str, there: str) -> None:
        """Raise RecipeMismatch, naming the field, when `other` (of `there`) differs from this recipe (of `here`)."""
        difference = self.difference(other)
        if difference:
            msg = (
                f"{there} cannot be mixed with {here}: {difference}.\n"
                "Use the same encoder and options, or another atlas (--atlas)."
            )
            raise RecipeMismatch(msg)


def value_of(recipe: Recipe, name: str) -> Any:
    """Return a field of a recipe; where it is not said, what is usual."""
    value = getattr(recipe, name)
    return USUAL.get(name) if value is None else value
