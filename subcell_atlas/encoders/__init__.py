"""Encoders: crops to embeddings. The specs load nothing heavy; torch comes with the first encoder that is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .specs import ENCODERS, EncoderSpec

if TYPE_CHECKING:
    from .encoder import Encoder

__all__ = ["ENCODERS", "EncoderSpec", "load_encoder"]


def load_encoder(
    name: str, *, weights: str | Path | Sequence[str | Path] = (), device: str | None = None, precision: str = "float32"
) -> Encoder:
    """Return the encoder `name` with `weights`: local files, the network's first (see `encoders.encoder`)."""
    from . import encoder

    return encoder.load_encoder(name, weights=weights, device=device, precision=precision)
