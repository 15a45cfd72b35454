"""`python -m subcell_atlas`: the command line."""

from __future__ import annotations

from subcell_atlas.cli import main

if __name__ == "__main__":
    main(prog_name="subcell-atlas")
