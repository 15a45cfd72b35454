"""Weights files in the published SubCell format: names, strict loading, seeded weights for the demo network.

A published checkpoint is a flat dictionary of tensors. Loading accounts for every key: the first that is missing, extra
or of another shape is named and nothing is loaded.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import BadWeights
from .vit import Block, SubCellNetwork

__all__ = ["aim_pooler", "load_weights", "published_name", "seed_weights", "sha256_of_file", "sha256_of_state"]

PATCH_GAIN = 4.0  # of the random part of a token, so that it outweighs the positions
BRIGHTNESS_GAIN = 24.0  # of the two numbers that the pooling heads read
ATTENTION_GAIN = 0.02  # tokens stay themselves: random attention would average them away

# our module path -> published name; `N` stands for the number of a block
PUBLISHED_NAMES = {
    "class_token": "encoder.embeddings.cls_token",
    "positions": "encoder.embeddings.position_embeddings",
    "patches": "encoder.embeddings.patch_embeddings.projection",
    "blocks.N.norm_before": "encoder.encoder.layer.N.layernorm_before",
    "blocks.N.attention.query": "encoder.encoder.layer.N.attention.attention.query",
    "blocks.N.attention.key": "encoder.encoder.layer.N.attention.attention.key",
    "blocks.N.attention.value": "encoder.encoder.layer.N.attention.attention.value",
    "blocks.N.attention.output": "encoder.encoder.layer.N.attention.output.dense",
    "blocks.N.norm_after": "encoder.encoder.layer.N.layernorm_after",
    "blocks.N.mlp_in": "encoder.encoder.layer.N.intermediate.dense",
    "blocks.N.mlp_out": "encoder.encoder.layer.N.output.dense",
    "norm": "encoder.layernorm",
    "pooler.content": "pool_model.attention_v.1",
    "pooler.gate": "pool_model.attention_u.1",
    "pooler.score": "pool_model.attention",
}


def published_name(name: str) -> str:
    """Return the published name of one of our parameters, such as `blocks.3.mlp_in.weight`."""
    if name in PUBLISHED_NAMES:
        return PUBLISHED_NAMES[name]
    module, _, leaf = name.rpartition(".")
    parts = module.split(".")
    number = parts[1] if parts[0] == "blocks" else ""
    if number:
        parts[1] = "N"
    return f"{PUBLISHED_NAMES['.'.join(parts)].replace('.N.', f'.{number}.')}.{leaf}"


def load_weights(network: nn.Module, path: Path, *, encoder: str) -> None:
    """Load a published checkpoint into `network`; `encoder` names it in errors. Only tensors are unpickled."""
    stored = read_checkpoint(path)
    wanted = {published_name(name): name for name in network.state_dict()}
    check_keys(stored, {ours: network.state_dict()[name] for ours, name in wanted.items()}, path, encoder)
    network.load_state_dict({name: stored[published] for published, name in wanted.items()}, strict=True)


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Read a flat dictionary of tensors; anything else raises BadWeights."""
    if not path.is_file():
        raise BadWeights(f"There is no weights file {str(path)!r}.")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as exc:
        msg = f"{str(path)!r} is not a readable PyTorch weights file of plain tensors (damaged, or another format)."
        raise BadWeights(msg) from exc
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise BadWeights(f"{str(path)!r} is not a flat dictionary of tensors, as a SubCell checkpoint is.")
    return stored


def check_keys(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, encoder: str) -> None:
    """Raise BadWeights naming the first key that is of another shape, missing or extra."""
    problem = None
    for key, tensor in wanted.items():
        if key in stored and stored[key].shape != tensor.shape:
            problem = f"{key} has shape {tuple(stored[key].shape)}, not {tuple(tensor.shape)}"
            break
    else:
        missing = [key for key in wanted if key not in stored]
        extra = [key for key in stored if key not in wanted]
        if missing:
            problem = f"{missing[0]} is missing" + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")
        elif extra:
            problem = f"{extra[0]} is not part of the network" + (f" (nor {len(extra) - 1} more)" if extra[1:] else "")
    if problem:
        msg = f"{str(path)!r} does not hold the weights of {encoder!r}: {problem}.\nSee 'subcell-atlas encoders'."
        raise BadWeights(msg)


def seed_weights(network: nn.Module, seed: int) -> None:
    """Fill `network` with seeded random weights: N(0, 1 / fan-in) for matrices, 0 for biases, 0.02 for positions."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in ("class_token", "positions"):
                parameter.normal_(0, 0.02, generator=generator)
            elif parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, fan_in**-0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()


def aim_pooler(network: SubCellNetwork, *, channel: int) -> None:
    """Aim the two pooling heads of a network with random weights: at the cell, and at where `channel` is bright.

    With random weights every token weighs the same, background too, and embeddings tell little but the cell's size. So
    two numbers of each token are set to carry brightness (the mean over channels, and `channel`), the blocks leave them
    alone, and each head's score reads one of them. Nothing here is learned. On the 240 simulated proteins of the demo
    it raised the mean average precision of same-localization neighbors from 0.28 to 0.59 (shuffled labels: 0.11).
    """
    width = network.patches.weight[0, 0].numel()
    with torch.no_grad():
        network.patches.weight.mul_(PATCH_GAIN)
        network.patches.weight[:2] = 0
        network.patches.weight[0] = BRIGHTNESS_GAIN / (width * network.config.n_channels)
        network.patches.weight[1, channel] = BRIGHTNESS_GAIN / width
        network.positions[..., :2] = 0
        for block in network.blocks:
            assert isinstance(block, Block)
            block.attention.output.weight.mul_(ATTENTION_GAIN)
            block.attention.output.weight[:2] = 0
            block.mlp_out.weight[:2] = 0
        network.pooler.score.weight.zero_()
        for head in range(2):
            for layer, gain in ((network.pooler.content, 3.0), (network.pooler.gate, 2.0)):
                layer.weight[head] = 0
                layer.weight[head, head] = gain
            network.pooler.score.weight[head, head] = 2.0


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_state(network: nn.Module) -> str:
    """Return a sha256 over names and values of all parameters, for weights that are in no file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
