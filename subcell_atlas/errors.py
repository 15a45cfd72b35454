"""The tree of errors that this package raises for known problems.

Catch `AtlasError` to catch them all; the command line turns each into one or two lines and exit code 1.

AtlasError
├── AtlasNotFound        there is no atlas at this address
├── SchemaMismatch       the atlas was written by a newer (or incompatible) version of this package
├── RecipeMismatch       embeddings of two recipes would be mixed or compared
├── NotBuilt             a table that the question needs is missing or empty
├── UnknownName          a gene, system, encoder, table or stage that does not exist
├── BadInput             a file, a column or a value that cannot be used
│   └── BadImage         a picture that cannot be used; ingest records it in `rejects` and goes on
├── BadWeights           a weights file that is not the network's
├── QueryRefused         SQL that is not allowed, or that hit a limit
└── MissingExtra         an optional package is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AtlasError",
    "AtlasNotFound",
    "BadImage",
    "BadInput",
    "BadWeights",
    "MissingExtra",
    "NotBuilt",
    "QueryRefused",
    "RecipeMismatch",
    "SchemaMismatch",
    "UnknownName",
]


class AtlasError(Exception):
    """A known problem. The message says what was asked, what was found and what to do."""


class AtlasNotFound(AtlasError):
    """There is no atlas at this address."""


class SchemaMismatch(AtlasError):
    """The atlas was written by a newer (or incompatible) version of this package."""


class RecipeMismatch(AtlasError):
    """Embeddings of two recipes would be mixed or compared."""


class NotBuilt(AtlasError):
    """A table that the question needs is missing or empty."""


class UnknownName(AtlasError):
    """A name that does not exist, with the nearest names that do."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        known = list(dict.fromkeys(known))
        self.known = known
        self.suggestions = nearest_names(name, known)
        msg = f"Unknown {kind} {name!r}"
        if self.suggestions:
            msg += f"; nearest: {', '.join(self.suggestions)}."
        elif len(known) <= 12:
            msg += f"; known: {', '.join(sorted(known)) or 'none'}."
        else:
            msg += f"; none of the {len(known)} known is close to it."
        super().__init__(f"{msg} {hint}".rstrip())


class BadInput(AtlasError):
    """A file, a column or a value that cannot be used."""


class BadImage(BadInput):
    """A picture that cannot be used; ingest records it in `rejects` and goes on."""


class BadWeights(AtlasError):
    """A weights file that is not the network's."""


class QueryRefused(AtlasError):
    """SQL that is not allowed, or that hit a limit of time, memory or size."""


class MissingExtra(AtlasError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}. Install it: pip install 'subcell-atlas[{extra}]'")


def nearest_names(name: str, known: Iterable[str], *, n: int = 5) -> list[str]:
    """Return at most `n` known names that look like `name`, nearest first, ignoring case."""
    by_upper: dict[str, str] = {}
    for spelling in known:
        by_upper.setdefault(spelling.upper(), spelling)
    prefix = [k for u, k in sorted(by_upper.items()) if u.startswith(name.upper())] if name else []
    close = [by_upper[u] for u in difflib.get_close_matches(name.upper(), by_upper, n=n, cutoff=0.6)]
    return list(dict.fromkeys([*close, *prefix]))[:n]
