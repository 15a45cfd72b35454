"""Conditions of an atlas: what moves is found, against the controls of its own plates."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from subcell_atlas.cli import main
from subcell_atlas.errors import BadInput, NotBuilt
from subcell_atlas.evaluate import evaluate, last_results
from subcell_atlas.evaluated import EvaluationOptions, Subject
from subcell_atlas.perturbation_evaluation import controls_meant, measure_perturbations
from subcell_atlas.profiles import vector_array
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

N_WELLS = 5


def write_cells(uri, rng, rows, *, shift):
    """Three cells of each of `rows` (protein, condition, plate, well, fov), moved by `shift(protein, condition)`."""
    store = Store.create(str(uri))
    cells, vectors = [], []
    of_plate = {row[2]: rng.normal(size=12) for row in rows}
    for row in rows:
        of_well = rng.normal(size=12) + 4 * of_plate[row[2]] + shift(*row[:2])
        for _ in range(3):
            protein, condition, plate, well, fov = row
            cells.append(
                {"cell_id": f"c{len(cells)}", "protein_id": protein, "condition": condition, "cell_line": "U-2 OS"}
                | {"plate": plate, "well": well, "fov": fov, "picture_id": f"{row}"}
            )
            vectors.append(of_well + 0.3 * rng.normal(size=12))
    table = pa.Table.from_pylist(cells).append_column("embedding", vector_array(np.array(vectors)))
    for name in ("protein_id", "condition", "fov", "well"):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
    store.append_cells(table, recipe=Recipe(encoder="planted", dim=12))
    return store


def of_proteins(uri, rng, *, untreated="DMSO", n=30, plates=("1", "1")):
    """A drug that moves the first half of the proteins, in wells of each protein beside untreated ones."""
    moves = {f"P{at:02}": 3 * rng.normal(size=12) for at in range(n // 2)}
    rows = [
        (f"P{at:02}", condition, plate, f"{condition}{at}_{well}", f"{at}{condition}{well}")
        for at in range(n)
        for condition, plate in zip((untreated, "paclitaxel"), plates, strict=True)
        for well in range(N_WELLS)
    ]
    return write_cells(
        uri, rng, rows, shift=lambda protein, condition: moves.get(protein, 0) if condition == "paclitaxel" else 0
    )


def screen(uri, rng, *, controls=("DMSO",), n=20):
    """A screen of compounds on two plates, of which the first half do something; the cells show no protein."""
    moves = {f"drug {at:02}": 3 * rng.normal(size=12) for at in range(n // 2)}
    conditions = [*(f"drug {at:02}" for at in range(n)), *controls]
    rows = [
        (None, condition, plate, f"{condition}_{well}", None)
        for condition in conditions
        for plate in ("1", "2")
        for well in range(8 if condition in controls else 3)
    ]
    return write_cells(uri, rng, rows, shift=lambda _, condition: moves.get(condition, 0))


def found(store, **options):
    return measure_perturbations(Subject(store), EvaluationOptions(**options))


def test_proteins_that_a_drug_moves_are_found(tmp_path, rng):
    measured = found(of_proteins(tmp_path / "atlas", rng))
    told = measured.metrics
    assert (told["rows"], told["controls"]) == ("well", "condition = 'DMSO'")
    assert (told["n_perturbations"], told["n_not_asked"], told["n_across_plates"]) == (30, 0, 0)
    assert told["smallest_p"] == pytest.approx(1 / 252)
    assert told["moved"] == pytest.approx(0.5, abs=0.07)
    assert told["consistent"] == pytest.approx(0.5, abs=0.07)
    assert "conditions" not in told
    assert {row["protein_id"] for row in told["largest"]} <= {f"P{at:02}" for at in range(15)}
    assert measured.observed["consistency"].ids[0] == "P00|paclitaxel"


def test_where_each_plate_has_one_well_of_each_labels_are_permuted_across_plates(tmp_path, rng):
    moves = {f"P{at:02}": 3 * rng.normal(size=12) for at in range(6)}
    rows = [
        (f"P{at:02}", condition, str(plate), f"{condition}{at}", None)
        for at in range(24)
        for condition in ("DMSO", "drug")
        for plate in range(6)
    ]
    shift = lambda protein, condition: moves.get(protein, 0) if condition == "drug" else 0  # noqa: E731
    told = found(write_cells(tmp_path / "atlas", rng, rows, shift=shift)).metrics
    assert told["n_across_plates"] == 24  # 64 labellings within plates, 924 across
    assert told["smallest_p"] == pytest.approx(1 / 924)
    assert told["moved"] == pytest.approx(0.25, abs=0.06)


def test_compounds_of_a_screen_are_held_against_the_controls_of_their_plates(tmp_path, rng):
    told = found(screen(tmp_path / "atlas", rng)).metrics
    assert (told["rows"], told["n_perturbations"], told["n_across_plates"]) == ("well", 20, 0)
    assert told["moved"] == pytest.approx(0.5, abs=0.1)
    assert told["consistent"] == pytest.approx(0.5, abs=0.1)
    assert "conditions" not in told
    assert told["largest"][0]["condition"] in {f"drug {at:02}" for at in range(10)}
    assert (told["largest"][0]["n_treated"], told["largest"][0]["n_controls"]) == (6, 16)


def test_genes_that_were_perturbed_are_held_against_the_controls_without_a_condition(tmp_path, rng):
    moves = {f"G{at}": 3 * rng.normal(size=12) for at in range(5)}
    genes = [*(f"G{at}" for at in range(10)), "NT"]
    rows = [(gene, None, "1", f"{gene}_{well}", None) for gene in genes for well in range(6)]
    store = write_cells(tmp_path / "atlas", rng, rows, shift=lambda gene, _: moves.get(gene, 0))
    told = found(store, controls="protein_id = 'NT'").metrics
    assert told["n_perturbations"] == 10
    assert told["moved"] == pytest.approx(0.5, abs=0.1)
    assert told["largest"][0]["condition"] is None


def test_fields_stand_in_for_wells_where_each_has_one_and_other_plates_are_told(tmp_path, rng):
    rows = [
        (f"P{at:02}", condition, condition, f"A{at}", f"{at}_{fov}")
        for at in range(12)
        for condition in ("untreated", "vorinostat", "paclitaxel")
        for fov in range(4)
    ]
    store = write_cells(tmp_path / "atlas", rng, rows, shift=lambda *_: 0)
    told = found(store).metrics
    assert (told["rows"], told["controls"]) == ("fov", "condition = 'untreated'")
    assert told["n_across_plates"] == told["n_perturbations"] == 24
    assert told["conditions"]["vorinostat"]["n_perturbations"] == 12
    assert told["conditions"].keys() == {"paclitaxel", "vorinostat"}
    assert told["moved"] == 0  # what the plates differ by is taken away with their means


def test_controls_are_those_that_look_so_and_else_are_asked_for(tmp_path, rng):
    assert controls_meant(of_proteins(tmp_path / "a", rng, untreated="Empty_control")) == "condition = 'Empty_control'"
    assert controls_meant(of_proteins(tmp_path / "b", rng, untreated=None)) == "condition IS NULL"
    with pytest.raises(NotBuilt, match=r"--controls .* there are: EMPTY, untreated"):
        controls_meant(screen(tmp_path / "c", rng, controls=("EMPTY", "untreated")))
    with pytest.raises(NotBuilt, match="there are: drug 00, drug 01"):
        controls_meant(screen(tmp_path / "d", rng, controls=("positive control",)))


def test_controls_may_be_given(tmp_path, rng):
    store = screen(tmp_path / "atlas", rng, controls=("EMPTY", "untreated"))
    told = found(store, controls="condition IN ('EMPTY', 'untreated')").metrics
    assert told["n_perturbations"] == 20
    assert told["largest"][0]["n_controls"] == 32
    with pytest.raises(NotBuilt, match="No cell of this atlas meets condition = 'none'"):
        found(store, controls="condition = 'none'")
    with pytest.raises(BadInput, match="cannot be used"):
        found(store, controls="conditon = 'EMPTY'")


def test_what_cannot_be_asked_says_why(tmp_path, rng, function_atlas):
    with pytest.raises(NotBuilt, match="no conditions"):
        found(write_cells(tmp_path / "none", rng, [("P0", None, "1", "A1", "1")], shift=lambda *_: 0))
    with pytest.raises(NotBuilt, match="Only pictures"):
        measure_perturbations(Subject(Store.open(function_atlas), "sequence"), EvaluationOptions())
    rows = [("P0", condition, "1", condition, "1") for condition in ("DMSO", "drug")]
    with pytest.raises(NotBuilt, match="fields of view enough"):
        found(write_cells(tmp_path / "few", rng, rows, shift=lambda *_: 0))


def test_the_command_keeps_what_was_measured(tmp_path, rng):
    store = screen(tmp_path / "atlas", rng)
    answer = CliRunner().invoke(
        main, ["evaluate", "perturbations", "--atlas", store.uri, "--controls", "condition = 'DMSO'"]
    )
    assert answer.exit_code == 0, answer.output
    kept = last_results(store)["perturbations"]
    assert kept["moved_low"] < kept["moved"] < kept["moved_high"]
    assert set(evaluate(Subject(store))) == {"perturbations", "retrieval"}  # nothing else can be asked of it


def test_no_figure_is_given_as_one_of_another_correction(tmp_path, rng):
    store = of_proteins(tmp_path / "atlas", rng)
    with pytest.raises(NotBuilt, match="leave out --correction none"):
        measure_perturbations(Subject(store, correction="none"), EvaluationOptions())
    assert measure_perturbations(Subject(store, correction="center"), EvaluationOptions()).metrics["moved"] > 0
