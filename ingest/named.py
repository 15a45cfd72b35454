"""The proteins that a file names: those of the atlas where they are there, else new ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa

from subcell_atlas.identifiers import NAME_COLUMNS, Gene, protein_id
from subcell_atlas.joining import ID_COLUMNS, KnownProteins, check_species, examples
from subcell_atlas.store import Store

__all__ = ["Named", "known_proteins"]

NO_PROTEINS = pa.table({name: pa.array([], pa.string()) for name in ("protein_id", *ID_COLUMNS)})


def known_proteins(store: Store) -> KnownProteins:
    """Return the proteins of an atlas by their names."""
    return KnownProteins(store.read("proteins", NAME_COLUMNS) if store.has("proteins") else NO_PROTEINS)


class Named:
    """The proteins of a file, each once, in its order."""

    def __init__(self, known: KnownProteins) -> None:
        self._known = known
        self._kinds: dict[str, str] = {}  # of the name by which each protein was found in the atlas
        self._genes: dict[str, Gene] = {}
        self._ambiguous: set[str] = set()

    def __len__(self) -> int:
        return len(self._genes)

    def is_known(self, gene: Gene) -> bool:
        """Tell whether a gene is a protein of the atlas."""
        return len(self._known.find(gene, same_ids=True)[0]) == 1

    def add(self, gene: Gene) -> str | None:
        """Take a gene; return the protein instead when it is there already.

        A name that several proteins have means none of them, nor one whose better id says otherwise.
        """
        candidates, kind = self._known.find(gene, same_ids=True)
        protein = candidates[0] if len(candidates) == 1 else protein_id(gene.names()) or gene.written
        if protein in self._genes:
            return protein
        self._genes[protein] = gene
        if len(candidates) == 1 or protein in self._known.own:
            self._kinds[protein] = kind or "protein_id"
        elif candidates:
            self._ambiguous.add(protein)
        return None

    @property
    def joined_by(self) -> dict[str, int]:
        """How many were found in the atlas by which kind of name."""
        return dict(Counter(self._kinds.values()))

    @property
    def n_joined(self) -> int:
        """How many were found in the atlas."""
        return len(self._kinds)

    @property
    def n_new(self) -> int:
        """How many are new."""
        return len(self._genes) - len(self._kinds)

    @property
    def n_ambiguous(self) -> int:
        """How many of the new ones have a name that several proteins of the atlas have."""
        return len(self._ambiguous)

    def check_species(self, path: Path) -> None:
        """Raise BadInput when most symbols are written as those of another species are."""
        symbols = [symbol for gene in self._genes.values() if (symbol := gene.names()["gene_symbol"])]
        own = [protein.gene_symbol for protein in self._known.own.values() if protein.gene_symbol]
        if len(symbols) > len(self._genes) / 2:
            check_species(symbols, own, path)

    def remark(self) -> str | None:
        """Say when nothing was found in an atlas that has proteins."""
        own = self._known.own.values()
        if self._kinds or not own or not self._genes:
            return None
        here = examples(name for name in reversed(next(iter(own))[1:]) if name)
        there = examples(gene.written for gene in self._genes.values())
        return (
            "No protein of the file was in the atlas before. Is it of another species, or named by something else? "
            f"In the file: {there}; in the atlas: {here}."
        )

    def table(self) -> pa.Table:
        """Return rows of `proteins`; a protein of the atlas keeps its names and is given those that it lacks."""
        columns: dict[str, list[str | None]] = {name: [] for name in ("protein_id", *ID_COLUMNS)}
        for protein, gene in self._genes.items():
            own = self._known.own.get(protein, Gene(protein))
            columns["protein_id"].append(protein)
            for kind, name in gene.names().items():
                columns[kind].append(None if getattr(own, kind) or name in own[1:] else name)
        return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
