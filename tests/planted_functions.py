"""A small atlas with functions planted in it: pictures tell places, sequences tell families, both together jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from subcell_atlas.profiles import vector_array
from subcell_atlas.proteins import write_proteins
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

N_PROTEINS, N_KINDS = 150, 3
IMAGE_ONLY, SEQUENCE_ONLY = range(110, 130), range(130, 150)
UNKNOWN = range(0, N_PROTEINS, 10)  # of which nothing is known
PLACE, FAMILY, JOB = "cellular_component", "molecular_function", "biological_process"
NAMES = {
    "GO:C0": "mitochondrion",
    "GO:C1": "nucleolus",
    "GO:C2": "Golgi apparatus",
    "GO:F0": "kinase activity",
    "GO:F1": "peptidase activity",
    "GO:F2": "ligase activity",
    "GO:P00": "mitochondrial translation",
    "GO:RARE": "cilium",
    "GO:ROOT": "cellular anatomical entity",
    "GO:SEEN": "vesicle seen by the atlas",
    "GO:GUESSED": "lyase activity",
}
ASPECTS = {"C": PLACE, "F": FAMILY, "P": JOB, "R": PLACE, "S": PLACE, "G": FAMILY}


class Said(NamedTuple):
    """That a protein, by number, has a term."""

    protein: int
    term: str
    evidence: str | None = "IDA:UniProt"
    source: str = "goa"


@dataclass(frozen=True)
class Planted:
    """What is true of the proteins: place and family (n,) int, vectors (n, d), and what is said of them."""

    place: np.ndarray
    family: np.ndarray
    image: np.ndarray
    sequence: np.ndarray
    said: list[Said]


def protein_name(row: int) -> str:
    """The id and the symbol of a protein."""
    return f"P{row:03d}"


def planted(*, seed: int = 0, noise: float = 0.5) -> Planted:
    """Draw proteins, of which most is said that is true."""
    rng = np.random.default_rng(seed)
    place, family = rng.integers(N_KINDS, size=(2, N_PROTEINS))
    image = 1.5 * np.eye(N_KINDS, 6)[place] + rng.normal(0, noise, (N_PROTEINS, 6))
    sequence = 1.5 * np.eye(N_KINDS, 5)[family] + rng.normal(0, noise, (N_PROTEINS, 5))
    known = [row for row in range(N_PROTEINS) if row not in UNKNOWN]
    said = [Said(row, f"GO:C{place[row]}") for row in known]
    said += [Said(row, f"GO:F{family[row]}") for row in known]
    said += [Said(row, f"GO:P{place[row]}{family[row]}") for row in known]
    said += [Said(row, "GO:ROOT") for row in known]
    said += [Said(row, "GO:RARE") for row in known[:4]]
    said += [Said(row, "GO:SEEN", "IDA:HPA") for row in known[:40]]
    said += [Said(row, "GO:SEEN", "IDA:HPA;EXP:UniProt") for row in known[40:45]]
    said += [Said(row, "GO:GUESSED", "IEA:InterPro") for row in known[::3]]
    return Planted(place, family, image.astype(np.float32), sequence.astype(np.float32), said)


def write_atlas(uri: str, found: Planted, *, said: list[Said] | None = None) -> Store:
    """Write what is planted into a new atlas, in which functions are not predicted yet; `said` instead of the truth."""
    store = Store.create(uri)
    said = found.said if said is None else said
    for name, rows, encoder in (
        ("image", [row for row in range(N_PROTEINS) if row not in SEQUENCE_ONLY], "demo"),
        ("sequence", [row for row in range(N_PROTEINS) if row not in IMAGE_ONLY], "composition"),
    ):
        ids = [protein_name(row) for row in rows]
        vectors = getattr(found, name)[rows]
        table = pa.table({"protein_id": ids, "gene_symbol": ids, name: vector_array(vectors)})
        write_proteins(store, table, vector=name, recipe=Recipe(encoder=encoder, dim=vectors.shape[1]))
    say(store, said)
    terms = sorted({each.term for each in said})
    store.upsert(
        "terms",
        pa.table(
            {
                "term_id": terms,
                "name": [NAMES.get(term, f"job {term[-2:]}") for term in terms],
                "aspect": [ASPECTS[term[3]] for term in terms],
                "definition": [f"What {NAMES.get(term, 'somebody')} is about, in many words." for term in terms],
                "synonyms": [["power plant"] if term == "GO:C0" else [] for term in terms],
            }
        ),
    )
    return store


def say(store: Store, said: list[Said]) -> None:
    """Put annotations in."""
    store.upsert(
        "annotations",
        pa.table(
            {
                "protein_id": [protein_name(each.protein) for each in said],
                "term_id": [each.term for each in said],
                "evidence": [each.evidence for each in said],
                "source": [each.source for each in said],
            }
        ),
    )
