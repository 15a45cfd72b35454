"""What is done and reported of every file that is taken into an atlas: its genes are found, and where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from subcell_atlas.errors import NotBuilt
from subcell_atlas.functions.annotations import AnnotationFile
from subcell_atlas.hashing import sha256_of_file
from subcell_atlas.identifiers import NAME_COLUMNS, Gene
from subcell_atlas.joining import Joined, check_joined, join_genes
from subcell_atlas.store import Store

__all__ = ["Identifiers", "Origin", "find_proteins", "said_how", "said_left_out"]

N_EXAMPLES = 5


@dataclass(frozen=True)
class Origin:
    """A file that was read, and what it says of itself."""

    file: str
    sha256: str
    date: str | None
    licence: str | None

    @classmethod
    def of(cls, path: Path, file: AnnotationFile) -> Origin:
        """Return where a file's statements come from."""
        return cls(path.name, sha256_of_file(path), file.date, file.licence)


@dataclass(frozen=True)
class Identifiers:
    """The genes that a file names, each once: which are proteins of the atlas, which are none or may be several.

    Of a file of names it is the other way round: which proteins of the atlas are its genes.
    """

    n: int
    joined: int
    joined_by: Mapping[str, int]
    missing: int
    missing_examples: Sequence[str]
    ambiguous: int
    ambiguous_examples: Sequence[str]

    @classmethod
    def of(cls, joined: Joined) -> Identifiers:
        """Count them."""
        missing, ambiguous = some(joined.missing), some(joined.ambiguous)
        n_joined, n_missing, n_ambiguous = len(joined.protein_of), len(joined.missing), len(joined.ambiguous)
        return cls(joined.n_genes, n_joined, joined.joined_by, n_missing, missing, n_ambiguous, ambiguous)

    def lines(self, what: str = "identifiers", are: str = "proteins of this atlas") -> Iterator[str]:
        """Say it in a few lines."""
        how = f" ({said_how(self.joined_by)})" if self.joined_by else ""
        yield f"{self.joined} of {self.n} {what} are {are}{how}."
        if self.missing:
            yield f"{self.missing} are not: {', '.join(self.missing_examples)}{etc(self.missing)}."
        if self.ambiguous:
            yield f"{self.ambiguous} may be several of them: {', '.join(self.ambiguous_examples)}{etc(self.ambiguous)}."


def find_proteins(store: Store, file: AnnotationFile, path: Path) -> Joined:
    """Find the file's genes among the atlas's proteins."""
    proteins = store.read("proteins", NAME_COLUMNS)
    if not proteins.num_rows:
        raise NotBuilt(f"The atlas {store.uri!r} has no protein to annotate. Run: subcell-atlas build")
    joined = join_genes(file.genes(), proteins)
    check_joined(joined, proteins, path)
    return joined


def said_left_out(skipped: Mapping[str, int]) -> Iterator[str]:
    """Say, in a line, what of a file was left out and why; nothing when nothing was."""
    if skipped:
        yield f"Left out: {', '.join(f'{reason} ({n})' for reason, n in skipped.items())}."


def said_how(joined_by: Mapping[str, int]) -> str:
    """Say by what kinds of names something was found."""
    return ", ".join(f"{n} by {kind}" for kind, n in joined_by.items())


def some(genes: Sequence[Gene]) -> list[str]:
    """Return the first few genes, as they are written."""
    return [gene.written[:40] for gene in genes[:N_EXAMPLES]]


def etc(n: int) -> str:
    """Return what follows some examples of `n`."""
    return ", …" if n > N_EXAMPLES else ""
