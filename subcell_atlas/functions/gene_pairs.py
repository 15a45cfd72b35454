"""Files of pairs of genes: `entity1,entity2`, as EFAAR_benchmarking (Celik et al. 2024) keeps what databases relate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..identifiers import Gene
from .statements import AnnotationFile, Collector, Reading
from .tables import read_rows, split_header

__all__ = ["PAIRS", "is_pairs", "read_pairs"]

PAIRS = "pairs"  # the format that relates genes to each other and has no terms
COLUMNS = ("entity1", "entity2")


def is_pairs(lines: Sequence[str], suffix: str) -> bool:
    """Tell whether the header names two genes."""
    del suffix
    return set(split_header(lines[0])[0]) >= set(COLUMNS)


def read_pairs(lines: Iterator[str], reading: Reading) -> AnnotationFile:
    """Read a pair of genes a line; of both directions of a pair, and of a pair said twice, the first counts."""
    found = Collector()
    for row in read_rows(lines, reading, found):
        one, other = (row[name] for name in COLUMNS)
        if not one or not other:
            found.skip("no two genes")
        elif one == other:
            found.skip("a gene with itself")
        else:
            found.add_pair(Gene.bare(one), Gene.bare(other))
    return found.file(reading, PAIRS)
