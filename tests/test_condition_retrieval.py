"""Retrieval of conditions and mechanisms: what is planted is found, plates and wells are kept apart."""

from __future__ import annotations

import numpy as np
import pytest
from planted_screen import DIM, write_screen

from subcell_atlas.condition_retrieval import condition_facts, measure_conditions
from subcell_atlas.evaluate import evaluate
from subcell_atlas.evaluated import EvaluationOptions, Subject

CONTROLS = "condition = 'DMSO'"
CLASSES = ("kinase inhibitor", "tubulin inhibitor", "none of these")


def found(store, **options):
    metrics, observed = {}, {}
    for part in measure_conditions(store, EvaluationOptions(**options)):
        metrics |= part.metrics
        observed |= part.observed
    return metrics, observed


def drugs(rng, *, size, n=24):
    """Effects of drugs of three mechanisms, some of two, which share what the mechanism does."""
    of_class = {name: rng.normal(size=DIM) for name in CLASSES}
    effects, extras = {}, {}
    for at in range(n):
        names = [CLASSES[at % 3]] + ([CLASSES[(at + 1) % 3]] if at % 6 == 0 else [])
        effects[f"drug {at:02}"] = size * (sum(of_class[name] for name in names) + 0.7 * rng.normal(size=DIM))
        extras[f"drug {at:02}"] = {"MoA": "; ".join(names)}
    return effects, extras


def test_conditions_and_mechanisms_that_are_planted_are_retrieved(tmp_path, rng):
    effects, extras = drugs(rng, size=2)
    metrics, observed = found(write_screen(tmp_path / "a", rng, effects, extras=extras), controls=CONTROLS)
    assert metrics["condition_map"] > 0.9
    assert metrics["condition_retrieved"] > 0.9
    assert metrics["activity_map"] > 0.9
    assert metrics["moa_map"] > metrics["moa_map_chance"] + 0.25
    assert metrics["moa_labels"] == 3
    assert (metrics["condition_groups"], metrics["condition_queries"], metrics["condition_null_size"]) == (
        24,
        72,
        10000,
    )
    assert metrics["condition_centred_on_controls"] is True
    assert observed["condition_map"].drawn.tolist() == [f"drug {at:02}" for at in range(24)]
    assert observed["moa_map"].ids == sorted(CLASSES)


def test_conditions_that_do_nothing_are_as_good_as_chance(tmp_path, rng):
    effects, extras = drugs(rng, size=0)
    metrics, _ = found(write_screen(tmp_path / "a", rng, effects, extras=extras), controls=CONTROLS)
    for kind in ("condition", "activity", "moa"):
        assert metrics[f"{kind}_map"] == pytest.approx(metrics[f"{kind}_map_chance"], abs=0.1), kind
        assert metrics[f"{kind}_retrieved"] < 0.1, kind


def test_plates_hide_conditions_where_there_are_no_controls_to_centre_on(tmp_path, rng):
    effects, _ = drugs(rng, size=1)
    store = write_screen(tmp_path / "a", rng, effects)
    centred, raw = found(store, controls=CONTROLS)[0], found(store)[0]
    assert raw["condition_centred_on_controls"] is False
    assert raw["condition_map"] < centred["condition_map"] - 0.2
    assert "activity_map" not in raw
    assert "moa_map" not in raw


def test_replicates_on_one_plate_are_other_wells_and_cell_lines_are_not_mixed(tmp_path, rng):
    effects, _ = drugs(rng, size=2, n=6)
    store = write_screen(tmp_path / "a", rng, effects, plates=("1",), lines=("U-2 OS", "A-431"))
    metrics, _ = found(store)
    assert (metrics["condition_groups"], metrics["condition_queries"]) == (2, 8)  # DMSO alone has several wells
    assert found(store, controls=CONTROLS)[0] == {}  # without it none has
    two = write_screen(tmp_path / "b", rng, effects, lines=("U-2 OS", "A-431"))
    metrics, observed = found(two, controls=CONTROLS)
    assert (metrics["condition_groups"], metrics["condition_queries"]) == (12, 36)
    assert len(set(observed["condition_map"].drawn)) == 6


def test_an_atlas_without_conditions_or_with_one_is_not_asked(tmp_path, rng):
    assert found(write_screen(tmp_path / "0", rng, {None: np.ones(DIM)}, n_controls=0)) == ({}, {})
    store = write_screen(tmp_path / "a", rng, {"drug": 3 * np.ones(DIM)}, n_controls=0)
    assert found(store) == ({}, {})
    store = write_screen(tmp_path / "b", rng, {"drug": 3 * np.ones(DIM)})
    assert found(store, controls=CONTROLS)[0]["activity_map"] > 0.9


def test_facts_of_a_condition_are_those_that_any_of_its_rows_has(tmp_path, rng):
    extras = {"drug": {"MOA": "x", "batch": "7", "Concentration": 0.1}}
    store = write_screen(tmp_path / "a", rng, {"drug": np.ones(DIM), "other": np.ones(DIM)}, extras=extras)
    assert condition_facts(store) == {"drug": {"moa": "x", "concentration": "0.1"}, "other": {}, "DMSO": {}}


def test_conditions_are_part_of_the_evaluation_of_retrieval_with_intervals(tmp_path, rng):
    effects, extras = drugs(rng, size=1)
    store = write_screen(tmp_path / "a", rng, effects, extras=extras)
    metrics = evaluate(Subject(store), ["retrieval"], EvaluationOptions(controls=CONTROLS))["retrieval"].metrics
    assert metrics["condition_map_low"] < metrics["condition_map"] < metrics["condition_map_high"]
    assert "activity_retrieved_low" in metrics
