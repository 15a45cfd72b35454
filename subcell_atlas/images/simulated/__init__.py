"""A seeded, made-up proteome with pictures, sequences and a known truth, to try and to test everything on."""

from __future__ import annotations

from subcell_atlas.images.simulated.canvas import FIELD_UM
from subcell_atlas.images.simulated.functions import FUNCTIONS, PlantedFunction
from subcell_atlas.images.simulated.places import COMPARTMENTS, PATTERNS, Compartment, Pattern
from subcell_atlas.images.simulated.proteome import (
    CELL_LINES,
    MOST_PROTEINS,
    SimulatedProtein,
    SimulatedProteome,
    Texture,
    make_proteome,
)
from subcell_atlas.images.simulated.render import CHANNELS, VERSION, SimulatedCell, describe_cell, make_cell

__all__ = [
    "CELL_LINES",
    "CHANNELS",
    "COMPARTMENTS",
    "FIELD_UM",
    "FUNCTIONS",
    "MOST_PROTEINS",
    "PATTERNS",
    "VERSION",
    "Compartment",
    "Pattern",
    "PlantedFunction",
    "SimulatedCell",
    "SimulatedProtein",
    "SimulatedProteome",
    "Texture",
    "describe_cell",
    "make_cell",
    "make_proteome",
]
