"""Derived tables: read the store, call pure functions, write the store.

Each stage notes, with the table it writes, the versions of the tables it read; it is up to date while these stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import NotBuilt, RecipeMismatch, UnknownName
from .maps import MAIN, MAP_TABLES, MapSettings, build_map_named, known_maps, map_inputs, settings_of
from .profiles import CELL_COLUMNS, CellSums, profiles_table, proteins_table
from .proteins import as_object, write_proteins
from .runs import Run
from .store import Store

__all__ = ["DEFAULT_SEED", "STAGES", "MapSettings", "build"]

DEFAULT_SEED = 0


def build(
    store: Store,
    stages: Sequence[str] = (),
    *,
    force: bool = False,
    seed: int = DEFAULT_SEED,
    map_settings: MapSettings | None = None,
) -> list[str]:
    """Bring the named stages (all when none is named) up to date, in order; return those that had to be made.

    `force` makes them anew whether or not they are. `map_settings` asks for one map, and says how to
    make it from now on. Raise UnknownName, or NotBuilt when there is nothing to build from.
    """
    for name in stages:
        if name not in STAGES:
            raise UnknownName("stage", name, STAGES)
    if map_settings:
        map_settings.check()
    made = []
    for name, stage in STAGES.items():
        if stages and name not in stages:
            continue
        if not stages and not stage.applies(store):
            continue
        for task in stage.tasks(store, map_settings):
            if force or not task.is_current(store, seed):
                run = Run.start(store, kind=f"build {task.name}")
                run.finish({**task.make(store, seed), "seed": seed})
                made.append(task.name)
    if made:
        store.compact("profiles", "proteins", *MAP_TABLES, "runs")
    return made


def build_profiles(store: Store, seed: int) -> dict[str, int]:
    """Make `profiles` from `cells`, and the columns of `proteins` that come from them."""
    built_from = profiles_inputs(store, seed)
    if has_ready_made_pictures(store):
        msg = "The proteins of this atlas have ready-made picture vectors; those of cells cannot be mixed with them."
        raise RecipeMismatch(f"{msg}\nPut the cells into another atlas (--atlas).")
    sums = CellSums()
    for batch in store.batches("cells", CELL_COLUMNS):
        sums.add(batch)
    if not sums.n:
        msg = f"None of the {sums.n_without_protein} cells names a gene, so there are no profiles to build."
        raise NotBuilt(f"{msg}\nGive gene_symbol, ensembl_id or uniprot_accession in the manifest and ingest again.")
    recipe = store.recipe("cells", "embedding")
    profiles = profiles_table(sums)
    write_proteins(store, proteins_table(profiles, sums.names), vector="image", recipe=recipe, from_cells=True)
    recipes = {"embedding": as_object(recipe)} if recipe else {}
    store.write("profiles", profiles, metadata={"built_from": built_from, "recipes": recipes})
    counts = {"profiles": profiles.num_rows, "proteins": store.count("proteins")}
    return counts | {"cells_without_protein": sums.n_without_protein}


def has_ready_made_pictures(store: Store) -> bool:
    """Tell whether the proteins' picture vectors came from a file and not from cells."""
    metadata = store.metadata("proteins")
    return "image" in metadata.get("marks", {}) and "image" not in metadata.get("from_cells", [])


def has_own_cells(store: Store) -> bool:
    """Tell whether proteins are to come from cells: always, unless their vectors were given ready-made."""
    return store.has("cells") or not store.metadata("proteins").get("marks")


def has_pictures(store: Store) -> bool:
    """Tell whether proteins have picture vectors to map."""
    return "image" in store.metadata("proteins").get("marks", {})


def profiles_inputs(store: Store, seed: int) -> dict[str, Any]:
    """Return what the profiles depend on; there is nothing random in them."""
    del seed
    return {"cells": store.version("cells")}


class ProfilesTask:
    """Make the profiles, and what of the proteins comes from them."""

    name = "profiles"

    def is_current(self, store: Store, seed: int) -> bool:
        """Tell whether the tables are there and the cells are the same."""
        there = {"proteins", "profiles"} <= set(store.names())
        return there and store.metadata("profiles").get("built_from") == profiles_inputs(store, seed)

    def make(self, store: Store, seed: int) -> dict[str, Any]:
        """Make them; return what was counted."""
        return build_profiles(store, seed)


@dataclass(frozen=True)
class MapTask:
    """Make one map."""

    settings: MapSettings

    @property
    def name(self) -> str:
        """What was made: `map`, or `map NAME` of one that is not the atlas's own."""
        return "map" if self.settings.name == MAIN else f"map {self.settings.name}"

    def is_current(self, store: Store, seed: int) -> bool:
        """Tell whether the map is there and what it was made from is the same."""
        there = set(MAP_TABLES) <= set(store.names())
        stored = known_maps(store).get(self.settings.name, {})
        return there and stored.get("built_from") == map_inputs(store, self.settings, seed)

    def make(self, store: Store, seed: int) -> dict[str, Any]:
        """Make it; return what was counted."""
        return build_map_named(store, self.settings, seed)


def map_tasks(store: Store, chosen: MapSettings | None) -> list[MapTask]:
    """Return the one map that was chosen, or all that the atlas keeps, its own first."""
    if chosen:
        return [MapTask(chosen)]
    return [MapTask(settings_of(store, name)) for name in dict.fromkeys([MAIN, *known_maps(store)])]


@dataclass(frozen=True)
class Stage:
    """One step of the build, of one task or several."""

    tasks: Callable[[Store, MapSettings | None], Sequence[ProfilesTask | MapTask]]
    applies: Callable[[Store], bool]


STAGES: dict[str, Stage] = {
    "profiles": Stage(lambda *_: [ProfilesTask()], has_own_cells),
    "map": Stage(map_tasks, has_pictures),
}
