"""Strict loading: every key accounted for, only tensors unpickled."""

from __future__ import annotations

import dataclasses

import pytest
import safetensors.torch
import torch
from tiny_network import TINY, published_head, published_state, tiny_network

from subcell_atlas.encoders.vit import LocalizationHead, SubCellNetwork
from subcell_atlas.encoders.weights import load_head, load_weights, save_weights, seed_weights
from subcell_atlas.errors import BadWeights


def test_a_checkpoint_loads_into_the_same_network(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(published_state(tiny_network(2)), path)
    network = SubCellNetwork(TINY)
    load_weights(network, path, encoder="tiny")
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
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


@pytest.mark.parametrize("form", ["half", "wrapped", "safetensors", "safetensors in name only"])
def test_the_same_weights_in_other_forms_load_alike(tmp_path, form):
    state, path = published_state(tiny_network(2)), tmp_path / "model.safetensors"
    if form == "half":
        torch.save({key: tensor.half() for key, tensor in state.items()}, path)
    elif form == "wrapped":
        torch.save({"state_dict": state}, path)
    elif form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    network = SubCellNetwork(TINY)
    load_weights(network, path, encoder="tiny")
    tolerance = 1e-3 if form == "half" else 0
    for name, tensor in tiny_network(2).state_dict().items():
        assert torch.allclose(network.state_dict()[name], tensor, atol=tolerance)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    state, path = published_state(tiny_network()), tmp_path / "weights.pth"
    state["encoder.layernorm.bias"][3] = torch.nan
    torch.save(state, path)
    with pytest.raises(BadWeights, match=r"encoder\.layernorm\.bias holds values that are no finite numbers"):
        load_weights(SubCellNetwork(TINY), path, encoder="tiny")


def test_a_published_head_loads_and_one_of_another_width_is_refused(tmp_path):
    path, head = tmp_path / "head.pth", LocalizationHead(24, 31)
    torch.save(published_head(5), path)
    load_head(head, path, encoder="tiny")
    assert torch.equal(head.layers[1].weight, published_head(5)["3.weight"])
    with pytest.raises(BadWeights, match=r"0\.weight has shape \(512, 24\), not \(512, 1536\)"):
        load_head(LocalizationHead(1536, 31), path, encoder="subcell-rybg-mae")


def test_a_head_given_first_says_so(tmp_path):
    path = tmp_path / "head.pth"
    torch.save(published_head(5), path)
    with pytest.raises(BadWeights, match="it is a localization head; the network's file comes first"):
        load_weights(SubCellNetwork(TINY), path, encoder="tiny")


def test_a_training_checkpoint_with_more_than_the_weights_loads(tmp_path):
    path, network = tmp_path / "last.ckpt", SubCellNetwork(TINY)
    torch.save({"state_dict": published_state(tiny_network(2)), "epoch": 3}, path)
    load_weights(network, path, encoder="tiny")
    assert torch.equal(network.norm.weight, tiny_network(2).norm.weight)


def test_an_encoder_given_as_a_head_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(published_state(tiny_network()), path)
    with pytest.raises(BadWeights, match=r"0\.weight is missing"):
        load_head(LocalizationHead(24, 31), path, encoder="tiny")


@pytest.mark.parametrize("stem", [(), (4, 8, 12)])
@pytest.mark.parametrize("half", [False, True])
def test_weights_that_were_saved_are_loaded_as_they_were(tmp_path, stem, half):
    config = dataclasses.replace(TINY, stem=stem, neck=stem)
    network = SubCellNetwork(config)
    seed_weights(network, 5)
    save_weights(network, tmp_path / "saved.safetensors", half=half)
    loaded = SubCellNetwork(config)
    load_weights(loaded, tmp_path / "saved.safetensors", encoder="tiny")
    for name, tensor in network.state_dict().items():
        expected = tensor.half().float() if half else tensor
        assert torch.equal(loaded.state_dict()[name], expected), name
