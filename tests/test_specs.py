"""Which encoders there are, and those that a file describes."""

from __future__ import annotations

import dataclasses
import re

import pytest

from subcell_atlas.encoders.localizations import LOCALIZATIONS, name_localizations
from subcell_atlas.encoders.specs import ENCODERS, find_spec, read_spec, write_spec
from subcell_atlas.errors import AtlasError, BadInput, UnknownName

OWN = """
name = "mine"
channels = ["nucleus", "protein"]
crop_px = 64
pixel_size_um = 0.5
licence = "MIT"
origin = "my lab"
[network]
image_size = 64
patch_size = 8
width = 24
n_blocks = 2
n_heads = 3
mlp_width = 48
pooler_width = 16
pooler_heads = 2
"""


def test_the_eight_published_encoders_have_their_channels_in_order():
    for letters, names in {
        "rybg": ("microtubules", "er", "nucleus", "protein"),
        "rbg": ("microtubules", "nucleus", "protein"),
        "ybg": ("er", "nucleus", "protein"),
        "bg": ("nucleus", "protein"),
    }.items():
        for variant in ("mae", "vit"):
            spec = ENCODERS[f"subcell-{letters}-{variant}"]
            assert spec.channels == names
            assert spec.network.n_channels == len(names)
            assert (spec.dim, spec.crop_px, spec.licence) == (1536, 640, "MIT")


def test_addresses_are_those_that_the_authors_list():
    bucket = "https://czi-subcell-public.s3.us-west-2.amazonaws.com/models/"
    spec = ENCODERS["subcell-ybg-vit"]
    assert spec.weights.url == f"{bucket}ER-DNA-Protein_ViT-ProtS-Pool.pth"
    head = "ER-DNA-Protein_ViT_MLP_classifier"
    assert [head.url for head in spec.heads] == [f"{bucket}{head}/{head}_seed_0.pth"]
    assert ENCODERS["subcell-rybg-mae"].heads[0].url.endswith("/all_channels_MAE_MLP_classifier_seed_0.pth")
    assert ENCODERS["subcell-ybg-mae"].weights.sha256.startswith("ed8c22b4")


def test_there_are_31_localizations_with_a_color_each():
    assert len(LOCALIZATIONS) == 31
    assert list(LOCALIZATIONS)[::30] == ["Actin filaments", "Negative"]
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in LOCALIZATIONS.values())
    assert len(set(LOCALIZATIONS.values())) == 31


def test_cells_are_named_by_what_is_probable_and_never_not_at_all():
    probabilities = [0.0] * 31
    probabilities[7], probabilities[26] = 0.6, 0.9
    assert name_localizations(probabilities) == ["Nucleoplasm", "Cytosol"]
    assert name_localizations([0.1] * 30 + [0.2]) == ["Negative"]


def test_other_channels_only_where_an_encoder_takes_any():
    spec = ENCODERS["openphenom"].with_channels(["nucleus", "protein"])
    assert (spec.channels, spec.network.n_channels) == (("nucleus", "protein"), 2)
    with pytest.raises(BadInput, match="takes the channels nucleus, protein"):
        ENCODERS["subcell-bg-vit"].with_channels(["protein", "nucleus"])
    with pytest.raises(UnknownName, match="nearest: nucleus"):
        ENCODERS["openphenom"].with_channels(["nucleos"])
    with pytest.raises(BadInput, match="each once"):
        ENCODERS["openphenom"].with_channels(["er", "er"])


def test_only_subcell_has_a_training_scale():
    with pytest.raises(BadInput, match="'demo' has no training scale"):
        ENCODERS["demo"].at_scale("training")


def test_a_file_describes_an_encoder_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    spec = find_spec(str(path))
    assert (spec.name, spec.channels, spec.dim) == ("mine", ("nucleus", "protein"), 48)
    assert spec.network.n_channels == 2
    assert spec.weights is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", "lacks the table"),
        (OWN.replace("crop_px = 64", ""), "lacks 'crop_px'"),
        (OWN.replace("crop_px = 64", "crop_px = 60"), "multiple"),
        (OWN.replace("width = 24", 'width = "24"', 1), "'width' is '24'; it must be a whole number"),
        (OWN.replace("n_blocks = 2", "n_blocks = 0"), "'n_blocks' is 0"),
        (OWN.replace("n_heads = 3", "n_heads = 5"), "multiple of n_heads"),
        (OWN.replace("nucleus", "dna"), "Unknown channel 'dna'"),
        (OWN.replace("mine", "demo"), "another's; give it a name"),
        (OWN + "depth = 3\n", "Unknown key of .* 'depth'"),
        ("[network", "cannot be read"),
    ],
)
def test_a_description_that_is_wrong_names_the_key(tmp_path, change, message):
    path = tmp_path / "mine.toml"
    path.write_text(change)
    with pytest.raises(AtlasError, match=message):
        read_spec(path)


def test_a_description_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        find_spec(str(tmp_path / "none.toml"))


def test_a_description_that_was_written_is_read_as_it_was(tmp_path):
    spec = ENCODERS["demo"]
    mine = dataclasses.replace(spec, name="mine", origin='a "quoted" lab, µm')
    write_spec(mine, tmp_path / "mine.toml", weights="mine.safetensors")
    found = read_spec(tmp_path / "mine.toml")
    assert found.own_weights == tmp_path / "mine.safetensors"
    assert dataclasses.replace(found, own_weights=spec.own_weights, note=spec.note) == mine


NOT_STEMS = ("[8, 8, 8, 8, 24]", "[8, 16, 23]", '[8, 16, "24"]', "[8, 0, 24]")
NOT_NECKS = ("[0, 8]", '["8"]', "8")


@pytest.mark.parametrize(
    ("line", "error"),
    [(f"stem = {stem}", "stem must end with width") for stem in NOT_STEMS]
    + [(f"neck = {n}", "neck") for n in NOT_NECKS],
)
def test_a_stem_that_does_not_make_the_patches_and_a_neck_without_widths_are_refused(tmp_path, line, error):
    path = tmp_path / "mine.toml"
    path.write_text(f"{OWN}{line}\n", encoding="utf-8")
    with pytest.raises(BadInput, match=error):
        read_spec(path)


def test_stem_and_neck_are_read_from_a_description(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f"{OWN}stem = [8, 16, 24]\nneck = [16, 8]\n", encoding="utf-8")
    found = read_spec(path)
    assert found.network.stem == (8, 16, 24)
    assert found.dim == 8
