"""Questions about functions: answers, their order and evidence, problems, and the command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from planted_functions import FAMILY, JOB, N_PROTEINS, PLACE, UNKNOWN, Said, planted, protein_name, say
from scipy import stats

from subcell_atlas import open_atlas
from subcell_atlas.cli import main
from subcell_atlas.errors import BadInput, NotBuilt, UnknownName
from subcell_atlas.function_query import (
    HIT_SCHEMA,
    N_SUPPORT,
    find_terms,
    functions_of_gene,
    functions_of_vectors,
    genes_of_term,
    notes_on_functions,
    shared_functions,
    term_meant,
)
from subcell_atlas.profiles import vectors_of
from subcell_atlas.store import Store

FOUND = planted()
KNOWN = [row for row in range(N_PROTEINS) if row not in UNKNOWN]


@pytest.fixture(scope="module")
def store(function_atlas) -> Store:
    return Store.open(function_atlas)


@pytest.fixture
def copy(function_atlas, tmp_path) -> Store:
    shutil.copytree(function_atlas, tmp_path / "copy")
    return Store.open(str(tmp_path / "copy"))


def terms_said(protein):
    """The predicted terms that a protein is said to have."""
    left_out = {"GO:ROOT", "GO:RARE", "GO:SEEN"}
    return {each.term for each in FOUND.said if each.protein == protein and each.term not in left_out}


def telling(row):
    """What a prediction tells, in bits."""
    return row["probability"] * np.log2(row["probability"] / row["prior"])


def test_a_gene_has_what_is_known_first_and_then_what_tells_most(store):
    table = functions_of_gene(store, "P003")
    assert table.schema == HIT_SCHEMA
    rows = table.to_pylist()
    known = [row for row in rows if row["annotated"]]
    assert {row["term_id"] for row in known} == terms_said(3)
    assert rows[: len(known)] == known
    assert [row["prior"] for row in known] == sorted(row["prior"] for row in known)
    predicted = rows[len(known) :]
    bits = [telling(row) for row in predicted]
    assert bits == sorted(bits, reverse=True)
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert {row["gene_symbol"] for row in rows} == {"P003"}
    names = {row["term_id"]: row["name"] for row in store.read("terms").to_pylist()}
    assert all(row["name"] == names[row["term_id"]] for row in rows)


def test_only_predictions_above_the_prior_are_told_and_as_many_as_asked_for(store):
    stored = {row["term_id"]: row for row in store.read("functions", where="protein_id = 'P003'").to_pylist()}
    priors = {row["term_id"]: row["prior"] for row in store.read("function_terms").to_pylist()}
    rows = [row for row in functions_of_gene(store, "P003", k=100).to_pylist() if not row["annotated"]]
    wanted = {t for t, row in stored.items() if not row["annotated"] and row["probability"] > priors[t]}
    assert {row["term_id"] for row in rows} == wanted
    fewer = [row for row in functions_of_gene(store, "P003", k=2).to_pylist() if not row["annotated"]]
    assert [row["term_id"] for row in fewer] == [row["term_id"] for row in rows[:2]]


def test_a_protein_of_which_nothing_is_known_is_told_what_its_picture_and_sequence_say(store):
    right = []
    for protein in UNKNOWN[:5]:
        rows = functions_of_gene(store, protein_name(protein)).to_pylist()
        assert not any(row["annotated"] for row in rows)
        places = [row["term_id"] for row in rows if row["aspect"] == PLACE]
        right.append(places[0] == f"GO:C{FOUND.place[protein]}")
    assert sum(right) >= 4


def test_one_aspect_can_be_asked_for(store):
    everything = functions_of_gene(store, "P003", k=100).to_pylist()
    rows = functions_of_gene(store, "P003", k=100, aspect=FAMILY).to_pylist()
    wanted = [row["term_id"] for row in everything if row["aspect"] == FAMILY]
    assert [row["term_id"] for row in rows] == wanted
    with pytest.raises(UnknownName, match=f"aspect 'molecular'.*{FAMILY}"):
        functions_of_gene(store, "P003", aspect="molecular")


def test_one_aspect_can_be_asked_for_of_several_genes_and_of_a_sequence(store):
    names = ["P003", "P004"]
    everything = shared_functions(store, names, k=100).to_pylist()
    wanted = [row for row in everything if row["aspect"] == FAMILY]
    assert shared_functions(store, names, k=100, aspect=FAMILY).to_pylist() == wanted
    rows = functions_of_vectors(store, sequence=np.eye(5)[2], k=100, aspect=FAMILY).to_pylist()
    assert rows[0]["term_id"] == "GO:F2"
    assert {row["aspect"] for row in rows} == {FAMILY}
    for ask in (
        lambda: shared_functions(store, names, aspect="x"),
        lambda: functions_of_gene(store, "P003", aspect="x"),
    ):
        with pytest.raises(UnknownName, match="aspect 'x'"):
            ask()


@pytest.mark.parametrize("modality", ["image", "sequence"])
def test_those_that_speak_for_a_term_are_the_nearest_that_have_it(store, modality):
    rows = store.read("proteins", where=f"{modality} IS NOT NULL").sort_by("protein_id")
    ids, vectors = rows["protein_id"].to_pylist(), vectors_of(rows[modality]).astype(float)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    own = units @ units[ids.index("P003")]
    near = [ids[i] for i in np.argsort(-own) if ids[i] != "P003"]
    for hit in functions_of_gene(store, "P003").to_pylist():
        having = [name for name in near[:50] if hit["term_id"] in terms_said(int(name[1:]))]
        told = [each for each in hit["support"] if each["modality"] == modality]
        assert [each["protein_id"] for each in told] == having[:N_SUPPORT]
        for each in told:
            assert each["similarity"] == pytest.approx(own[ids.index(each["protein_id"])], abs=1e-5)
            assert each["gene_symbol"] == each["protein_id"]


def test_a_term_has_those_known_to_have_it_first_and_then_the_likeliest(store):
    rows = genes_of_term(store, "GO:C1", k=100).to_pylist()
    known = [row for row in rows if row["annotated"]]
    assert {row["protein_id"] for row in known} == {protein_name(r) for r in KNOWN if FOUND.place[r] == 1}
    assert rows[: len(known)] == known
    for part in (known, rows[len(known) :]):
        assert [row["probability"] for row in part] == sorted((row["probability"] for row in part), reverse=True)
    assert {row["gene_symbol"] for row in rows} == {row["protein_id"] for row in rows}
    predicted = {row["protein_id"] for row in rows[len(known) :][:5]}
    assert predicted <= {protein_name(r) for r in UNKNOWN if FOUND.place[r] == 1}


def test_genes_that_are_no_likelier_than_by_chance_are_not_told(store):
    rows = [row for row in genes_of_term(store, "GO:C1", k=1000).to_pylist() if not row["annotated"]]
    stored = store.read("functions", where="term_id = 'GO:C1' AND NOT annotated").to_pylist()
    assert {r["protein_id"] for r in rows} == {r["protein_id"] for r in stored if r["probability"] > rows[0]["prior"]}
    assert 0 < len(rows) < len(stored)
    assert sum(not row["annotated"] for row in genes_of_term(store, "GO:C1", k=2).to_pylist()) == 2


@pytest.mark.parametrize(
    "asked", ["GO:C0", "go:c0", " GO:C0 ", "mitochondrion", "Mitochondrion", "power plant", "plants of power"]
)
def test_a_term_is_meant_by_its_id_its_name_or_words_that_fit(store, asked):
    assert term_meant(store, asked)["term_id"] == "GO:C0"
    assert set(genes_of_term(store, asked, k=1)["term_id"].to_pylist()) == {"GO:C0"}


def test_words_are_looked_for_in_names_synonyms_and_definitions_names_first(store):
    assert find_terms(store, "kinases").to_pylist()[0]["term_id"] == "GO:F0"
    assert find_terms(store, "power").to_pylist()[0]["term_id"] == "GO:C0"
    rows = find_terms(store, "what somebody is about", k=4).to_pylist()
    assert len(rows) == 4
    assert {row["aspect"] for row in rows} == {JOB}
    jobs = find_terms(store, "mitochondrial translation").to_pylist()
    assert jobs[0]["term_id"] == "GO:P00"
    assert jobs[0]["n_members"] == sum(FOUND.place[r] == FOUND.family[r] == 0 for r in KNOWN)
    assert find_terms(store, "xyzzy").num_rows == 0


def test_terms_that_are_predicted_come_before_those_that_are_not(store):
    rows = find_terms(store, "atlas anatomical kinase").to_pylist()
    assert {row["term_id"]: row["is_predicted"] for row in rows} == {"GO:F0": True, "GO:SEEN": False, "GO:ROOT": False}
    assert rows[0]["term_id"] == "GO:F0"
    assert rows[1]["n_members"] is None
    assert rows[1]["score"] >= rows[2]["score"] > 0


def test_words_of_terms_that_came_after_the_build_are_found_too(copy):
    copy.upsert("terms", pa.table({"term_id": ["GO:NEW"], "name": ["bioluminescence"], "aspect": [JOB]}))
    (row,) = find_terms(copy, "bioluminescence").to_pylist()
    assert (row["term_id"], row["is_predicted"]) == ("GO:NEW", False)


def slow_shared(proteins, term, having, background):
    """The hypergeometric chance that so many of some proteins have a term, summed one by one."""
    asked = [protein for protein in proteins if protein in background]
    n_shared = len(set(asked) & having)
    chance = stats.hypergeom(len(background), len(having), len(asked))
    return n_shared, sum(chance.pmf(i) for i in range(n_shared, len(asked) + 1)) if n_shared else 1.0


def test_what_genes_share_is_over_represented_as_a_sum_by_hand_says(store):
    other = next(r for r in KNOWN if FOUND.place[r] == 1)
    proteins = [*[r for r in KNOWN if FOUND.place[r] == 0][:8], other, UNKNOWN[2]]
    rows = {
        row["term_id"]: row for row in shared_functions(store, list(map(protein_name, proteins)), k=100).to_pylist()
    }
    terms = store.read("function_terms")["term_id"].to_pylist()
    chances = {}
    for term in terms:
        having = {each.protein for each in FOUND.said if each.term == term}
        n_shared, chances[term] = slow_shared(proteins, term, having, set(KNOWN))
        if term in rows:
            own = rows[term]
            assert (own["n_known"], own["n_genes"]) == (n_shared, 9)
            assert (own["n_members"], own["n_background"]) == (len(having), len(KNOWN))
            assert set(own["genes"]) == {protein_name(r) for r in proteins if r in having}
        else:
            assert n_shared == 0
    order = sorted(terms, key=chances.get)
    adjusted, least = {}, 1.0
    for rank in range(len(order), 0, -1):  # Benjamini and Hochberg
        least = min(least, chances[order[rank - 1]] * len(order) / rank)
        adjusted[order[rank - 1]] = least
    assert {term: row["p_adjusted"] for term, row in rows.items()} == pytest.approx({t: adjusted[t] for t in rows})
    best = next(iter(rows.values()))
    assert (best["term_id"], best["name"]) == ("GO:C0", "mitochondrion")
    assert best["p_adjusted"] < 0.05


def test_the_probability_that_genes_share_is_the_mean_of_theirs(store):
    names = ["P003", "P004", "P010"]
    stored = store.read("functions", where="protein_id IN ('P003', 'P004', 'P010')").to_pylist()
    for row in shared_functions(store, names, k=100).to_pylist():
        own = [each["probability"] or 0 for each in stored if each["term_id"] == row["term_id"]]
        assert row["probability"] == pytest.approx(sum(own) / 3)


def test_a_gene_of_which_only_terms_that_are_not_predicted_are_known_counts_among_the_known(copy):
    """P010 is known to have a rare term: it is drawn from the same urn as the background."""
    say(copy, [Said(10, "GO:RARE")])
    rows = {row["term_id"]: row for row in shared_functions(copy, ["P010", "P003"], k=100).to_pylist()}
    assert rows[f"GO:C{FOUND.place[3]}"]["n_genes"] == 2
    assert rows[f"GO:F{FOUND.family[3]}"]["n_genes"] == 1


def test_a_gene_that_is_named_twice_counts_once(store):
    with pytest.raises(BadInput, match="two genes or more"):
        shared_functions(store, ["P003", "p003"])
    once, twice = (shared_functions(store, names, k=5) for names in (["P003", "P004"], ["P003", "P004", "P003"]))
    assert once == twice


def test_a_picture_or_a_sequence_that_is_not_in_the_atlas_is_told_by_the_stored_models(store):
    told = {}
    for given in (("image",), ("sequence",), ("image", "sequence")):
        vectors = {"image": 1.5 * np.eye(6)[1], "sequence": 1.5 * np.eye(5)[2]}
        rows = functions_of_vectors(store, **{name: vectors[name] for name in given}, k=100).to_pylist()
        told[given] = {row["term_id"]: row for row in rows}
        assert [telling(row) for row in rows] == sorted(map(telling, rows), reverse=True)
        assert all(row["probability"] > row["prior"] for row in rows)
        assert not any(row["annotated"] or row["protein_id"] or row["gene_symbol"] for row in rows)
        assert {each["modality"] for row in rows for each in row["support"]} == set(given)
    assert "GO:C1" in told[("image",)]
    assert told[("image",)]["GO:C1"]["sequence"] is None
    assert "GO:F2" in told[("sequence",)]
    both = told[("image", "sequence")]
    assert next(iter(both)) == "GO:P12"
    assert both["GO:P12"]["probability"] > max(
        told[one]["GO:P12"]["probability"] for one in (("image",), ("sequence",))
    )
    assert both["GO:P12"]["probability"] == both["GO:P12"]["fused"]


def test_vectors_of_a_protein_of_which_nothing_is_known_give_what_is_stored_of_it(store):
    """Also where both together could not be learned: then the one counts that tells more of the term."""
    proteins = store.read("proteins", where="protein_id = 'P050'").to_pylist()[0]
    given = {name: np.array(proteins[name]) for name in ("image", "sequence")}
    stored = {row["term_id"]: row for row in store.read("functions", where="protein_id = 'P050'").to_pylist()}
    rows = functions_of_vectors(store, **given, k=100).to_pylist()
    assert len(rows) >= 3
    assert any(row["fused"] is None for row in stored.values())
    for row in rows:
        for name in ("probability", "image", "sequence", "fused"):
            assert row[name] == pytest.approx(stored[row["term_id"]][name], abs=1e-5)


@pytest.mark.parametrize(
    ("ask", "error", "match"),
    [
        (lambda s: functions_of_gene(s, "P03"), UnknownName, "gene 'P03'; nearest: P"),
        (lambda s: functions_of_gene(s, "P003", k=0), BadInput, "k is 0"),
        (lambda s: genes_of_term(s, "GO:C0", k=-1), BadInput, "k is -1"),
        (lambda s: shared_functions(s, ["P003", "P004"], k=0), BadInput, "k is 0"),
        (lambda s: functions_of_vectors(s, image=np.ones(6), k=0), BadInput, "k is 0"),
        (lambda s: genes_of_term(s, "mitochondrin"), UnknownName, "function 'mitochondrin'; nearest: mitochondrion"),
        (lambda s: genes_of_term(s, "GO:C9"), UnknownName, r"nearest: GO:C\d"),
        (lambda s: genes_of_term(s, "GO:ROOT"), NotBuilt, "fewer than 10 proteins.*or nearly all"),
        (lambda s: genes_of_term(s, "cilium"), NotBuilt, r"GO:RARE \(cilium\) is known here but not predicted"),
        (
            lambda s: genes_of_term(s, "a cilium"),
            NotBuilt,
            r"'a cilium' is not predicted.*: cilium \(GO:RARE\)",
        ),
        (lambda s: genes_of_term(s, "GO:C0' OR true --"), UnknownName, "Unknown function"),
        (lambda s: find_terms(s, "  "), BadInput, "Give some words"),
    ],
)
def test_questions_that_have_no_answer_say_why(store, ask, error, match):
    with pytest.raises(error, match=match):
        ask(store)


def test_an_atlas_without_functions_says_what_to_do(copy):
    copy.drop("functions")
    for ask in (lambda: functions_of_gene(copy, "P003"), lambda: genes_of_term(copy, "GO:C0")):
        with pytest.raises(NotBuilt, match=r"no functions yet. Run: subcell-atlas build functions|build functions"):
            ask()
    copy.drop("annotations")
    with pytest.raises(NotBuilt, match="subcell-atlas annotate FILE"):
        genes_of_term(copy, "GO:C0")


def test_a_protein_without_vectors_says_that_nothing_can_be_told_of_it(copy):
    row = {"protein_id": ["BARE"], "gene_symbol": ["BARE"], "amino_acids": ["MKV"]}
    copy.upsert("proteins", pa.table(row))
    with pytest.raises(NotBuilt, match="BARE has neither a picture nor a sequence"):
        functions_of_gene(copy, "BARE")


def test_stand_ins_among_the_encoders_are_noted(store):
    assert any("composition" in note for note in notes_on_functions(store))
    assert any("demonstration encoder" in note for note in notes_on_functions(store))


def test_python_asks_one_question_at_a_time(function_atlas):
    with open_atlas(function_atlas) as atlas:
        assert atlas.functions("P003").num_rows
        assert atlas.functions(term="nucleolus", k=3)["term_id"].unique().to_pylist() == ["GO:C1"]
        assert "n_known" in atlas.functions("P003", "P004").column_names
        assert atlas.find_terms("kinase")["term_id"].to_pylist() == ["GO:F0"]
        for genes, options in (((), {}), (("P003",), {"term": "GO:C0"})):
            with pytest.raises(BadInput, match="One question at a time"):
                atlas.functions(*genes, **options)
        with pytest.raises(BadInput, match="A term is of one aspect"):
            atlas.functions(term="GO:C0", aspect=PLACE)


def run(uri, *arguments, code=0):
    result = CliRunner().invoke(main, ["functions", *arguments, "--atlas", uri], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


CONTRACT = {"protein_id", "gene_symbol", "term_id", "name", "aspect", "probability", "annotated", "modalities"}


@pytest.mark.parametrize(
    "asked", [["P003"], ["--term", "GO:C1"], ["--text", "nucleolus"], ["P003", "--aspect", JOB, "-k", "2"]]
)
def test_the_command_answers_as_the_contract_says_and_as_a_text(function_atlas, asked):
    result = run(function_atlas, *asked, "--json")
    found = json.loads(result.stdout)
    assert found["hits"]
    for hit in found["hits"]:
        assert set(hit) >= CONTRACT
        assert set(hit["modalities"]) == {"image", "sequence", "fused"}
        assert 0 < hit["probability"] < 1
        assert isinstance(hit["annotated"], bool)
    assert any("stand-in" in note for note in found["notes"])
    text = run(function_atlas, *asked)
    assert "Known" in text.stdout
    assert "Predicted" in text.stdout
    assert "stand-in" in text.stderr
    assert "stand-in" not in text.stdout


def test_the_command_tells_what_several_genes_share(function_atlas):
    found = json.loads(run(function_atlas, "P003", "P004", "--json").stdout)
    assert found["query"] == {"genes": ["P003", "P004"]}
    assert {"term_id", "n_known", "p_adjusted", "genes"} <= set(found["hits"][0])
    assert "p_adjusted" in run(function_atlas, "P003", "P004").stdout


def test_the_command_names_other_terms_that_words_may_mean(function_atlas):
    result = run(function_atlas, "--text", "activity")
    assert result.stderr.count("Also: ") >= 2
    found = json.loads(run(function_atlas, "--text", "activity", "--json").stdout)
    assert {term["aspect"] for term in found["query"]["terms"]} == {FAMILY}


def test_the_command_prints_no_more_known_genes_than_asked_for(function_atlas):
    result = run(function_atlas, "--term", "GO:C1", "-k", "2")
    assert result.stdout.count("P0") + result.stdout.count("P1") == 4
    assert "more; --json has all" in result.stderr
    hits = json.loads(run(function_atlas, "--term", "GO:C1", "-k", "2", "--json").stdout)["hits"]
    assert sum(hit["annotated"] for hit in hits) > 20


@pytest.mark.parametrize(
    "arguments",
    [[], ["P003", "--term", "GO:C0"], ["--term", "GO:C0", "--text", "x"], ["P003", "-k", "0"], ["P003", "--moon"]],
)
def test_wrong_usage_exits_with_2(function_atlas, arguments):
    result = run(function_atlas, *arguments, code=2)
    assert not result.stdout
    assert "Usage" in result.stderr


@pytest.mark.parametrize("arguments", [["NOBODY"], ["--term", "xyzzy"], ["--text", "xyzzy"], ["--term", "cilium"]])
def test_known_problems_exit_with_1_and_say_what_in_a_line_or_two(function_atlas, arguments):
    result = run(function_atlas, *arguments, code=1)
    assert not result.stdout
    assert 1 <= len(result.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in result.stderr


def test_likeness_by_sequence_says_that_a_stand_in_made_the_vectors(demo_atlas, tmp_path):
    fasta = tmp_path / "one.fasta"
    fasta.write_text(">new\n" + "MKRLFAVAAFLLVLAVSAQAAVHEEEEE" * 4)
    for asked, is_said in (
        (["DEMO003"], False),
        (["DEMO003", "--modality", "fused"], True),
        (["--sequence", str(fasta)], True),
        (["--sequence", str(fasta), "--modality", "image"], True),
    ):
        result = CliRunner().invoke(main, ["similar", *asked, "--json", "--atlas", demo_atlas], catch_exceptions=False)
        assert ("told by their composition" in result.stderr) is is_said
        assert json.loads(result.stdout)["hits"]
