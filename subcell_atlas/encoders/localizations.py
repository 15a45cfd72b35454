"""The 31 classes of SubCell's localization heads, in the order of their outputs, with the authors' colors.

From `inference.py` of CellProfiling/SubCellPortable (MIT). The coarse groups are the third grouping of SubCell's
`location_group_mapping.tsv`.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["COARSE_GROUPS", "LOCALIZATIONS", "coarse_group", "name_localizations", "standard_localization"]

LOCALIZATIONS: dict[str, str] = {
    "Actin filaments": "#ffeb3b",
    "Aggresome": "#76ff03",
    "Cell Junctions": "#ff6d00",
    "Centriolar satellite": "#eb30c1",
    "Centrosome": "#faadd4",
    "Cytokinetic bridge": "#795548",
    "Cytoplasmic bodies": "#64ffda",
    "Cytosol": "#00e676",
    "Endoplasmic reticulum": "#03a9f4",
    "Endosomes": "#4caf50",
    "Focal adhesion sites": "#ffc107",
    "Golgi apparatus": "#00bcd4",
    "Intermediate filaments": "#cddc39",
    "Lipid droplets": "#212121",
    "Lysosomes": "#8bc34a",
    "Microtubules": "#ff9800",
    "Midbody": "#ae8c08",
    "Mitochondria": "#ffff00",
    "Mitotic chromosome": "#31b61f",
    "Mitotic spindle": "#9e9e9e",
    "Nuclear bodies": "#2196f3",
    "Nuclear membrane": "#e91e63",
    "Nuclear speckles": "#3f51b5",
    "Nucleoli": "#9c27b0",
    "Nucleoli fibrillar center": "#673ab7",
    "Nucleoli rim": "#d3a50b",
    "Nucleoplasm": "#f44336",
    "Peroxisomes": "#009688",
    "Plasma membrane": "#ff9e80",
    "Vesicles": "#242e4b",
    "Negative": "#000000",
}

COARSE_GROUPS: dict[str, tuple[str, ...]] = {  # HPA's names, one of which is none of the 31; the rest are in no group
    "Cytoskeleton": (
        "Actin filaments",
        "Centrosome",
        "Focal adhesion sites",
        "Intermediate filaments",
        "Microtubule ends",
        "Microtubules",
    ),
    "Cytosol": ("Centriolar satellite", "Cytoplasmic bodies", "Cytosol"),
    "Endomembrane system": (
        "Endoplasmic reticulum",
        "Endosomes",
        "Golgi apparatus",
        "Lipid droplets",
        "Lysosomes",
        "Peroxisomes",
        "Vesicles",
    ),
    "Mitochondria": ("Mitochondria",),
    "Nucleoli": ("Nucleoli", "Nucleoli fibrillar center", "Nucleoli rim"),
    "Nucleus": ("Nuclear bodies", "Nuclear membrane", "Nuclear speckles", "Nucleoplasm"),
    "Plasma membrane": ("Cell Junctions", "Plasma membrane"),
}

LEAST_PROBABILITY = 0.5

STANDARD = {name.casefold(): name for name in LOCALIZATIONS}
COARSE = {name.casefold(): group for group, names in COARSE_GROUPS.items() for name in names}


def standard_localization(name: str) -> str | None:
    """Return which of the 31 classes is meant, whatever letters are large; None for what is none of them."""
    return STANDARD.get(" ".join(name.split()).casefold())


def coarse_group(name: str) -> str | None:
    """Return the coarse group that a localization is in; None for what is in none."""
    return COARSE.get(" ".join(name.split()).casefold())


def name_localizations(probabilities: Sequence[float]) -> list[str]:
    """Return the classes of one cell's (31,) probabilities that reach 0.5, most probable first; at least the first."""
    names = list(LOCALIZATIONS)
    ranked = sorted(range(len(names)), key=lambda i: -probabilities[i])
    return [names[i] for i in ranked if i == ranked[0] or probabilities[i] >= LEAST_PROBABILITY]
