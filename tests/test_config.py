"""What a configuration of training may say."""

from __future__ import annotations

import pytest

from subcell_atlas.errors import AtlasError, BadInput, UnknownName
from subcell_atlas.pretraining.config import CONFIGS, read_config


def written(tmp_path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_published_configurations_are_what_the_authors_ran():
    mae, vit = read_config("subcell-mae"), read_config("subcell-vit")
    losses = [(c.objective.reconstruction, c.objective.cell, c.objective.protein) for c in (mae, vit)]
    assert losses == [(1.0, 1.0, 0.1), (0.0, 0.0, 1.0)]
    assert [(c.batches.antibodies, c.batches.cells) for c in (mae, vit)] == [(112, 8), (128, 8)]
    assert [c.objective.photometric for c in (mae, vit)] == ["second", "both"]
    for config in (mae, vit):
        objective, optimizer = config.objective, config.optimizer
        assert (objective.cell_temperature, objective.protein_temperature) == (0.1, 0.1)
        assert (objective.projection_hidden, objective.projection_dim) == (8192, 512)
        assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.clip) == (1e-4, 0.05, 1.0)
        assert (optimizer.epochs, optimizer.warmup_epochs, optimizer.final_share) == (300, 5, 0.001)
        assert (optimizer.beta1, optimizer.beta2, optimizer.precision, config.seed) == (0.9, 0.95, "float32", 42)
    assert mae.objective.mask_ratio == 0.25
    assert (mae.objective.decoder_width, mae.objective.decoder_blocks, mae.objective.decoder_heads) == (512, 8, 16)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_that_comes_along_is_read(name: str):
    assert read_config(name).encoder


def test_what_is_not_said_is_as_published_and_what_is_said_counts(tmp_path):
    text = 'encoder = "demo"\n[batches]\nantibodies = 5\n[augmentations]\nscale = [1, 1.5]'
    config = read_config(written(tmp_path, text))
    assert (config.batches.antibodies, config.batches.cells) == (5, 8)
    assert config.augmentations.scale == (1.0, 1.5)
    assert config.objective == read_config("subcell-mae").objective
    assert config.simulated is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks 'encoder'"),
        ('encoder = "dmo"', "Unknown encoder 'dmo'; nearest: demo"),
        ('encoder = "demo"\nlearning_rate = 1', "Unknown key of"),
        ('encoder = "demo"\n[optimizer]\nlearning_rat = 1', "'learning_rat'; nearest: learning_rate"),
        ('encoder = "demo"\nobjective = 3', r"must be a table, \[objective\]"),
        ('encoder = "demo"\n[optimizer]\nepochs = 1.5', "'epochs' is 1.5; it must be a whole number"),
        ('encoder = "demo"\n[optimizer]\nepochs = true', "'epochs' is True"),
        ('encoder = "demo"\n[optimizer]\nlearning_rate = "fast"', "must be a number"),
        ('encoder = "demo"\n[optimizer]\nlearning_rate = 0', "learning_rate and clip must be above 0"),
        ('encoder = "demo"\n[optimizer]\nlearning_rate = nan', "'learning_rate' is nan"),
        ('encoder = "demo"\n[optimizer]\nepochs = 5', "warmup_epochs below it"),
        ('encoder = "demo"\n[optimizer]\nprecision = "float16"', "precision must be one of float32, bfloat16"),
        ('encoder = "demo"\n[batches]\nantibodies = 1', "at least 2 antibodies"),
        ('encoder = "demo"\n[batches]\nfewest_cells = 1', "fewest_cells must be at least 2"),
        ('encoder = "demo"\n[objective]\nmask_ratio = 1.0', "mask_ratio must lie between"),
        ('encoder = "demo"\n[objective]\nmask_ratio = 0.0', "mask_ratio must lie between"),
        ('encoder = "demo"\n[objective]\nreconstruction = 0\ncell = 0\nprotein = 0', "one of reconstruction"),
        ('encoder = "demo"\n[objective]\nphotometric = "first"', "photometric must be one of second, both"),
        ('encoder = "demo"\n[objective]\ncell_temperature = 0', "temperatures must be above 0"),
        ('encoder = "demo"\n[objective]\ndecoder_heads = 3', "decoder_width must be a multiple"),
        ('encoder = "demo"\n[augmentations]\nscale = [2, 1]', "scale"),
        ('encoder = "demo"\n[augmentations]\nscale = [1, 2, 3]', "must be a list of 2 numbers"),
        ('encoder = "demo"\n[augmentations]\nflip = 2.0', "flip"),
        ('encoder = "demo"\n[simulated]\nproteins = 5', "lacks 'cells'"),
        ("encoder = ", "cannot be read"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(tmp_path, text: str, message: str):
    with pytest.raises(AtlasError, match=message) as caught:
        read_config(written(tmp_path, text))
    assert isinstance(caught.value, BadInput | UnknownName)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_configuration_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnknownName, match="'subcell-mea'; nearest: subcell-mae"):
        read_config("subcell-mea")
    with pytest.raises(BadInput, match=r"nowhere\.toml' cannot be read"):
        read_config(str(tmp_path / "nowhere.toml"))
