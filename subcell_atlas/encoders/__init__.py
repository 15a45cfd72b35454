"""Encoders: crops to embeddings. The specs load nothing heavy; torch comes with the first encoder that is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .specs import ENCODERS, EncoderSpec, find_spec

if TYPE_CHECKING:
    from .encoder import load_encoder

__all__ = ["ENCODERS", "EncoderSpec", "find_spec", "load_encoder"]


def __getattr__(name: str) -> Any:
    if name != "load_encoder":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from . import encoder

    return encoder.load_encoder
