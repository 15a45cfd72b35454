"""How fast ESM-2 embeds: tokens a second, share of the ceiling of matrix products, beside transformers plainly used.

    python benchmarks/esm.py [--encoder esm2-8m] [--sequences 60] [--fasta FILE] [--weights FOLDER] [--device cuda]

Without weights the network has random ones, which are as fast. Without a FASTA file sequences are random, of lengths as
human proteins have them. The peer: batches of eight in the order given, padded to the longest, cut at 1,022 residues
(which spares it the long proteins' second windows), in the same precision.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from subcell_atlas.encoders.speed import product_ceiling, wait_for
from subcell_atlas.sequences import read_fasta
from subcell_atlas.sequences.esm import ESM, WINDOW, EsmEncoder, EsmSpec, load_esm
from subcell_atlas.sequences.esm_weights import import_transformers
from subcell_atlas.sequences.residues import AMINO_ACIDS

transformers = import_transformers()

HEADS = {"esm2-3b": 40, "esm2-15b": 40}  # 20 of all others
TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
BATCH = 8
MEDIAN_LENGTH, SPREAD = 415, 0.75  # of human proteins, about log-normal


def main() -> None:
    """Time both on the same sequences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=ESM, default="esm2-8m")
    parser.add_argument("--sequences", type=int, default=60)
    parser.add_argument("--fasta", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device")
    options = parser.parse_args()
    sequences = some_sequences(options.sequences, options.fasta)
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or random_weights(ESM[options.encoder], Path(folder))
        encoder = load_esm(options.encoder, weights=weights, device=options.device)
        compare(encoder, weights, sequences)


def compare(encoder: EsmEncoder, weights: Path, sequences: list[str]) -> None:
    """Print tokens a second of both, how far their vectors agree, and the share of the ceiling."""
    dtype = getattr(torch, encoder.precision)
    tokenizer = transformers.EsmTokenizer.from_pretrained(weights)
    model = (
        transformers.EsmModel.from_pretrained(weights, add_pooling_layer=False, dtype=dtype).to(encoder.device).eval()
    )

    def plain() -> np.ndarray:
        rows = []
        with torch.no_grad():
            for start in range(0, len(sequences), BATCH):
                own = [residues[:WINDOW] for residues in sequences[start : start + BATCH]]
                inputs = tokenizer(own, return_tensors="pt", padding=True).to(encoder.device)
                hidden = model(**inputs).last_hidden_state
                rows += [row[1 : len(residues) + 1].float().mean(0) for row, residues in zip(hidden, own, strict=True)]
        return torch.stack(rows).cpu().numpy()

    n_tokens = sum(len(residues) + 2 for residues in sequences)
    encoder.embed(sequences[:BATCH])  # the first costs more
    ours, seconds, cpu = timed(lambda: encoder.embed(sequences), encoder.device)
    theirs, plain_seconds, plain_cpu = timed(plain, encoder.device)
    short = [row for row, residues in enumerate(sequences) if len(residues) <= WINDOW]
    cosines = np.sum(ours * theirs, axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    spec = encoder.spec
    flops = sum(flops_of(spec, len(residues) + 2) for residues in sequences)
    share = flops / seconds / product_ceiling(encoder.device, dtype)
    print(f"{spec.name}, {encoder.precision} on {encoder.device}, {len(sequences)} sequences, {n_tokens} tokens")
    print(f"ours: {n_tokens / seconds:.0f} tokens/s, {cpu:.1f} CPU-s, {share:.0%} of the ceiling of matrix products")
    print(f"plain: {n_tokens / plain_seconds:.0f} tokens/s, {plain_cpu:.1f} CPU-s; ratio {plain_seconds / seconds:.1f}")
    print(f"least cosine of both over {len(short)} sequences of one window: {cosines[short].min():.6f}")


def timed(call: Callable[[], np.ndarray], device: str) -> tuple[np.ndarray, float, float]:
    """Return what a call returns, the seconds it took, and those of the processors."""
    wait_for(device)
    began, used = time.perf_counter(), time.process_time()
    found = call()
    wait_for(device)
    return found, time.perf_counter() - began, time.process_time() - used


def flops_of(spec: EsmSpec, n_tokens: int) -> float:
    """Return the operations of the matrix products for a sequence, a multiply and an add counted as two."""
    n_windows = max(1, -(-n_tokens // WINDOW))
    own = n_tokens / n_windows
    return n_windows * 2 * spec.layers * (12 * own * spec.dim**2 + 2 * own**2 * spec.dim)


def some_sequences(n: int, fasta: Path | None) -> list[str]:
    """Return sequences of a file, spread over it, or random ones."""
    if fasta is not None:
        records = read_fasta(fasta).records
        return [records[i].residues for i in np.linspace(0, len(records) - 1, min(n, len(records))).astype(int)]
    rng = np.random.default_rng(0)
    lengths = np.clip(MEDIAN_LENGTH * np.exp(SPREAD * rng.standard_normal(n)), 30, 5000).astype(int)
    return ["".join(rng.choice(list(AMINO_ACIDS), length)) for length in lengths]


def random_weights(spec: EsmSpec, folder: Path) -> Path:
    """Write a network of a size with random weights, in the layout of the published ones."""
    config = transformers.EsmConfig(
        vocab_size=len(TOKENS), mask_token_id=TOKENS.index("<mask>"), pad_token_id=1, hidden_size=spec.dim,
        num_hidden_layers=spec.layers, num_attention_heads=HEADS.get(spec.name, 20), intermediate_size=4 * spec.dim,
        max_position_embeddings=1026, position_embedding_type="rotary", token_dropout=True, layer_norm_eps=1e-5,
        emb_layer_norm_before=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.EsmForMaskedLM(config).save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, "architectures": ["EsmForMaskedLM"]}))
    (folder / "vocab.txt").write_text("\n".join(TOKENS))
    return folder


if __name__ == "__main__":
    main()
