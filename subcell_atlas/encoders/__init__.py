"""Encoders: crops to embeddings. The specs load nothing heavy; torch comes with the first encoder that is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .specs import ENCODERS, EncoderSpec, find_spec

if TYPE_CHECKING:
    from .encoder import Encoder

__all__ = ["ENCODERS", "EncoderSpec", "find_spec", "load_encoder"]


def load_encoder(name: str | EncoderSpec, **options: Any) -> Encoder:
    """Return the encoder `name`; for the options see `encoders.encoder.load_encoder`."""
    from . import encoder

    return encoder.load_encoder(name, **options)
