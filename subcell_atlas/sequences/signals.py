"""What a sequence says about where its protein goes: hydrophobic stretches, charges, targeting signals, motifs.

Scales: hydropathy of Kyte and Doolittle, J. Mol. Biol. 157, 105 (1982), whose mean over 19 residues above 1.6 tells a
span of a membrane; consensus hydrophobicity and its moment of Eisenberg et al., J. Mol. Biol. 179, 125 (1984); pK of
EMBOSS iep; residues that promote disorder of Dunker et al., J. Mol. Graph. Model. 19, 26 (2001). The motifs are of
textbooks and of ELM (http://elm.eu.org), as regular expressions; each one alone is often wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from .packed import N_KINDS, UNKNOWN, Packed, table
from .residues import AMINO_ACIDS

__all__ = ["SIGNALS", "signals"]

HYDROPATHY = table(  # in tenths: sums of whole numbers are exact, whatever comes before
    dict(zip("IVLFCMAGTSWYPHEQDNKR", [
        45, 42, 38, 28, 25, 19, 18, -4, -7, -8, -9, -13, -16, -32, -35, -35, -35, -35, -39, -45,
    ], strict=True))
)  # fmt: skip
HYDROPHOBICITY = table(
    dict(zip("IFVLWMAGCYPTSHEQNDKR", [
        1.38, 1.19, 1.08, 1.06, 0.81, 0.64, 0.62, 0.48, 0.29, 0.26, 0.12, -0.05, -0.18, -0.40, -0.74, -0.85, -0.78,
        -0.90, -1.50, -2.53,
    ], strict=True))
)  # fmt: skip
SPAN, SPAN_HYDROPATHY = 19, 16
PK_BASES = {"K": 10.8, "R": 12.5, "H": 6.5}
PK_ACIDS = {"D": 3.9, "E": 4.1, "C": 8.5, "Y": 10.1}
PK_ENDS = 8.6, 3.6  # amino, carboxyl
PH_STEPS = 20  # of bisection from 0 to 14: to 0.00002
HELIX, STRAND, HEPTAD = 100.0, 170.0, 360 / 3.5  # degrees a residue; the last of coiled coils

# the most of these residues in any window: name -> residues, width
DENSEST = {
    "basic, 8": ("KR", 8),
    "basic, 20": ("KR", 20),
    "acidic, 8": ("DE", 8),
    "acidic, 40": ("DE", 40),
    "RS, 20": ("RS", 20),
    "RG, 20": ("RG", 20),
    "P, 20": ("P", 20),
    "G, 20": ("G", 20),
    "S, 20": ("S", 20),
    "Q, 20": ("Q", 20),
    "C, 20": ("C", 20),
    "N, 20": ("N", 20),
    "L, 20": ("L", 20),
    "K, 20": ("K", 20),
    "D, 20": ("D", 20),
    "order-promoting, 20": ("WCFIYVL", 20),
}
# anywhere, n / (n + 1) of those found
MOTIFS = {
    "nuclear localization": r"(?=K[KR].[KR])",
    "bipartite nuclear localization": r"[KR]{2}.{9,12}(?=[KR]{3})",
    "nuclear export": r"(?=[LIVFM].{2,3}[LIVFM].{2,3}[LIVFM].[LIVFM])",
    "zinc finger": r"C.{2,4}C.{12}H.{3,5}H",
    "CxxC": r"C..C",
    "Walker A": r"G.{4}GK[ST]",
    "kinase": r"H[RK]D.{4}N",
    "leucine zipper": r"L.{6}L.{6}L",
    "dileucine": r"[DE].{3}L[LI]",
    "tyrosine sorting": r"Y..[LIVFM]",
    "14-3-3": r"R..S.P",
    "QQQ": r"QQQ",
}
# anywhere, those found in 100 residues
FREQUENT = {
    "N-glycosylation": r"N[^P][ST]",
    "heptads": r"(?=[LIVM]..[LIVM]...[LIVM]..[LIVM])",
}
# whether the sequence ends so
ENDS = {
    "KKxx": r"K(?:K|.K)..$|KK..$",
    "KDEL": r"[KRHDQ][DE]EL$",
    "SKL": r"[SAC][KRH][LM]$",
    "CaaX": r"C[AILVGSTMF]{2}.$",
    "PDZ ligand": r"[ST].[VILF]$",
}
# whether it begins so
BEGINNINGS = {
    "myristoylation": r"MG[^EDRKHPFYW]..[STAGCN]",
    "ML, no acid": r"M[LA][^DE]",
    "signal peptide": r".{0,6}[KR].{0,8}[LIVFAMWC]{7}",
    "cleaved signal peptide": r".{0,15}[LIVFAMWC]{6,}.{0,12}?[AVSGT].[AGSC]",
    "presequence": r"(?=[^DE]{15})(?=.{0,14}R.{0,8}R)",
    "presequence cleavage": r".{10,50}?R.[FYLA][SAT]",
}
BEGINNING, END = 70, 10  # residues in which they are looked for

# Name -> center and spread: mean and standard deviation over the 5,140 human proteins of hou.fasta (seq2loc_benchmark).
SIGNALS: dict[str, tuple[float, float]] = {
    "log10 length": (2.69, 0.318),
    "isoelectric point": (7.22, 1.84),
    "charge": (-0.0169, 0.534),
    "charge of a residue": (0.00195, 0.0404),
    "hydropathy": (-4.32, 3.71),
    "spread of hydropathy": (30, 1.42),
    "aromatic": (0.0747, 0.0262),
    "disorder-promoting": (0.519, 0.0657),
    "entropy": (0.942, 0.025),
    "membrane spans": (0.149, 0.259),
    "any membrane span": (0.285, 0.451),
    "many membrane spans": (0.0837, 0.277),
    "in membrane spans": (0.0118, 0.0333),
    "most hydrophobic 19": (13.9, 6.6),
    "most hydrophobic 19 beyond the first 40": (13.3, 6.79),
    "most hydrophobic 19 of the last 30": (-1.24, 8.12),
    "most hydrophobic 10 of the first 30": (8.05, 9.42),
    "most hydrophobic 7": (27.1, 6.13),
    "charge of the first 20": (0.0996, 2.7),
    "charge of the first 50": (0.152, 4.73),
    "charge of the last 30": (0.0327, 3.89),
    "R of the first 25": (1.64, 1.54),
    "acids of the first 25": (2.79, 2.14),
    "most positive 20": (0.297, 0.0993),
    "most negative 20": (0.327, 0.144),
    "most positive 50": (0.157, 0.0705),
    "most negative 50": (0.18, 0.104),
    "basic, 8": (0.548, 0.134),
    "basic, 20": (0.356, 0.0964),
    "acidic, 8": (0.569, 0.166),
    "acidic, 40": (0.282, 0.101),
    "RS, 20": (0.382, 0.116),
    "RG, 20": (0.357, 0.111),
    "P, 20": (0.254, 0.12),
    "G, 20": (0.248, 0.101),
    "S, 20": (0.285, 0.116),
    "Q, 20": (0.204, 0.0966),
    "C, 20": (0.118, 0.0586),
    "N, 20": (0.162, 0.0588),
    "L, 20": (0.291, 0.0749),
    "K, 20": (0.245, 0.0918),
    "D, 20": (0.206, 0.0751),
    "order-promoting, 20": (0.568, 0.101),
    "moment of a helix in the first 32": (0.331, 0.118),
    "moment of a strand": (0.543, 0.088),
    "moment of a coiled coil": (0.448, 0.0776),
    "mean moment of a coiled coil": (0.166, 0.0272),
    "nuclear localization": (0.306, 0.326),
    "bipartite nuclear localization": (0.0758, 0.191),
    "nuclear export": (0.797, 0.23),
    "zinc finger": (0.0259, 0.141),
    "CxxC": (0.174, 0.295),
    "Walker A": (0.036, 0.132),
    "kinase": (0.0164, 0.0892),
    "leucine zipper": (0.255, 0.305),
    "dileucine": (0.346, 0.318),
    "tyrosine sorting": (0.673, 0.261),
    "14-3-3": (0.0906, 0.204),
    "QQQ": (0.0789, 0.202),
    "N-glycosylation": (0.46, 0.417),
    "heptads": (0.405, 0.495),
    "KKxx": (0.0204, 0.141),
    "KDEL": (0.00136, 0.0369),
    "SKL": (0.00331, 0.0574),
    "CaaX": (0.00973, 0.0981),
    "PDZ ligand": (0.0514, 0.221),
    "myristoylation": (0.0187, 0.135),
    "ML, no acid": (0.28, 0.449),
    "signal peptide": (0.0198, 0.139),
    "cleaved signal peptide": (0.0617, 0.241),
    "presequence": (0.116, 0.32),
    "presequence cleavage": (0.134, 0.341),
}


def signals(packed: Packed, sequences: Sequence[str]) -> np.ndarray:
    """Return SIGNALS of sequences, also given packed, as (x - center) / spread: (N, len(SIGNALS)), all finite.

    0 where a sequence is too short to tell.
    """
    found = whole(packed) | hydrophobic(packed) | charged(packed) | moments(packed) | motifs(sequences)
    scaled = [(found[name] - center) / spread for name, (center, spread) in SIGNALS.items()]
    return np.nan_to_num(np.stack(scaled, axis=1), nan=0.0)


def whole(packed: Packed) -> dict[str, np.ndarray]:
    """Return properties of the whole sequence."""
    counts = packed.counts(packed.codes, N_KINDS)[:, :UNKNOWN].astype(float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    hydropathy = HYDROPATHY[packed.codes]
    mean = packed.means(hydropathy)
    charge = charge_at(np.full(len(counts), 7.0), counts)
    return {
        "log10 length": np.log10(packed.lengths),
        "isoelectric point": isoelectric_points(counts),
        "charge": np.tanh(charge / 20),
        "charge of a residue": charge / packed.lengths,
        "hydropathy": mean,
        "spread of hydropathy": np.sqrt(np.maximum(packed.means(hydropathy**2) - mean**2, 0)),
        "aromatic": of_letters(share, "FWY"),
        "disorder-promoting": of_letters(share, "ARGQSPEK"),
        "entropy": -(share * np.log(np.maximum(share, 1e-12))).sum(axis=1) / np.log(len(AMINO_ACIDS)),
    }


def of_letters(share: np.ndarray, letters: str) -> np.ndarray:
    """Return the sum of the columns of these letters: (N, 20) -> (N,)."""
    return share[:, [AMINO_ACIDS.index(letter) for letter in letters]].sum(axis=1)


def charge_at(ph: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the net charge of proteins, (N, 20) counts, each at its own pH, (N,)."""
    amino, carboxyl = PK_ENDS
    charge = 1 / (1 + 10 ** (ph - amino)) - 1 / (1 + 10 ** (carboxyl - ph))
    for letter, pk in PK_BASES.items():
        charge += counts[:, AMINO_ACIDS.index(letter)] / (1 + 10 ** (ph - pk))
    for letter, pk in PK_ACIDS.items():
        charge -= counts[:, AMINO_ACIDS.index(letter)] / (1 + 10 ** (pk - ph))
    return charge


def isoelectric_points(counts: np.ndarray) -> np.ndarray:
    """Return the pH at which each protein, (N, 20) counts, has no charge: (N,)."""
    low, high = np.zeros(len(counts)), np.full(len(counts), 14.0)
    for _ in range(PH_STEPS):
        middle = (low + high) / 2
        positive = charge_at(middle, counts) > 0
        low, high = np.where(positive, middle, low), np.where(positive, high, middle)
    return (low + high) / 2


def hydrophobic(packed: Packed) -> dict[str, np.ndarray]:
    """Return what hydrophobic stretches tell of membranes and signal peptides."""
    hydropathy = HYDROPATHY[packed.codes]
    spans = packed.window_means(hydropathy, SPAN)
    begins = spans > SPAN_HYDROPATHY
    n_spans = packed.runs(begins)
    tens = packed.window_means(hydropathy, 10)
    return {
        "membrane spans": n_spans / (n_spans + 2),
        "any membrane span": (n_spans > 0).astype(float),
        "many membrane spans": (n_spans > 3).astype(float),
        "in membrane spans": packed.means(begins.astype(float)),
        "most hydrophobic 19": packed.most(spans),
        "most hydrophobic 19 beyond the first 40": packed.most(spans, where=packed.places >= 40),
        "most hydrophobic 19 of the last 30": packed.most(spans, where=packed.places_from_end < 30),
        "most hydrophobic 10 of the first 30": packed.most(tens, where=packed.places < 20),
        "most hydrophobic 7": packed.most(packed.window_means(hydropathy, 7)),
    }


def charged(packed: Packed) -> dict[str, np.ndarray]:
    """Return charges near the ends, the most charged windows, and where other residues are densest."""
    charge = (table(dict.fromkeys("KR", 1.0)) - table(dict.fromkeys("DE", 1.0)))[packed.codes]
    arginine, acid = (table(dict.fromkeys(letters, 1.0))[packed.codes] for letters in ("R", "DE"))
    found = {
        "charge of the first 20": packed.sums(charge * (packed.places < 20)),
        "charge of the first 50": packed.sums(charge * (packed.places < 50)),
        "charge of the last 30": packed.sums(charge * (packed.places_from_end < 30)),
        "R of the first 25": packed.sums(arginine * (packed.places < 25)),
        "acids of the first 25": packed.sums(acid * (packed.places < 25)),
    }
    for width in (20, 50):
        found[f"most positive {width}"] = packed.most(packed.window_means(charge, width))
        found[f"most negative {width}"] = packed.most(packed.window_means(-charge, width))
    for name, (letters, width) in DENSEST.items():
        found[name] = packed.most(packed.window_means(table(dict.fromkeys(letters, 1.0))[packed.codes], width))
    return found


def moments(packed: Packed) -> dict[str, np.ndarray]:
    """Return hydrophobic moments: how much one side of a helix, a strand or a coiled coil is the hydrophobic one."""
    coils = moment(packed, HEPTAD, 28)
    return {
        "moment of a helix in the first 32": packed.most(moment(packed, HELIX, 18), where=packed.places < 15),
        "moment of a strand": packed.most(moment(packed, STRAND, 18)),
        "moment of a coiled coil": packed.most(coils),
        "mean moment of a coiled coil": packed.means(np.where(np.isneginf(coils), 0, coils)),
    }


def moment(packed: Packed, angle: float, width: int) -> np.ndarray:
    """Return the moment at an angle of the window that begins at each residue, -inf where it leaves: (R,)."""
    hydrophobicity = HYDROPHOBICITY[packed.codes]
    turned = np.radians(angle) * packed.places
    along = packed.window_means(hydrophobicity * np.cos(turned), width)
    across = packed.window_means(hydrophobicity * np.sin(turned), width)
    return np.where(np.isneginf(along), -np.inf, np.hypot(along, across))


def motifs(sequences: Sequence[str]) -> dict[str, np.ndarray]:
    """Return which motifs the sequences have."""
    lengths = np.array([len(residues) for residues in sequences])
    found = {}
    for name, n in count(MOTIFS, sequences).items():
        found[name] = n / (n + 1)
    for name, n in count(FREQUENT, sequences).items():
        found[name] = 100 * n / lengths
    for name, pattern in ENDS.items():
        found[name] = np.array([bool(re.search(pattern, residues[-END:])) for residues in sequences], float)
    for name, pattern in BEGINNINGS.items():
        found[name] = np.array([bool(re.match(pattern, residues[:BEGINNING])) for residues in sequences], float)
    return found


def count(patterns: Mapping[str, str], sequences: Sequence[str]) -> dict[str, np.ndarray]:
    """Return how often each pattern is found in each sequence, none overlapping another of its kind."""
    compiled = {name: re.compile(pattern) for name, pattern in patterns.items()}
    return {
        name: np.array([len(pattern.findall(residues)) for residues in sequences], float)
        for name, pattern in compiled.items()
    }
