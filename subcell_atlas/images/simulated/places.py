"""The places a simulated protein can sit in: compartments and patterns, by their Gene Ontology terms.

Pattern names are the Human Protein Atlas's; GO ids are those of HPA's own table, except Vesicles, for which HPA
writes GO:0043231 (any membrane-bounded organelle) and this module the narrower GO:0031410.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMPARTMENTS", "PATTERNS", "Compartment", "Pattern"]


@dataclass(frozen=True)
class Compartment:
    """A part of the cell that holds several patterns."""

    name: str
    go_id: str
    go_name: str


@dataclass(frozen=True)
class Pattern:
    """A localization that can be seen in a picture.

    share: relative number of proteins.
    bright_um2: area of the brightest part, which is exposed to full scale; small for dots, large for sheets.
    """

    name: str
    compartment: str
    go_id: str
    go_name: str
    share: float
    bright_um2: float


COMPARTMENTS: dict[str, Compartment] = {
    c.name: c
    for c in (
        Compartment("nucleus", "GO:0005634", "nucleus"),
        Compartment("cytoplasm", "GO:0005737", "cytoplasm"),
        Compartment("endomembrane system", "GO:0012505", "endomembrane system"),
        Compartment("cytoskeleton", "GO:0005856", "cytoskeleton"),
        Compartment("cell periphery", "GO:0071944", "cell periphery"),
    )
}

PATTERNS: dict[str, Pattern] = {
    p.name: p
    for p in (
        Pattern("Nucleoplasm", "nucleus", "GO:0005654", "nucleoplasm", 10, 6.0),
        Pattern("Nucleoli", "nucleus", "GO:0005730", "nucleolus", 7, 2.0),
        Pattern("Nucleoli rim", "nucleus", "GO:0005730", "nucleolus", 4, 1.5),
        Pattern("Nuclear speckles", "nucleus", "GO:0016607", "nuclear speck", 7, 2.0),
        Pattern("Nuclear membrane", "nucleus", "GO:0031965", "nuclear membrane", 5, 3.0),
        Pattern("Nuclear bodies", "nucleus", "GO:0016604", "nuclear body", 5, 0.6),
        Pattern("Cytosol", "cytoplasm", "GO:0005829", "cytosol", 10, 8.0),
        Pattern("Mitochondria", "cytoplasm", "GO:0005739", "mitochondrion", 9, 3.0),
        Pattern("Endoplasmic reticulum", "endomembrane system", "GO:0005783", "endoplasmic reticulum", 8, 6.0),
        Pattern("Golgi apparatus", "endomembrane system", "GO:0005794", "Golgi apparatus", 8, 1.5),
        Pattern("Vesicles", "endomembrane system", "GO:0031410", "cytoplasmic vesicle", 9, 1.5),
        Pattern("Plasma membrane", "cell periphery", "GO:0005886", "plasma membrane", 8, 4.0),
        Pattern("Microtubules", "cytoskeleton", "GO:0015630", "microtubule cytoskeleton", 6, 6.0),
        Pattern("Actin filaments", "cytoskeleton", "GO:0015629", "actin cytoskeleton", 6, 4.0),
        Pattern("Centrosome", "cytoskeleton", "GO:0005813", "centrosome", 5, 0.3),
    )
}
