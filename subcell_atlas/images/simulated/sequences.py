"""Planted protein sequences: random residues, the motifs of a family, and the targeting signal of a place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["AMINO_ACIDS", "LONGEST", "SHORTEST", "SequenceFamily", "make_families", "make_sequence"]

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
SHORTEST, LONGEST = 80, 700
N_FAMILIES = 12
SIGNAL_RATE = 0.8  # proteins that carry the signal of their place
MUTATION_RATE = 0.12  # per motif residue

# Frequencies of AMINO_ACIDS in human proteins, per cent.
_NATURAL = np.array(
    [7.0, 2.3, 4.7, 7.1, 3.7, 6.6, 2.6, 4.4, 5.7, 10.0, 2.1, 3.6, 6.3, 4.8, 5.6, 8.3, 5.4, 6.0, 1.2, 2.7]
)


@dataclass(frozen=True)
class SequenceFamily:
    """What the members of a family share. composition: (20,), sums to 1, in the order of AMINO_ACIDS."""

    name: str
    composition: np.ndarray
    motifs: tuple[str, ...]
    length: int


def make_families(*, seed: int) -> tuple[SequenceFamily, ...]:
    """Return N_FAMILIES families named 'demo family 1' and on."""
    rng = np.random.default_rng([seed, 11])
    return tuple(_family(rng, i + 1) for i in range(N_FAMILIES))


def _family(rng: np.random.Generator, number: int) -> SequenceFamily:
    composition = rng.dirichlet(_NATURAL * 0.6)
    motifs = tuple(_draw(rng, int(rng.integers(9, 18)), _NATURAL / _NATURAL.sum()) for _ in range(rng.integers(3, 6)))
    return SequenceFamily(f"demo family {number}", composition, motifs, int(rng.integers(100, 600)))


def make_sequence(rng: np.random.Generator, family: SequenceFamily, localization: tuple[str, ...]) -> str:
    """Return SHORTEST to LONGEST residues with the motifs of `family` and, mostly, the signal of the first place."""
    length = int(np.clip(family.length * rng.normal(1.0, 0.12), SHORTEST, LONGEST - 80))
    residues = list(_draw(rng, length, family.composition))
    for start, motif in zip(np.linspace(0.15, 0.75, len(family.motifs)), family.motifs, strict=True):
        at = int(start * length) + int(rng.integers(-4, 5))
        residues[at : at + len(motif)] = _mutate(rng, motif)
    body = "".join(residues)
    if rng.random() < SIGNAL_RATE:
        body = _with_signal(rng, body, localization[0])
    return "M" + body.removeprefix("M")


def _draw(rng: np.random.Generator, n: int, p: np.ndarray | None = None, letters: str = AMINO_ACIDS) -> str:
    return "".join(rng.choice(list(letters), size=n, p=p))


def _mutate(rng: np.random.Generator, motif: str) -> str:
    random = _draw(rng, len(motif))
    keep = rng.random(len(motif)) >= MUTATION_RATE
    return "".join(a if k else b for a, b, k in zip(motif, random, keep, strict=True))


def _with_signal(rng: np.random.Generator, body: str, place: str) -> str:
    """Return `body` with the targeting signal that a protein of `place` would carry."""
    if place == "Mitochondria":
        return "ML" + _draw(rng, int(rng.integers(18, 30)), letters="RRRAALLSSSVGT") + "RAY" + body
    if place == "Endoplasmic reticulum":
        return _signal_peptide(rng) + body + "KDEL"
    if place == "Plasma membrane":
        return _signal_peptide(rng) + _insert(rng, body, _membrane_span(rng) + "RKRR", 0.8)
    if place == "Golgi apparatus":
        return _draw(rng, 8) + "RK" + _membrane_span(rng) + body
    if place == "Vesicles":
        return _signal_peptide(rng) + body + "DERQPLL" + "SYQTI"
    if place == "Cytosol":
        return _insert(rng, body, "LQLPPLERLTL", 0.5)
    if place in _INNER_SIGNALS:
        return _insert(rng, body, _mutate(rng, _INNER_SIGNALS[place]), rng.uniform(0.2, 0.8))
    msg = f"no targeting signal is known for {place!r}"
    raise ValueError(msg)


_NLS = "PKKKRKV"
_INNER_SIGNALS: dict[str, str] = {
    "Nucleoplasm": _NLS,
    "Nuclear bodies": _NLS + "VEVIDLT",
    "Nucleoli": "KRKKRRKGKRRRKKAKKRR",
    "Nucleoli rim": "KRKGKRRGGRGGFGGRGG",
    "Nuclear speckles": _NLS + "RSRSRSRSRSRSRDRSRSRS",
    "Nuclear membrane": _NLS + "LVALLLLALIFVVLLLVYYLL",
    "Microtubules": "VRSKIGSTENLKHQPGGGKVQIINKK",
    "Actin filaments": "LKKTETQEKNPLPSKETIEQEK",
    "Centrosome": "LEELRKKLEELEKKLEELRRKLEEL",
}


def _signal_peptide(rng: np.random.Generator) -> str:
    return "MKR" + _draw(rng, int(rng.integers(10, 15)), letters="LLLLAAVFI") + "SAQA"


def _membrane_span(rng: np.random.Generator) -> str:
    return _draw(rng, 21, letters="LLLIIVVVAAFFGM")


def _insert(rng: np.random.Generator, body: str, signal: str, where: float) -> str:
    at = int(np.clip(where + rng.normal(0, 0.05), 0.05, 0.95) * len(body))
    return body[:at] + signal + body[at:]
