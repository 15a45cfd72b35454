"""Write `subcell.npz`: what the SubCell authors' own network makes of the checkpoints and pictures in `published.py`.

    python tests/golden/make_subcell.py PATH_TO_SubCellPortable

The stored file was made with https://github.com/CellProfiling/SubCellPortable at commit
676f0e11516d51d92d72ed62af051c44f4400c29 (MIT), transformers 4.45.1, torch 2.13.0 and numpy 2.4.6, on a CPU in float32.
Besides these it takes pyyaml, and nothing of this project.

Keys are `{channels}/{height}x{width}/{array}`, with the arrays

- `embedding` (1536,), `probabilities` (31,): the mean over two heads
- `attentions` (12, rows, columns): of the class token in the last block, every `attention_stride`-th row and column
- `attention_stride` ()
- `pool_attention` (2, rows, columns): without the class token's share
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import published
import torch
import yaml

OUTPUT = Path(__file__).with_name("subcell.npz")
CHANNELS = ("rybg", "rbg", "ybg", "bg")
SIZES = ((448, 448), (640, 640), (320, 496))
LARGE = 1000  # patches; the attention of more is stored with stride 2, to keep the file small


def load_network(repository: Path, channels: str, folder: Path) -> torch.nn.Module:
    """Return the authors' network of `channels`, loaded by their loader from checkpoints written to `folder`."""
    from vit_model import ViTPoolClassifier  # of `repository`, which main puts on sys.path

    encoder = folder / "encoder.pth"
    torch.save(published.encoder_state(channels), encoder)
    heads = [folder / f"head_{seed}.pth" for seed in published.HEAD_SEEDS]
    for seed, path in zip(published.HEAD_SEEDS, heads, strict=True):
        torch.save(published.head_state(seed), path)
    config = yaml.safe_load((repository / f"models/{channels}/mae_contrast_supcon_model/model_config.yaml").read_text())
    network = ViTPoolClassifier(config["model_config"])
    network.load_model_dict(str(encoder), [str(path) for path in heads])
    return network.eval()


@torch.inference_mode()
def outputs(network: torch.nn.Module, crops: np.ndarray) -> dict[str, np.ndarray]:
    """Run one picture and return the arrays to store."""
    output = network(torch.from_numpy(crops))
    attentions = output.attentions[0].numpy()
    stride = 2 if attentions[0].size > LARGE else 1
    return {
        "embedding": output.pool_op[0].numpy(),
        "probabilities": output.probabilities[0].numpy(),
        "attentions": attentions[:, ::stride, ::stride],
        "attention_stride": np.array(stride),
        "pool_attention": output.pool_attn[0].numpy(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the golden outputs of the SubCell network.")
    parser.add_argument("repository", type=Path, help="a checkout of SubCellPortable")
    repository = parser.parse_args().repository
    sys.path.insert(0, str(repository))
    stored: dict[str, np.ndarray] = {}
    for channels in CHANNELS:
        with tempfile.TemporaryDirectory() as folder:
            network = load_network(repository, channels, Path(folder))
        for height, width in SIZES:
            arrays = outputs(network, published.crops(channels, height, width))
            stored |= {f"{channels}/{height}x{width}/{name}": array for name, array in arrays.items()}
    np.savez_compressed(OUTPUT, **stored)


if __name__ == "__main__":
    main()
