"""Write `openphenom.npz`: what the OpenPhenom authors' own network makes of `openphenom_weights.py`.

    python tests/golden/make_openphenom.py PATH_TO_maes_microscopy

The stored file was made with https://github.com/TestiGreen/maes_microscopy, a copy of recursionpharma's, at commit
f9505d5a1e9c4716abda6ebb59b850888f569f5d (Recursion Non-Commercial EULA; none of it is copied here), timm 1.0.31,
transformers 4.57.6, torch 2.13.0 and numpy 2.4.6, on a CPU in float32. Besides these it takes nothing of this project.

Keys are `{n_channels}/{array}`, with the arrays

- `embedding` (2, 384): what `predict` gives
- `channels` (2, 384 * n_channels): the same with `return_channelwise_embeddings`
- `blocks` (2, 12, 384): the mean over the patch tokens after each block
- `cls` (2, 384): the class token after the last block
- `normed` (2, 384): `embedding` through the network's `fc_norm`
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import openphenom_weights
import torch

OUTPUT = Path(__file__).with_name("openphenom.npz")
CHANNELS = (4, 6)


def load_network(repository: Path) -> torch.nn.Module:
    """Return the authors' network with our encoder's weights; its decoder, which predict does not use, as it comes."""
    sys.path.insert(0, str(repository))
    from huggingface_mae import MAEConfig, MAEModel

    network = MAEModel(MAEConfig(mask_ratio=0.0)).eval()
    state = openphenom_weights.state()
    own = network.state_dict()
    fixed = f"{openphenom_weights.PREFIX}.pos_embed"
    assert torch.allclose(own[fixed], state[fixed], atol=2e-6)
    left = network.load_state_dict(state, strict=False)
    assert not left.unexpected_keys
    assert not [key for key in left.missing_keys if key.startswith("encoder.")]
    return network


@torch.inference_mode()
def outputs(network: torch.nn.Module, crops: np.ndarray) -> dict[str, np.ndarray]:
    """Run pictures and return the arrays to store."""
    backbone = network.encoder.vit_backbone
    tokens: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda *found: tokens.append(found[2])) for block in backbone.blocks]
    network.return_channelwise_embeddings = False
    embedding = network.predict(torch.from_numpy(crops))
    for hook in hooks:
        hook.remove()
    network.return_channelwise_embeddings = True
    arrays = {
        "embedding": embedding,
        "channels": network.predict(torch.from_numpy(crops)),
        "blocks": torch.stack([after[:, 1:].mean(dim=1) for after in tokens], dim=1),
        "cls": tokens[-1][:, 0],
        "normed": backbone.fc_norm(embedding),
    }
    return {name: array.numpy() for name, array in arrays.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the golden outputs of the OpenPhenom network.")
    parser.add_argument("repository", type=Path, help="a checkout of maes_microscopy")
    network = load_network(parser.parse_args().repository)
    stored: dict[str, np.ndarray] = {}
    for n_channels in CHANNELS:
        arrays = outputs(network, openphenom_weights.pictures(n_channels))
        stored |= {f"{n_channels}/{name}": array for name, array in arrays.items()}
    np.savez_compressed(OUTPUT, **stored)


if __name__ == "__main__":
    main()
