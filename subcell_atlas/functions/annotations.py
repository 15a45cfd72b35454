"""Files of annotations: what a file is, by its content, and what it states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ..errors import BadInput
from ..text import read_lines
from .gene_names import is_hgnc, read_hgnc
from .gene_ontology import is_gaf, is_obo, read_gaf, read_obo
from .gene_pairs import PAIRS, is_pairs, read_pairs
from .gene_sets import is_clusters, is_gmt, is_go_sets, read_clusters, read_gmt, read_go_sets
from .statements import Annotation, AnnotationFile, Reading, Term
from .tables import is_hpa, is_table, missing_column, read_hpa, read_table

__all__ = ["FORMATS", "Annotation", "AnnotationFile", "Term", "default_source", "read_annotations"]

HEAD = 40  # lines that are looked at to tell what a file is
MARKED_UP = {"<!doctype html": "a web page", "<html": "a web page", "<": "XML", "{": "JSON", "[{": "JSON"}


@dataclass(frozen=True)
class Format:
    """A kind of file: how its first lines and suffix tell it, how it is read, what it is."""

    recognizes: Callable[[Sequence[str], str], bool]
    read: Callable[[Iterator[str], Reading], AnnotationFile]
    what: str


FORMATS: dict[str, Format] = {  # the first that recognizes a file reads it
    "gaf": Format(is_gaf, read_gaf, "GAF 2 (annotations of the Gene Ontology)"),
    "obo": Format(is_obo, read_obo, "OBO (an ontology)"),
    "hpa": Format(is_hpa, read_hpa, "subcellular_location.tsv of the Human Protein Atlas"),
    PAIRS: Format(is_pairs, read_pairs, "pairs of genes (entity1,entity2)"),
    "table": Format(is_table, read_table, "a CSV or TSV with a column of proteins and one of terms"),
    "hgnc": Format(is_hgnc, read_hgnc, "HGNC's table of approved, previous and alias symbols"),
    "go sets": Format(is_go_sets, read_go_sets, "MuSIC's GO id, size, genes"),
    "corum": Format(is_clusters, read_clusters, "CORUM's clusters"),
    "gmt": Format(is_gmt, read_gmt, "GMT (gene sets)"),
}


def default_source(path: Path) -> str:
    """Return what the atlas calls a file that nobody named: its name without suffix."""
    return Path(path.name.removesuffix(".gz")).stem


def read_annotations(path: Path, *, source: str | None = None) -> AnnotationFile:
    """Read a file of any of the `FORMATS`, plain or gzip; `source` is what the atlas is to call it.

    Raise BadInput when it is none of them, or holds nothing that can be used.
    """
    if source is not None and not source.strip():
        raise BadInput("The name of a source cannot be empty. Leave --source out to take the file's name.")
    lines = (line for line in read_lines(path) if line.strip())
    head = first_lines(lines)
    body = [line for line in head if not line.startswith(("!", "#"))]
    check_content(head, body, path)
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    name, found = next(
        ((name, kind) for name, kind in FORMATS.items() if kind.recognizes(head if name == "gaf" else body, suffix)),
        (None, None),
    )
    if found is None:
        raise unknown_format(body, path)
    rest = chain(head, lines)
    reading = Reading(path, source or default_source(path))
    return found.read(rest if name == "gaf" else (line for line in rest if not line.startswith("#")), reading)


def first_lines(lines: Iterator[str]) -> list[str]:
    """Take the first lines: all comments, and some lines after them."""
    head: list[str] = []
    n = 0
    for line in lines:
        head.append(line)
        n += not line.startswith(("!", "#"))
        if n == HEAD:
            break
    return head


def check_content(head: Sequence[str], body: Sequence[str], path: Path) -> None:
    """Raise BadInput when a file is empty, has only comments, or is a web page and the like."""
    if not head:
        raise BadInput(f"{path} is empty.")
    start = head[0].lstrip().lower()
    for mark, what in MARKED_UP.items():
        if start.startswith(mark):
            raise BadInput(f"{path} is {what}, not a file of annotations.\n{known_formats()}")
    if not body:
        raise BadInput(f"{path} holds only comments: {head[0][:80]!r}.")


def unknown_format(body: Sequence[str], path: Path) -> BadInput:
    """Return the error for text that is no file of annotations."""
    lacks = missing_column(body)
    if lacks:
        return BadInput(f"{path} is no table of annotations.\n{lacks}")
    return BadInput(f"{path} is no file of annotations; it begins {body[0][:60]!r}.\n{known_formats()}")


def known_formats() -> str:
    """Return the sentence that says what can be read."""
    return f"Can be read: {'; '.join(kind.what for kind in FORMATS.values())}."
