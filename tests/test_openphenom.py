"""The network against a slow twin, and against numbers made with the authors' own code (see `golden/README.md`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import openphenom_weights
from torch.nn import functional

from subcell_atlas.encoders.openphenom import PUBLISHED_NAMES, OpenPhenomNetwork
from subcell_atlas.encoders.specs import OpenPhenomConfig
from subcell_atlas.errors import BadInput

GOLDEN = Path(__file__).with_name("golden")
TINY = OpenPhenomConfig(
    n_channels=2, image_size=32, patch_size=8, width=12, n_blocks=3, n_heads=3, mlp_width=20, max_channels=4
)


def filled(config: OpenPhenomConfig = TINY) -> OpenPhenomNetwork:
    """Return a network whose every parameter would be noticed when left out."""
    network = OpenPhenomNetwork(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.2, 0.5, generator=generator)
    return network


def published_state(network: OpenPhenomNetwork) -> dict[str, torch.Tensor]:
    return {network.published_names(name)[0]: tensor for name, tensor in network.state_dict().items()}


def slow_tokens(state: dict[str, torch.Tensor], pixels: torch.Tensor) -> list[torch.Tensor]:
    """The blocks written out from the published key names, one head at a time: the tokens after each."""
    state = {name.removeprefix("encoder.vit_backbone."): tensor for name, tensor in state.items()}
    tokens = [state["cls_token"].expand(len(pixels), 1, -1)]
    kernel = state["patch_embed.proj.weight"].flatten(1).T
    for channel in pixels.unbind(1):
        for row in range(0, 32, 8):
            for column in range(0, 32, 8):
                patch = channel[:, row : row + 8, column : column + 8].flatten(1)
                tokens.append((patch @ kernel + state["patch_embed.proj.bias"])[:, None])
    tokens = torch.cat(tokens, dim=1)
    tokens = tokens + state["pos_embed"][:, : tokens.shape[1]]
    after = []
    for number in range(3):
        block = f"blocks.{number}"
        y = layer_norm(state, f"{block}.in_norm", tokens) @ state[f"{block}.in_proj.weight"].T
        hidden = functional.gelu(y[..., :20] + state[f"{block}.mlp_bias"])
        heads = []
        for head in range(3):
            q, k, v = (y[..., start + 4 * head : start + 4 * head + 4] for start in (20, 32, 44))
            q, k = layer_norm(state, f"{block}.q_norm", q), layer_norm(state, f"{block}.k_norm", k)
            heads.append(torch.softmax(q @ k.transpose(1, 2) / 2, dim=-1) @ v)
        out = torch.cat(heads, -1) @ state[f"{block}.attn_out_proj.weight"].T + state[f"{block}.attn_out_proj.bias"]
        out = out + hidden @ state[f"{block}.mlp_out_proj.weight"].T + state[f"{block}.mlp_out_proj.bias"]
        tokens = tokens + state[f"{block}.ls.gamma"] * out
        after.append(tokens)
    return after


def layer_norm(state, name, tokens):
    mean, var = tokens.mean(-1, keepdim=True), tokens.var(-1, unbiased=False, keepdim=True)
    return (tokens - mean) / torch.sqrt(var + 1e-6) * state[f"{name}.weight"] + state[f"{name}.bias"]


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def test_the_network_equals_its_slow_twin_at_every_block(pixels):
    network = filled()
    state = published_state(network)
    after = slow_tokens(state, pixels)
    for found, wanted in zip(network.tokens_after(pixels, (1, 2, 3)), after, strict=True):
        assert torch.allclose(found, wanted, atol=1e-4)
    own = network(pixels, blocks=(2, 3))
    assert torch.allclose(own, torch.stack([tokens[:, 1:].mean(1) for tokens in after[1:]], 1), atol=1e-4)


@torch.inference_mode()
def test_poolings_read_the_class_token_the_patches_or_each_channel(pixels):
    network = filled()
    state = published_state(network)
    tokens = slow_tokens(state, pixels)[1]
    mean = tokens[:, 1:].mean(1)

    def pooled(pooling, *, final_norm):
        return network(pixels, blocks=(2,), ways=((pooling, final_norm),))[:, 0]

    norm = "encoder.vit_backbone.fc_norm"
    wanted = {"own": (mean, mean), "cls": (tokens[:, 0], layer_norm(state, norm, tokens[:, 0]))}
    wanted["patches"] = (mean, layer_norm(state, norm, mean))
    wanted["channels"] = (torch.cat([tokens[:, 1:17].mean(1), tokens[:, 17:].mean(1)], 1),) * 2
    assert set(wanted) == set(network.poolings)
    for pooling, values in wanted.items():
        for final_norm in (False, True):
            found = pooled(pooling, final_norm=final_norm)
            assert found.shape == (3, network.poolings[pooling])
            assert torch.allclose(found, values[final_norm], atol=1e-4), (pooling, final_norm)


@torch.inference_mode()
def test_any_number_of_channels_up_to_the_most_is_taken_and_their_order_does_not_matter(pixels):
    network = filled()
    assert torch.allclose(network(pixels, blocks=(3,)), network(pixels.flip(1), blocks=(3,)), atol=1e-4)
    for n in (1, 4):
        network = OpenPhenomNetwork(dataclasses.replace(TINY, n_channels=n)).eval()
        assert network(torch.ones(1, n, 32, 32), blocks=(3,), ways=(("channels", True),)).shape == (1, 1, 12 * n)
    for n in (0, 5):
        with pytest.raises(BadInput, match=f"takes 1 to 4 channels, not {n}"):
            OpenPhenomNetwork(dataclasses.replace(TINY, n_channels=n))


def test_each_channel_is_brought_to_mean_0_and_variance_1_in_units_of_the_whole_range():
    network = OpenPhenomNetwork(TINY)
    crops = np.random.RandomState(0).randint(0, 256, (2, 2, 32, 32)).astype(np.uint8)
    crops[0, 1] //= 100  # so dim that the epsilon shows
    crops[1, 0] = 7
    scaled = crops / 255
    mean, variance = scaled.mean((2, 3), keepdims=True), scaled.var((2, 3), keepdims=True)
    found = network.normalize(torch.from_numpy(crops))
    assert found.dtype == torch.float32
    assert np.allclose(found, (scaled - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
    for same in (crops.astype(np.uint16), crops.astype(np.float32), crops.astype(np.float32) / 255):
        assert torch.allclose(network.normalize(torch.from_numpy(same)), found, atol=1e-4)


@torch.inference_mode()
def test_a_trimmed_network_computes_no_block_it_does_not_need(pixels):
    network, trimmed = filled(), filled()
    trimmed.trim(2)
    assert torch.equal(trimmed(pixels, blocks=(2,)), network(pixels, blocks=(2,)))
    network.blocks[2].forward = None  # calling it would fail
    network(pixels, blocks=(1, 2))


@torch.inference_mode()
def test_half_precision_keeps_the_embedding_and_the_pixels_in_full(pixels):
    network, half = filled(), filled()
    half.use_precision(torch.bfloat16)
    found, wanted = half(pixels, blocks=(3,)), network(pixels, blocks=(3,))
    assert found.dtype == torch.bfloat16
    assert half.patches.weight.dtype == torch.float32
    assert functional.cosine_similarity(found.float(), wanted, dim=-1).min() > 0.999


def test_every_parameter_has_its_published_name_and_each_name_is_used():
    names = [OpenPhenomNetwork.published_names(name) for name in OpenPhenomNetwork(TINY).state_dict()]
    keys = [key for (key,) in names]
    assert len(keys) == len(set(keys)) == 6 + 3 * 13
    assert "encoder.vit_backbone.blocks.2.in_proj.weight" in keys
    assert "encoder.vit_backbone.blocks.1.ls.gamma" in keys
    known = [f"encoder.vit_backbone.{name.replace('.N.', '.0.')}" for name in PUBLISHED_NAMES.values()]
    assert all(any(key.startswith(name) for key in keys) for name in known)


@pytest.fixture(scope="module")
def golden_weights() -> dict[str, torch.Tensor]:
    return openphenom_weights.state()


def test_the_published_names_and_shapes_are_those_of_the_golden_checkpoint(golden_weights):
    with torch.device("meta"):
        network = OpenPhenomNetwork(OpenPhenomConfig(n_channels=4))
    shapes = {network.published_names(name)[0]: tensor.shape for name, tensor in network.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in golden_weights.items()}
    assert len(shapes) == 162
    n = sum(shape.numel() for shape in shapes.values())
    assert n == 22_459_776


def test_the_positions_of_an_untrained_network_are_the_published_ones(golden_weights):
    positions = OpenPhenomNetwork(OpenPhenomConfig(n_channels=4)).positions
    assert torch.allclose(positions, golden_weights["encoder.vit_backbone.pos_embed"], atol=2e-6)


@torch.inference_mode()
@pytest.mark.parametrize("n_channels", [4, 6])
def test_the_network_equals_its_authors_own_code(golden_weights, n_channels):
    with torch.device("meta"):
        network = OpenPhenomNetwork(OpenPhenomConfig(n_channels=n_channels)).eval()
    state = {name: golden_weights[network.published_names(name)[0]] for name in network.state_dict()}
    network.load_state_dict(state, assign=True)
    pixels = network.normalize(torch.from_numpy(openphenom_weights.pictures(n_channels)))
    tokens = list(network.tokens_after(pixels, range(1, 13)))
    found = {
        "embedding": network.pool(tokens[-1], "own", final_norm=True),
        "channels": network.pool(tokens[-1], "channels", final_norm=True),
        "blocks": torch.stack([network.pool(after, "own", final_norm=True) for after in tokens], dim=1),
        "cls": network.pool(tokens[-1], "cls", final_norm=False),
        "normed": network.pool(tokens[-1], "patches", final_norm=True),
    }
    with np.load(GOLDEN / "openphenom.npz") as stored:
        assert {f"{n_channels}/{name}" for name in found} == {name for name in stored if name[0] == str(n_channels)}
        for name, values in found.items():
            assert np.allclose(values, stored[f"{n_channels}/{name}"], rtol=0, atol=1e-4), name
