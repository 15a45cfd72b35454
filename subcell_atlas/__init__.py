"""SubCell Atlas: where a protein sits in the cell, what sits with it, and what it might do.

    atlas = subcell_atlas.open_atlas("./atlas")
    atlas.similar("TOMM20", k=10).to_pandas()

Importing this package loads nothing heavy; LanceDB comes with the first atlas, torch with the first encoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import errors
from ._version import __version__
from .errors import AtlasError

if TYPE_CHECKING:
    from .atlas import Atlas, open_atlas
    from .encoders import load_encoder

__all__ = ["Atlas", "AtlasError", "__version__", "errors", "load_encoder", "open_atlas"]

LAZY = {"Atlas": "atlas", "open_atlas": "atlas", "load_encoder": "encoders"}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(f".{LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
