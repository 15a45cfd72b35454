"""SubCell encoders against numbers made with the authors' own code (see `golden/README.md`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import published

from subcell_atlas.encoders import ENCODERS, load_encoder
from subcell_atlas.encoders.encoder import Encoder

GOLDEN = Path(__file__).parent / "golden" / "subcell.npz"
SIZES = [(448, 448), (640, 640), (320, 496)]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as stored:
        return dict(stored)


@pytest.fixture(scope="module", params=["rybg", "rbg", "ybg", "bg"])
def encoder(request, tmp_path_factory) -> Iterator[Encoder]:
    folder = tmp_path_factory.mktemp(request.param)
    paths = [folder / "encoder.pth", *(folder / f"head_{seed}.pth" for seed in published.HEAD_SEEDS)]
    torch.save(published.encoder_state(request.param), paths[0])
    for seed, path in zip(published.HEAD_SEEDS, paths[1:], strict=True):
        torch.save(published.head_state(seed), path)
    yield load_encoder(f"subcell-{request.param}-mae", weights=paths, device="cpu", precision="float32")
    for path in paths:
        path.unlink()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_outputs_are_those_of_the_authors_code(encoder, golden, height, width):
    channels = encoder.spec.name.split("-")[1]
    wanted = {
        name: golden[f"{channels}/{height}x{width}/{name}"]
        for name in ("embedding", "probabilities", "attentions", "attention_stride", "pool_attention")
    }
    crops = published.crops(channels, height, width)
    embedding = encoder.embed(crops)
    maps = encoder.attention(crops)
    stride = int(wanted["attention_stride"])
    assert np.abs(embedding[0] - wanted["embedding"]).max() <= 2e-5
    assert np.abs(encoder.localize_embeddings(embedding)[0] - wanted["probabilities"]).max() <= 1e-5
    assert np.abs(maps.block[0, :, ::stride, ::stride] - wanted["attentions"]).max() <= 1e-5
    assert np.abs(maps.pooler[0] - wanted["pool_attention"]).max() <= 1e-5


def test_bfloat16_keeps_the_embedding(golden, tmp_path):
    torch.save(published.encoder_state("bg"), tmp_path / "encoder.pth")
    half = load_encoder("subcell-bg-vit", weights=[tmp_path / "encoder.pth"], device="cpu", precision="bfloat16")
    found, wanted = half.embed(published.crops("bg", 320, 496))[0], golden["bg/320x496/embedding"]
    assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.999


def test_both_variants_are_the_same_network():
    for channels in ("rybg", "rbg", "ybg", "bg"):
        assert ENCODERS[f"subcell-{channels}-mae"].network == ENCODERS[f"subcell-{channels}-vit"].network
