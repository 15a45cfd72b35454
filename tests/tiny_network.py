"""A SubCell network that runs in milliseconds, and its checkpoint in the published format."""

from __future__ import annotations

from pathlib import Path

import torch

from subcell_atlas.encoders.encoder import Encoder, load_encoder
from subcell_atlas.encoders.localizations import LOCALIZATIONS
from subcell_atlas.encoders.specs import EncoderSpec, NetworkConfig
from subcell_atlas.encoders.vit import LocalizationHead, SubCellNetwork
from subcell_atlas.encoders.weights import HEAD_NAMES, seed_weights

TINY = NetworkConfig(
    n_channels=2, image_size=32, patch_size=8, width=12, n_blocks=3, n_heads=3, mlp_width=20, pooler_width=7
)
TINY_SPEC = EncoderSpec(
    name="tiny",
    channels=("nucleus", "protein"),
    crop_px=32,
    pixel_size_um=1.6,
    network=TINY,
    licence="MIT",
    origin="the tests",
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
    state = {}
    for name, tensor in network.state_dict().items():
        keys = network.published_names(name)
        state |= {key: part.clone() for key, part in zip(keys, tensor.chunk(len(keys)), strict=True)}
    return state


def published_head(seed: int, dim: int = TINY.dim) -> dict[str, torch.Tensor]:
    head = LocalizationHead(dim, len(LOCALIZATIONS))
    seed_weights(head, seed)
    renamed = {name.rpartition("."): tensor for name, tensor in head.state_dict().items()}
    return {f"{HEAD_NAMES[layer]}.{leaf}": tensor for (layer, _, leaf), tensor in renamed.items()}


def write_tiny(folder: Path, *, n_heads: int = 0, seed: int = 1) -> list[str]:
    """Write the files of a published encoder, heads after the network; return their paths."""
    paths = [folder / "encoder.pth", *(folder / f"head_{n}.pth" for n in range(n_heads))]
    torch.save(published_state(tiny_network(seed)), paths[0])
    for n, path in enumerate(paths[1:]):
        torch.save(published_head(n), path)
    return [str(path) for path in paths]


def load_tiny(folder: Path, *, n_heads: int = 0, **options: object) -> Encoder:
    return load_encoder(TINY_SPEC, weights=write_tiny(folder, n_heads=n_heads), device="cpu", **options)
