"""The JavaScript of others, which the building of the package fetched, see hatch_build.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

__all__ = ["file_of", "put_into", "text_of"]

FOLDER = Path(__file__).parent / "javascript"
PLACE = "const LIBRARIES = {};"


def file_of(name: str, kind: str) -> Path | None:
    """Return a library's file, `js` or `css`; None where the package was built without it."""
    return next(iter(sorted(FOLDER.glob(f"{name}-[0-9]*.{kind}"))), None)


def text_of(name: str, kind: str) -> str:
    """Return the content of a library's file; nothing where it is not there."""
    file = file_of(name, kind)
    return file.read_text("utf-8") if file else ""


def put_into(code: str, names: Sequence[str]) -> str:
    """Return our JavaScript with the libraries' in it, where it says `const LIBRARIES = {};`."""
    libraries = {name: text_of(name, "js") for name in names}
    return code.replace(PLACE, f"const LIBRARIES = {json.dumps(libraries)};", 1)
