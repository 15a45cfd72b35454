"""What a source of pictures offers to the job: a length, and items by number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = ["Item", "Picture", "Source", "digest", "source_name"]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded field of view or crop: channels by name, (H, W) each; labels (H, W) int32 where a mask came along."""

    channels: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    pixel_size_um: float | None
    is_crop: bool


class Item(Protocol):
    """One picture to ingest; cheap to make, its content is read when asked for."""

    @property
    def image_id(self) -> str:
        """How the source calls it."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Columns of `cells` that are known before looking."""

    @property
    def is_crop(self) -> bool:
        """Whether it shows one cell already cut out."""

    def looks(self) -> str | None:
        """Say how its files look from outside (names, sizes, times of change); None when that tells nothing."""

    def picture_id(self) -> str:
        """Hash what the picture shows, without decoding it."""

    def reading(self) -> str:
        """Say how it is read: which file is which channel, the mask, the pixel size. Called after `picture_id`."""

    def load(self) -> Picture:
        """Decode it; raise BadImage when it cannot be used. Called after `picture_id`."""


class Source(Protocol):
    """Pictures by number; it travels to worker processes."""

    @property
    def name(self) -> str:
        """What the atlas calls it."""

    def __len__(self) -> int: ...

    def item(self, index: int) -> Item:
        """Return one picture."""


def source_name(path: Path) -> str:
    """Return what the atlas calls a file that nobody named: its folder and stem."""
    return f"{path.resolve().parent.name}/{path.stem}"


def digest(*parts: str) -> str:
    """Return a 128-bit hash of some strings, in hexadecimal."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
