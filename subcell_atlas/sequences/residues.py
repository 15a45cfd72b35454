"""The letters of proteins, and which sequences can be embedded."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import BadInput

__all__ = ["AMINO_ACIDS", "LETTERS", "check_sequences", "refusal"]

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
LETTERS = AMINO_ACIDS + "BZXUO"  # D or N, E or Q, any, selenocysteine, pyrrolysine: those that ESM has tokens for
_OTHER = re.compile(f"[^{LETTERS}]")


def refusal(residues: str) -> str | None:
    """Return why a sequence cannot be embedded, in a few words; None when it can."""
    if not residues:
        return "is empty"
    other = _OTHER.search(residues)
    if other:
        return "has a stop (*) inside" if other[0] == "*" else "has characters that are no residues"
    if not residues.strip("X"):
        return "has unknown residues only"
    return None


def check_sequences(sequences: Sequence[str]) -> None:
    """Raise BadInput when a sequence cannot be embedded."""
    for number, residues in enumerate(sequences):
        why = refusal(residues)
        if why:
            msg = f"Sequence {number} {why}: {residues[:30]!r}. A sequence is of the letters {LETTERS}."
            raise BadInput(msg)
