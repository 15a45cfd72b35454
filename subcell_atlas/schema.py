"""What an atlas stores: the Arrow schema of every table.

An atlas is one LanceDB database; each table carries, in its schema metadata under the key `subcell_atlas`, a JSON
object with `schema_version`, the recipes of its vector columns and, for derived tables, what they were built from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

__all__ = ["KEYS", "METADATA_KEY", "SCHEMA_VERSION", "TABLES", "VECTOR", "VECTORS", "read_metadata", "table_schema"]

SCHEMA_VERSION = 1
METADATA_KEY = b"subcell_atlas"

STRINGS = pa.list_(pa.string())
TIME = pa.timestamp("ms", tz="UTC")
VECTOR = pa.list_(pa.float32())  # holds nothing yet; a fixed-size list once the dimension is known

TABLES: dict[str, dict[str, pa.DataType]] = {
    # one row per segmented cell; `box` is in pixels of the picture as given, `embedding` is the encoder's raw output
    "cells": {
        "cell_id": pa.string(),
        "protein_id": pa.string(),
        "gene_symbol": pa.string(),
        "ensembl_id": pa.string(),
        "uniprot_accession": pa.string(),
        "antibody": pa.string(),
        "cell_line": pa.string(),
        "plate": pa.string(),
        "well": pa.string(),
        "fov": pa.string(),
        "condition": pa.string(),
        "localization": STRINGS,
        "predicted_localization": STRINGS,
        "embedding": VECTOR,
        "thumbnail": pa.binary(),  # JPEG, the encoder's channels side by side
        "source": pa.string(),
        "image_id": pa.string(),
        "picture_id": pa.string(),  # hash of the pictures' content
        "fingerprint": pa.string(),  # hash of all that the row was made from: its presence means "done"
        "stamp": pa.string(),  # the same by the looks of its files, so that what is done need not be read
        "mask_source": pa.string(),  # given | none | the segmenter's name
        "y0": pa.int32(),
        "x0": pa.int32(),
        "y1": pa.int32(),
        "x1": pa.int32(),
        "pixel_size_um": pa.float32(),
        "extra": pa.string(),  # JSON of the manifest's other columns
        "run_id": pa.string(),
    },
    # one row per protein x antibody x cell line x condition
    "profiles": {
        "profile_id": pa.string(),
        "protein_id": pa.string(),
        "antibody": pa.string(),
        "cell_line": pa.string(),
        "condition": pa.string(),
        "n_cells": pa.int32(),
        "n_plates": pa.int32(),
        "localization": STRINGS,
        "spread": pa.float32(),  # root mean square distance of its centred cells to their mean, whatever the correction
        "embedding": VECTOR,  # mean over cells, each centred on its batch, or as the recipe's `correction` says
        "uncentered": VECTOR,  # mean over cells as they came from the encoder
    },
    "proteins": {
        "protein_id": pa.string(),
        "gene_symbol": pa.string(),
        "ensembl_id": pa.string(),
        "uniprot_accession": pa.string(),
        "synonyms": STRINGS,  # other symbols of its gene: those it had before, then those it goes by elsewhere
        "localization": STRINGS,
        "n_cells": pa.int32(),
        "n_antibodies": pa.int32(),
        "cell_lines": STRINGS,
        "reliability": pa.string(),  # of its localization, as HPA grades it: Enhanced, Supported, Approved, Uncertain
        "variability": pa.float32(),  # cell-to-cell: mean spread of its profiles over the atlas's median spread
        "image": VECTOR,
        "sequence": VECTOR,
        "fused": VECTOR,
        "x": pa.float32(),
        "y": pa.float32(),
        "amino_acids": pa.string(),
    },
    # one row per cell that the overview shows: all, or a random sample of very many
    "cell_places": {"cell_id": pa.string(), "protein_id": pa.string(), "x": pa.float32(), "y": pa.float32()},
    "systems": {
        "system_id": pa.string(),  # S1; NAME:S1 in a map other than the atlas's own
        "map": pa.string(),  # main, or the name of another
        "level": pa.int32(),  # 0: the root, which holds every protein of the map
        "resolution": pa.float32(),
        "persistence": pa.int32(),  # at how many of the resolutions the system was found again
        "size": pa.int32(),
        "stability": pa.float32(),  # mean Jaccard index with what comes back when the data are partitioned again
        "null_p_adjusted": pa.float64(),  # how often groups of vectors without groups come back as much
        "term_id": pa.string(),
        "term_name": pa.string(),
        "p_adjusted": pa.float64(),  # of the term that names it
    },
    "system_edges": {"parent_id": pa.string(), "child_id": pa.string(), "overlap": pa.float32()},
    "system_members": {"system_id": pa.string(), "protein_id": pa.string()},
    # the terms that are over-represented in a system, best first; the counts are of what the source says anything about
    "system_terms": {
        "system_id": pa.string(),
        "term_id": pa.string(),
        "term_name": pa.string(),
        "source": pa.string(),
        "is_name": pa.bool_(),
        "n_shared": pa.int32(),
        "n_system": pa.int32(),
        "n_term": pa.int32(),
        "n_background": pa.int32(),
        "p_value": pa.float64(),
        "p_adjusted": pa.float64(),
        "jaccard": pa.float32(),
        "information_content": pa.float32(),  # bits
        "proteins": STRINGS,  # that are in both
    },
    # proteins of a named system that nothing known of them puts there
    "discoveries": {
        "protein_id": pa.string(),
        "system_id": pa.string(),
        "kind": pa.string(),  # unannotated | unexpected
        "term_id": pa.string(),
        "term_name": pa.string(),
        "score": pa.float32(),
    },
    "terms": {
        "term_id": pa.string(),
        "name": pa.string(),
        "aspect": pa.string(),  # biological_process, molecular_function, cellular_component, complex, pathway, …
        "definition": pa.string(),
        "parents": STRINGS,  # over is_a and part_of; null where no ontology was given
        "xrefs": STRINGS,  # ids of the same thing elsewhere, or formerly
        "synonyms": STRINGS,
        "source": pa.string(),
    },
    "annotations": {
        "protein_id": pa.string(),
        "term_id": pa.string(),
        "evidence": pa.string(),  # CODE:WHO, `;` between, with what speaks for the term's descendants
        "qualifier": pa.string(),  # located_in, main location, …; `;` between
        "direct": pa.bool_(),  # false: it follows from an annotation to a descendant of the term
        "source": pa.string(),
    },
    # one row per pair of proteins that a source relates, protein_id before other_id
    "pairs": {"protein_id": pa.string(), "other_id": pa.string(), "source": pa.string()},
    # one row per protein x term worth keeping: annotated, or with a probability that somebody may ask for
    "functions": {
        "protein_id": pa.string(),
        "term_id": pa.string(),
        "probability": pa.float32(),  # the best that is known: fused, else of the one modality
        "annotated": pa.bool_(),
        "image": pa.float32(),  # each modality's: out of fold where annotations are known of the protein
        "sequence": pa.float32(),
        "fused": pa.float32(),
    },
    # one row per term that is predicted: how many have it, and how well held out proteins were ranked by it
    "function_terms": {
        "term_id": pa.string(),
        "aspect": pa.string(),
        "sources": STRINGS,
        "n_members": pa.int32(),
        "n_background": pa.int32(),  # proteins of which the sources say anything of this aspect
        "prior": pa.float32(),
        "ap_image": pa.float32(),  # average precision out of fold
        "ap_sequence": pa.float32(),
        "ap_fused": pa.float32(),
    },
    # what was learned, for pictures and sequences that are not in the atlas, and what a batch correction does to all
    "models": {
        "name": pa.string(),  # a group of terms, fusion, or correction and a hash
        "modality": pa.string(),
        "kind": pa.string(),  # linear | neighbors | alignment | correction
        "term_ids": STRINGS,
        "about": pa.string(),  # JSON: of an alignment how, of what, and how far its guesses are off
        "arrays": pa.large_binary(),  # NumPy's npz
    },
    "runs": {
        "run_id": pa.string(),
        "kind": pa.string(),  # ingest | annotate | build | evaluate
        "started": TIME,
        "finished": TIME,
        "recipe": pa.string(),  # JSON
        "counts": pa.string(),  # JSON
        "code_version": pa.string(),
    },
    "rejects": {
        "source": pa.string(),
        "image": pa.string(),
        "reason": pa.string(),
        "run_id": pa.string(),
    },
}

VECTORS = tuple(name for name, kind in TABLES["proteins"].items() if kind is VECTOR)  # of a protein: its modalities

# The columns that say whether a row is already there.
KEYS: dict[str, tuple[str, ...]] = {
    "cells": ("cell_id",),
    "profiles": ("profile_id",),
    "proteins": ("protein_id",),
    "cell_places": ("cell_id",),
    "systems": ("system_id",),
    "system_edges": ("parent_id", "child_id"),
    "system_members": ("system_id", "protein_id"),
    "system_terms": ("system_id", "term_id", "source"),
    "discoveries": ("protein_id", "system_id"),
    "terms": ("term_id",),
    "annotations": ("protein_id", "term_id", "source"),
    "pairs": ("protein_id", "other_id", "source"),
    "functions": ("protein_id", "term_id"),
    "function_terms": ("term_id",),
    "models": ("name", "modality"),
    "runs": ("run_id",),
    "rejects": ("source", "image"),
}


def table_schema(
    table: str, *, dims: Mapping[str, int] | None = None, metadata: Mapping[str, Any] | None = None
) -> pa.Schema:
    """Return the Arrow schema of `table`.

    `dims` gives the dimension of each vector column; one without a dimension can hold nulls only.
    `metadata` is stored with the table as JSON, beside the schema's version.
    """
    dims = dims or {}
    fields = []
    for name, kind in TABLES[table].items():
        if kind is VECTOR and name in dims:
            kind = pa.list_(pa.float32(), dims[name])
        fields.append(pa.field(name, kind, nullable=name not in KEYS[table], metadata=key_metadata(table, name)))
    stored = {"schema_version": SCHEMA_VERSION, **(metadata or {})}
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(stored, sort_keys=True).encode()})


def key_metadata(table: str, column: str) -> dict[str, str] | None:
    """Return what tells Lance that a column is part of the key; None when it is not.

    Two processes that upsert the same new key at once conflict then, and the later one is tried again. Measured:
    without it both rows stay, nearly always.
    """
    if column not in KEYS[table]:
        return None
    prefix = "lance-schema:unenforced-primary-key"
    return {prefix: "true", f"{prefix}:position": str(KEYS[table].index(column) + 1)}


def read_metadata(schema: pa.Schema) -> dict[str, Any]:
    """Return what `table_schema` stored as metadata; empty when there is none."""
    stored = (schema.metadata or {}).get(METADATA_KEY)
    return dict(json.loads(stored)) if stored else {}
