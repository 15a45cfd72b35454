"""Batch corrections against the code of those who published them, and by what they are for."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import linalg
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from subcell_atlas import corrections
from subcell_atlas.corrections import CORRECTIONS, Wells, check_correction, correct, whitened_by
from subcell_atlas.errors import BadInput, MissingExtra, UnknownName

GOLDEN = Path(__file__).parent / "golden" / "efaar.npz"  # see make_efaar.py beside it: EFAAR_benchmarking 1.0, seed 20
FITTED = [name for name, known in CORRECTIONS.items() if known.fit]
ON_CONTROLS = [name for name, known in CORRECTIONS.items() if known.controls != "never"]
WITHOUT = [name for name in FITTED if CORRECTIONS[name].controls != "always"]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as stored:
        return dict(stored)


def wells_of(vectors, batches, controls=None, proteins=None):
    names = [f"P{i}" for i in range(len(vectors))] if proteins is None else proteins
    return Wells(np.asarray(vectors, float), names, ["U2OS"] * len(vectors), list(batches), controls)


def of_golden(golden, *, controls):
    return wells_of(golden["vectors"], golden["batches"], golden["controls"] if controls else None)


def same_up_to_sign(found, wanted):
    """Tell whether columns are the same but for the sign of each, which a principal axis may have either way."""
    signs = np.sign((found * wanted).sum(axis=0))
    return found.shape == wanted.shape and np.abs(found * signs - wanted).max() < 1e-5


def screen(rng, *, n=40, dim=12, shift=4.0, n_controls=12):
    """Make wells of `n` proteins and controls on three plates, each plate shifted and scaled, and the plates."""
    signal = rng.normal(size=(n, dim)) * 2
    vectors, plates, proteins, controls = [], [], [], []
    for plate in "abc":
        own, scale = rng.normal(size=dim) * shift, rng.uniform(0.7, 1.4, dim)
        wells = np.concatenate([signal, np.zeros((n_controls, dim))]) + rng.normal(size=(n + n_controls, dim)) * 0.5
        vectors.append(wells * scale + own)
        plates += [plate] * len(wells)
        proteins += [*(f"P{i}" for i in range(n)), *[None] * n_controls]
        controls += [False] * n + [True] * n_controls
    return wells_of(np.concatenate(vectors), plates, np.array(controls), proteins)


def without_controls(wells):
    kept = np.flatnonzero(~wells.controls)
    plates, proteins = ([values[i] for i in kept] for values in (wells.plates, wells.proteins))
    return wells_of(wells.vectors[kept], plates, None, proteins)


def predictability(vectors, plates):
    """Return how often a held out well's plate is told rightly; 1/3 is chance."""
    scaled = vectors / vectors.std()
    return cross_val_score(LogisticRegression(C=0.1), scaled, plates, cv=5).mean()


def closeness(vectors, proteins):
    """Return the share of wells whose nearest other well, by cosine, is of the same protein."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = units @ units.T
    np.fill_diagonal(likeness, -2)
    nearest = likeness.argmax(axis=1)
    return np.mean([proteins[i] == proteins[nearest[i]] for i in range(len(proteins))])


@pytest.mark.parametrize(
    ("name", "controls", "wanted"),
    [
        ("center-scale", True, "centerscale_on_controls"),
        ("center-scale", False, "centerscale_by_batch"),
        ("tvn", True, "tvn_on_controls"),
    ],
)
def test_numbers_are_those_of_efaar(golden, name, controls, wanted):
    found = correct(name, of_golden(golden, controls=controls), seed=0).vectors
    if name == "tvn":  # of principal components
        assert same_up_to_sign(found, golden[wanted])
    else:
        assert np.abs(found - golden[wanted]).max() < 1e-5


@pytest.mark.parametrize("controls", [True, False])
def test_principal_components_are_those_of_efaar(golden, controls, monkeypatch):
    monkeypatch.setattr(corrections, "N_COMPONENTS", 5)
    found = correct("pca-center-scale", of_golden(golden, controls=controls), seed=0).vectors
    assert same_up_to_sign(found, golden["pca_centerscale" + ("_on_controls" if controls else "")])


def test_the_components_before_they_are_scaled_are_those_of_efaar(golden):
    scaled, _ = corrections.scaled_by_batch(golden["vectors"], of_golden(golden, controls=False))
    found = (scaled - scaled.mean(axis=0)) @ corrections.principal_axes(scaled, most=5)
    assert same_up_to_sign(found, golden["embed_by_pca"])


def test_controls_of_one_batch_are_white_but_for_the_ridge(golden):
    one = wells_of(golden["vectors"], ["a"] * 60, golden["controls"])
    found = correct("tvn", one, seed=0).vectors
    white = golden["tvn_without_batches"]
    ridge = np.cov(white[golden["controls"]], rowvar=False) + 0.5 * np.eye(8)
    assert same_up_to_sign(found, white @ linalg.fractional_matrix_power(ridge, -0.5))


@pytest.mark.parametrize("m", [4, 30])
def test_whitening_by_few_or_many_residuals_is_the_root_of_a_matrix(rng, m):
    residuals, vectors = rng.normal(size=(m, 9)), rng.normal(size=(5, 9))
    wanted = vectors @ linalg.fractional_matrix_power(residuals.T @ residuals / 7 + 0.5 * np.eye(9), -0.5)
    assert np.abs(whitened_by(vectors, residuals, 7) - wanted).max() < 1e-10


@pytest.mark.parametrize("controls", [True, False])
def test_spherized_numbers_are_those_of_pycytominer(golden, controls):
    spherize = pytest.importorskip("pycytominer.operations.transform").Spherize
    wells = wells_of(golden["vectors"], ["a"] * 60, golden["controls"] if controls else None)
    theirs = spherize(method="ZCA-cor", return_numpy=True).fit(pd.DataFrame(wells.vectors[wells.fitted]))
    found = correct("spherize", wells, seed=0).vectors
    assert np.abs(found - theirs.transform(pd.DataFrame(wells.vectors))).max() < 1e-5


def test_fewer_wells_than_dimensions_are_spherized_as_pycytominer_does(rng):
    spherize = pytest.importorskip("pycytominer.operations.transform").Spherize
    vectors = rng.normal(size=(12, 30)) @ rng.normal(size=(30, 30))
    theirs = spherize(method="ZCA-cor", return_numpy=True).fit(pd.DataFrame(vectors))
    others = rng.normal(size=(3, 30))
    controls = np.arange(15) < 12
    found = correct("spherize", wells_of(np.vstack([vectors, others]), ["a"] * 15, controls), seed=0).vectors
    assert np.abs(found[12:] - theirs.transform(pd.DataFrame(others))).max() < 1e-5


def test_harmony_gives_what_harmonypy_gives_of_principal_components(golden):
    run_harmony = pytest.importorskip("harmonypy").run_harmony
    components = PCA().fit_transform(golden["vectors"])
    labels = {"batch": golden["batches"]}
    wanted = run_harmony(components, labels, "batch", random_state=3, verbose=False).Z_corr
    found = correct("harmony", of_golden(golden, controls=False), seed=3).vectors
    assert np.abs(found - wanted).max() < 1e-5
    assert np.abs(found - components).max() > 0.1


@pytest.mark.parametrize("name", sorted({*FITTED} - {"tvn", "harmony"}))
def test_a_planted_shift_and_scale_is_taken_away_and_replicates_come_closer(rng, name):
    wells = screen(rng)
    rows = ~wells.controls
    plates, proteins = (np.array(values)[rows] for values in (wells.plates, wells.proteins))
    found = correct(name, wells, seed=0).vectors[rows]
    assert predictability(wells.vectors[rows], plates) > 0.95
    assert predictability(found, plates) < 0.55
    assert closeness(wells.vectors[rows], proteins) < 0.1
    assert closeness(found, proteins) > 0.75


def test_harmony_mixes_batches_within_the_places_that_proteins_share(rng):
    places = rng.normal(size=(6, 12)) * 3
    signal = places[np.arange(120) % 6] + rng.normal(size=(120, 12))
    shifts = rng.normal(size=(3, 1, 12))
    vectors = (signal + shifts + rng.normal(size=(3, 120, 12)) * 0.4).reshape(-1, 12)
    plates, proteins = np.repeat(list("abc"), 120), [f"P{i}" for i in range(120)] * 3
    found = correct("harmony", wells_of(vectors, plates, None, proteins), seed=0).vectors
    assert predictability(vectors, plates) > 0.8
    assert predictability(found, plates) < 0.55
    assert closeness(vectors, proteins) < 0.3
    assert closeness(found, proteins) > 0.9


@pytest.mark.parametrize("name", sorted({*WITHOUT} - {"harmony"}))
def test_without_controls_all_wells_tell_what_batches_have_in_common(rng, name):
    wells = without_controls(screen(rng))
    found = correct(name, wells, seed=0).vectors
    assert predictability(found, wells.plates) < 0.5
    assert closeness(found, wells.proteins) > 0.9


def test_tvn_leaves_the_shift_of_a_batch_as_efaar_does_and_its_recentred_variant_does_not(rng):
    wells = screen(rng)
    means = {}
    for name in ("tvn", "tvn-recentered"):
        found = correct(name, wells, seed=0).vectors
        of_plate = (wells.controls & (np.array(wells.plates) == plate) for plate in "abc")
        means[name] = max(np.linalg.norm(found[rows].mean(axis=0)) for rows in of_plate)
    assert means["tvn"] > 0.5
    assert means["tvn-recentered"] < 1e-9


@pytest.mark.parametrize("name", FITTED)
def test_one_batch_alone_is_corrected(rng, name):
    vectors = rng.normal(size=(40, 5)) + 7
    controls = np.arange(40) < 15 if CORRECTIONS[name].controls == "always" else None
    found = correct(name, wells_of(vectors, ["a"] * 40, controls), seed=0).vectors
    assert np.isfinite(found).all()
    fitted = slice(None) if controls is None else controls
    assert np.abs(found[fitted].mean(axis=0)).max() < 1e-6


@pytest.mark.parametrize("name", WITHOUT)
def test_a_batch_of_one_well_is_corrected_as_its_cell_line_is(rng, name):
    vectors = rng.normal(size=(41, 5)) + 7
    found = correct(name, wells_of(vectors, ["a"] * 40 + ["lone"]), seed=0).vectors
    assert np.isfinite(found).all()
    assert np.linalg.norm(found[40]) > 0.1


@pytest.mark.parametrize("name", FITTED)
def test_numbers_that_are_always_the_same_do_no_harm(rng, name):
    wells = screen(rng)
    wells.vectors[:, 3] = 5.0
    wells = wells if CORRECTIONS[name].controls != "never" else without_controls(wells)
    found = correct(name, wells, seed=0).vectors
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 1e3


@pytest.mark.parametrize("name", FITTED)
def test_more_dimensions_than_wells_or_controls_do_no_harm(rng, name):
    wells = screen(rng, n=15, dim=80, n_controls=4)
    wells = wells if CORRECTIONS[name].controls != "never" else without_controls(wells)
    found = correct(name, wells, seed=0).vectors
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 1e3


def test_components_without_variance_are_left_out_where_efaar_divides_by_rounding_errors(rng):
    wells = screen(rng, n=15, dim=80, n_controls=4)
    assert correct("tvn", wells, seed=0).vectors.shape == (57, 11)  # 12 controls have 11 ways to differ


@pytest.mark.parametrize("name", FITTED)
def test_what_is_done_to_all_batches_alike_is_what_is_done_to_one(rng, name):
    vectors = rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6)) + 3
    controls = np.arange(60) < 30 if CORRECTIONS[name].controls == "always" else None
    found = correct(name, wells_of(vectors, ["a"] * 60, controls), seed=0)
    shift = found.vectors - found.space.project(vectors)
    spread = np.abs(shift - shift.mean(axis=0)).max()
    assert spread < (0.3 if name == "harmony" else 1e-9)
    stored = corrections.Space.of_arrays(found.space.arrays())
    assert np.abs(stored.project(vectors) - found.space.project(vectors)).max() < 1e-4


def test_spherize_does_the_same_to_all_batches_but_for_their_shift(rng):
    wells = without_controls(screen(rng))
    found = correct("spherize", wells, seed=0)
    shift = found.vectors - found.space.project(wells.vectors)
    for plate in "abc":
        own = shift[np.array(wells.plates) == plate]
        assert np.abs(own - own[0]).max() < 1e-9


@pytest.mark.parametrize("name", FITTED)
def test_the_same_wells_in_another_order_are_corrected_alike(rng, name):
    if CORRECTIONS[name].is_random:
        pytest.skip("its first clusters are drawn by row")
    wells = screen(rng)
    order = rng.permutation(len(wells.vectors))
    plates, proteins = ([values[i] for i in order] for values in (wells.plates, wells.proteins))
    shuffled = wells_of(wells.vectors[order], plates, wells.controls[order], proteins)
    assert same_up_to_sign(correct(name, shuffled, seed=0).vectors, correct(name, wells, seed=0).vectors[order])


def test_what_cannot_be_corrected_says_why(rng):
    wells = screen(rng)
    broken = replace(wells, vectors=np.where(np.arange(len(wells.vectors))[:, None] == 2, np.nan, wells.vectors))
    with pytest.raises(BadInput, match="1 of 156 wells have vectors that are not finite"):
        correct("tvn", broken, seed=0)
    few = replace(wells, controls=wells.controls & ~((np.array(wells.plates) == "b") & (np.arange(156) % 52 > 40)))
    with pytest.raises(BadInput, match="plate 'b' of the cell line 'U2OS' has 1"):
        correct("tvn", few, seed=0)
    with pytest.raises(BadInput, match="one protein alone"):
        correct("spherize", wells_of(rng.normal(size=(20, 3)), "a" * 20, None, ["P"] * 20), seed=0)
    with pytest.raises(BadInput, match="all the same"):
        correct("harmony", wells_of(np.ones((20, 3)), "a" * 20), seed=0)


def test_corrections_are_told_from_each_other_by_the_controls_they_take():
    with pytest.raises(UnknownName, match="tvn"):
        check_correction("tvm", has_controls=False)
    for name in ("tvn", "tvn-recentered"):
        with pytest.raises(BadInput, match="Human Protein Atlas") as caught:
            check_correction(name, has_controls=False)
        assert "center-scale" in str(caught.value)
    with pytest.raises(BadInput, match="not fitted on controls"):
        check_correction("harmony", has_controls=True)
    for name in ON_CONTROLS:
        check_correction(name, has_controls=True)


def test_harmony_that_is_not_installed_says_how_to_install_it(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(MissingExtra, match=r"subcell-atlas\[harmony\]"):
        correct("harmony", wells_of(rng.normal(size=(20, 3)), "a" * 20), seed=0)
