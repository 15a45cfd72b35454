"""Runs: a row for each ingest, build and evaluation.

Written when it starts and again when it ends; of an evaluation, which changes nothing else, when it ends alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ._version import __version__
from .recipe import Recipe
from .schema import TIME
from .store import Store

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """One execution; its row in `runs` has no end until `finish`, and is not there before where it only began."""

    store: Store
    run_id: str
    kind: str
    started: datetime
    recipe: str | None

    @classmethod
    def begin(cls, store: Store, *, kind: str, recipe: Recipe | None = None) -> Run:
        """Begin a run of `kind` of which nothing is kept unless it ends."""
        run_id = uuid.uuid4().hex[:12]
        return cls(store, run_id, kind, datetime.now(UTC), recipe.to_json() if recipe else None)

    @classmethod
    def start(cls, store: Store, *, kind: str, recipe: Recipe | None = None) -> Run:
        """Begin a run of `kind` and write its row."""
        run = cls.begin(store, kind=kind, recipe=recipe)
        run._write(finished=None, counts={})
        return run

    def finish(self, counts: Mapping[str, Any]) -> None:
        """Write the end of the run, with what it counted or measured."""
        self._write(finished=datetime.now(UTC), counts=counts)

    def _write(self, *, finished: datetime | None, counts: Mapping[str, Any]) -> None:
        columns = {
            "run_id": pa.array([self.run_id]),
            "kind": pa.array([self.kind]),
            "started": pa.array([self.started], TIME),
            "finished": pa.array([finished], TIME),
            "recipe": pa.array([self.recipe], pa.string()),
            "counts": pa.array([json.dumps(counts, sort_keys=True, default=str)]),
            "code_version": pa.array([__version__]),
        }
        self.store.upsert("runs", pa.table(columns))
