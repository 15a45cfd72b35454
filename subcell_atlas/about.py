"""What there is to say of an atlas as a whole: how it came to be, what it holds, how good it is, what it lacks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from . import query
from .build import out_of_date
from .cell_index import index_record, needs_index
from .corrected_profiles import settings_of_correction
from .corrections import CORRECTIONS, OURS
from .doctor import Check
from .encoders.specs import ENCODERS, TIMM, EncoderSpec, find_spec
from .errors import AtlasError
from .evaluate import EVALUATIONS, KIND, last_evaluations
from .functions.gene_pairs import PAIRS
from .fusion_vectors import FEWEST, stored_fusion
from .gene_functions import settings_of_functions
from .maps import MAIN, known_maps
from .recipe import Recipe
from .schema import VECTORS
from .sequence_vectors import has_sequences, note_on_sequences
from .sequences import SEQUENCE_ENCODERS
from .sequences.esm import ESM
from .store import Store

__all__ = ["correction_in_words", "describe", "recipe_in_words"]

UNTOLD = "nothing is known here of where it comes from, nor of its licence"
KNOWN_SOURCES = {  # what the name of a source holds -> what is known of it
    "simulated proteome": "simulated by this package, MIT",
    "proteinatlas.org": "Human Protein Atlas, Creative Commons; which kind, see proteinatlas.org/about/licence",
    "czi-subcell-public": "Human Protein Atlas, crops of SubCell's authors; Creative Commons, probably share-alike",
}
AS_PUBLISHED = (
    "published",
    "built in",
    "none",
    None,
)  # where a recipe's weights are from; else a file's name, or random
OUTDATED = "out of date: what it was made from, or by, is another now"
INGEST = "subcell-atlas ingest images MANIFEST.csv"
INGEST_SEQUENCES = "subcell-atlas ingest sequences FASTA"
ANNOTATE = "subcell-atlas annotate FILE"
BUILD = "subcell-atlas build"
EVALUATE = "subcell-atlas evaluate"
CELL_COLUMNS = ("cell_line", "antibody", "plate", "source", "localization", "protein_id")
N_REASONS = 20


def describe(store: Store) -> dict[str, Any]:
    """Return all of it as one object, ready for JSON but for times.

    tables: their rows; recipe: of the cells' embeddings, recipes: of the proteins' vectors; correction: of batches and
    what it was fitted on; index, fusion: how they are made and what was measured; encoders,
    sources: with their licences; counts; evaluations: the latest of each; checks: what is there, what is missing or out
    of date, and the command that helps; runs: the latest first.
    """
    recipes = {name: own for name, own in store.metadata("proteins").get("recipes", {}).items() if own}
    recipe = query.recipe_of_cells(store)
    cells = count_cells(store)
    return {
        "uri": store.uri,
        "tables": {name: store.count(name) for name in store.names()},
        "recipe": recipe,
        "recipes": recipes,
        "index": index_record(store),
        "correction": correction_in(store),
        "fusion": {key: value for key, value in stored_fusion(store).items() if key != "built_from"},
        "encoders": describe_encoders(recipe or recipes.get("image"), recipes.get("sequence")),
        "sources": [*cells.pop("sources"), *annotation_sources(store), *pair_sources(store)],
        "counts": {"cells": cells, "proteins": count_proteins(store), "rejects": count_rejects(store)},
        "evaluations": {name: asdict(found) for name, found in last_evaluations(store).items()},
        "checks": [asdict(check) for check in check_contents(store)],
        "runs": list_runs(store),
    }


def correction_in(store: Store) -> dict[str, Any] | None:
    """Return how the batches of the profiles were corrected, and what that does; None when there are no profiles."""
    if not store.has("profiles"):
        return None
    settings = settings_of_correction(store)
    stored = store.metadata("profiles").get("correction", {})
    known = CORRECTIONS[settings.name]
    return {**asdict(settings), "about": known.about, "source": known.source, "wells": stored.get("wells")}


def recipe_in_words(stored: Mapping[str, Any]) -> str:
    """Say in a few sentences how the cells' embeddings came to be; what is not known is said to be so."""
    recipe = Recipe.from_json(json.dumps(stored))
    size = f"{recipe.crop_px} px" if recipe.crop_px else "an unknown number of pixels"
    if recipe.masking is None and recipe.crop_px is None:
        return (
            f"The vectors came ready-made, {recipe.dim:,} numbers each, under the name {recipe.encoder}. "
            "How they were computed is not known to the atlas."
        )
    size += f" ({recipe.crop_um:.1f} µm) a side" if recipe.crop_um else " a side"
    around = {
        "cell": "everything outside the cell set to 0",
        "none": "what lies around it left visible",
    }.get(recipe.masking or "", "how its surroundings were treated is not known")
    channels = ", ".join(recipe.channels) if recipe.channels else "not known"
    scaled = f" Intensities: {recipe.normalization}." if recipe.normalization else ""
    block = f" after block {recipe.block}" if recipe.block else ""
    pooled = f", pooled by {recipe.pooling}" if recipe.pooling else ""
    exact = f", computed in {recipe.precision}" if recipe.precision else ""
    return (
        f"Each cell was cut out of its picture, {size}, {around}. Channels in this order: {channels}.{scaled} "
        f"The encoder {recipe.encoder} turned it into {recipe.dim:,} numbers{block}{pooled}{exact}."
    )


def correction_in_words(correction: Mapping[str, Any]) -> str:
    """Say how the batches of the profiles were corrected, from what `describe` tells of it."""
    said = f"Batches, a cell line and plate each, were corrected by {correction['name']}: {correction['about']}"
    if correction["source"] != OURS:
        said += f" (after {correction['source']})"
    if correction["controls"]:
        said += f". It was fitted on {correction['wells']:,} wells of controls ({correction['controls']})"
    return f"{said}."


def describe_encoders(image: Mapping[str, Any] | None, sequence: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return what is known of the encoders of some recipes: what they are, a note, where they are from, licence."""
    ways = (("image", image, describe_image_encoder), ("sequence", sequence, describe_sequence_encoder))
    found = []
    for of, recipe, describe_encoder in ways:
        if recipe:
            known = {"of": of, "name": recipe["encoder"], **describe_encoder(recipe["encoder"])}
            if known["licence"] and recipe.get("weights") not in AS_PUBLISHED:
                known["licence"] += f" if they are the published ones; these are {recipe['weights']}"
            found.append(known)
    return found


def describe_image_encoder(name: str) -> dict[str, Any]:
    """Return what is known of an encoder of pictures."""
    spec = spec_of(name)
    if spec is None:
        return {
            "what": "an encoder of one's own, or of ready-made vectors",
            "note": UNTOLD,
            "origin": None,
            "licence": None,
        }
    network = spec.network
    what = (
        f"a vision transformer of {network.n_blocks} blocks with {network.n_parameters / 1e6:,.1f} million parameters; "
        f"patches of {network.patch_size} px"
    )
    return {"what": what, "note": spec.note or None, "origin": spec.origin, "licence": spec.licence}


def spec_of(name: str) -> EncoderSpec | None:
    """Return what the package knows of an encoder; None for one that somebody described or made elsewhere."""
    if name not in ENCODERS and not name.startswith(TIMM):
        return None
    try:
        return find_spec(name)
    except AtlasError:  # timm is not installed, or knows it no longer
        return None


def describe_sequence_encoder(name: str) -> dict[str, Any]:
    """Return what is known of an encoder of sequences."""
    if name in ESM:
        origin = f"Lin et al., Science 379, 1123 (2023); {ESM[name].origin}"
        return {"what": SEQUENCE_ENCODERS[name], "note": None, "origin": origin, "licence": ESM[name].license}
    if name in SEQUENCE_ENCODERS:
        return {"what": SEQUENCE_ENCODERS[name], "note": None, "origin": "this package", "licence": "MIT"}
    return {"what": "an encoder of ready-made vectors", "note": UNTOLD, "origin": None, "licence": None}


def annotation_sources(store: Store) -> list[dict[str, Any]]:
    """Return where annotations come from, with the licence, date and hash that their file stated."""
    if not store.has("annotations"):
        return []
    stated = {}
    for run in list_runs(store)[::-1]:
        origin = run["counts"].get("origin") if run["kind"] == "annotate" else None
        if origin and run["finished"] and run["counts"].get("format") != PAIRS:
            stated[run["counts"].get("source")] = origin
    return sources_of(store, "annotations", stated)


def pair_sources(store: Store) -> list[dict[str, Any]]:
    """Return where pairs of proteins come from, as their files stated."""
    if not store.has("pairs"):
        return []
    return sources_of(store, "pairs", store.metadata("pairs").get("sources", {}))


def sources_of(store: Store, table: str, stated: Mapping[Any, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the sources of the rows of a table, those of most rows first; stated: by source, what its file said."""
    counted = tally(store.batches(table, ["source"]), ["source"])["source"]
    return [
        {
            "of": table,
            "source": name,
            "rows": n,
            "licence": stated.get(name, {}).get("licence") or known_licence(name),
            **{key: stated.get(name, {}).get(key) for key in ("file", "date", "sha256")},
        }
        for name, n in ordered(counted)
    ]


def known_licence(source: str | None) -> str | None:
    """Return what is known of a source by its name; None when nothing is."""
    return next((told for sign, told in KNOWN_SOURCES.items() if sign in (source or "")), None)


def count_cells(store: Store) -> dict[str, Any]:
    """Return the cells by cell line, localization and source, and how many antibodies and plates there are."""
    counted = tally(store.batches("cells", CELL_COLUMNS) if store.has("cells") else (), CELL_COLUMNS)
    return {
        "antibodies": len(counted["antibody"].keys() - {None}),
        "plates": len(counted["plate"].keys() - {None}),
        "without_protein": counted["protein_id"][None],
        "cell_lines": [{"cell_line": name, "cells": n} for name, n in ordered(counted["cell_line"])],
        "localizations": [{"localization": name, "cells": n} for name, n in ordered(counted["localization"])],
        "sources": [
            {"of": "cells", "source": name, "rows": n, "licence": known_licence(name)}
            for name, n in ordered(counted["source"])
        ],
    }


def count_proteins(store: Store) -> dict[str, Any]:
    """Return the proteins by localization, and how many have each vector."""
    if not store.has("proteins"):
        return {"localizations": [], "vectors": {}}
    counted = tally(store.batches("proteins", ["localization"]), ["localization"])["localization"]
    return {
        "localizations": [{"localization": name, "proteins": n} for name, n in ordered(counted)],
        "vectors": {
            name: store.count("proteins", f"{name} IS NOT NULL")
            for name in VECTORS
            if name in store.vector_columns("proteins")
        },
    }


def count_rejects(store: Store) -> dict[str, Any]:
    """Return how much input was refused, and the most frequent reasons."""
    counted = tally(store.batches("rejects", ["reason"]) if store.has("rejects") else (), ["reason"])["reason"]
    reasons = [{"reason": name, "rejects": n} for name, n in ordered(counted)[:N_REASONS]]
    return {"rejects": counted.total(), "n_reasons": len(counted), "reasons": reasons}


def tally(batches: Iterable[pa.RecordBatch], columns: Sequence[str]) -> dict[str, Counter[str | None]]:
    """Return how often each value of some columns occurs, None where there is none; of a list each of its values."""
    counted: dict[str, Counter[str | None]] = {name: Counter() for name in columns}
    for batch in batches:
        for name in columns:
            values = batch[name]
            if pa.types.is_list(values.type):
                n_empty = pc.sum(pc.equal(pc.fill_null(pc.list_value_length(values), 0), 0)).as_py() or 0
                counted[name].update({None: n_empty} if n_empty else {})
                values = pc.list_flatten(values)
            found = pc.value_counts(values)
            counted[name].update(dict(zip(*(part.to_pylist() for part in found.flatten()), strict=True)))
    return counted


def ordered(counted: Counter[str | None]) -> list[tuple[str | None, int]]:
    """Return values with their numbers, the most frequent first and what is not known last."""
    return sorted(counted.items(), key=lambda item: (item[0] is None, -item[1], item[0] or ""))


def list_runs(store: Store) -> list[dict[str, Any]]:
    """Return the runs, the latest first; the numbers of an evaluation are left to `last_evaluations`."""
    if not store.has("runs"):
        return []
    columns = ["run_id", "kind", "started", "finished", "counts", "code_version"]
    rows = store.read("runs", columns).sort_by([("started", "descending"), ("run_id", "ascending")]).to_pylist()
    return [{**row, "counts": {} if row["kind"].startswith(KIND) else json.loads(row["counts"])} for row in rows]


def check_contents(store: Store) -> list[Check]:
    """Say of each part of an atlas whether it is there and up to date; the fix is a command, without the atlas."""
    commands = out_of_date(store)
    checks = [check_pictures(store)]
    if store.has("cells"):
        checks += [check_profiles(store, commands), check_index(store, commands)]
    checks += [check_sequences(store, commands), check_fusion(store, commands), check_annotations(store)]
    checks += [check_map(store, commands), check_functions(store, commands)]
    told = {check.name for check in checks} | {"profiles"}  # which come of cells, and are told of with these
    checks += [Check(name, "note", OUTDATED, fix) for name, fix in commands.items() if name not in told]
    return [*checks, check_evaluations(store)]


def check_part(name: str, commands: Mapping[str, str], *, found: str, otherwise: Check) -> Check:
    """Say how a part that is built stands. found: empty when it is not there; otherwise: when it cannot be made."""
    if name in commands:
        status, said = ("note", f"{found}; {OUTDATED}") if found else ("missing", "not made yet")
        return Check(name, status, said, commands[name])
    return Check(name, "ok", found) if found else otherwise


def check_pictures(store: Store) -> Check:
    """Say whether the atlas holds cells, or at least vectors of pictures."""
    if store.has("cells"):
        return Check("pictures", "ok", f"{store.count('cells'):,} cells")
    if "image" in store.metadata("proteins").get("marks", {}):
        return Check("pictures", "ok", "ready-made vectors of proteins; no single cells")
    return Check("pictures", "missing", "no cells and no vectors of pictures", INGEST)


def check_profiles(store: Store, commands: Mapping[str, str]) -> Check:
    """Say whether the proteins are made of the cells that are there."""
    if not store.has("profiles"):
        return Check("profiles", "missing", "not made yet, nor what is made of them", BUILD)
    found = f"{store.count('profiles'):,} profiles of {store.count('proteins'):,} proteins"
    return check_part("profiles", commands, found=found, otherwise=Check("profiles", "missing", "not made yet", BUILD))


def check_index(store: Store, commands: Mapping[str, str]) -> Check:
    """Say whether single cells are found through an index, where they are many."""
    few = Check("index", "ok", "not needed: the cells are few enough to compare all of them")
    record = index_record(store)
    found = f"{record['indexed']:,} cells are in it" if record and needs_index(store) else ""
    return check_part("index", commands, found=found, otherwise=few)


def check_sequences(store: Store, commands: Mapping[str, str]) -> Check:
    """Say whether sequences are there, all embedded, and by more than a stand-in."""
    n = store.count("proteins", "sequence IS NOT NULL") if store.has("proteins") else 0
    found = f"vectors of {n:,} proteins" if n else ""
    without = Check("sequence", "missing", "no sequences", INGEST_SEQUENCES)
    if has_sequences(store) and not n:
        without = Check("sequence", "note", "sequences without vectors", INGEST_SEQUENCES)
    check = check_part("sequence", commands, found=found, otherwise=without)
    if check.status == "ok" and note_on_sequences(store):
        said = f"{found}, by a plain stand-in for a protein language model"
        return Check("sequence", "note", said, f"{INGEST_SEQUENCES} --encoder esm2-650m --replace")
    return check


def check_fusion(store: Store, commands: Mapping[str, str]) -> Check:
    """Say whether vectors of pictures and sequences are fused."""
    found = f"by {how}" if (how := stored_fusion(store).get("how")) else ""
    without = Check("fusion", "note", f"takes {FEWEST} proteins with both a picture's and a sequence's vector")
    return check_part("fusion", commands, found=found, otherwise=without)


def check_annotations(store: Store) -> Check:
    """Say whether anything is known of the proteins."""
    if not store.has("annotations"):
        return Check("annotations", "missing", "nothing is known of the proteins", ANNOTATE)
    return Check("annotations", "ok", f"{store.count('annotations'):,}, of {store.count('terms'):,} terms")


def check_map(store: Store, commands: Mapping[str, str]) -> Check:
    """Say whether there is a map, and whether it holds more than everything."""
    of_main = known_maps(store).get(MAIN, {}).get("counts", {})
    n = of_main.get("systems", store.count("systems"))
    found = f"{n:,} systems" if n != 1 else "one system, which holds all proteins"
    if n and of_main.get("not_trusted"):
        found += f"; {of_main['not_trusted']:,} more came back no more often than chance and were left out"
    without = Check(
        "map", "missing", "takes proteins with vectors of pictures", BUILD if store.has("cells") else INGEST
    )
    return check_part("map", commands, found=found if n else "", otherwise=without)


def check_functions(store: Store, commands: Mapping[str, str]) -> Check:
    """Say whether functions are predicted, or why not."""
    n = store.count("functions")
    found = f"{store.count('function_terms'):,} terms are predicted" if n else ""
    without = Check("functions", "missing", "nothing is known to learn them from", ANNOTATE)
    if store.has("annotations"):
        fewest = settings_of_functions(store).fewest
        without = Check("functions", "note", f"no term is known of {fewest} proteins that have vectors")
    return check_part("functions", commands, found=found, otherwise=without)


def check_evaluations(store: Store) -> Check:
    """Say which evaluations ran, and whether what they read may have changed since."""
    found = last_evaluations(store)
    late = [name for name in EVALUATIONS if name in found and found[name].since]
    if not found:
        return Check("evaluations", "missing", "none ran on this atlas", EVALUATE)
    if late:
        return Check("evaluations", "note", f"{', '.join(late)}: {OUTDATED}", EVALUATE)
    without = [name for name, method in EVALUATIONS.items() if name not in found and not method.optional]
    if without:
        said = f"{', '.join(found)} ran; not yet: {', '.join(without)}"
        return Check("evaluations", "note", said, f"{EVALUATE} {' '.join(without)}")
    return Check("evaluations", "ok", ", ".join(found))
