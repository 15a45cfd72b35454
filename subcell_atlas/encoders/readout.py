"""Readouts: after which block of a network, and by which pooling of its tokens, an embedding is taken."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CLS", "OWN", "PATCHES", "Readout"]

OWN = "own"  # the pooling that the network's authors publish
CLS, PATCHES = "cls", "patches"


@dataclass(frozen=True, kw_only=True)
class Readout:
    """Which block's output is the embedding, counted from 1, and how its tokens are pooled (see `network.Network`).

    final_norm: whether `cls` and `patches` read tokens that went through the network's last normalization.
    """

    block: int | None = None  # None: the last
    pooling: str = OWN
    final_norm: bool = True

    @property
    def way(self) -> str:
        """How the tokens are pooled, in words."""
        return self.pooling if self.final_norm else f"{self.pooling}, no final norm"
