"""Atlas: what a person holds in a notebook. One short method per question, each giving an Arrow table or a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from . import function_query, map_query, query
from .encoders.specs import HPA_PIXEL_SIZE_UM
from .errors import BadInput, NotBuilt, UnknownName
from .fusion_vectors import alignment_of
from .images.crops import cut_cells
from .maps import MAIN
from .sequence_vectors import stored_encoder
from .sql import SqlSession
from .store import Store, default_uri

if TYPE_CHECKING:
    import anndata
    import networkx as nx

    from .encoders.encoder import Encoder
    from .sequences import SequenceEncoder

__all__ = ["Atlas", "open_atlas"]


class Atlas:
    """An open atlas; it only reads. Tables come as `pyarrow.Table`: `.to_pandas()` is one call away."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sql: SqlSession | None = None
        self._encoder: Encoder | None = None
        self._sequence_encoder: SequenceEncoder | None = None

    @property
    def uri(self) -> str:
        """Where the atlas is."""
        return self._store.uri

    @property
    def store(self) -> Store:
        """The tables of the atlas."""
        return self._store

    def __repr__(self) -> str:
        return f"Atlas({self.uri!r}, proteins={self._store.count('proteins')}, cells={self._store.count('cells')})"

    def similar(
        self,
        *genes: str,
        k: int = 10,
        modality: str = "image",
        where: str | None = None,
        cell_line: str | None = None,
    ) -> pa.Table:
        """Return the `k` proteins most like `genes`, a symbol, Ensembl id or UniProt accession each.

        Columns: rank, protein_id, gene_symbol, similarity (cosine, 1 is alike), localization, n_cells. Several genes
        ask for what is like all of them together. `where`: SQL over the columns of `proteins`, such as `n_cells >= 20`.
        """
        if not genes or not all(isinstance(gene, str) for gene in genes):
            raise BadInput("Which genes? Name them one by one: similar('DEMO001', 'DEMO002').")
        return query.similar(self._store, genes, k=k, modality=modality, where=where, cell_line=cell_line)

    def similar_to_image(
        self,
        picture: np.ndarray,
        *,
        pixel_size_um: float = HPA_PIXEL_SIZE_UM,
        mask: np.ndarray | None = None,
        is_crop: bool = True,
        k: int = 10,
        where: str | None = None,
        cell_line: str | None = None,
        encoder: str | None = None,
        weights: Sequence[str] = (),
    ) -> pa.Table:
        """Return the `k` proteins whose pictures are most like `picture`, the same columns as `similar`.

        picture: (C, H, W) raw intensities, channels in the order of the atlas's recipe (see `info`); mask: (H, W), a
        number for each cell, 0 outside. With `is_crop` the picture is one cell, else a field of view, whose cells are
        found, embedded and averaged. `weights`: the encoder's file, when the atlas was made with one that cannot be
        fetched; `encoder`: the file that describes it, when the atlas was made with one.
        """
        vector = self._vector_of_picture(
            picture, pixel_size_um=pixel_size_um, mask=mask, is_crop=is_crop, cell_line=cell_line, encoder=encoder,
            weights=weights,
        )  # fmt: skip
        return query.similar_to_vector(self._store, vector, k=k, where=where, cell_line=cell_line)

    def similar_cells(self, cell: str, *, k: int = 10, where: str | None = None, exact: bool = False) -> pa.Table:
        """Return the `k` cells most like a cell, by its id.

        Columns: rank, cell_id, protein_id, gene_symbol, similarity (cosine), localization, antibody, cell_line,
        condition, image_id. `where`: SQL over the columns of `cells`. Many cells are searched through an index, which
        may miss one in a hundred (see `info`); `exact` compares them all.
        """
        vector = query.vector_of_cell(self._store, cell)
        return query.similar_cells(self._store, vector, k=k, where=where, exact=exact, leave_out=cell)

    def cells_like_image(
        self, picture: np.ndarray, *, k: int = 10, where: str | None = None, exact: bool = False, **options: Any
    ) -> pa.Table:
        """Return the `k` cells most like a picture, the same columns as `similar_cells`.

        `options` are those of `similar_to_image` about the picture.
        """
        vector = query.vector_of_new_cells(self._store, *self._cells_of_picture(picture, **options))
        return query.similar_cells(self._store, vector, k=k, where=where, exact=exact)

    def similar_to_sequence(
        self, sequence: str, *, k: int = 10, modality: str = "sequence", where: str | None = None,
        weights: str | None = None,
    ) -> pa.Table:  # fmt: skip
        """Return the `k` proteins most like a sequence that is not in the atlas, the same columns as `similar`.

        sequence: residues, as they are or below a FASTA header. modality: "sequence", or "image": the picture that such
        a protein is expected to give is told from the sequence first; `info()["fusion"]` says how far such guesses are
        off. `weights`: the folder of the protein language model, when the atlas's sequences were embedded by one that
        cannot be fetched.
        """
        vector = self._vector_of_sequence(sequence, weights)
        if modality == "image":
            vector = alignment_of(self._store).fill_image(vector[None], full_length=True)[0]
        elif modality != "sequence":
            raise UnknownName("modality", modality, ("sequence", "image"))
        return query.similar_to_vector(self._store, vector, k=k, modality=modality, where=where)

    def functions(
        self,
        *genes: str,
        term: str | None = None,
        sequence: str | None = None,
        k: int = 20,
        aspect: str | None = None,
        weights: str | None = None,
    ) -> pa.Table:
        """Return what a gene may do; with `term`, which genes may do it; of several genes, what they share.

        term: an id, a name, or some words; sequence: residues of a protein that is not in the atlas. Columns: rank,
        protein_id, gene_symbol, term_id, name, aspect, probability, prior (the share of proteins that have it),
        annotated, image, sequence, fused (each modality's probability), support (nearest neighbors that have it). Known
        ones come first. `aspect`: only terms of it. `weights`: for a sequence, as `similar_to_sequence` has it. See
        `function_query.shared_functions` for the columns of several genes.
        """
        if sum(map(bool, (genes, term, sequence))) != 1:
            raise BadInput(
                "One question at a time: functions('GENE'), functions(term='…') or functions(sequence='M…')."
            )
        if term and aspect:
            raise BadInput("A term is of one aspect; leave the aspect out.")
        if term:
            return function_query.genes_of_term(self._store, term, k=k)
        if sequence:
            vector = self._vector_of_sequence(sequence, weights)
            return function_query.functions_of_vectors(self._store, sequence=vector, k=k, aspect=aspect)
        if len(genes) > 1:
            return function_query.shared_functions(self._store, genes, k=k, aspect=aspect)
        return function_query.functions_of_gene(self._store, genes[0], k=k, aspect=aspect)

    def functions_of_image(
        self, picture: np.ndarray, *, k: int = 20, aspect: str | None = None, **options: Any
    ) -> pa.Table:
        """Return what the protein in a picture may do; `options` are those of `similar_to_image` about the picture."""
        vector = self._vector_of_picture(picture, **options)
        return function_query.functions_of_vectors(self._store, image=vector, k=k, aspect=aspect)

    def find_terms(self, text: str, *, k: int = 10) -> pa.Table:
        """Return the terms whose name, synonyms or definition fit some words, best first."""
        return function_query.find_terms(self._store, text, k=k)

    def compare(self, gene: str, *, by: str = "cell_line") -> pa.Table:
        """Tell whether a protein's localization changes between its cell lines, conditions or antibodies.

        One row per pair of groups: a, b, n_cells_a, n_cells_b, similarity, and percentile: how many percent of such
        pairs, over all proteins, are less alike.
        """
        return query.compare(self._store, gene, by=by)

    def map(self, name: str = MAIN) -> nx.DiGraph:
        """Return a protein map: nodes are systems with the columns of `systems`, edges go from parent to child."""
        return query.map_graph(self._store, name)

    def discoveries(self, name: str = MAIN) -> pa.Table:
        """Return the proteins of a map's named systems that nothing known of them puts there, best first."""
        return map_query.news(self._store, name=name)

    def compare_map(self, other: str, *, name: str = MAIN, seed: int = 0) -> dict[str, Any]:
        """Compare a map with `other`: another map of this atlas, another atlas's, or one in a file (HCX, HiDeF, edges).

        Return how much of each is in the other, and the best match of each system, as the command's JSON has it.
        """
        return map_query.comparison_record(*map_query.compare_with(self._store, other, name=name, seed=seed))

    def members(self, system: str) -> pa.Table:
        """Return the proteins of a system."""
        return query.system_members(self._store, system)

    def sql(self, statement: str) -> pa.Table:
        """Answer one SELECT (DuckDB) over the tables of the atlas, read-only and within limits (see `sql`)."""
        if self._sql is None:
            self._sql = SqlSession(self.uri)
        return self._sql.query(statement)

    def cells(self, where: str | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the cells that meet the SQL condition `where`, embeddings and thumbnails included."""
        return self._store.read("cells", columns, where=where)

    def proteins(self, where: str | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the proteins that meet the SQL condition `where`, with their vectors."""
        return self._store.read("proteins", columns, where=where)

    def info(self) -> dict[str, Any]:
        """Return what there is to say of the atlas as a whole, ready for JSON but for times; see `about.describe`."""
        from .about import describe

        return describe(self._store)

    def to_anndata(self, *, modality: str = "image") -> anndata.AnnData:
        """Return the proteins as AnnData: obs their columns, X the vectors, obsm['X_umap'] the layout."""
        from .export import proteins_anndata

        return proteins_anndata(self._store, modality=modality)

    def close(self) -> None:
        """End the process that answers SQL."""
        if self._sql is not None:
            self._sql.close()
            self._sql = None

    def __enter__(self) -> Atlas:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _vector_of_sequence(self, text: str, weights: str | None = None) -> np.ndarray:
        from .sequences import load_sequence_encoder, residues_of

        name = stored_encoder(self._store)
        if name is None:
            raise NotBuilt("This atlas has no sequence vectors. Put some in: subcell-atlas ingest sequences FASTA")
        residues = residues_of(text)
        if self._sequence_encoder is None or weights:
            self._sequence_encoder = load_sequence_encoder(name, weights=weights)
            stored = self._store.recipe("proteins", "sequence")
            assert stored is not None
            stored.check_same(self._sequence_encoder.recipe(), here="this atlas", there="This encoder")
        return next(iter(self._sequence_encoder.batches([residues])))[1][0]

    def _vector_of_picture(self, picture: np.ndarray, *, cell_line: str | None = None, **options: Any) -> np.ndarray:
        loaded, crops = self._cells_of_picture(picture, **options)
        return query.vector_of_cells(self._store, loaded, crops, cell_line=cell_line)

    def _cells_of_picture(
        self,
        picture: np.ndarray,
        *,
        pixel_size_um: float = HPA_PIXEL_SIZE_UM,
        mask: np.ndarray | None = None,
        is_crop: bool = True,
        encoder: str | None = None,
        weights: Sequence[str] = (),
    ) -> tuple[Encoder, np.ndarray]:
        recipe = query.recipe_for_pictures(self._store)
        loaded = self._load_encoder(encoder, weights)
        stack = np.asarray(picture)
        if stack.ndim != 3 or len(stack) != len(loaded.spec.channels):
            names = ", ".join(loaded.spec.channels)
            raise BadInput(f"A picture is (C, H, W) with the channels {names}; got shape {stack.shape}.")
        cut = cut_cells(
            dict(zip(loaded.spec.channels, stack, strict=True)),
            None if mask is None else np.asarray(mask, np.int32),
            is_crop=is_crop,
            masking=recipe.masking or "none",
            pixel_size_um=pixel_size_um,
            crop_um=loaded.spec.crop_um,
            crop_px=loaded.spec.crop_px,
        )
        return loaded, cut.crops

    def _load_encoder(self, encoder: str | None, weights: Sequence[str]) -> Encoder:
        if self._encoder is None or weights or encoder:
            from .encoders.encoder import load_encoder_of

            recipe = query.recipe_for_pictures(self._store)
            self._encoder = load_encoder_of(recipe, name=encoder, weights=weights)
        return self._encoder


def open_atlas(uri: str | None = None) -> Atlas:
    """Open the atlas at `uri` (`$SUBCELL_ATLAS`, else `./atlas`, when None). Raise AtlasNotFound when there is none."""
    return Atlas(Store.open(uri or default_uri()))
