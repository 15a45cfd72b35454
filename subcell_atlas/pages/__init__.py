"""The app: a file per page (search, map, functions, sql, about), and what they share (reading, pictures, parts)."""

from __future__ import annotations

from pathlib import Path

__all__ = ["page_file"]


def page_file(name: str) -> Path:
    """Return the script of a page."""
    return Path(__file__).with_name(f"{name}.py")
