"""Training on the cells of a manifest: what comes out loads like any other encoder."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from tiny_network import TINY_SPEC, published_state, tiny_network

from ingest.simulated import SimulatedSource, write_files
from subcell_atlas.cli import main
from subcell_atlas.encoders import load_encoder
from subcell_atlas.encoders.specs import write_spec
from subcell_atlas.images.simulated import make_proteome

CONFIG = """
encoder = "{encoder}"
seed = 3
[objective]
projection_hidden = 16
projection_dim = 8
decoder_width = 8
decoder_blocks = 1
decoder_heads = 2
decoder_mlp_width = 16
[batches]
antibodies = 3
cells = 2
[optimizer]
learning_rate = {rate}
epochs = 3
warmup_epochs = 1
"""


def run(*args: object, code: int = 0):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration that trains the tiny network."""
    write_spec(TINY_SPEC, tmp_path / "tiny.toml", weights="none")
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(encoder=tmp_path / "tiny.toml", rate=0.01), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Crops of 8 simulated proteins, 4 cells each, as files."""
    return write_files(SimulatedSource(make_proteome(8, seed=5), 4), tmp_path_factory.mktemp("files"))


def test_the_result_loads_and_embeds_like_any_other_encoder(tmp_path, config, manifest):
    out = tmp_path / "trained"
    answer = run("pretrain", manifest, "--crops", "--config", config, "-o", out, "--workers", 0, "--json")
    record = json.loads(answer.stdout)
    with manifest.open(encoding="utf-8") as file:
        cells_of = Counter(row["antibody"] for row in csv.DictReader(file))
    assert record["cells"] == sum(n for n in cells_of.values() if n > 1) < 32  # a cell alone is not trained on
    encoder = load_encoder(record["encoder"])
    assert encoder.spec.name == "trained"
    assert "from random weights, on manifest.csv, seed 3" in encoder.spec.origin
    crops = np.random.default_rng(0).integers(0, 255, (3, 2, 32, 32)).astype(np.uint8)
    assert np.isfinite(encoder.embed(crops)).all()
    recipe = encoder.recipe(masking="cell")
    assert (recipe.encoder, recipe.weights) == ("trained", "built in")
    ingest = ("ingest", "images", manifest, "--crops", "--workers", 0)
    run(*ingest, "--encoder", record["encoder"], "--atlas", tmp_path / "a")
    with (out / "log.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (record["antibodies"] // 3)
    assert all(np.isfinite(float(row["loss"])) for row in rows)


def test_the_same_command_trains_the_same_weights_and_once_more_does_nothing(tmp_path, config, manifest):
    for name in ("one", "two"):
        run("pretrain", manifest, "--crops", "--config", config, "-o", tmp_path / name, "--workers", 0)
    files = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    log = (tmp_path / "one" / "log.csv").read_bytes()
    again = run("pretrain", manifest, "--crops", "--config", config, "-o", tmp_path / "one", "--workers", 0)
    assert "Going on after step" in again.output
    assert (tmp_path / "one" / "log.csv").read_bytes() == log
    assert (tmp_path / "one" / "encoder.safetensors").read_bytes() == files[0]


def test_fine_tuning_begins_with_the_weights_given(tmp_path, config, manifest):
    config.write_text(CONFIG.format(encoder=tmp_path / "tiny.toml", rate=1e-9), encoding="utf-8")
    torch.save(published_state(tiny_network()), tmp_path / "begun.pth")
    out = tmp_path / "tuned"
    begin = ("--init", tmp_path / "begun.pth")
    run("pretrain", manifest, "--crops", "--config", config, *begin, "-o", out, "--workers", 0)
    crops = np.random.default_rng(0).integers(0, 255, (3, 2, 32, 32)).astype(np.uint8)
    begun = load_encoder(TINY_SPEC, weights=tmp_path / "begun.pth").embed(crops)
    tuned = load_encoder(str(out / "encoder.toml"))
    assert np.allclose(tuned.embed(crops), begun, atol=1e-4)
    assert "from begun.pth" in tuned.spec.origin


def test_fine_tuning_changes_every_weight_that_the_losses_reach(tmp_path, config, manifest):
    torch.save(published_state(tiny_network()), tmp_path / "begun.pth")
    begin = ("--init", tmp_path / "begun.pth")
    run("pretrain", manifest, "--crops", "--config", config, *begin, "-o", tmp_path / "tuned", "--workers", 0)
    begun, tuned = (
        safetensors.torch.load_file(path) if path.suffix == ".safetensors" else torch.load(path)
        for path in (tmp_path / "begun.pth", tmp_path / "tuned" / "encoder.safetensors")
    )
    same = {name for name, weights in tuned.items() if torch.equal(weights, begun[name])}
    assert same <= {"encoder.embeddings.position_embeddings"}  # fixed, as published


def test_trainings_on_the_same_cells_share_them_and_others_are_refused(tmp_path, config, manifest):
    shared = ("--cells", tmp_path / "cells")
    run("pretrain", manifest, "--crops", "--config", config, *shared, "-o", tmp_path / "one", "--workers", 0)
    cut = (tmp_path / "cells" / "crops.bin").stat()
    run("pretrain", manifest, "--crops", "--config", config, *shared, "-o", tmp_path / "two", "--workers", 0)
    assert not (tmp_path / "two" / "cells").exists()
    rows = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    fewer = manifest.with_name("fewer.csv")
    fewer.write_text("".join(rows[:-4]), encoding="utf-8")
    answer = run("pretrain", fewer, "--crops", "--config", config, *shared, "-o", tmp_path / "three", code=1)
    assert "holds cells of other pictures, or cut for another encoder" in answer.stderr
    assert (tmp_path / "cells" / "crops.bin").stat().st_mtime_ns == cut.st_mtime_ns


def test_a_place_that_cannot_be_written_is_named(tmp_path, config, manifest):
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    answer = run("pretrain", manifest, "--crops", "--config", config, "-o", tmp_path / "taken", code=1)
    assert "taken' cannot be written: File exists" in answer.stderr


def test_others_may_read_the_weights(tmp_path, config, manifest):
    run("pretrain", manifest, "--crops", "--config", config, "-o", tmp_path / "out", "--workers", 0)
    modes = {(tmp_path / "out" / name).stat().st_mode & 0o777 for name in ("encoder.safetensors", "log.csv")}
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["MANIFEST", "--config", "CONFIG", "--encoder", "vit-large-8", "--init", "published"],
            "There are no published weights of 'vit-large-8'",
        ),
        (["--config", "subcell-mae"], "Name a manifest of pictures"),
        (["m.csv", "--config", "CONFIG"], "There is no manifest 'm.csv'"),
        (["MANIFEST", "--config", "CONFIG", "--encoder", "openphenom"], "is not of SubCell's design"),
        (["MANIFEST", "--config", "CONFIG", "--init", "nothing.pth"], "no weights file 'nothing.pth'"),
        (["MANIFEST", "--config", "CONFIG", "--init", "random"], "begins with random weights when --init is left out"),
        (["MANIFEST", "--config", "CONFIG", "--device", "cuda:99"], "cannot be used on this machine"),
        (["MANIFEST", "--config", "demo"], r"A batch of 32 antibodies was asked for; lower the number"),
    ],
)
def test_wrong_input_is_answered_in_a_line_or_two(tmp_path, config, manifest, args, message):
    named = {"CONFIG": str(config), "MANIFEST": str(manifest)}
    args = [named.get(arg, arg) for arg in args]
    answer = run("pretrain", *args, "--crops", "-o", tmp_path / "out", "--workers", 0, code=1)
    said = answer.stderr[answer.stderr.index("Error: ") :]
    assert message in said
    assert len(said.strip().splitlines()) <= 3


def test_weights_of_another_size_are_refused(tmp_path, config, manifest):
    weights = published_state(tiny_network())
    weights["encoder.layernorm.weight"] = torch.ones(13)
    torch.save(weights, tmp_path / "other.pth")
    args = ("pretrain", manifest, "--crops", "--config", config, "--init", tmp_path / "other.pth", "--workers", 0)
    answer = run(*args, "-o", tmp_path / "out", code=1)
    assert "encoder.layernorm.weight has shape (13,), not (12,)" in answer.stderr


def test_cells_of_no_known_protein_cannot_be_trained_on_and_single_cells_are_left_out(tmp_path, config, manifest):
    with manifest.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {name: str(manifest.parent / row[name]) for name in ("microtubules", "er", "nucleus", "protein", "mask")}

    def written(name: str, rows) -> Path:
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    unknown = ("antibody", "gene_symbol", "ensembl_id", "uniprot_accession")
    nameless = written("nameless.csv", [{k: v for k, v in row.items() if k not in unknown} for row in rows])
    answer = run("pretrain", nameless, "--crops", "--config", config, "-o", tmp_path / "a", "--workers", 0, code=1)
    assert "names its antibody or its gene" in answer.stderr
    alone = [dict(row, antibody="") for row in rows]
    alone[0] |= {"antibody": "ALONE"}
    args = ("pretrain", written("alone.csv", alone), "--crops", "--config", config, "--workers", 0)
    answer = run(*args, "-o", tmp_path / "b")
    assert "Left out: 1 antibodies of fewer than 2 cells, 0 cells of no known antibody." in answer.stderr
