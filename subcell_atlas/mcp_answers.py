"""What the tools for LLM clients answer: one model per answer, whose fields say what the numbers mean."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

__all__ = [
    "About",
    "Comparison",
    "Found",
    "Functions",
    "Places",
    "Protein",
    "Rows",
    "Similar",
    "SystemFound",
]


class Names(BaseModel):
    """The names of a protein."""

    protein_id: str = Field(description="The key of the protein in every table")
    gene_symbol: str | None = None
    ensembl_id: str | None = None
    uniprot_accession: str | None = None
    synonyms: list[str] | None = None


class Found(BaseModel):
    """Which protein a name means."""

    query: str
    protein: Names | None = Field(description="null: the atlas has none of this name")
    suggestions: list[str] = Field(description="The nearest names that the atlas has, when there is none of this")
    note: str | None = None


class Seen(BaseModel):
    """A protein as one antibody shows it in one cell line and condition."""

    antibody: str | None = None
    cell_line: str | None = None
    condition: str | None = None
    n_cells: int
    n_plates: int | None = None
    localization: list[str] | None = Field(None, description="As the pictures were annotated")


class System(BaseModel):
    """A system of the map: proteins whose pictures group together."""

    system_id: str
    level: int = Field(description="0: the root, which holds every protein of the map")
    size: int = Field(description="Number of proteins")
    term_id: str | None = Field(None, description="The term that names it; null: nothing known names it")
    term_name: str | None = None
    p_adjusted: float | None = Field(None, description="Of the term (hypergeometric, Benjamini and Hochberg)")
    persistence: int | None = Field(None, description="At how many resolutions it was found again")
    stability: float | None = Field(None, description="Mean Jaccard index with what comes back from resampled data")
    null_p_adjusted: float | None = Field(None, description="How often groups of noise come back as much")
    parents: list[str] = Field(description="Ids of the systems that it lies in")


class Places(BaseModel):
    """Where a gene sits in a map."""

    gene_symbol: str
    paths: list[list[str]] = Field(description="Ids of systems, from the root to each smallest one that holds the gene")
    systems: list[System] = Field(description="The systems of the paths")


class Protein(Names):
    """What the atlas knows of a protein."""

    localization: list[str] | None = Field(None, description="As the pictures were annotated; not of each cell")
    n_cells: int | None = Field(None, description="Cells that were seen")
    n_antibodies: int | None = None
    cell_lines: list[str] | None = None
    variability: float | None = Field(None, description="How much its cells differ; the median protein has 1")
    n_residues: int | None = Field(None, description="Length of its sequence, where one is known")
    vectors: list[str] = Field(description="The modalities by which it can be compared")
    seen: list[Seen] = Field(description="The evidence: cells by antibody, cell line and condition")
    places: Places | None = Field(None, description="Where it sits in the main map; null: not in it")
    notes: list[str] = Field(description="What a reader of the answer must know")


class SimilarHit(BaseModel):
    """A protein that is like the ones asked for."""

    rank: int
    protein_id: str
    gene_symbol: str | None = None
    similarity: float | None = Field(description="Cosine: 1 is alike, 0 unrelated")
    localization: list[str] | None = None
    n_cells: int | None = Field(None, description="Cells that were seen")


class Similar(BaseModel):
    """The proteins most like some."""

    query: dict[str, Any]
    hits: list[SimilarHit]
    notes: list[str] = Field(description="What a reader of the answer must know")


class Pair(BaseModel):
    """Two groups of a protein's cells."""

    a: str
    b: str
    n_cells_a: int
    n_cells_b: int
    similarity: float | None = Field(description="Cosine of the two profiles")
    percentile: float | None = Field(description="Percent of such pairs, over all proteins, that are less alike")


class Comparison(BaseModel):
    """Whether a protein looks different elsewhere."""

    query: dict[str, Any]
    pairs: list[Pair]
    notes: list[str] = Field(description="What a reader of the answer must know")


class Member(BaseModel):
    """A protein of a system."""

    protein_id: str
    gene_symbol: str | None = None
    localization: list[str] | None = None
    n_cells: int | None = None


class SystemTerm(BaseModel):
    """A term that is over-represented in a system."""

    term_id: str
    term_name: str | None = None
    source: str | None = None
    is_name: bool | None = Field(None, description="Whether it names the system")
    n_shared: int | None = Field(None, description="Proteins of the system that have it")
    n_system: int | None = Field(None, description="Proteins of the system of which the source says anything")
    n_term: int | None = None
    n_background: int | None = None
    p_adjusted: float | None = None
    jaccard: float | None = None


class Discovery(BaseModel):
    """A protein in a named system that nothing known of it puts there."""

    protein_id: str
    gene_symbol: str | None = None
    kind: str = Field(description="unannotated: nothing is known; unexpected: something else is")
    localization: list[str] | None = None
    score: float | None = None


class SystemFound(BaseModel):
    """A system of the map with what is above, below and in it."""

    system: System
    parents: list[System]
    children: list[System]
    members: list[Member] = Field(description="By symbol; `system.size` says how many there are")
    terms: list[SystemTerm] = Field(description="Best first, at most ten")
    discoveries: list[Discovery]
    notes: list[str] = Field(description="What a reader of the answer must know")


class Modalities(BaseModel):
    """The probability by each kind of evidence."""

    image: float | None = None
    sequence: float | None = None
    fused: float | None = None


class Support(BaseModel):
    """A near protein that has the term."""

    protein_id: str
    gene_symbol: str | None = None
    modality: str
    similarity: float | None = None


class FunctionHit(BaseModel):
    """A protein and a term."""

    rank: int
    protein_id: str | None = None
    gene_symbol: str | None = None
    term_id: str
    name: str
    aspect: str | None = None
    annotated: bool = Field(description="true: known from an annotation; false: a prediction")
    probability: float | None = Field(None, description="Calibrated; of annotated proteins out of fold")
    prior: float | None = Field(None, description="The share of proteins that have the term anyway")
    modalities: Modalities
    support: list[Support] | None = Field(None, description="Nearest neighbors that have the term")


class Term(BaseModel):
    """A term that fits some words."""

    term_id: str
    name: str | None = None
    aspect: str | None = None
    is_predicted: bool
    n_members: int | None = None


class Functions(BaseModel):
    """Functions: known ones first, then predictions."""

    query: dict[str, Any]
    terms: list[Term] = Field(description="The terms that fit the words; the answer is about the one in `hits`")
    n_known: int = Field(description="How many are known, of which `hits` holds the first k")
    hits: list[FunctionHit]
    notes: list[str] = Field(description="What a reader of the answer must know")


class Rows(BaseModel):
    """The answer to a SELECT."""

    columns: list[str]
    rows: list[dict[str, Any]]
    truncated: bool = Field(description="true: there are more rows than are here")
    left_out: list[str] = Field(description="Columns that hold vectors or pictures, which are not shown")


class Table(BaseModel):
    """A table for SQL."""

    name: str
    n_rows: int
    columns: dict[str, str] = Field(description="Names, with DuckDB's types")


class About(BaseModel):
    """What is in the atlas."""

    version: str = Field(description="Of subcell-atlas")
    tables: list[Table]
    recipe: dict[str, Any] = Field(description="How the cells' embeddings came to be: encoder, weights, scale, …")
    encoders: dict[str, str] = Field(description="What made each kind of vector of a protein")
    cell_lines: list[str]
    maps: list[dict[str, Any]] = Field(description="Each map's settings and counts")
    aspects: list[str] = Field(description="Kinds of functions that are told")
    missing: list[str] = Field(description="What this atlas cannot answer, and the command that would change it")
    notes: list[str] = Field(description="What a reader of any answer must know")
