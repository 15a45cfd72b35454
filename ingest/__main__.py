"""`python -m ingest`: the same as `subcell-atlas ingest`."""

from __future__ import annotations

from subcell_atlas.cli import ingest_command

if __name__ == "__main__":
    ingest_command(prog_name="python -m ingest")
