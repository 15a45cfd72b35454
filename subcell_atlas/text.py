"""Lines of text files, plain or gzip; what is no such file is refused by what it is."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import BadInput

__all__ = ["read_lines"]

MAX_LINE = 4_000_000  # characters; a gene set of all human genes has some 200,000
GZIP = b"\x1f\x8b"
NO_TEXT = {  # first bytes
    b"PK": "a zip archive or a spreadsheet. Unpack it, or save it as CSV",
    b"BZh": "a bzip2 archive. Unpack it",
    b"\xfd7zXZ": "an xz archive. Unpack it",
    b"%PDF": "a PDF",
    b"\xff\xfe": "text in UTF-16. Save it as UTF-8",
    b"\xfe\xff": "text in UTF-16. Save it as UTF-8",
}


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file without their ends. Raise BadInput when it is not such a file."""
    number = 0
    try:
        check_file(path)
        with open_text(path) as text:
            while line := text.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    msg = f"Line {number} of {path} is longer than {MAX_LINE} characters."
                    raise BadInput(f"{msg} No file that is read here has such lines.")
                if "\0" in line:
                    raise BadInput(f"{path} is no text: there are zero bytes in line {number}.")
                yield line.rstrip("\n")
    except UnicodeDecodeError as exc:
        raise BadInput(f"{path} is not text in UTF-8 (after line {number}). Save it as UTF-8.") from exc
    except (OSError, EOFError, zlib.error, ValueError) as exc:
        raise BadInput(f"{str(path)[:200]} cannot be read after line {number}: {reason(exc)}.") from exc


def check_file(path: Path) -> None:
    """Raise BadInput when there is no file, or one that holds no text."""
    if path.is_dir():
        raise BadInput(f"{str(path)!r} is a folder; name a file.")
    if not path.is_file():
        raise BadInput(f"There is no file {str(path)[:200]!r}.")
    with path.open("rb") as file:
        start = file.read(8)
    for magic, what in NO_TEXT.items():
        if start.startswith(magic):
            raise BadInput(f"{path} is {what}.")


def open_text(path: Path) -> IO[str]:
    """Open a text file, unpacking gzip whatever its name; every kind of line end is one."""
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    return gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig")


def reason(exc: Exception) -> str:
    """Return why reading failed, in a few words."""
    if isinstance(exc, EOFError):
        return "the gzip file ends too early; download it again"
    if isinstance(exc, gzip.BadGzipFile | zlib.error):
        return "the gzip file is damaged; download it again"
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return (text.splitlines() or [type(exc).__name__])[0][:160]
