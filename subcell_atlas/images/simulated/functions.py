"""Planted function terms: some follow from where a protein is, some from its sequence, some only from both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subcell_atlas.images.simulated.places import PATTERNS
from subcell_atlas.images.simulated.sequences import N_FAMILIES

if TYPE_CHECKING:
    from subcell_atlas.images.simulated.proteome import SimulatedProtein

__all__ = ["FUNCTIONS", "PlantedFunction", "plant_functions"]

KEPT = 0.88  # chance that a protein that should have a function is known to have it


@dataclass(frozen=True)
class PlantedFunction:
    """A protein has it when it is in one of the `patterns` and one of the `families`; None: any."""

    term_id: str
    name: str
    patterns: frozenset[str] | None
    families: frozenset[str] | None

    @property
    def kind(self) -> str:
        """What decides it: place, family, or place and family."""
        if self.families is None:
            return "place"
        return "family" if self.patterns is None else "place and family"

    def fits(self, protein: SimulatedProtein) -> bool:
        """Tell whether a protein meets the conditions."""
        in_place = self.patterns is None or not self.patterns.isdisjoint(protein.localization)
        return in_place and (self.families is None or protein.family in self.families)


_PLACES = (
    ("Nucleoli", "Nucleoli rim"),
    ("Mitochondria",),
    ("Golgi apparatus", "Vesicles"),
    ("Plasma membrane", "Actin filaments"),
    ("Nucleoplasm", "Nuclear speckles"),
    ("Microtubules", "Centrosome"),
)


def _families(*numbers: int) -> frozenset[str]:
    return frozenset(f"demo family {1 + (n - 1) % N_FAMILIES}" for n in numbers)


def _in_compartment(name: str) -> frozenset[str]:
    return frozenset(p.name for p in PATTERNS.values() if p.compartment == name)


def _make_functions() -> tuple[PlantedFunction, ...]:
    conditions: list[tuple[frozenset[str] | None, frozenset[str] | None]] = []
    conditions += [(frozenset(places), None) for places in _PLACES]
    conditions += [(None, _families(n, n + 1)) for n in range(1, N_FAMILIES, 2)]
    conditions += [
        (_in_compartment("nucleus"), _families(1, 3, 5, 7)),
        (_in_compartment("nucleus"), _families(2, 4, 6, 8)),
        (_in_compartment("cytoplasm"), _families(3, 6, 9, 12, 1)),
        (_in_compartment("endomembrane system"), _families(2, 5, 8, 11)),
        (_in_compartment("endomembrane system"), _families(1, 4, 7, 10)),
        (_in_compartment("cytoskeleton") | _in_compartment("cell periphery"), _families(6, 7, 8, 9)),
    ]
    return tuple(PlantedFunction(f"DEMOF:{i:04d}", f"Demo function {i}", *c) for i, c in enumerate(conditions, 1))


FUNCTIONS: tuple[PlantedFunction, ...] = _make_functions()


def plant_functions(proteins: Sequence[SimulatedProtein], *, seed: int) -> list[tuple[str, str, str]]:
    """Return (protein_id, term_id, evidence); the evidence names what decides the function."""
    rng = np.random.default_rng([seed, 12])
    draws = rng.random((len(proteins), len(FUNCTIONS)))
    return [
        (protein.protein_id, function.term_id, f"planted function: {function.kind}")
        for protein, row in zip(proteins, draws, strict=True)
        for function, draw in zip(FUNCTIONS, row, strict=True)
        if draw < KEPT and function.fits(protein)
    ]
