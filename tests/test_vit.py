"""The network against a slow twin, and against numbers made with the authors' own code (see `golden/README.md`)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_network import TINY, published_state, tiny_network
from torch.nn import functional

from subcell_atlas.encoders.specs import ENCODERS, NetworkConfig
from subcell_atlas.encoders.vit import PUBLISHED_NAMES, SubCellNetwork
from subcell_atlas.encoders.weights import seed_weights


def slow_tokens(state: dict[str, torch.Tensor], crops: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """SubCell's blocks written out from the published key names, one head at a time.

    Returns the tokens after each block, and the last block's attention (B, heads, T, T).
    """

    def linear(name, tokens):
        return tokens @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    weight = state["encoder.embeddings.patch_embeddings.projection.weight"]
    patches = crops.unfold(2, 8, 8).unfold(3, 8, 8)  # (B, C, rows, columns, 8, 8)
    flat = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    tokens = flat @ weight.flatten(1).T + state["encoder.embeddings.patch_embeddings.projection.bias"]
    class_token = state["encoder.embeddings.cls_token"].expand(len(crops), 1, -1)
    tokens = torch.cat([class_token, tokens], 1) + state["encoder.embeddings.position_embeddings"]
    after = []
    for block in range(TINY.n_blocks):
        name = f"encoder.encoder.layer.{block}"
        normed = layer_norm(state, f"{name}.layernorm_before", tokens)
        q, k, v = (linear(f"{name}.attention.attention.{part}", normed) for part in ("query", "key", "value"))
        heads, maps = [], []
        for head in range(TINY.n_heads):
            own = slice(head * 4, head * 4 + 4)
            maps.append(torch.softmax(q[..., own] @ k[..., own].transpose(1, 2) / 4**0.5, dim=-1))
            heads.append(maps[-1] @ v[..., own])
        tokens = tokens + linear(f"{name}.attention.output.dense", torch.cat(heads, -1))
        normed = layer_norm(state, f"{name}.layernorm_after", tokens)
        hidden = functional.gelu(linear(f"{name}.intermediate.dense", normed))
        tokens = tokens + linear(f"{name}.output.dense", hidden)
        after.append(tokens)
    return after, torch.stack(maps, 1)


def layer_norm(state, name, tokens):
    mean, var = tokens.mean(-1, keepdim=True), tokens.var(-1, unbiased=False, keepdim=True)
    return (tokens - mean) / torch.sqrt(var + 1e-12) * state[f"{name}.weight"] + state[f"{name}.bias"]


def slow_pooling(state: dict[str, torch.Tensor], tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gated attention over the normalized tokens: the embedding (B, 2 * width), the shares (B, T, 2)."""
    tokens = layer_norm(state, "encoder.layernorm", tokens)
    content = torch.tanh(tokens @ state["pool_model.attention_v.1.weight"].T + state["pool_model.attention_v.1.bias"])
    gate = functional.gelu(tokens @ state["pool_model.attention_u.1.weight"].T + state["pool_model.attention_u.1.bias"])
    scores = (content * gate) @ state["pool_model.attention.weight"].T + state["pool_model.attention.bias"]
    shares = torch.softmax(scores, dim=1)
    return torch.cat([(shares[..., head : head + 1] * tokens).sum(1) for head in range(2)], -1), shares


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def test_the_network_equals_its_slow_twin_at_every_block(crops):
    network = tiny_network()
    state = published_state(network)
    after, _ = slow_tokens(state, crops)
    wanted = torch.stack([slow_pooling(state, tokens)[0] for tokens in after], 1)
    assert torch.allclose(network(crops, blocks=(1, 2, 3)), wanted, atol=1e-5)
    assert torch.allclose(network(crops, blocks=(2,))[:, 0], wanted[:, 1], atol=1e-5)
    assert not torch.allclose(wanted[:, 1], wanted[:, 2], atol=1e-2)


@torch.inference_mode()
@pytest.mark.parametrize("final_norm", [True, False])
def test_other_poolings_read_the_class_token_or_the_mean_of_the_patches(crops, final_norm):
    network = tiny_network()
    state = published_state(network)
    tokens = slow_tokens(state, crops)[0][1]
    tokens = layer_norm(state, "encoder.layernorm", tokens) if final_norm else tokens
    cls = network(crops, blocks=(2,), ways=(("cls", final_norm),))[:, 0]
    patches = network(crops, blocks=(2,), ways=(("patches", final_norm),))[:, 0]
    assert torch.allclose(cls, tokens[:, 0], atol=1e-5)
    assert torch.allclose(patches, tokens[:, 1:].mean(1), atol=1e-5)


@torch.inference_mode()
def test_both_kinds_of_attention_equal_the_slow_twins(crops):
    network = tiny_network()
    state = published_state(network)
    after, maps = slow_tokens(state, crops)
    of_class, of_pooler = network.attention_maps(crops)
    shares = slow_pooling(state, after[-1])[1]
    assert torch.allclose(of_class, maps[:, :, 0, 1:].reshape(3, 3, 4, 4), atol=1e-6)
    assert torch.allclose(of_pooler, shares[:, 1:].transpose(1, 2).reshape(3, 2, 4, 4), atol=1e-6)


@torch.inference_mode()
def test_a_trimmed_network_computes_no_block_it_does_not_need(crops):
    network, trimmed = tiny_network(), tiny_network()
    trimmed.trim(2)
    assert torch.equal(trimmed(crops, blocks=(2,)), network(crops, blocks=(2,)))
    network.blocks[2].forward = None  # calling it would fail
    network(crops, blocks=(1, 2))


def test_other_sizes_use_interpolated_positions():
    network = tiny_network()
    with torch.inference_mode():
        assert network(torch.rand(1, 2, 48, 16), blocks=(3,)).shape == (1, 1, 24)
        positions = network.positions_for(6, 2)
    assert positions.shape == (1, 13, 12)
    assert torch.equal(positions[:, 0], network.positions[:, 0])


@pytest.mark.parametrize("spec", [spec for spec in ENCODERS.values() if isinstance(spec.network, NetworkConfig)])
def test_networks_have_the_parameters_that_their_specs_say(spec):
    with torch.device("meta"):
        network = SubCellNetwork(spec.network)
    assert sum(parameter.numel() for parameter in network.parameters()) == spec.network.n_parameters


def test_the_published_and_the_largest_network_have_the_sizes_of_the_papers():
    assert ENCODERS["subcell-rybg-mae"].network.n_parameters == 87_235_330
    assert ENCODERS["subcell-rybg-mae"].dim == 1536
    assert 1.84e9 < ENCODERS["vit-giant-8"].network.n_parameters < 1.9e9


def test_every_parameter_has_its_published_names_and_each_name_is_used():
    network = tiny_network()
    keys = [key for name in network.state_dict() for key in network.published_names(name)]
    assert len(keys) == len(set(keys))
    assert "encoder.encoder.layer.1.attention.attention.query.weight" in keys
    small = dataclasses.replace(network.config, patch_size=4, stem=(6, network.config.width), neck=(9, 7, 5))
    keys += [key for name in SubCellNetwork(small).state_dict() for key in SubCellNetwork.published_names(name)]
    assert {f"pool_model.neck.layers.{number}.weight" for number in range(3)} <= set(keys)
    known = [f"{name}.".replace(".N.", ".0.") for names in PUBLISHED_NAMES.values() for name in names]
    assert all(any(f"{key}.".startswith(name) for key in keys) for name in known)


@torch.inference_mode()
def test_a_neck_makes_the_embedding_of_what_the_pooler_gives(crops):
    plain = tiny_network()
    network = SubCellNetwork(dataclasses.replace(TINY, neck=(9, 5))).eval()
    seed_weights(network, 3)
    network.load_state_dict(plain.state_dict(), strict=False)
    vectors = plain(crops, blocks=(2, 3))  # (B, blocks, heads * width)
    for number, (layer, norm) in enumerate(zip(network.neck.layers, network.neck.norms, strict=True)):
        norm.mean.normal_()
        norm.variance.uniform_(0.5, 2)
        vectors = vectors.clip(min=0) if number else vectors
        vectors = (vectors @ layer.weight.T + layer.bias - norm.mean) / (norm.variance + 1e-5).sqrt()
        vectors = vectors * norm.weight + norm.bias
    found = network(crops, blocks=(2, 3))
    assert found.shape == (len(crops), 2, 5)
    assert network.poolings["own"] == network.config.dim == 5
    assert torch.allclose(found, vectors, atol=1e-5)


def test_a_stem_makes_the_tokens_of_its_convolutions():
    config = dataclasses.replace(TINY, stem=(4, 8, TINY.width))
    network = SubCellNetwork(config).eval()
    seed_weights(network, 3)
    pixels = torch.rand(2, TINY.n_channels, 32, 32)
    maps = pixels
    for number, layer in enumerate(network.stem):
        how = {"stride": 2, "padding": 1} if number else {"stride": TINY.patch_size // 4}
        maps = functional.conv2d(maps, layer.convolution.weight, **how)
        mean = maps.mean(dim=(1, 2, 3), keepdim=True)
        maps = (maps - mean) / (maps.var(dim=(1, 2, 3), keepdim=True, correction=0) + layer.norm.eps).sqrt()
        maps = functional.relu(maps) if number < 2 else maps
    tokens = network.embed_patches(pixels)
    assert tokens.shape == (2, 17, TINY.width)
    expected = maps.flatten(2).transpose(1, 2) + network.positions[:, 1:]
    assert torch.allclose(tokens[:, 1:], expected, atol=1e-5)
    assert torch.equal(tokens[:, 0], (network.class_token + network.positions[:, :1])[0].expand(2, -1))
