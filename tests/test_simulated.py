"""The simulated proteome: same seed, same cells; every place can be told from its picture; the truth is consistent."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, binary_fill_holes, gaussian_filter

from subcell_atlas.images.simulated import (
    CHANNELS,
    COMPARTMENTS,
    FIELD_UM,
    PATTERNS,
    SimulatedCell,
    SimulatedProteome,
    describe_cell,
    make_cell,
    make_proteome,
)
from subcell_atlas.images.simulated.render import _SCENE, _stream
from subcell_atlas.images.simulated.scene import Scene, make_scene
from subcell_atlas.images.simulated.stains import STAINS

SEED = 7
SHARED = Path(__file__).parents[2] / "shared" / "data"
MICROTUBULES, ER, NUCLEUS, PROTEIN = range(4)


@pytest.fixture(scope="module")
def proteome() -> SimulatedProteome:
    return make_proteome(180, seed=SEED)


@lru_cache(maxsize=1)
def _cells_by_pattern() -> dict[str, list[SimulatedCell]]:
    """Return six cells of every pattern, of three proteins that are only there."""
    proteome = make_proteome(180, seed=SEED)
    cells: dict[str, list[SimulatedCell]] = {}
    for pattern in PATTERNS:
        steady = [
            i
            for i, p in enumerate(proteome.proteins)
            if not p.variable and set(p.localization_in.values()) == {(pattern,)}
        ][:3]
        cells[pattern] = [_well_cut(proteome, i, k) for i in steady for k in range(2)]
    return cells


def _scene_of(proteome: SimulatedProteome, cell: SimulatedCell, protein_index: int, cell_index: int) -> Scene:
    """Return what a cell was drawn from."""
    rng = _stream(_SCENE, proteome.seed, protein_index, cell_index)
    return make_scene(rng, cell.cell_line, cell.mask.shape[0])


def _well_cut(proteome: SimulatedProteome, protein_index: int, cell_index: int) -> SimulatedCell:
    """Return a cell with the mask of its true outline, not a segmentation's."""
    cell = make_cell(proteome, protein_index, cell_index, size=128)
    return replace(cell, mask=_scene_of(proteome, cell, protein_index, cell_index).level < 1)


def _nucleus(cell: SimulatedCell) -> np.ndarray:
    """Return the nucleus as a user would find it: the bright part of its channel within the cell, holes filled."""
    smooth = gaussian_filter(cell.channels[NUCLEUS].astype(float), 1.0)
    return binary_fill_holes((smooth > 0.4 * np.percentile(smooth[cell.mask], 95)) & cell.mask)


def _light(cell: SimulatedCell, channel: int = PROTEIN) -> np.ndarray:
    """Return the channel less its background."""
    image = cell.channels[channel].astype(float)
    outside = ~binary_dilation(cell.mask, iterations=3)
    return np.clip(image - np.percentile(image[outside], 25), 0, None)


def _correlation(cell: SimulatedCell, channel: int, where: np.ndarray) -> float:
    smooth = gaussian_filter(cell.channels[[channel, PROTEIN]].astype(float), (0, 1, 1))  # each stain has its own grain
    return float(np.corrcoef(smooth[:, where])[0, 1])


def _share(cell: SimulatedCell, where: np.ndarray) -> float:
    """Return the share of the protein's light in the cell that is in `where`."""
    light = _light(cell)
    return float(light[where & cell.mask].sum() / light[cell.mask].sum())


def _enrichment(cell: SimulatedCell, where: np.ndarray, among: np.ndarray) -> float:
    """Return how much brighter the protein is in `where` than in the rest of `among`."""
    light = _light(cell)
    return float(light[where & among].mean() / max(light[among & ~where].mean(), 1e-6))


def _mean(pattern: str, statistic) -> float:
    return float(np.mean([statistic(cell) for cell in _cells_by_pattern()[pattern]]))


def _mean_elsewhere(pattern: str, statistic) -> float:
    others = [name for name in PATTERNS if name != pattern]
    return float(np.max([_mean(name, statistic) for name in others]))


def test_same_seed_gives_the_same_proteins_and_cells(proteome):
    again = make_proteome(180, seed=SEED)
    assert again == proteome
    a, b = make_cell(proteome, 4, 9, size=96), make_cell(again, 4, 9, size=96)
    assert np.array_equal(a.channels, b.channels)
    assert np.array_equal(a.mask, b.mask)


def test_another_seed_protein_or_cell_gives_another_picture(proteome):
    one = make_cell(proteome, 4, 9, size=96).channels
    for other in (
        make_cell(make_proteome(180, seed=SEED + 1), 4, 9, size=96),
        make_cell(proteome, 5, 9, size=96),
        make_cell(proteome, 4, 12, size=96),
    ):
        assert np.mean(one != other.channels) > 0.2


def test_a_cell_does_not_depend_on_the_cells_made_before_it(proteome):
    expected = make_cell(proteome, 3, 5, size=96).channels
    state = np.random.get_state()[1].copy()
    for i in (8, 1, 3):
        make_cell(proteome, i, 2, size=64)
    assert np.array_equal(make_cell(proteome, 3, 5, size=96).channels, expected)
    assert np.array_equal(np.random.get_state()[1], state)


def test_a_cell_has_four_channels_a_mask_and_its_scale_and_is_centred(proteome):
    off = []
    for i in range(24):
        cell = make_cell(proteome, i, i)
        assert cell.channels.shape == (len(CHANNELS), 192, 192)
        assert cell.channels.dtype == np.uint8
        assert cell.mask.dtype == bool
        assert cell.pixel_size_um == pytest.approx(FIELD_UM / 192)
        assert np.ptp(cell.channels[PROTEIN]) > 40
        assert np.mean(cell.channels == 255) < 0.03
        off.append(max(abs((at.min() + at.max()) / 2 - 95.5) for at in np.nonzero(cell.mask)))
    assert np.median(off) <= 2
    assert max(off) < 30  # a piece of a neighbour


def test_some_masks_hold_a_piece_of_a_neighbour_or_lack_one_of_the_cell(proteome):
    of_neighbours, lacking = [], []
    for i in range(40):
        cell = make_cell(proteome, i, i)
        scene = _scene_of(proteome, cell, i, i)
        own = scene.level < 1
        of_neighbours.append((cell.mask & (scene.depth_um < -1.5)).sum() / own.sum())
        lacking.append((own & (scene.depth_um > 1) & ~cell.mask).sum() / own.sum())
        assert (cell.mask & (scene.in_nucleus > 0.5)).sum() > 0.9 * (scene.in_nucleus > 0.5).sum()
    for shares in (of_neighbours, lacking):
        assert 1 <= sum(share > 0.01 for share in shares) < 20
        assert max(shares) < 0.5


def test_the_description_is_that_of_the_picture(proteome):
    cell = make_cell(proteome, 17, 4, size=64)
    for name, value in describe_cell(proteome, 17, 4).items():
        assert getattr(cell, name) == value


def test_size_changes_the_sampling_and_not_the_scene(proteome):
    for i in range(16):
        large, small = make_cell(proteome, i, i), make_cell(proteome, i, i, size=96)
        halved = large.channels.reshape(4, 96, 2, 96, 2).mean(axis=(2, 4))
        smooth = [gaussian_filter(c.astype(float), (0, 1, 1)) for c in (halved, small.channels)]  # finer grain is lost
        for channel in range(4):
            r = np.corrcoef(smooth[0][channel].ravel(), smooth[1][channel].ravel())[0, 1]
            assert r > 0.85, (CHANNELS[channel], proteome.proteins[i].localization, r)
            assert small.channels[channel].mean() == pytest.approx(halved[channel].mean(), rel=0.25, abs=1.0)
        assert small.mask.mean() == pytest.approx(large.mask.mean(), rel=0.03)


def test_every_pattern_has_a_stain_and_proteins(proteome):
    assert set(STAINS) == set(PATTERNS)
    assert {p.localization[0] for p in proteome.proteins} == set(PATTERNS)
    assert {p.compartment for p in PATTERNS.values()} == set(COMPARTMENTS)


@pytest.mark.parametrize("pattern", [name for name, p in PATTERNS.items() if p.compartment == "nucleus"])
def test_nuclear_proteins_are_brighter_in_the_nucleus(pattern):
    assert _mean(pattern, lambda c: _enrichment(c, binary_dilation(_nucleus(c), iterations=1), c.mask)) > 2.5


@pytest.mark.parametrize(
    "pattern", [name for name, p in PATTERNS.items() if p.compartment != "nucleus" and name != "Centrosome"]
)
def test_the_brightest_parts_of_other_proteins_are_outside_the_nucleus(pattern):
    def share_of_brightest(cell: SimulatedCell) -> float:
        core = binary_erosion(_nucleus(cell), iterations=2)
        light = gaussian_filter(_light(cell), 1)  # a camera's noise is no place
        brightest = cell.mask & (light >= np.percentile(light[cell.mask], 99.5))
        return float(core[brightest].mean())

    assert _mean(pattern, share_of_brightest) < 0.3


def test_most_light_of_nucleoplasm_proteins_is_in_the_nucleus():
    assert _mean("Nucleoplasm", lambda c: _share(c, binary_dilation(_nucleus(c), iterations=1))) > 0.6
    assert _mean("Cytosol", lambda c: _share(c, _nucleus(c))) < 0.3


def test_nucleoli_are_where_the_dna_is_dark():
    def darkness(cell: SimulatedCell) -> float:
        core = binary_erosion(_nucleus(cell), iterations=3)
        return -_correlation(cell, NUCLEUS, core)

    assert _mean("Nucleoli", darkness) > 0.5
    assert _mean("Nucleoli", darkness) > _mean_elsewhere("Nucleoli", darkness)
    assert _mean("Nucleoplasm", darkness) < -0.2


def test_nucleoli_rim_surrounds_what_nucleoli_fill():
    def hollow(cell: SimulatedCell) -> float:
        core = binary_erosion(_nucleus(cell), iterations=3)
        dna = gaussian_filter(cell.channels[NUCLEUS].astype(float), 0.7)
        darkest = core & (dna <= np.percentile(dna[core], 6))
        around = binary_dilation(darkest, iterations=3) & ~binary_dilation(darkest, iterations=1) & core
        light = _light(cell)
        return float(light[around].mean() / light[darkest].mean())

    assert _mean("Nucleoli rim", hollow) > 1.3 * _mean("Nucleoli", hollow)


def test_the_nuclear_membrane_is_a_ring():
    def ring(cell: SimulatedCell) -> float:
        nucleus = _nucleus(cell)
        edge = binary_dilation(nucleus, iterations=1) & ~binary_erosion(nucleus, iterations=1)
        return _enrichment(cell, edge, nucleus | edge)

    assert _mean("Nuclear membrane", ring) > 1.3
    for pattern in ("Nucleoplasm", "Nucleoli", "Nucleoli rim", "Nuclear speckles", "Nuclear bodies"):
        assert _mean(pattern, ring) < 0.8


def test_er_proteins_follow_the_er_and_microtubule_proteins_the_microtubules():
    def follows(channel: int):
        return lambda c: _correlation(c, channel, c.mask & ~binary_dilation(_nucleus(c), iterations=1))

    assert _mean("Endoplasmic reticulum", follows(ER)) > 0.6
    assert _mean("Endoplasmic reticulum", follows(ER)) > _mean_elsewhere("Endoplasmic reticulum", follows(ER))
    assert _mean("Microtubules", follows(MICROTUBULES)) > 0.6
    assert _mean("Microtubules", follows(MICROTUBULES)) > _mean_elsewhere("Microtubules", follows(MICROTUBULES))


def test_the_plasma_membrane_is_at_the_border_of_the_mask():
    def border(cell: SimulatedCell) -> float:
        return _enrichment(cell, cell.mask & ~binary_erosion(cell.mask, iterations=3), cell.mask)

    assert _mean("Plasma membrane", border) > 1.2  # some stain the whole surface more than its edge
    for pattern in PATTERNS.keys() - {"Plasma membrane"}:
        assert _mean(pattern, border) < 1.1


def test_centrosome_proteins_are_brightest_at_the_centrosome():
    proteome = make_proteome(180, seed=SEED)
    there = [i for i, p in enumerate(proteome.proteins) if set(p.localization_in.values()) == {("Centrosome",)}]
    contrast = []
    for i in there:
        cell = make_cell(proteome, i, 0)
        y, x = _scene_of(proteome, cell, i, 0).centrosome / cell.pixel_size_um + 95.5
        rows, columns = np.indices(cell.mask.shape)
        near = np.hypot(rows - y, columns - x) * cell.pixel_size_um < 0.7
        contrast.append(_enrichment(cell, near, cell.mask))
    assert len(contrast) > 3
    assert np.median(contrast) > 3


def test_the_golgi_apparatus_is_one_compact_place():
    def reach_um(cell: SimulatedCell) -> float:
        light = gaussian_filter(_light(cell), 1) * binary_erosion(cell.mask, iterations=2)
        y, x = np.nonzero(light > 0.6 * light.max())
        return float(np.hypot(y - np.median(y), x - np.median(x)).mean() * cell.pixel_size_um)

    assert _mean("Golgi apparatus", reach_um) < 4.0
    for pattern in ("Mitochondria", "Vesicles", "Cytosol", "Endoplasmic reticulum"):
        assert _mean(pattern, reach_um) > 1.3 * _mean("Golgi apparatus", reach_um)


def test_vesicles_and_mitochondria_are_in_the_cytoplasm_and_patchy():
    def patchiness(cell: SimulatedCell) -> float:
        light = _light(cell)[cell.mask & ~_nucleus(cell)]
        return float(light.std() / light.mean())

    for pattern in ("Vesicles", "Mitochondria"):
        assert _mean(pattern, patchiness) > 1.2 * _mean("Cytosol", patchiness)


def _fine_texture(cell: SimulatedCell) -> np.ndarray:
    """Return contrast at three scales, slope away from the nucleus and diffuse level of the protein's light."""
    light = _light(cell)
    inside = light[cell.mask]
    scales = [gaussian_filter(light, s) for s in (0.0, 0.8, 1.6, 4.0)]
    bands = [np.log((a - b)[cell.mask].std() / inside.mean()) for a, b in pairwise(scales)]
    tail = np.log((np.percentile(inside, [30, 70, 95]) + 1) / inside.mean())
    return np.array([*bands, *tail, _share(cell, _nucleus(cell))])


def test_members_of_a_complex_are_more_alike_than_other_proteins_of_the_pattern():
    proteome = make_proteome(240, seed=SEED)
    steady = [
        i
        for i, p in enumerate(proteome.proteins)
        if p.complex_id and not p.variable and len(set(p.localization_in.values())) == 1 and len(p.localization) == 1
    ]
    texture = {i: np.mean([_fine_texture(_well_cut(proteome, i, k)) for k in range(5)], axis=0) for i in steady}
    scale = np.std(list(texture.values()), axis=0)
    within, between = [], []
    for a, b in combinations(steady, 2):
        first, second = proteome.proteins[a], proteome.proteins[b]
        if first.localization == second.localization:
            distance = float(np.linalg.norm((texture[a] - texture[b]) / scale))
            (within if first.complex_id == second.complex_id else between).append(distance)
    assert len(within) > 50
    assert len(between) > 50
    assert np.mean(within) < 0.9 * np.mean(between)


def test_variable_proteins_vary_more_from_cell_to_cell(proteome):
    def spread(i: int) -> float:
        cells = [make_cell(proteome, i, 3 * k, size=64) for k in range(8)]
        return float(np.std([np.log(np.percentile(_light(c)[c.mask], 98)) for c in cells]))

    variable = [i for i, p in enumerate(proteome.proteins) if p.variable][:10]
    steady = [i for i, p in enumerate(proteome.proteins) if not p.variable][:10]
    assert np.mean([spread(i) for i in variable]) > 1.4 * np.mean([spread(i) for i in steady])


@pytest.mark.parametrize("n_proteins", [1, 2, 15, 40, 180, 700])
def test_annotations_name_known_terms_and_proteins(n_proteins):
    made = make_proteome(n_proteins, seed=SEED)
    terms, annotations = made.terms(), made.annotations()
    assert terms.column_names == ["term_id", "name", "aspect"]
    assert annotations.column_names == ["protein_id", "term_id", "evidence"]
    term_ids = terms["term_id"].to_pylist()
    assert len(term_ids) == len(set(term_ids))
    assert set(annotations["term_id"].to_pylist()) <= set(term_ids)
    assert set(annotations["protein_id"].to_pylist()) == {p.protein_id for p in made.proteins}
    pairs = list(zip(annotations["protein_id"].to_pylist(), annotations["term_id"].to_pylist(), strict=True))
    assert len(pairs) == len(set(pairs))


def test_the_proteome_has_the_planted_shares(proteome):
    proteins, n = proteome.proteins, len(proteome.proteins)
    assert sum(p.complex_id is not None for p in proteins) / n == pytest.approx(0.6, abs=0.06)
    assert 0.09 <= sum(len(p.localization) == 2 for p in proteins) / n <= 0.16
    assert sum(len(set(p.localization_in.values())) > 1 for p in proteins) / n == pytest.approx(0.05, abs=0.01)
    assert sum(p.variable for p in proteins) / n == pytest.approx(0.08, abs=0.03)
    assert any(len(p.antibodies) == 2 for p in proteins)
    members: dict[str, list] = {}
    for p in proteins:
        if p.complex_id:
            members.setdefault(p.complex_id, []).append(p)
    for complex_ in members.values():
        assert 3 <= len(complex_) <= 8
        assert len({p.localization for p in complex_}) == 1


def test_planted_functions_follow_from_what_their_evidence_names(proteome):
    rows = proteome.annotations().to_pylist()
    by_id = {p.protein_id: p for p in proteome.proteins}
    for kind in ("place", "family", "place and family"):
        found = [r for r in rows if r["evidence"] == f"planted function: {kind}"]
        assert len({r["term_id"] for r in found}) == 6
        for term_id in {r["term_id"] for r in found}:
            holders = [by_id[r["protein_id"]] for r in found if r["term_id"] == term_id]
            families = {p.family for p in holders}
            assert (len(families) > 6) == (kind == "place")
            assert (len({p.localization[0] for p in holders}) > 8) == (kind == "family")


def test_sequences_are_proteins_and_mostly_carry_their_signal(proteome):
    for p in proteome.proteins:
        assert 80 <= len(p.sequence) <= 700
        assert p.sequence[0] == "M"
        assert set(p.sequence) <= set("ACDEFGHIKLMNPQRSTVWY")
    er = [p for p in proteome.proteins if p.localization[0] == "Endoplasmic reticulum"]
    assert 0.4 < np.mean([p.sequence.endswith("KDEL") for p in er]) <= 1
    assert len({p.sequence for p in proteome.proteins}) == len(proteome.proteins)


@pytest.mark.parametrize("n_proteins", [1, 40, 250])
def test_ten_cells_of_a_protein_cross_plates_and_cell_lines(n_proteins):
    made = make_proteome(n_proteins, seed=SEED)
    line_of: dict[str, str] = {}
    seen: dict[tuple[str, str], str] = {}
    for i, protein in enumerate(made.proteins):
        cells = [describe_cell(made, i, k) for k in range(10)]
        assert {c["cell_line"] for c in cells} == set(made.cell_lines)
        assert len({c["plate"] for c in cells}) >= 2
        assert {c["antibody"] for c in cells} == set(protein.antibodies)
        for c in cells:
            assert line_of.setdefault(c["plate"], c["cell_line"]) == c["cell_line"]
            assert seen.setdefault((c["plate"], c["well"]), c["antibody"]) == c["antibody"]
            assert c["fov"].startswith(f"{c['plate']}_{c['well']}_")
            assert c["localization"] == protein.localization_in[c["cell_line"]]


def test_one_protein_is_enough():
    made = make_proteome(1, seed=0)
    cell = make_cell(made, 0, 0, size=64)
    assert cell.gene_symbol == "DEMO001"
    assert cell.ensembl_id == made.proteins[0].protein_id == "DEMOG00000000001"
    assert cell.mask.any()


@pytest.mark.parametrize("n_proteins", [0, -3, 2001])
def test_an_impossible_number_of_proteins_is_refused(n_proteins):
    with pytest.raises(ValueError, match="1 to 2000"):
        make_proteome(n_proteins, seed=0)


def test_no_name_is_that_of_a_real_gene():
    table = SHARED / "idmaps" / "hgnc_genes.tsv"
    if not table.exists():
        pytest.skip("the HGNC table is not here")
    real: set[str] = set()
    with table.open(encoding="utf-8", newline="") as lines:
        for row in csv.reader(lines, delimiter="\t"):
            real |= {name.strip().upper() for cell in row for name in cell.split(",")}
    assert "TP53" in real
    assert not {p.gene_symbol for p in make_proteome(2000, seed=SEED).proteins} & real
