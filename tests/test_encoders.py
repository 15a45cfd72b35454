"""The network against a slow twin, strict loading of weights, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from subcell_atlas.encoders import ENCODERS, load_encoder
from subcell_atlas.encoders.encoder import normalize
from subcell_atlas.encoders.specs import NetworkConfig
from subcell_atlas.encoders.vit import SubCellNetwork
from subcell_atlas.encoders.weights import PUBLISHED_NAMES, load_weights, published_name, seed_weights
from subcell_atlas.errors import BadInput, BadWeights, UnknownName

TINY = NetworkConfig(
    n_channels=2, image_size=32, patch_size=8, width=12, n_blocks=2, n_heads=3, mlp_width=20, pooler_width=7
)


def tiny_network(seed: int = 1) -> SubCellNetwork:
    network = SubCellNetwork(TINY).eval()
    seed_weights(network, seed)
    with torch.no_grad():  # biases and norms that would be noticed when left out
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.linspace(-0.3, 0.4, len(parameter)))
    return network


def published_state(network: SubCellNetwork) -> dict[str, torch.Tensor]:
    return {published_name(name): tensor.clone() for name, tensor in network.state_dict().items()}


def slow_embedding(state: dict[str, torch.Tensor], crops: torch.Tensor) -> torch.Tensor:
    """SubCell's forward pass written out from the published key names, one head at a time."""

    def linear(name, tokens):
        return tokens @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def layer_norm(name, tokens):
        mean, var = tokens.mean(-1, keepdim=True), tokens.var(-1, unbiased=False, keepdim=True)
        return (tokens - mean) / torch.sqrt(var + 1e-12) * state[f"{name}.weight"] + state[f"{name}.bias"]

    weight = state["encoder.embeddings.patch_embeddings.projection.weight"]
    patches = crops.unfold(2, 8, 8).unfold(3, 8, 8)  # (B, C, rows, columns, 8, 8)
    flat = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    tokens = flat @ weight.flatten(1).T + state["encoder.embeddings.patch_embeddings.projection.bias"]
    class_token = state["encoder.embeddings.cls_token"].expand(len(crops), 1, -1)
    tokens = torch.cat([class_token, tokens], 1) + state["encoder.embeddings.position_embeddings"]
    for block in range(TINY.n_blocks):
        name = f"encoder.encoder.layer.{block}"
        normed = layer_norm(f"{name}.layernorm_before", tokens)
        q, k, v = (linear(f"{name}.attention.attention.{part}", normed) for part in ("query", "key", "value"))
        heads = []
        for head in range(TINY.n_heads):
            own = slice(head * 4, head * 4 + 4)
            weights = torch.softmax(q[..., own] @ k[..., own].transpose(1, 2) / 4**0.5, dim=-1)
            heads.append(weights @ v[..., own])
        tokens = tokens + linear(f"{name}.attention.output.dense", torch.cat(heads, -1))
        hidden = functional.gelu(linear(f"{name}.intermediate.dense", layer_norm(f"{name}.layernorm_after", tokens)))
        tokens = tokens + linear(f"{name}.output.dense", hidden)
    tokens = layer_norm("encoder.layernorm", tokens)
    gated = torch.tanh(linear("pool_model.attention_v.1", tokens)) * functional.gelu(
        linear("pool_model.attention_u.1", tokens)
    )
    weights = torch.softmax(linear("pool_model.attention", gated), dim=1)  # (B, T, heads)
    return torch.cat([(weights[..., head : head + 1] * tokens).sum(1) for head in range(2)], -1)


def test_the_network_equals_its_slow_twin():
    network, crops = tiny_network(), torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        assert torch.allclose(network(crops), slow_embedding(published_state(network), crops), atol=1e-5)


def test_other_sizes_use_interpolated_positions():
    network = tiny_network()
    crops = torch.rand(1, 2, 48, 16)
    with torch.inference_mode():
        assert network(crops).shape == (1, 24)
        positions = network.positions_for(6, 2)
    assert positions.shape == (1, 13, 12)
    assert torch.equal(positions[:, 0], network.positions[:, 0])


def test_the_published_network_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = SubCellNetwork(ENCODERS["subcell-rybg-mae"].network)
    assert sum(parameter.numel() for parameter in network.parameters()) == 87_235_330
    assert ENCODERS["subcell-rybg-mae"].dim == 1536


def test_every_parameter_has_a_published_name_and_each_name_is_used():
    names = {published_name(name) for name in tiny_network().state_dict()}
    assert len(names) == len(tiny_network().state_dict())
    assert "encoder.encoder.layer.1.attention.attention.query.weight" in names
    assert all(any(name.startswith(p.replace("N", "0")) for name in names) for p in PUBLISHED_NAMES.values())


def test_a_checkpoint_loads_into_the_same_network(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(published_state(tiny_network(2)), path)
    network = SubCellNetwork(TINY)
    load_weights(network, path, encoder="tiny")
    for name, tensor in tiny_network(2).state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def spoil(state, how):
    key = "encoder.layernorm.weight"
    if how == "missing":
        del state[key]
    elif how == "extra":
        state["decoder.mask_token"] = torch.zeros(1)
    elif how == "shape":
        state[key] = torch.zeros(5)
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "encoder.layernorm.weight is missing"),
        ("extra", "decoder.mask_token is not part of the network"),
        ("shape", r"encoder.layernorm.weight has shape \(5,\), not \(12,\)"),
    ],
)
def test_another_networks_weights_are_refused_by_the_first_key(tmp_path, how, message):
    path = tmp_path / "weights.pth"
    torch.save(spoil(published_state(tiny_network()), how), path)
    with pytest.raises(BadWeights, match=message):
        load_weights(SubCellNetwork(TINY), path, encoder="tiny")


class Payload:
    def __reduce__(self):
        return (print, ("a pickle was run",))


@pytest.mark.parametrize("content", ["pickle", "garbage", "empty", "truncated", "list"])
def test_files_that_are_no_weights_are_refused(tmp_path, content, capsys):
    path = tmp_path / "weights.pth"
    if content == "pickle":
        torch.save({"encoder": Payload()}, path)
    elif content == "list":
        torch.save([torch.zeros(2)], path)
    else:
        torch.save(published_state(tiny_network()), path)
        data = path.read_bytes()
        path.write_bytes({"garbage": b"not weights", "empty": b"", "truncated": data[: len(data) // 2]}[content])
    with pytest.raises(BadWeights, match=r"weights\.pth"):
        load_weights(SubCellNetwork(TINY), path, encoder="tiny")
    assert "a pickle was run" not in capsys.readouterr().out


def test_an_absent_file_and_an_unknown_encoder_say_what_to_do(tmp_path):
    with pytest.raises(BadWeights, match="There is no weights file"):
        load_encoder("subcell-bg-vit", weights=[tmp_path / "none.pth"])
    with pytest.raises(BadWeights, match=r"DNA-Protein_ViT-ProtS-Pool\.pth"):
        load_encoder("subcell-bg-vit")
    with pytest.raises(UnknownName, match="nearest: subcell-rybg-mae"):
        load_encoder("subcell-rybgg-mae")


def test_normalization_is_joint_over_the_channels_of_a_crop():
    crops = torch.tensor([[[[0.0, 10.0]], [[20.0, 5.0]]], [[[7.0, 7.0]], [[7.0, 7.0]]]])
    normal = normalize(crops)
    assert torch.allclose(normal[0], torch.tensor([[[0.0, 0.5]], [[1.0, 0.25]]]), atol=1e-6)
    assert torch.equal(normal[1], torch.zeros(2, 1, 2))


def test_embeddings_do_not_depend_on_bit_depth_or_batch(rng):
    encoder = load_encoder("demo")
    crops = rng.integers(0, 256, (5, 4, 128, 128), dtype=np.uint8)
    once = encoder.embed(crops)
    assert once.shape == (5, 384)
    assert once.dtype == np.float32
    assert np.allclose(encoder.embed(crops.astype(np.uint16) * 257), once, atol=1e-4)
    assert np.allclose(encoder.embed(crops[3:4]), once[3:4], atol=1e-4)
    assert encoder.embed(crops[:0]).shape == (0, 384)


def test_half_precision_stays_close_and_is_in_the_recipe(rng):
    crops = rng.integers(0, 256, (2, 4, 128, 128), dtype=np.uint8)
    whole, half = load_encoder("demo").embed(crops), load_encoder("demo", precision="bfloat16")
    rough = half.embed(crops)
    cosine = (whole * rough).sum(1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(rough, axis=1)
    assert rough.dtype == np.float32
    assert (cosine > 0.999).all()
    assert half.recipe(masking="cell").precision == "bfloat16"


def test_the_demo_encoder_is_the_same_every_time():
    assert load_encoder("demo").recipe(masking="cell") == load_encoder("demo").recipe(masking="cell")


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (np.zeros((1, 3, 128, 128), np.uint8), "4, H, W"),
        (np.zeros((1, 4, 100, 128), np.uint8), "multiples of 8"),
        (np.zeros((1, 4, 128, 128), np.int64), "int64"),
        (np.full((1, 4, 128, 128), np.nan, np.float32), "NaN"),
    ],
)
def test_crops_that_are_none_are_refused(crops, message):
    with pytest.raises(BadInput, match=message):
        load_encoder("demo").embed(crops)


def test_the_demo_encoder_looks_at_the_cell_and_at_the_protein(rng):
    network = load_encoder("demo")._network
    crop = torch.zeros(1, 4, 128, 128)
    crop[..., :64] = torch.from_numpy(rng.random((1, 4, 128, 64)).astype(np.float32)) * 0.5  # the cell is on the left
    crop[:, 3, :32, :64] += 0.5  # the protein in its upper quarter
    seen = {}
    hook = network.pooler.score.register_forward_hook(lambda _, __, scores: seen.update(weights=scores.softmax(dim=1)))
    with torch.inference_mode():
        network(crop)
    hook.remove()
    at_cell, at_protein = seen["weights"][0, 1:].T.reshape(2, 16, 16)
    assert at_cell[:, :8].sum() > 0.6
    assert at_protein[:4, :8].sum() / at_cell[:4, :8].sum() > 1.3
