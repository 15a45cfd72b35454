"""Ingest: pictures or ready-made vectors in, rows of the atlas out. `python -m ingest` or `subcell-atlas ingest`."""
