"""Every command as a person would type it: answers, JSON, problems and exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

import subcell_atlas
from ingest.simulated import SimulatedSource, write_files
from subcell_atlas.cli import default_encoder, main
from subcell_atlas.encoders.fetch import cached_path
from subcell_atlas.encoders.specs import ENCODERS
from subcell_atlas.images.simulated import make_proteome
from subcell_atlas.store import Store

COMMANDS = [
    ["similar", "DEMO001", "-k", "3"],
    ["compare", "DEMO001"],
    ["map"],
    ["map", "S1"],
    ["map", "DEMO001"],
    ["sql", "SELECT count(*) AS n FROM cells"],
    ["evaluate", "retrieval"],
    ["encoders"],
    ["info"],
    ["doctor"],
]


def run(*arguments, code=0):
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(autouse=True)
def atlas(demo_atlas, monkeypatch):
    monkeypatch.setenv("SUBCELL_ATLAS", demo_atlas)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:20])
def test_every_answer_is_one_json_document_and_also_a_text(command):
    json.loads(run(*command, "--json").stdout)
    assert run(*command).stdout.strip()


@pytest.mark.parametrize("command", [*sorted(main.commands), "ingest images", "ingest embeddings"])
def test_every_command_has_help(command):
    text = run(*command.split(), "--help").stdout
    assert len(text.splitlines()) > 4
    if command != "ingest":
        assert "--atlas" in text


def test_encoders_and_doctor_tell_of_the_atlas(monkeypatch, tmp_path):
    assert "was made by demo" in run("encoders").stdout
    assert "40 proteins" in run("doctor").stdout
    monkeypatch.setenv("SUBCELL_ATLAS", str(tmp_path / "none"))
    assert json.loads(run("encoders", "--json").stdout)["atlas"] is None
    checks = {check["name"]: check for check in json.loads(run("doctor", "--json").stdout)["checks"]}
    assert checks["atlas"]["status"] == "note"
    assert "crops/s" in checks["subcell-rybg-mae"]["found"]


def test_the_json_has_the_shapes_of_the_contract():
    similar = json.loads(run("similar", "DEMO001", "-k", "3", "--json").stdout)
    assert [set(hit) for hit in similar["hits"]] == [
        {"rank", "protein_id", "gene_symbol", "similarity", "localization", "n_cells"}
    ] * 3
    systems = json.loads(run("map", "--json").stdout)["systems"]
    wanted = {"system_id", "level", "size", "term_id", "term_name", "p_adjusted", "persistence", "parents"}
    assert all(wanted <= set(system) for system in systems)
    gene = json.loads(run("map", "DEMO001", "--json").stdout)
    assert gene["gene_symbol"] == "DEMO001"
    assert gene["paths"][0][0] == "S0"
    assert json.loads(run("sql", "SELECT count(*) AS n FROM proteins", "--json").stdout) == [{"n": 40}]
    info = json.loads(run("info", "--json").stdout)
    assert info["tables"]["cells"] == 160
    assert info["recipe"]["encoder"] == "demo"
    assert set(json.loads(run("evaluate", "--json").stdout)) >= {"retrieval", "map", "functions"}


def test_pictures_and_numbers_that_json_lacks_are_written_plainly():
    rows = json.loads(run("sql", "SELECT thumbnail, 'nan'::DOUBLE AS x FROM cells LIMIT 1", "--json").stdout)
    assert rows[0]["x"] is None
    assert rows[0]["thumbnail"].startswith("/9j/")  # JPEG, in base64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["similar", "TOMM20"], "Unknown gene"),
        (["similar", "DEM001"], "nearest: DEMO001"),
        (["similar", "DEMO001", "--where", "moon = 1"], "Columns"),
        (["map", "S999"], "Unknown gene or system"),
        (["build", "profile"], "nearest: profiles"),
        (["sql", "DELETE FROM cells"], "DELETE"),
        (["sql", "SELECT * FROM cell"], "cells"),
        (["evaluate", "moon"], "Unknown evaluation 'moon'; known: "),
        (["ingest", "images", "none.csv"], "There is no manifest"),
        (["ingest", "images", "none.csv", "--encoder", "subcell-rybg-ma"], "subcell-rybg-mae"),
        (["ingest", "embeddings", "none.csv", "--level", "cell"], "There is no file"),
        (["export", "--format", "csv", "-o", "no/such/folder/x.csv"], "no folder"),
        (["demo", "--proteins", "41"], "another size or seed"),
        (["info", "--atlas", "nowhere"], "There is no atlas at 'nowhere'"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_a_known_problem_is_one_or_two_lines_and_code_1(arguments, message):
    result = run(*arguments, code=1)
    assert message in result.stderr
    assert result.stdout == ""
    assert 1 <= len(result.stderr.strip().splitlines()) <= 3
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["similar"], ["similar", "DEMO001", "-k", "0"], ["moon"], ["ingest", "embeddings", "x.csv"], ["map", "a", "b"]],
)
def test_wrong_usage_is_code_2(arguments):
    run(*arguments, code=2)


@pytest.mark.parametrize("kind", ["csv", "parquet", "graphml", "h5ad"])
def test_exports_can_be_read_by_the_libraries_of_the_field(kind, tmp_path):
    path = tmp_path / f"out.{kind}"
    run("export", "--format", kind, "-o", str(path))
    if kind == "csv":
        header = path.read_text().splitlines()[0]
        assert '"gene_symbol"' in header
        assert "image" not in header
    elif kind == "parquet":
        import pyarrow.parquet as pq

        assert len(pq.read_table(path)["image"][0].as_py()) == ENCODERS["demo"].dim
    elif kind == "graphml":
        import networkx as nx

        assert len(nx.read_graphml(path).nodes["S0"]["members"].split()) == 40
    else:
        anndata = pytest.importorskip("anndata")
        table = anndata.read_h5ad(path)
        assert table.X.shape == (40, ENCODERS["demo"].dim)
        assert table.obsm["X_umap"].shape == (40, 2)
        assert "encoder" in table.uns["recipe"]


def test_the_demo_does_no_work_twice_and_prints_real_answers(tmp_path, demo_atlas):
    small = ["demo", "--atlas", str(tmp_path / "atlas"), "--proteins", "20", "--cells", "2"]
    first = run(*small)
    assert "40 cells embedded; 0 were there before" in first.stderr
    assert "Built: profiles, sequence, map" in first.stderr
    second = run(*small)
    assert "0 cells embedded; 40 were there before" in second.stderr
    assert "The map is up to date" in second.stderr
    assert second.stdout == first.stdout
    kinds = Store.open(str(tmp_path / "atlas")).read("runs", ["kind"])["kind"].to_pylist()
    assert kinds.count("evaluate map") == kinds.count("build map") == 1
    assert "subcell-atlas app --atlas" in second.stdout
    assert "S0 all proteins (20)" in second.stdout


def test_a_demo_of_one_protein_answers_what_it_can(tmp_path):
    tiny = ["demo", "--atlas", str(tmp_path / "atlas"), "--proteins", "1", "--cells", "2"]
    for _ in range(2):
        assert "S0 all proteins (1)" in run(*tiny).stdout


def test_the_demo_refuses_an_atlas_of_other_cells(demo_atlas, tmp_path):
    shutil.copytree(demo_atlas, tmp_path / "copy")
    result = run("demo", "--atlas", str(tmp_path / "copy"), code=1)
    assert "Choose a new place" in result.stderr


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'numpy', 'pyarrow', 'torch', 'lancedb', 'duckdb', 'streamlit', 'umap', 'networkx', 'pandas', 'click'}"
    code = f"import subcell_atlas, sys; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_an_answer_does_not_load_torch(demo_atlas):
    code = (
        "import sys; from subcell_atlas.cli import main\n"
        f"main(['similar', 'DEMO001', '--atlas', {demo_atlas!r}], standalone_mode=False)\n"
        "print({'torch', 'streamlit', 'umap', 'duckdb', 'sklearn'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == "set()"
    assert "DEMO" in result.stdout


def test_the_public_names_are_what_all_says():
    for name in subcell_atlas.__all__:
        assert getattr(subcell_atlas, name) is not None
    assert subcell_atlas.__all__ == sorted(subcell_atlas.__all__, key=lambda name: (name.startswith("_"), name)) or set(
        subcell_atlas.__all__
    ) == set(dir(subcell_atlas))


def test_python_answers_are_arrow_tables(demo_atlas):
    with subcell_atlas.open_atlas(demo_atlas) as atlas:
        assert atlas.similar("DEMO001", k=2).num_rows == 2
        assert atlas.sql("SELECT 1 AS one").to_pylist() == [{"one": 1}]
        assert atlas.cells("gene_symbol = 'DEMO001'").num_rows == 4
        assert atlas.proteins().num_rows == 40
        assert atlas.compare("DEMO001").num_rows == 3
        assert len(atlas.map()) >= 2
        assert "proteins=40" in repr(atlas)
        assert atlas.to_anndata().n_obs == 40


def test_subcell_is_the_default_once_its_weights_are_here_and_an_atlas_keeps_its_own(demo_atlas, tmp_path, monkeypatch):
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", str(tmp_path))
    assert default_encoder(str(tmp_path / "new")) == "demo"
    file = cached_path(ENCODERS["subcell-rybg-mae"].weights.url)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    assert default_encoder(str(tmp_path / "new")) == "subcell-rybg-mae"
    assert default_encoder(demo_atlas) == "demo"


def test_the_demonstration_encoder_says_what_it_is_every_time(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBCELL_ATLAS_CACHE", str(tmp_path / "cache"))
    manifest = write_files(SimulatedSource(make_proteome(2, seed=5), 1), tmp_path / "files")
    for _ in range(2):
        said = run("ingest", "images", str(manifest), "--crops", "--atlas", str(tmp_path / "a")).stderr
        assert "'demo': a demonstration encoder, not SubCell" in said


def test_maps_are_compared_drawn_and_taken_along(tmp_path, demo_atlas):
    shutil.copytree(demo_atlas, tmp_path / "copy")
    here = ["--atlas", str(tmp_path / "copy")]
    built = run("build", "map", "--name", "tree", "--method", "average", "--untested", *here)
    assert built.exit_code == 0
    assert "Built: map tree." in built.stderr
    assert "Map tree: " in built.stderr
    systems = json.loads(run("map", "--map", "tree", "--json", *here).stdout)
    assert systems["about"]["settings"]["method"] == "average"
    first = next(system for system in systems["systems"] if system["level"] == 1)["system_id"]
    assert first.startswith("tree:S")
    one = json.loads(run("map", first.lower(), "--json", *here).stdout)
    assert one["systems"][0]["system_id"] == first
    assert len(one["members"]) == one["systems"][0]["size"]
    inside = json.loads(run("map", "--map", "tree", first.removeprefix("tree:"), "--json", *here).stdout)
    assert inside["systems"][0]["system_id"] == first
    compared = json.loads(run("map", "--map", "tree", "--against", str(tmp_path / "copy"), "--json", *here).stdout)
    assert compared["n_common"] == 40
    assert {"verdict", "jaccard", "match"} <= set(compared["here"]["systems"][0])
    assert isinstance(json.loads(run("map", "--news", "--json", *here).stdout)["discoveries"], list)
    assert run("map", "--figure", str(tmp_path / "map.svg"), "--map", "tree", *here).exit_code == 0
    for kind in ("hcx", "cx2", "newick", "hidef"):
        done = run("export", "--format", kind, "-o", str(tmp_path / f"map.{kind}"), "--map", "tree", *here)
        assert (done.exit_code, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["map", "--map", "moon"], 1, "Unknown map 'moon'"),
        (["map", "--against", "nowhere.cx2"], 1, "no map of this atlas"),
        (["map", "--figure", "map.gif"], 1, "a picture ends in"),
        (["map", "S1", "--against", "main"], 2, "One question at a time"),
        (["build", "--method", "average"], 2, "These options are of the map"),
        (["build", "map", "--weights", "shared", "--method", "subcell"], 1, "for the method multiresolution"),
        (["export", "--format", "hcx", "-o", "x.cx2", "--map", "moon"], 1, "Unknown map 'moon'"),
    ],
)
def test_what_cannot_be_done_with_a_map_is_said(arguments, code, says):
    done = run(*arguments, code=code)
    assert done.exit_code == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
