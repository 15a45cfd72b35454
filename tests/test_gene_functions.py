"""The functions of a small atlas: what counts as known, what is predicted, what is kept, and that nothing leaks."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from planted_functions import (
    FAMILY,
    IMAGE_ONLY,
    JOB,
    N_PROTEINS,
    PLACE,
    SEQUENCE_ONLY,
    UNKNOWN,
    Said,
    planted,
    protein_name,
    say,
    write_atlas,
)

from subcell_atlas.build import build
from subcell_atlas.errors import BadInput, NotBuilt, UnknownName
from subcell_atlas.gene_functions import (
    KEPT_OF_PROTEIN,
    KEPT_OF_TERM,
    LEAST,
    MODALITIES,
    FunctionSettings,
    Group,
    Predicted,
    known_groups,
    models_of,
    read_proteins,
    rows_of_functions,
)
from subcell_atlas.profiles import vector_array
from subcell_atlas.proteins import write_proteins
from subcell_atlas.store import Store

FOUND = planted()
LAX = FunctionSettings(without=())


@pytest.fixture(scope="module")
def store(function_atlas) -> Store:
    return Store.open(function_atlas)


@pytest.fixture
def copy(function_atlas, tmp_path) -> Store:
    shutil.copytree(function_atlas, tmp_path / "copy")
    return Store.open(str(tmp_path / "copy"))


def functions(store):
    """What is stored: (protein, term) -> row."""
    return {(row["protein_id"], row["term_id"]): row for row in store.read("functions").to_pylist()}


def groups_of(store, settings=None) -> dict[tuple[str, tuple[str, ...]], Group]:
    ids = read_proteins(store).ids
    return {(group.aspect, group.sources): group for group in known_groups(store, ids, settings or FunctionSettings())}


def members(group, term):
    return set(np.flatnonzero(group.truth[:, group.terms.index(term)]).tolist())


def test_vectors_are_read_for_who_has_any_and_missing_ones_are_told(store):
    proteins = read_proteins(store)
    assert proteins.ids == [protein_name(row) for row in range(N_PROTEINS)]
    assert proteins.vectors["image"][:110] == pytest.approx(FOUND.image[:110])
    assert np.flatnonzero(~proteins.has["image"]).tolist() == list(SEQUENCE_ONLY)
    assert np.flatnonzero(~proteins.has["sequence"]).tolist() == list(IMAGE_ONLY)
    assert proteins.with_all(("image", "sequence")).sum() == 110


def test_a_vector_of_zeros_or_an_atlas_without_sequences_is_no_vector(tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    ids, vectors = ["A", "B", "C"], np.array([[1, 2], [0, 0], [3, 1]], np.float32)
    write_proteins(store, pa.table({"protein_id": ids, "image": vector_array(vectors)}), vector="image")
    proteins = read_proteins(store)
    assert proteins.has["image"].tolist() == [True, False, True]
    assert not proteins.with_all(MODALITIES["fused"]).any()


def test_terms_are_grouped_by_aspect_and_their_members_are_those_said(store):
    groups = groups_of(store)
    assert set(groups) == {(aspect, ("goa",)) for aspect in (PLACE, FAMILY, JOB)}
    places = groups[PLACE, ("goa",)]
    assert places.terms == ["GO:C0", "GO:C1", "GO:C2"]
    for kind, term in enumerate(places.terms):
        assert members(places, term) == {row for row in np.flatnonzero(FOUND.place == kind) if row not in UNKNOWN}


def test_terms_of_too_few_proteins_or_of_nearly_all_are_left_out(store):
    assert {"GO:RARE", "GO:ROOT", "GO:SEEN"}.isdisjoint(groups_of(store)[PLACE, ("goa",)].terms)
    few = groups_of(store, FunctionSettings(fewest=5))
    assert "GO:SEEN" in few[PLACE, ("goa",)].terms
    assert "GO:RARE" not in few[PLACE, ("goa",)].terms


def test_evidence_of_the_human_protein_atlas_does_not_count_unless_asked_for_nor_another_that_is_not_wanted(store):
    seen = groups_of(store, FunctionSettings(fewest=5))[PLACE, ("goa",)]
    known = [row for row in range(N_PROTEINS) if row not in UNKNOWN]
    assert members(seen, "GO:SEEN") == set(known[40:45])  # another saw it besides
    assert members(groups_of(store, LAX)[PLACE, ("goa",)], "GO:SEEN") == set(known[:45])
    assert "GO:GUESSED" in groups_of(store)[FAMILY, ("goa",)].terms
    manual = groups_of(store, FunctionSettings(without=("iea", "HPA")))[FAMILY, ("goa",)]
    assert "GO:GUESSED" not in manual.terms


def test_proteins_of_which_nothing_is_known_are_no_counterexamples(store, copy):
    places = groups_of(store)[PLACE, ("goa",)]
    assert np.flatnonzero(~places.known).tolist() == list(UNKNOWN)
    say(copy, [Said(10, "GO:RARE", "IDA:HPA"), Said(20, "GO:RARE"), Said(30, "GO:F0")])
    places = groups_of(copy)[PLACE, ("goa",)]
    assert np.flatnonzero(~places.known).tolist() == [row for row in UNKNOWN if row != 20]
    assert 30 in members(groups_of(copy)[FAMILY, ("goa",)], "GO:F0")


def test_terms_of_other_sources_are_a_group_of_their_own_and_shared_ones_are_known_by_either(copy):
    """Of a term that two sources speak of, all those are counterexamples of which either knows something else."""
    mine = [Said(row, f"MY:{row % 3}", None, "mine") for row in range(60)]
    say(copy, [*mine, *(Said(row, "GO:C0", None, "mine") for row in (10, 11, 62))])
    terms = {"term_id": ["MY:0", "MY:1", "MY:2"], "name": ["a", "b", "c"], "aspect": [PLACE, PLACE, None]}
    copy.upsert("terms", pa.table(terms))
    groups = groups_of(copy)
    assert ("other", ("mine",)) not in groups  # MY:2 is all that is known there
    own = groups[PLACE, ("mine",)]
    assert own.terms == ["MY:0", "MY:1"]
    assert set(np.flatnonzero(own.known)) == {row for row in range(60) if row % 3 < 2} | {11, 62}
    assert groups[PLACE, ("goa",)].terms == ["GO:C1", "GO:C2"]
    shared = groups[PLACE, ("goa", "mine")]
    assert shared.terms == ["GO:C0"]
    assert {10, 11, 62} <= members(shared, "GO:C0")
    known = {row for row in range(N_PROTEINS) if row not in UNKNOWN} | set(np.flatnonzero(own.known))
    assert set(np.flatnonzero(shared.known)) == known


def test_annotations_of_proteins_without_vectors_do_not_count(copy):
    before = groups_of(copy)[PLACE, ("goa",)]
    copy.upsert("annotations", pa.table({"protein_id": ["ELSEWHERE"], "term_id": ["GO:C0"], "source": ["goa"]}))
    assert np.array_equal(groups_of(copy)[PLACE, ("goa",)].truth, before.truth)


def test_each_term_is_counted_with_those_of_whom_something_is_known(store):
    rows = {row["term_id"]: row for row in store.read("function_terms").to_pylist()}
    n_known = N_PROTEINS - len(UNKNOWN)
    for kind in range(3):
        row, n = rows[f"GO:C{kind}"], sum(FOUND.place[r] == kind for r in range(N_PROTEINS) if r not in UNKNOWN)
        assert (row["n_members"], row["n_background"], row["sources"]) == (n, n_known, ["goa"])
        assert row["prior"] == pytest.approx(n / n_known)


def test_pictures_tell_places_sequences_families_and_both_together_jobs(store):
    rows = {row["term_id"]: row for row in store.read("function_terms").to_pylist()}
    assert rows["GO:C1"]["ap_image"] > 0.9 > 0.5 > rows["GO:C1"]["ap_sequence"]
    assert rows["GO:F1"]["ap_sequence"] > 0.9 > 0.5 > rows["GO:F1"]["ap_image"]
    jobs = [row for row in rows.values() if row["aspect"] == JOB and row["ap_fused"] is not None]
    assert len(jobs) >= 4
    assert all(row["ap_fused"] > 0.2 + max(row["ap_image"], row["ap_sequence"]) for row in jobs)


def test_proteins_with_a_picture_or_a_sequence_only_are_told_by_what_they_have(store):
    stored = functions(store)
    for rows, has, lacks in ((IMAGE_ONLY, "image", "sequence"), (SEQUENCE_ONLY, "sequence", "image")):
        for protein in rows:
            own = [row for (name, _), row in stored.items() if name == protein_name(protein)]
            assert own
            assert all(row[lacks] is None and row["fused"] is None for row in own)
            assert all(row["probability"] == row[has] for row in own)
    right = [FOUND.place[row] == likeliest(stored, row, "GO:C") for row in IMAGE_ONLY]
    right += [FOUND.family[row] == likeliest(stored, row, "GO:F") for row in SEQUENCE_ONLY]
    assert np.mean(right) > 0.9


def likeliest(stored, protein, terms):
    """Which of the three terms of a kind a protein most probably has."""
    return np.argmax([stored[protein_name(protein), f"{terms}{kind}"]["probability"] for kind in range(3)])


def test_the_probability_is_that_of_both_where_both_are_known(store):
    rows = functions(store).values()
    assert any(row["fused"] is not None for row in rows)
    ap = {row["term_id"]: row for row in store.read("function_terms").to_pylist()}
    assert {row["ap_image"] > row["ap_sequence"] for row in ap.values()} == {True, False}
    for row in rows:
        own = ap[row["term_id"]]
        alone = sorted(("image", "sequence"), key=lambda name: -own[f"ap_{name}"])
        given = [row[name] for name in ("fused", *alone) if row[name] is not None]
        assert row["probability"] == (given[0] if given else None)
        assert all(0 < each < 1 for each in given)


def test_proteins_of_which_nothing_is_known_are_predicted_by_the_model_of_all_others(store):
    proteins, stored = read_proteins(store), functions(store)
    for modality in MODALITIES:
        told = {}
        for terms, model in models_of(store, modality):
            rows = np.array([row for row in UNKNOWN if proteins.with_all(MODALITIES[modality])[row]])
            found = model.probabilities(proteins.blocks(modality, rows))
            told |= {
                (protein_name(rows[i]), term): found[i, j] for i in range(len(rows)) for j, term in enumerate(terms)
            }
        own = {pair: row[modality] for pair, row in stored.items() if row[modality] is not None}
        assert {pair for pair in own if int(pair[0][1:]) in UNKNOWN} <= set(told)
        assert own[protein_name(UNKNOWN[5]), "GO:C1"] == pytest.approx(
            told[protein_name(UNKNOWN[5]), "GO:C1"], abs=1e-5
        )
        assert all(own[pair] == pytest.approx(told[pair], abs=1e-5) for pair in set(own) & set(told))
    right = [FOUND.place[row] == likeliest(stored, row, "GO:C") for row in UNKNOWN if row < 110]
    assert np.mean(right) > 0.9
    assert not any(row["annotated"] for pair, row in stored.items() if int(pair[0][1:]) in UNKNOWN)


def test_stored_models_answer_for_known_proteins_about_as_those_that_had_not_seen_them(store):
    proteins, stored = read_proteins(store), functions(store)
    rows = np.array([row for row in range(110) if row not in UNKNOWN])
    for terms, model in models_of(store, "image"):
        if "GO:C0" in terms:
            told = model.probabilities(proteins.blocks("image", rows))
            held = np.array([[stored[protein_name(row), term]["image"] for term in terms] for row in rows])
            assert np.abs(told - held).mean() < 0.05
            assert np.abs(told - held).max() > 1e-4


def test_no_probability_knows_what_is_said_of_its_own_protein(copy):
    """Say of a protein that it is elsewhere: its own probabilities stay, to the last digit; others' do not."""
    protein, own, other = 3, f"GO:C{FOUND.place[3]}", f"GO:C{(FOUND.place[3] + 1) % 3}"
    before = functions(copy)
    copy.delete("annotations", f"protein_id = '{protein_name(protein)}' AND term_id = '{own}'")
    say(copy, [Said(protein, other)])
    assert build(copy, ["functions"]) == ["functions"]
    after = functions(copy)
    for term, is_said in ((own, False), (other, True)):
        was, now = before[protein_name(protein), term], after[protein_name(protein), term]
        assert (was["annotated"], now["annotated"]) == (not is_said, is_said)
        assert [now[name] for name in MODALITIES] == pytest.approx([was[name] for name in MODALITIES], abs=1e-6)
    changed = [
        abs(after[pair]["image"] - before[pair]["image"]) for pair in after if pair[1] == own and before[pair]["image"]
    ]
    assert np.median(changed) > 1e-5


def test_functions_are_current_until_annotations_or_how_they_are_predicted_change(copy):
    assert build(copy, ["functions"]) == []
    assert copy.metadata("functions")["built_from"]["terms"] == copy.version(
        "terms"
    )  # an index makes a version as well
    say(copy, [Said(10, "GO:C0")])
    assert build(copy, ["functions"], function_settings=FunctionSettings(predictor="neighbors")) == ["functions"]
    assert build(copy, ["functions"]) == []  # as last
    assert copy.metadata("functions")["settings"]["predictor"] == "neighbors"


def test_a_rebuild_puts_all_anew_and_leaves_other_models_alone(copy):
    row = {"name": "fusion", "modality": "fused", "kind": "alignment", "arrays": b"x"}
    copy.upsert("models", pa.Table.from_pylist([row]))
    copy.delete("annotations", "term_id = 'GO:C1' OR term_id = 'GO:F2'")
    build(copy, ["functions"], function_settings=FunctionSettings(predictor="neighbors"))
    kinds = Counter(row["kind"] for row in copy.read("models").to_pylist())
    assert kinds == {"alignment": 1, "neighbors": 9}
    terms = set(copy.read("function_terms")["term_id"].to_pylist())
    assert terms == set(copy.read("functions")["term_id"].to_pylist())
    assert terms == {term for row in copy.read("models").to_pylist() for term in row["term_ids"] or ()}
    assert {"GO:C1", "GO:F2"}.isdisjoint(terms)
    image = copy.read("function_terms", where="term_id = 'GO:C0'")["ap_image"][0].as_py()
    assert image > 0.9


def test_a_run_notes_what_was_counted(store):
    (run,) = store.read("runs", where="kind = 'build functions'").to_pylist()
    assert '"terms": 16' in run["counts"]
    assert f'"{PLACE} of goa": 3' in run["counts"]
    n = store.count("functions", "NOT annotated")
    assert f'"predicted": {n}' in run["counts"]


def slow_kept(truth, best):
    """Pairs that are annotated, probable, among the first of their term or among the first of their protein."""
    n, n_terms = truth.shape
    kept = {(i, t) for i in range(n) for t in range(n_terms) if truth[i, t] or best[i, t] >= LEAST}
    open_ = [(i, t) for i in range(n) for t in range(n_terms) if not truth[i, t] and not np.isnan(best[i, t])]
    for axis, most in ((1, KEPT_OF_TERM), (0, KEPT_OF_PROTEIN)):
        for at in range(truth.shape[axis]):
            own = sorted((pair for pair in open_ if pair[axis] == at), key=lambda pair: -best[pair])
            kept.update(own[:most])
    return kept


def test_rows_are_kept_that_are_annotated_or_probable_or_first_of_their_term_or_protein(rng):
    n, n_terms = 130, 45
    truth = rng.random((n, n_terms)) < 0.05
    fused, image, sequence = (0.11 * rng.random((n, n_terms)).astype(np.float32) for _ in range(3))
    fused[rng.random(n) < 0.3] = np.nan
    image[:20], sequence[:10] = np.nan, np.nan
    fused[:20] = np.nan
    group = Group(("goa",), PLACE, [f"T{t:02d}" for t in range(n_terms)], truth.any(axis=1), truth)
    ap = {"image": np.full(n_terms, 0.5), "sequence": np.full(n_terms, 0.4), "fused": np.full(n_terms, 0.3)}
    ap["sequence"][:9] = 0.6  # than which the picture tells less
    told = Predicted(group, {"image": image, "sequence": sequence, "fused": fused}, ap, [])
    ids = [protein_name(row) for row in range(n)]
    rows = rows_of_functions(ids, told).to_pylist()
    first, second = (np.where(np.arange(n_terms) < 9, *pair) for pair in ((sequence, image), (image, sequence)))
    best = np.where(np.isnan(fused), np.where(np.isnan(first), second, first), fused)
    found = {(ids.index(row["protein_id"]), group.terms.index(row["term_id"])): row for row in rows}
    assert len(found) == len(rows)
    assert set(found) == slow_kept(truth, best)
    for (i, t), row in found.items():
        assert row["annotated"] == truth[i, t]
        for name, values in (("probability", best), ("image", image), ("sequence", sequence), ("fused", fused)):
            assert row[name] == (None if np.isnan(values[i, t]) else pytest.approx(values[i, t]))


def test_terms_that_no_modality_can_tell_are_kept_as_known_and_models_may_be_none(tmp_path):
    """Ten members, of whom five have a picture and five a sequence."""
    found = planted()
    rows = [*IMAGE_ONLY, *SEQUENCE_ONLY]
    chosen = [*rows[5:10], *rows[25:30]]
    said = [Said(row, "GO:C0") for row in chosen] + [Said(row, "GO:RARE") for row in rows if row not in chosen]
    store = write_atlas(str(tmp_path / "atlas"), found, said=said[:18])
    assert build(store, ["functions"]) == ["functions"]
    assert store.count("models") == 0
    stored = store.read("functions").to_pylist()
    assert {row["protein_id"] for row in stored} == {protein_name(row) for row in chosen}
    assert all(row["annotated"] and row["probability"] is None for row in stored)
    assert build(store, ["functions"]) == []


def test_what_is_missing_is_named_with_what_to_do(tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    with pytest.raises(NotBuilt, match=r"no vectors yet.*subcell-atlas build"):
        build(store, ["functions"])
    vectors = np.random.default_rng(0).normal(size=(12, 4))
    ids = [protein_name(row) for row in range(12)]
    write_proteins(store, pa.table({"protein_id": ids, "image": vector_array(vectors)}), vector="image")
    with pytest.raises(NotBuilt, match="subcell-atlas annotate FILE"):
        build(store, ["functions"])
    say(store, [Said(row, "GO:C0", "IDA:HPA") for row in range(12)])
    with pytest.raises(NotBuilt, match="No term is known of 10 proteins"):
        build(store, ["functions"])
    assert "functions" not in store.names()


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        (FunctionSettings(predictor="oracle"), UnknownName, "predictor 'oracle'.*linear"),
        (FunctionSettings(fewest=4), BadInput, "at least 5"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_read(store, settings, error, match):
    with pytest.raises(error, match=match):
        build(store, ["functions"], function_settings=settings)
