"""Profiles under a batch correction: made, remembered, and used for what is no profile."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from subcell_atlas import query
from subcell_atlas.about import describe
from subcell_atlas.build import CorrectionSettings, build, out_of_date
from subcell_atlas.cli import main
from subcell_atlas.corrected_profiles import corrected_space, make_profiles, settings_of_correction
from subcell_atlas.corrections import CORRECTIONS, Wells, correct
from subcell_atlas.errors import BadInput, NotBuilt
from subcell_atlas.function_query import functions_of_vectors
from subcell_atlas.fusion_vectors import alignment_of
from subcell_atlas.map_query import map_summary
from subcell_atlas.profiles import vector_array, vectors_of
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

DMSO = "condition = 'DMSO'"
DIM, N_PROTEINS, N_WELLS = 16, 30, 8
RECIPE = Recipe(encoder="theirs", dim=DIM, masking="cell")
SETTINGS = [
    CorrectionSettings(name=name, controls=DMSO if known.controls != "never" else None)
    for name, known in CORRECTIONS.items()
]


def screen(rng) -> pa.Table:
    """Make 4 cells of each of 30 proteins, and of 8 wells of controls without a gene, on each of 3 shifted plates."""
    signal = rng.normal(size=(N_PROTEINS, DIM)) * 2
    rows, vectors = [], []
    for plate in "abc":
        shift = rng.normal(size=DIM) * 2
        for number in range(N_PROTEINS + N_WELLS):
            protein = f"P{number:02d}" if number < N_PROTEINS else None
            for cell in range(4):
                name = f"{plate}{number}-{cell}"
                rows.append(
                    {
                        "cell_id": name,
                        "protein_id": protein,
                        "gene_symbol": protein,
                        "antibody": "A1" if protein else None,
                        "cell_line": "U2OS",
                        "plate": plate,
                        "well": str(number),
                        "condition": "drug" if protein else "DMSO",
                        "localization": ["Cytosol" if number % 2 else "Nucleoplasm"] if protein else [],
                        "picture_id": name,
                    }
                )
                mean = signal[number] if protein else np.zeros(DIM)
                vectors.append(mean + shift + rng.normal(size=DIM) * 0.7 + 3)
    return pa.Table.from_pylist(rows).append_column("embedding", vector_array(np.array(vectors)))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> str:
    """The URI of an atlas with profiles made the usual way; not to be written to."""
    store = Store.create(str(tmp_path_factory.mktemp("screen") / "atlas"))
    store.append_cells(screen(np.random.default_rng(3)), recipe=RECIPE)
    build(store, ["profiles"])
    return store.uri


@pytest.fixture
def store(made, tmp_path) -> Store:
    shutil.copytree(made, tmp_path / "atlas")
    return Store.open(str(tmp_path / "atlas"))


class Known:
    """An encoder that returns what it is given."""

    def recipe(self, *, masking):
        return RECIPE

    def embed(self, crops):
        return crops.astype(np.float32)


def cells_of(store, protein):
    return vectors_of(store.read("cells", ["embedding"], where=f"protein_id = '{protein}'")["embedding"])


def wells_by_hand(store) -> Wells:
    """Return the wells of proteins, then those of controls, from all cells at once."""
    cells = store.read("cells", ["protein_id", "plate", "well", "embedding"])
    table = cells.drop_columns(["embedding"]).to_pandas()
    vectors = vectors_of(cells["embedding"]).astype(float)
    keys = sorted({(row.protein_id or "", row.plate, row.well) for row in table.itertuples()}, key=lambda k: k[0] == "")
    names = list(zip(table["protein_id"].fillna(""), table["plate"], table["well"], strict=True))
    means = np.stack([vectors[[name == key for name in names]].mean(axis=0) for key in keys])
    proteins = [key[0] or None for key in keys]
    controls = np.array([protein is None for protein in proteins])
    return Wells(means, proteins, ["U2OS"] * len(keys), [key[1] for key in keys], controls)


def test_the_usual_way_has_a_name_and_needs_nothing_stored(store):
    assert settings_of_correction(store) == CorrectionSettings(name="center")
    assert store.metadata("profiles")["built_from"] == {"cells": store.version("cells")}  # as older atlases have it
    assert store.recipe("proteins", "image").correction == "center"
    assert "models" not in store.names()
    assert corrected_space(store).space is None
    assert build(store, ["profiles"], correction=CorrectionSettings()) == []


@pytest.mark.parametrize("name", ["center-scale", "tvn", "spherize"])
def test_profiles_are_means_of_wells_that_were_corrected_with_controls_that_name_no_gene(store, name):
    build(store, ["profiles"], correction=CorrectionSettings(name=name, controls=DMSO))
    profiles = store.read("profiles")
    wells = wells_by_hand(store)
    assert wells.controls.sum() == 3 * N_WELLS
    found = correct(name, wells, seed=0).vectors
    for protein, embedding in zip(profiles["protein_id"].to_pylist(), vectors_of(profiles["embedding"]), strict=True):
        rows = [i for i, own in enumerate(wells.proteins) if own == protein]
        same = np.abs(embedding) - np.abs(found[rows].mean(axis=0))  # an axis may have either sign
        assert np.abs(same).max() < 1e-4
    assert profiles.num_rows == store.count("proteins") == N_PROTEINS
    stored = store.metadata("profiles")["correction"]
    assert (stored["name"], stored["controls"], stored["wells"]) == (name, DMSO, 3 * N_WELLS)


def test_without_controls_a_correction_is_fitted_on_all_wells(store):
    build(store, ["profiles"], correction=CorrectionSettings(name="center-scale"))
    assert store.metadata("profiles")["correction"]["wells"] == 3 * N_PROTEINS
    embeddings = vectors_of(store.read("profiles")["embedding"])
    assert np.abs(embeddings.mean(axis=0)).max() < 1e-5


def test_none_leaves_the_encoders_means(store):
    build(store, ["profiles"], correction=CorrectionSettings(name="none"))
    profiles = store.read("profiles")
    assert profiles["embedding"].to_pylist() == profiles["uncentered"].to_pylist()


def test_a_correction_is_remembered_until_another_is_asked_for(store):
    usual = store.read("profiles")
    tvn = CorrectionSettings(name="tvn", controls=DMSO)
    assert build(store, ["profiles"], correction=tvn) == ["profiles"]
    assert build(store, ["profiles"]) == []
    assert build(store, ["profiles"], force=True) == ["profiles"]
    assert settings_of_correction(store) == tvn
    assert "profiles" not in out_of_date(store)
    others = CorrectionSettings(name="tvn", controls="well >= '30'")
    assert build(store, ["profiles"], correction=others) == ["profiles"]
    assert store.count("models", "kind = 'correction'") == 1
    assert build(store, ["profiles"], correction=CorrectionSettings()) == ["profiles"]
    assert store.read("profiles").equals(usual)
    assert store.count("models", "kind = 'correction'") == 0


def test_a_random_correction_is_made_anew_with_another_seed(store):
    harmony = CorrectionSettings(name="harmony")
    assert build(store, ["profiles"], correction=harmony, seed=1) == ["profiles"]
    assert build(store, ["profiles"], seed=1) == []
    assert out_of_date(store).get("profiles") is None
    assert build(store, ["profiles"], seed=2) == ["profiles"]


def test_embeddings_of_two_corrections_are_not_compared(store):
    before = store.recipe("proteins", "image")
    build(store, ["profiles"], correction=CorrectionSettings(name="tvn", controls=DMSO))
    after = store.recipe("proteins", "image")
    assert before.difference(after) == f"correction is {'tvn on ' + DMSO!r}, not 'center'"
    assert store.recipe("profiles", "embedding") == after
    assert store.recipe("cells", "embedding") == RECIPE


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_spread_and_raw_means_are_the_same_under_every_correction(store, settings):
    before, after = store.read("profiles"), make_profiles(store, settings, seed=0).profiles
    assert before["profile_id"].to_pylist() == after["profile_id"].to_pylist()
    assert before["spread"].to_numpy() == pytest.approx(after["spread"].to_numpy())
    assert np.array_equal(vectors_of(before["uncentered"]), vectors_of(after["uncentered"]))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_new_picture_is_corrected_like_the_proteins(store, settings):
    build(store, ["profiles"], correction=settings)
    space = corrected_space(store)
    profiles = store.read("profiles")
    again = space.project(vectors_of(profiles["uncentered"])) + space.shifts(profiles)
    assert again == pytest.approx(vectors_of(profiles["embedding"]), abs=1e-4)
    right = 0
    for number in range(N_PROTEINS):
        vector = query.vector_of_cells(store, Known(), cells_of(store, f"P{number:02d}"), cell_line=None)
        hits = query.similar_to_vector(store, vector, k=1)
        right += hits["protein_id"][0].as_py() == f"P{number:02d}"
    assert right >= 0.9 * N_PROTEINS


@pytest.mark.parametrize("name", ["none", "center", "spherize"])
def test_what_corrects_a_picture_of_all_plates_is_exact_where_batches_are_only_shifted(store, name):
    build(store, ["profiles"], correction=CorrectionSettings(name=name))
    vector = query.vector_of_cells(store, Known(), cells_of(store, "P07"), cell_line="U2OS")
    own = vectors_of(store.read("proteins", ["image"], where="protein_id = 'P07'")["image"])[0]
    assert vector == pytest.approx(own, abs=1e-3)


def test_maps_and_places_are_made_of_cells_that_were_corrected(store):
    build(store, correction=CorrectionSettings(name="pca-center-scale", controls=DMSO))
    assert map_summary(store)[0]["counts"]["proteins"] == N_PROTEINS
    assert store.count("cell_places") == 12 * N_PROTEINS
    where = store.read("proteins", ["protein_id", "x", "y"]).to_pylist()
    at = {row["protein_id"]: np.array([row["x"], row["y"]]) for row in where}
    cells = store.read("cell_places").to_pylist()
    own = np.mean([np.linalg.norm(at[c["protein_id"]] - [c["x"], c["y"]]) for c in cells])
    others = np.mean([np.linalg.norm(at[f"P{i % N_PROTEINS:02d}"] - [c["x"], c["y"]]) for i, c in enumerate(cells)])
    assert own < 0.6 * others
    assert build(store) == []


def test_what_cannot_be_corrected_says_what_to_do_and_leaves_all_as_it_was(store):
    before = store.version("profiles")
    for settings, said in (
        (CorrectionSettings(name="tvn"), "Human Protein Atlas"),
        (CorrectionSettings(name="harmony", controls=DMSO), "not fitted on controls"),
        (CorrectionSettings(name="tvn", controls="condition = 'water'"), "SELECT DISTINCT condition"),
        (CorrectionSettings(name="tvn", controls="cond = 1"), "cannot be used"),
        (CorrectionSettings(name="tvn", controls="well = '30'"), "has 1"),
    ):
        with pytest.raises(BadInput, match=said):
            build(store, ["profiles"], correction=settings)
    assert store.version("profiles") == before
    assert store.count("models") == 0


def test_controls_on_plates_without_proteins_are_left_out(store):
    cells = screen(np.random.default_rng(9))
    stray = cells.filter(pa.array([well == str(N_PROTEINS) for well in cells["well"].to_pylist()])).slice(0, 4)
    for name, values in (("plate", ["empty"] * 4), ("cell_id", list("wxyz")), ("picture_id", list("wxyz"))):
        stray = stray.set_column(stray.column_names.index(name), name, pa.array(values))
    store.append_cells(stray, recipe=RECIPE)
    build(store, ["profiles"], correction=CorrectionSettings(name="tvn", controls=DMSO))
    assert store.metadata("profiles")["correction"]["wells"] == 3 * N_WELLS


def test_an_interrupted_build_is_made_anew(store, monkeypatch):
    write = store.write

    def interrupted(table, *arguments, **options):
        if table == "profiles":
            raise KeyboardInterrupt
        write(table, *arguments, **options)

    monkeypatch.setattr(store, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(store, ["profiles"], correction=CorrectionSettings(name="spherize"))
    monkeypatch.undo()
    assert corrected_space(store).space is None  # the profiles are still those of before
    assert build(store, ["profiles"]) == ["profiles"]
    assert store.recipe("proteins", "image").correction == "center"


def test_what_was_learned_under_another_correction_is_not_asked(demo_atlas, tmp_path):
    shutil.copytree(demo_atlas, tmp_path / "demo")
    copy = Store.open(str(tmp_path / "demo"))
    picture = vectors_of(copy.read("proteins", ["image"])["image"])[0]
    build(copy, ["profiles"], correction=CorrectionSettings(name="spherize"))
    with pytest.raises(NotBuilt, match="build fusion"):
        alignment_of(copy)
    with pytest.raises(NotBuilt, match="build functions"):
        functions_of_vectors(copy, image=picture)
    assert {"fusion", "map", "functions"} <= set(build(copy))
    assert alignment_of(copy).k > 0
    assert corrected_space(copy).space is not None  # kept when functions write their models
    assert build(copy) == []


def test_info_and_the_command_line_tell_the_correction(store):
    run = CliRunner().invoke
    asked = ["build", "profiles", "--atlas", store.uri, "--correction", "tvn"]
    refused = run(main, asked)
    assert refused.exit_code == 1
    assert len(refused.output.strip().splitlines()) <= 3
    assert run(main, ["build", "map", "--atlas", store.uri, "--correction", "none"]).exit_code == 2
    assert run(main, [*asked, "--controls", DMSO]).exit_code == 0
    told = describe(store)["correction"]
    assert (told["name"], told["controls"], told["wells"]) == ("tvn", DMSO, 3 * N_WELLS)
    assert "24 wells of controls" in run(main, ["info", "--atlas", store.uri]).output
