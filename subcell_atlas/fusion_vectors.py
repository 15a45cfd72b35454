"""The fused vectors of an atlas: read the store, call `functions/`, write the store."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from threadpoolctl import threadpool_limits

from ._version import __version__
from .errors import NotBuilt, UnknownName
from .functions.fusion import WAYS, Alignment, expected_error, fused
from .gene_functions import models_table, of_bytes, read_proteins, to_bytes
from .profiles import vector_array
from .proteins import check_correction_of, correction_of, write_proteins
from .recipe import Recipe
from .store import Store

__all__ = ["alignment_of", "build_fusion", "can_fuse", "fusion_inputs", "say_error", "stored_fusion", "way_of_fusion"]

ALIGNMENT = "alignment"  # what the row of `models` is called
NARROW = 1000  # numbers a vector; below, threads wait for each other longer than they compute, and far longer on a busy
# machine (85 times was seen), so that one is faster
FEWEST = 30  # proteins with both vectors, for the error of guesses to be measured in five parts


def can_fuse(store: Store) -> bool:
    """Tell whether enough proteins have both a picture's and a sequence's vector."""
    if not store.has("proteins") or not {"image", "sequence"} <= set(store.vector_columns("proteins")):
        return False
    return store.count("proteins", "image IS NOT NULL AND sequence IS NOT NULL") >= FEWEST


def stored_fusion(store: Store) -> dict[str, Any]:
    """Return what is stored of the fusion: how, built_from, error; empty when there is none."""
    if "models" not in store.names() or "fused" not in store.vector_columns("proteins"):
        return {}
    rows = store.read("models", ["about"], where=f"kind = '{ALIGNMENT}'")["about"].to_pylist()
    return dict(json.loads(rows[0])) if rows else {}


def way_of_fusion(store: Store) -> str:
    """Return how vectors are fused: as they were last, else as usual."""
    return str(stored_fusion(store).get("how", WAYS[0]))


def fusion_inputs(store: Store, how: str, seed: int) -> dict[str, Any]:
    """Return what the fused vectors depend on."""
    marks = store.metadata("proteins").get("marks", {})
    vectors = {name: marks.get(name) for name in ("image", "sequence")}
    return {**vectors, **correction_of(store), "how": how, "seed": seed, "code_version": __version__}


def build_fusion(store: Store, how: str, seed: int) -> dict[str, Any]:
    """Fuse the vectors of pictures and sequences, and write them; return what was counted and measured.

    A protein that has one of them gets the other told from it; how far such guesses are off is measured on proteins
    that have both. Raise NotBuilt when too few have.
    """
    if how not in WAYS:
        raise UnknownName("way of fusion", how, WAYS)
    if not can_fuse(store):
        raise NotBuilt(f"Fusion needs {FEWEST} proteins with both a picture's and a sequence's vector.")
    built_from = fusion_inputs(store, how, seed)
    proteins = read_proteins(store)
    has_image, has_sequence = proteins.has["image"], proteins.has["sequence"]
    both = has_image & has_sequence
    image, sequence = (proteins.vectors[name][both] for name in ("image", "sequence"))
    with threadpool_limits(1 if max(image.shape[1], sequence.shape[1]) < NARROW else None, "blas"):
        alignment = Alignment.fit(image, sequence, seed=seed)
        error = asdict(expected_error(image, sequence, groups=None, seed=seed))
    vectors = fused(
        proteins.vectors["image"], proteins.vectors["sequence"], has_image, has_sequence, alignment, how=how
    )
    ids = [name for name, known in zip(proteins.ids, has_image | has_sequence, strict=True) if known]
    vectors = vectors[has_image | has_sequence]
    rows = pa.table({"protein_id": pa.array(ids, pa.string()), "fused": vector_array(vectors)})
    write_proteins(store, rows, vector="fused", recipe=recipe_of(store, how, vectors.shape[1]), anew=("fused",))
    about = json.dumps({"how": how, "built_from": built_from, "error": error})
    row = {"name": "fusion", "modality": "fused", "kind": ALIGNMENT, "term_ids": None, "about": about}
    model = {**row, "arrays": to_bytes(alignment.arrays())}
    store.upsert("models", models_table([model]))
    filled = {
        "image_told": int((~has_image & has_sequence).sum()),
        "sequence_told": int((has_image & ~has_sequence).sum()),
    }
    return {"proteins": len(ids), "both": int(both.sum()), **filled, "how": how, "error": error}


def recipe_of(store: Store, how: str, dim: int) -> Recipe:
    """Return the recipe of fused vectors: how they were fused, of what."""
    made_by = []
    for modality in ("image", "sequence"):
        recipe = store.recipe("proteins", modality)
        made_by.append(recipe.encoder if recipe else "unknown")
    return Recipe(encoder=f"{how} of {' and '.join(made_by)}", dim=dim, code_version=__version__)


def alignment_of(store: Store) -> Alignment:
    """Return what tells a picture's vector from a sequence's, and the other way; raise NotBuilt when there is none."""
    stored = stored_fusion(store)
    if not stored:
        raise NotBuilt("This atlas has no space that pictures and sequences share yet. Run: subcell-atlas build fusion")
    made = "The space that pictures and sequences share"
    check_correction_of(store, stored["built_from"], made=made, stage="fusion")
    row = store.read("models", ["arrays"], where=f"kind = '{ALIGNMENT}'")
    return Alignment.of_arrays(of_bytes(row["arrays"][0].as_py()))


def say_error(error: dict[str, Any]) -> str:
    """Say how far pictures are off that are told from sequences."""
    of = error["image"]
    return (
        f"The picture is a guess from the sequence. Of {error['n']} proteins with both, half had a cosine above "
        f"{of['quantiles']['0.5']:.2f} to their own picture (by chance {of['chance']:.2f}); "
        f"{of['median_rank']:.0%} of other pictures are nearer to a guess than the right one."
    )
