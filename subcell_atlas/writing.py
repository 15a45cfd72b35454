"""Files that appear whole or not at all, and one line about those that cannot be written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import BadInput

__all__ = ["check_file_place", "writing", "written_whole"]


def check_file_place(path: Path, *taken: Path) -> None:
    """Raise BadInput when a file cannot be written at `path`, or is one of those `taken`."""
    from .store import is_folder  # LanceDB comes with it

    if is_folder(path):
        raise BadInput(f"{str(path)!r} is a folder; name a file.")
    if not path.parent.is_dir():
        raise BadInput(f"There is no folder {str(path.parent)!r} to write into.")
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"Nothing can be written into the folder {str(path.parent)!r}. Name a file in another.")
    for other in taken:
        if path.resolve() == other.resolve():
            raise BadInput(f"{str(path)!r} would be written over {str(other)!r}. Name another file.")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise BadInput, in place of an OSError, when `path` cannot be written: a disk that is full, and the like."""
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or str(exc).splitlines()[0][:160]
        raise BadInput(f"{str(path)!r} cannot be written: {reason}.\nGive a place that can be, with space.") from exc


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write, which takes its place when it is whole. Raise BadInput as `writing` does."""
    part = path.with_name(f".{path.name}.part")
    try:
        with writing(path):
            yield part
            part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
