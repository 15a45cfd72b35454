"""The planted truth of the simulated proteome: which protein is where, with whom, and what it does.

Compartment > pattern > complex. What a complex shares, its members show: one Texture with small deviations. Names are
made up ('DEMO001') so that nobody takes them for real genes; GO ids of places are real.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from subcell_atlas.images.simulated.functions import FUNCTIONS, plant_functions
from subcell_atlas.images.simulated.places import COMPARTMENTS, PATTERNS
from subcell_atlas.images.simulated.sequences import SequenceFamily, make_families, make_sequence

__all__ = ["CELL_LINES", "MOST_PROTEINS", "SimulatedProtein", "SimulatedProteome", "Texture", "make_proteome"]

CELL_LINES = ("Demo-A", "Demo-B", "Demo-C")
MOST_PROTEINS = 2000

IN_COMPLEX, TWO_PLACES, MOVING, VARIABLE = 0.6, 0.125, 0.05, 0.08  # shares of the proteins
SMALLEST_COMPLEX, LARGEST_COMPLEX = 3, 8
TWO_ANTIBODIES = 0.25
MEMBER_DEVIATION = 0.05  # of a texture's range


@dataclass(frozen=True)
class Texture:
    """How a stain looks within its place.

    granularity: contrast of grains, 0 to 1; grain_um: their size.
    spot_um, spot_number: size of dots, and their number relative to what is usual for the pattern.
    spot_share: share of the light that sits in dots.
    unevenness: contrast between regions of the cell, 0 to 1.
    nuclear_distance: -1 close to the nucleus (or to its centre) to 1 far from it.
    second_share: share of the light in the second place, for proteins that have one.
    diffuse: light all over the cell. brightness: 1 fills the range of the camera.
    cell_sd: cell-to-cell standard deviation of log brightness.
    purity: how little of the light is left where the pattern is not, 0 to 1.
    rim: how much the cell's edge stands out in the plasma membrane, 0 to 1.
    """

    granularity: float
    grain_um: float
    spot_um: float
    spot_number: float
    spot_share: float
    unevenness: float
    nuclear_distance: float
    second_share: float
    diffuse: float
    brightness: float
    cell_sd: float
    purity: float
    rim: float


TEXTURE_RANGE: dict[str, tuple[float, float]] = {
    "granularity": (0.1, 0.8),
    "grain_um": (0.35, 1.1),
    "spot_um": (0.14, 0.42),
    "spot_number": (0.5, 2.0),
    "spot_share": (0.0, 0.3),
    "unevenness": (0.0, 0.8),
    "nuclear_distance": (-1.0, 1.0),
    "second_share": (0.3, 0.6),
    "diffuse": (0.02, 0.3),
    "brightness": (0.35, 1.0),
    "cell_sd": (0.06, 0.25),
    "purity": (0.0, 1.0),
    "rim": (0.0, 1.0),
}


@dataclass(frozen=True)
class SimulatedProtein:
    """localization: where it is in most cell lines, main place first; localization_in: by cell line."""

    gene_symbol: str
    ensembl_id: str
    uniprot_accession: str
    sequence: str
    family: str
    compartment: str
    localization: tuple[str, ...]
    localization_in: Mapping[str, tuple[str, ...]]
    complex_id: str | None
    antibodies: tuple[str, ...]
    variable: bool
    texture: Texture

    @property
    def protein_id(self) -> str:
        """The key of the protein in the atlas."""
        return self.ensembl_id


@dataclass(frozen=True)
class SimulatedProteome:
    """The proteins, and the cell lines they are seen in."""

    seed: int
    proteins: tuple[SimulatedProtein, ...]
    cell_lines: tuple[str, ...] = CELL_LINES

    def terms(self) -> pa.Table:
        """Return term_id, name and aspect of every place, complex and function."""
        places = {c.go_id: c.go_name for c in COMPARTMENTS.values()} | {p.go_id: p.go_name for p in PATTERNS.values()}
        complexes = sorted({p.complex_id for p in self.proteins if p.complex_id})
        rows = [(go_id, name, "cellular_component") for go_id, name in places.items()]
        rows += [(c, f"Demo complex {int(c.removeprefix('DEMOC:'))}", "complex") for c in complexes]
        rows += [(f.term_id, f.name, "molecular_function") for f in FUNCTIONS]
        return _string_table(("term_id", "name", "aspect"), rows)

    def annotations(self) -> pa.Table:
        """Return protein_id, term_id and evidence: the kind of truth that was planted."""
        rows = [(p.protein_id, *row) for p in self.proteins for row in _place_annotations(p)]
        rows += plant_functions(self.proteins, seed=self.seed)
        return _string_table(("protein_id", "term_id", "evidence"), rows)


def make_proteome(n_proteins: int, *, seed: int) -> SimulatedProteome:
    """Return 1 to MOST_PROTEINS proteins; the same ones for the same `n_proteins` and `seed`."""
    if not 1 <= n_proteins <= MOST_PROTEINS:
        msg = f"n_proteins is {n_proteins}; a simulated proteome has 1 to {MOST_PROTEINS} proteins"
        raise ValueError(msg)
    rng = np.random.default_rng([seed, 1])
    drafts = [draft for group in _make_groups(rng, n_proteins) for draft in group.members(rng)]
    drafts = [drafts[i] for i in rng.permutation(n_proteins)]
    families = make_families(seed=seed)
    moving = set(rng.permutation(n_proteins)[: round(MOVING * n_proteins)].tolist())
    antibodies = _share_antibodies(rng, n_proteins)
    proteins = tuple(
        _finish(rng, draft, i, families, antibodies[i], moves=i in moving) for i, draft in enumerate(drafts)
    )
    return SimulatedProteome(seed, proteins)


@dataclass(frozen=True)
class _Draft:
    localization: tuple[str, ...]
    complex_id: str | None
    variable: bool
    texture: Texture


@dataclass(frozen=True)
class _Group:
    """A complex, or a protein that is in none."""

    pattern: str
    size: int
    complex_id: str | None
    second: str | None = None
    variable: bool = False

    def members(self, rng: np.random.Generator) -> Iterator[_Draft]:
        shared = _draw_texture(rng)
        places = (self.pattern, self.second) if self.second else (self.pattern,)
        for _ in range(self.size):
            texture = _deviate(rng, shared) if self.complex_id else shared
            yield _Draft(places, self.complex_id, self.variable, texture)


def _draw_texture(rng: np.random.Generator) -> Texture:
    return Texture(**{name: float(rng.uniform(*limits)) for name, limits in TEXTURE_RANGE.items()})


def _deviate(rng: np.random.Generator, shared: Texture) -> Texture:
    """Return `shared` with every parameter moved by a little, within its range."""
    moved = {
        name: float(np.clip(getattr(shared, name) + rng.normal(0, MEMBER_DEVIATION * (high - low)), low, high))
        for name, (low, high) in TEXTURE_RANGE.items()
    }
    return Texture(**moved)


def _make_groups(rng: np.random.Generator, n_proteins: int) -> list[_Group]:
    """Share the proteins out over patterns, then over complexes, then choose who has two places and who varies."""
    groups: list[_Group] = []
    owed = 0.0  # proteins that should already be in a complex
    for pattern, count in _share_patterns(rng, n_proteins).items():
        left, owed = count, owed + IN_COMPLEX * count
        while owed >= SMALLEST_COMPLEX / 2 and left >= SMALLEST_COMPLEX:
            size = min(
                int(rng.integers(SMALLEST_COMPLEX, LARGEST_COMPLEX + 1)), left, max(SMALLEST_COMPLEX, round(owed))
            )
            number = 1 + sum(g.complex_id is not None for g in groups)
            groups.append(_Group(pattern, size, f"DEMOC:{number:04d}"))
            left, owed = left - size, owed - size
        groups += [_Group(pattern, 1, None)] * left
    for i in _choose_groups(rng, groups, round(TWO_PLACES * n_proteins)):
        groups[i] = replace(groups[i], second=_other_pattern(rng, groups[i].pattern))
    for i in _choose_groups(rng, groups, round(VARIABLE * n_proteins)):
        groups[i] = replace(groups[i], variable=True)
    return groups


def _share_patterns(rng: np.random.Generator, n_proteins: int) -> dict[str, int]:
    """Return the number of proteins by pattern, in random order; every pattern has one once there are enough."""
    names = [str(name) for name in rng.permutation(list(PATTERNS))]
    if n_proteins < len(names):
        return dict.fromkeys(names[:n_proteins], 1)
    shares = np.array([PATTERNS[name].share for name in names])
    edges = np.round(np.r_[0, np.cumsum(shares)] / shares.sum() * (n_proteins - len(names))).astype(int)
    return {name: 1 + b - a for name, (a, b) in zip(names, pairwise(edges.tolist()), strict=True)}


def _choose_groups(rng: np.random.Generator, groups: list[_Group], n_proteins: int) -> list[int]:
    """Return random groups that hold `n_proteins` together, or as near as whole groups come."""
    chosen: list[int] = []
    for i in rng.permutation(len(groups)).tolist():
        if groups[i].size <= n_proteins:
            chosen.append(i)
            n_proteins -= groups[i].size
    return chosen


def _other_pattern(rng: np.random.Generator, pattern: str) -> str:
    return str(rng.choice([name for name in PATTERNS if name != pattern]))


def _share_antibodies(rng: np.random.Generator, n_proteins: int) -> list[tuple[str, ...]]:
    counts = np.where(rng.random(n_proteins) < TWO_ANTIBODIES, 2, 1)
    first = np.r_[0, np.cumsum(counts)]
    return [tuple(f"DEMOAB{k + 1:04d}" for k in range(a, b)) for a, b in pairwise(first.tolist())]


def _finish(
    rng: np.random.Generator,
    draft: _Draft,
    index: int,
    families: tuple[SequenceFamily, ...],
    antibodies: tuple[str, ...],
    *,
    moves: bool,
) -> SimulatedProtein:
    """Give the draft its names, its family and sequence, and its place in every cell line."""
    family = families[int(rng.integers(len(families)))]
    places = dict.fromkeys(CELL_LINES, draft.localization)
    if moves:
        main, *others = draft.localization
        places[str(rng.choice(CELL_LINES))] = (_other_pattern(rng, main), *others)
    return SimulatedProtein(
        gene_symbol=f"DEMO{index + 1:03d}",
        ensembl_id=f"DEMOG{index + 1:011d}",
        uniprot_accession=f"DEMOP{index + 1:03d}",
        sequence=make_sequence(rng, family, draft.localization),
        family=family.name,
        compartment=PATTERNS[draft.localization[0]].compartment,
        localization=draft.localization,
        localization_in={line: tuple(dict.fromkeys(p)) for line, p in places.items()},
        complex_id=draft.complex_id,
        antibodies=antibodies,
        variable=draft.variable,
        texture=draft.texture,
    )


def _place_annotations(protein: SimulatedProtein) -> list[tuple[str, str]]:
    """Return (term_id, evidence) for the patterns, compartments and complex of a protein."""
    patterns = [PATTERNS[name] for name in protein.localization]
    rows = dict.fromkeys((p.go_id for p in patterns), "planted pattern")
    rows |= dict.fromkeys((COMPARTMENTS[p.compartment].go_id for p in patterns), "planted compartment")
    if protein.complex_id:
        rows[protein.complex_id] = "planted complex"
    return list(rows.items())


def _string_table(names: Sequence[str], rows: Sequence[tuple[str, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)})
