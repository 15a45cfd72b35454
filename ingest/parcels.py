"""Prepared pictures on their way from a process that cuts them to the one that embeds them.

Crops go through shared memory: a pipe between processes passes about half a gigabyte a second, or 300 of SubCell's
crops, and keeps the receiver from everything else. Where shared memory is short they go through the pipe.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from .prepare import Prepared

__all__ = ["Parcel", "pack", "unpack"]

SMALL = 2**16  # bytes; less is not worth a block of its own
ROOM = 16  # so many such blocks must fit besides: other processes make theirs at the same time
SHARED_FOLDER = "/dev/shm"  # where Linux keeps shared memory; a container may have as little as 64 MB
ARRAYS = ("crops", "masks")


@dataclass(frozen=True)
class Placed:
    """An array that lies in the block."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Parcel:
    """Some prepared pictures, whose arrays lie in the shared memory `block`, or in themselves when it is None."""

    pictures: Sequence[Prepared]
    block: str | None = None


def pack(pictures: Sequence[Prepared]) -> Parcel:
    """Put the arrays of some pictures into one block of shared memory, which `unpack` frees."""
    size = sum(array.nbytes for _, _, array in arrays_of(pictures))
    if size < SMALL or not has_room(size):
        return Parcel(pictures)
    try:
        block = SharedMemory(create=True, size=size)
    except OSError:
        return Parcel(pictures)
    placed: list[dict[str, Any]] = [{} for _ in pictures]
    offset = 0
    for number, name, array in arrays_of(pictures):
        np.ndarray(array.shape, array.dtype, block.buf, offset)[...] = array
        placed[number][name] = Placed(offset, array.shape, array.dtype.str)
        offset += array.nbytes
    parcel = Parcel([dataclasses.replace(each, **placed[i]) for i, each in enumerate(pictures)], block.name)
    block.close()
    return parcel


def unpack(parcel: Parcel) -> Sequence[Prepared]:
    """Return the pictures of a parcel with arrays of their own; the block is gone then."""
    if parcel.block is None:
        return parcel.pictures
    block = SharedMemory(parcel.block)
    try:
        return [dataclasses.replace(picture, **copied(picture, block)) for picture in parcel.pictures]
    finally:
        block.close()
        block.unlink()


def copied(picture: Prepared, block: SharedMemory) -> dict[str, Any]:
    """Return the arrays of a picture that lie in a block."""
    placed = {name: place for name in ARRAYS if isinstance(place := getattr(picture, name), Placed)}
    views = {name: np.ndarray(at.shape, at.dtype, block.buf, at.offset) for name, at in placed.items()}
    return {name: view.copy() for name, view in views.items()}


def discard(parcel: Parcel) -> None:
    """Free the block of a parcel that nobody needs."""
    if parcel.block is not None:
        with suppress(FileNotFoundError):
            block = SharedMemory(parcel.block)
            block.close()
            block.unlink()


def arrays_of(pictures: Sequence[Prepared]) -> Iterator[tuple[int, str, np.ndarray]]:
    """Yield each array of some pictures, with the picture's number and the array's name."""
    for number, picture in enumerate(pictures):
        for name in ARRAYS:
            if (array := getattr(picture, name)) is not None:
                yield number, name, array


def has_room(size: int) -> bool:
    """Tell whether shared memory has room: to write into what there is none of would end the process."""
    if os.name == "nt":
        return False  # there a block ends with the process that made it let go of it
    try:
        return shutil.disk_usage(SHARED_FOLDER).free > ROOM * size
    except OSError:
        return True  # no Linux: memory itself is the limit
