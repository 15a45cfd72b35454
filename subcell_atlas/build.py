"""Derived tables: read the store, call pure functions, write the store.

Each stage notes, with the table it writes, the versions of the tables it read; it is up to date while these stand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .cell_index import build_cell_index, is_fresh, needs_index
from .cell_places import build_cell_places, has_layout, places_inputs
from .corrected_profiles import (
    CorrectionSettings,
    corrected_recipe,
    forget_other_spaces,
    make_profiles,
    settings_of_correction,
    write_space,
)
from .errors import NotBuilt, RecipeMismatch, UnknownName
from .fusion_vectors import build_fusion, can_fuse, fusion_inputs, stored_fusion, way_of_fusion
from .gene_functions import (
    FUNCTION_TABLES,
    TERM_TEXTS,
    FunctionSettings,
    build_functions,
    function_inputs,
    known_groups,
    read_proteins,
    settings_of_functions,
)
from .maps import MAIN, MAP_TABLES, MapSettings, build_map_named, known_maps, map_inputs, settings_of
from .proteins import correction_of, write_proteins
from .runs import Run
from .sequence_vectors import embed_sequences, has_sequences, sequences_to_embed, stored_encoder
from .store import Store

__all__ = ["DEFAULT_SEED", "STAGES", "CorrectionSettings", "FunctionSettings", "MapSettings", "build", "out_of_date"]

DEFAULT_SEED = 0
COMPOSITION = "composition"  # of `sequences`: needs no weights
KIND = "build "  # of runs; the task's name follows


def build(
    store: Store,
    stages: Sequence[str] = (),
    *,
    force: bool = False,
    seed: int = DEFAULT_SEED,
    map_settings: MapSettings | None = None,
    function_settings: FunctionSettings | None = None,
    way_to_fuse: str | None = None,
    correction: CorrectionSettings | None = None,
) -> list[str]:
    """Bring the named stages (all when none is named) up to date, in order; return those that had to be made.

    `force` makes them anew whether or not they are. `map_settings` asks for one map, and says how to make it from now
    on; `function_settings` how to predict functions, `way_to_fuse` (of `functions.fusion.WAYS`) how to fuse vectors,
    `correction` how batches are corrected. Raise UnknownName, or NotBuilt when there is nothing to build from.
    """
    for name in stages:
        if name not in STAGES:
            raise UnknownName("stage", name, STAGES)
    if map_settings:
        map_settings.check()
    if function_settings:
        function_settings.check()
    if correction:
        correction.check()
        if not has_own_cells(store):
            raise NotBuilt("This atlas has no cells, whose batches could be corrected: its vectors came ready-made.")
    choices = Choices(map_settings, function_settings, way_to_fuse, correction)
    store.index("terms", values=("term_id",), texts=TERM_TEXTS)  # first: stages note the version that this makes
    made = []
    for name, stage in STAGES.items():
        if stages and name not in stages:
            continue
        if not stages and not stage.applies(store):
            continue
        for task in stage.tasks(store, choices):
            if force or not task.is_current(store, seed):
                run = Run.start(store, kind=f"{KIND}{task.name}")
                run.finish({**task.make(store, seed), "seed": seed})
                made.append(task.name)
    if made:
        store.compact("profiles", "proteins", *MAP_TABLES, *FUNCTION_TABLES, "runs")
    return made


def out_of_date(store: Store) -> dict[str, str]:
    """Return what a build would make, or make anew with the seed it was made with last: the command that does."""
    seeds = last_seeds(store)
    commands = {}
    for name, stage in STAGES.items():
        for task in stage.tasks(store, Choices()) if stage.applies(store) else ():
            seed = seeds.get(task.name, DEFAULT_SEED)
            if not task.is_current(store, seed):
                commands[task.name] = f"subcell-atlas build {name}" + (
                    f" --seed {seed}" if seed != DEFAULT_SEED else ""
                )
    return commands


def last_seeds(store: Store) -> dict[str, int]:
    """Return the seed of the latest finished run of each task."""
    if not store.has("runs"):
        return {}
    runs = store.read("runs", ["kind", "finished", "counts"], where=f"kind LIKE '{KIND}%' AND finished IS NOT NULL")
    rows = runs.sort_by("finished").to_pylist()
    return {row["kind"].removeprefix(KIND): json.loads(row["counts"]).get("seed", DEFAULT_SEED) for row in rows}


def build_profiles(store: Store, settings: CorrectionSettings, seed: int) -> dict[str, Any]:
    """Make `profiles` from `cells`, and the columns of `proteins` that come from them."""
    built_from = profiles_inputs(store, settings, seed)
    if has_ready_made_pictures(store):
        msg = "The proteins of this atlas have ready-made picture vectors; those of cells cannot be mixed with them."
        raise RecipeMismatch(f"{msg}\nPut the cells into another atlas (--atlas).")
    made = make_profiles(store, settings, seed=seed)
    dim = made.profiles.schema.field("embedding").type.list_size
    recipe = corrected_recipe(store.recipe("cells", "embedding"), settings, dim)
    about = made.about | {"space": write_space(store, made.space)}
    write_proteins(store, made.proteins, vector="image", recipe=recipe, from_cells=True)
    recipes = {"embedding": recipe.as_object()} if recipe else {}
    metadata = {"built_from": built_from, "recipes": recipes, "correction": about}
    store.write("profiles", made.profiles, metadata=metadata)
    forget_other_spaces(store, about["space"])
    counts = {"profiles": made.profiles.num_rows, "proteins": store.count("proteins")}
    return counts | {"cells_without_protein": made.n_without_protein, "correction": str(settings)}


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


def profiles_inputs(store: Store, settings: CorrectionSettings, seed: int) -> dict[str, Any]:
    """Return what the profiles depend on."""
    return {"cells": store.version("cells")} | settings.inputs(seed)


class IndexTask:
    """Index the cells' vectors."""

    name = "index"

    def is_current(self, store: Store, seed: int) -> bool:
        """Tell whether there is an index that holds nearly all cells, or they are few enough to compare each time."""
        del seed
        return not needs_index(store) or is_fresh(store)

    def make(self, store: Store, seed: int) -> dict[str, Any]:
        """Make it; return what was measured."""
        return build_cell_index(store, seed)


@dataclass(frozen=True)
class ProfilesTask:
    """Make the profiles, and what of the proteins comes from them."""

    settings: CorrectionSettings
    name = "profiles"

    def is_current(self, store: Store, seed: int) -> bool:
        """Tell whether the tables are there, both of one correction, and what they were made from is the same."""
        there = {"proteins", "profiles"} <= set(store.names())
        stored = store.metadata("profiles").get("built_from")
        if not there or stored != profiles_inputs(store, self.settings, seed):
            return False
        return stored.get("correction") == correction_of(store).get("correction")  # else it was interrupted

    def make(self, store: Store, seed: int) -> dict[str, Any]:
        """Make them; return what was counted."""
        return build_profiles(store, self.settings, seed)


class SequenceTask:
    """Embed the sequences that have no vector, by what embedded the others, else by the plain stand-in."""

    name = "sequence"

    def is_current(self, store: Store, seed: int) -> bool:
        """Tell whether every sequence has a vector."""
        del seed
        return not sequences_to_embed(store).num_rows

    def make(self, store: Store, seed: int) -> dict[str, Any]:
        """Embed them; return what was counted."""
        from .sequences import load_sequence_encoder

        del seed
        return {"sequences": embed_sequences(store, load_sequence_encoder(stored_encoder(store) or COMPOSITION))}


@dataclass(frozen=True)
class FusionTask:
    """Fuse the vectors of pictures and sequences."""

    how: str
    name = "fusion"

    def is_current(self, store: Store, seed: int) -> bool:
        """Tell whether they are fused and what they were made from is the same."""
        return bool(stored_fusion(store).get("built_from") == fusion_inputs(store, self.how, seed))

    def make(self, store: Store, seed: int) -> dict[str, Any]:
        """Fuse them; return what was counted and measured."""
        return build_fusion(store, self.how, seed)


@dataclass(frozen=True)
class FunctionsTask:
    """Predict functions."""

    settings: FunctionSettings
    name = "functions"

    def is_current(self, store: Store, seed: int) -> bool:
        """Tell whether they are there and what they were made from is the same."""
        there = set(FUNCTION_TABLES) <= set(store.names())
        stored = store.metadata("functions").get("built_from")
        return there and stored == function_inputs(store, self.settings, seed)

    def make(self, store: Store, seed: int) -> dict[str, Any]:
        """Make them; return what was counted."""
        return build_functions(store, self.settings, seed)


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


class PlacesTask:
    """Place cells in the overview."""

    name = "places"

    def is_current(self, store: Store, seed: int) -> bool:
        """Tell whether they are placed and what they were placed by is the same."""
        stored = store.metadata("cell_places").get("built_from")
        return store.has("cell_places") and stored == places_inputs(store, seed)

    def make(self, store: Store, seed: int) -> dict[str, Any]:
        """Place them; return what was counted."""
        return build_cell_places(store, seed)


@dataclass(frozen=True)
class Choices:
    """How a person wants what is made; None: as it was made last."""

    of_map: MapSettings | None = None
    of_functions: FunctionSettings | None = None
    of_fusion: str | None = None
    of_profiles: CorrectionSettings | None = None


def profile_tasks(store: Store, choices: Choices) -> list[ProfilesTask]:
    """Return how profiles are made."""
    return [ProfilesTask(choices.of_profiles or settings_of_correction(store))]


def map_tasks(store: Store, choices: Choices) -> list[MapTask]:
    """Return the one map that was chosen, or all that the atlas keeps, its own first."""
    if choices.of_map:
        return [MapTask(choices.of_map)]
    return [MapTask(settings_of(store, name)) for name in dict.fromkeys([MAIN, *known_maps(store)])]


def function_tasks(store: Store, choices: Choices) -> list[FunctionsTask]:
    """Return how functions are predicted."""
    return [FunctionsTask(choices.of_functions or settings_of_functions(store))]


def can_embed_sequences(store: Store) -> bool:
    """Tell whether there are sequences to embed, and it is known by what."""
    from .sequences import SEQUENCE_ENCODERS

    return has_sequences(store) and (stored_encoder(store) or COMPOSITION) in SEQUENCE_ENCODERS


def can_predict(store: Store) -> bool:
    """Tell whether enough is known of proteins that have vectors."""
    if not store.has("annotations") or not store.metadata("proteins").get("marks"):
        return False
    return store.has("functions") or bool(known_groups(store, read_proteins(store).ids, settings_of_functions(store)))


Task = IndexTask | ProfilesTask | SequenceTask | FusionTask | MapTask | PlacesTask | FunctionsTask


@dataclass(frozen=True)
class Stage:
    """One step of the build, of one task or several."""

    tasks: Callable[[Store, Choices], Sequence[Task]]
    applies: Callable[[Store], bool]


STAGES: dict[str, Stage] = {
    "index": Stage(lambda *_: [IndexTask()], needs_index),  # first: it changes the version of the cells
    "profiles": Stage(profile_tasks, has_own_cells),
    "sequence": Stage(lambda *_: [SequenceTask()], can_embed_sequences),
    "fusion": Stage(lambda store, choices: [FusionTask(choices.of_fusion or way_of_fusion(store))], can_fuse),
    "map": Stage(map_tasks, has_pictures),
    "places": Stage(lambda *_: [PlacesTask()], has_layout),
    "functions": Stage(function_tasks, can_predict),
}
